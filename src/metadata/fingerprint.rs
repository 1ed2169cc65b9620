//! Calibration fingerprint of a file: enough to find out if another text shares some of the text that it was calibrated
//! on.

use formats::{Metadata, Value};

use std::path::PathBuf;

use crate::model::Model;

/// Tokens of the runs that are compared: long enough that no two texts share one by chance.
const RUN: usize = 16;
/// Interval between remembered runs: one run of so many, always the same ones.
const ONE_OF: u64 = 64;

/// A calibration text as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalibrationFingerprint {
    /// The files' names, or `self`.
    pub texts: Vec<String>,
    /// Number of tokens.
    pub tokens: usize,
    /// SHA-256 of the tokens.
    pub sha256: String,
    /// Hashes of runs of 16 tokens, in order: of all runs those whose hash is a multiple of 64.
    pub runs: Vec<u32>,
}

const TEXTS: &str = "rwkv-quant.calibration.texts";
const TOKENS: &str = "rwkv-quant.calibration.tokens";
const SHA256: &str = "rwkv-quant.calibration.sha256";
const RUNS: &str = "rwkv-quant.calibration.runs";

impl CalibrationFingerprint {
    /// The trace of the sequences of a text from these files; `sha256` is that of its tokens.
    pub fn new<'a>(
        sources: &[PathBuf],
        sequences: impl Iterator<Item = &'a [u32]> + Clone,
        sha256: String,
    ) -> CalibrationFingerprint {
        let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut runs: Vec<u32> = sequences.clone().flat_map(remembered).collect();
        runs.sort_unstable();
        runs.dedup();
        CalibrationFingerprint {
            texts: sources.iter().map(name).collect(),
            tokens: sequences.map(<[u32]>::len).sum(),
            sha256,
            runs,
        }
    }

    /// Fingerprint as the keys of a file.
    pub fn keys(&self) -> Metadata {
        vec![
            (TEXTS.to_owned(), Value::strings(&self.texts)),
            (TOKENS.to_owned(), Value::U32(self.tokens.try_into().unwrap_or(u32::MAX))),
            (SHA256.to_owned(), Value::from(self.sha256.as_str())),
            (RUNS.to_owned(), Value::from(self.runs.clone())),
        ]
    }

    /// Fingerprint of a file with these keys; `None` if it was not calibrated.
    pub fn read(metadata: &Metadata) -> Option<CalibrationFingerprint> {
        let value = |key: &str| metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value);
        let texts = value(TEXTS)?.as_array()?;
        Some(CalibrationFingerprint {
            texts: texts.texts().map(str::to_owned).collect(),
            tokens: value(TOKENS)?.as_u64()?.try_into().ok()?,
            sha256: value(SHA256)?.as_str()?.to_owned(),
            runs: CalibrationFingerprint::runs_in(metadata)?,
        })
    }

    /// The remembered runs of a file with these keys; `None` if it was not calibrated.
    fn runs_in(metadata: &Metadata) -> Option<Vec<u32>> {
        let (_, value) = metadata.iter().find(|(key, _)| key == RUNS)?;
        Some(value.as_array()?.iter().filter_map(|n| n.as_u64()).map(|n| n as u32).collect())
    }
}

/// The share of a text that `model` was calibrated on; `None` if it is nothing of it.
pub fn share_of(model: &Model, tokens: &[u32]) -> Option<f64> {
    let runs = CalibrationFingerprint::runs_in(model.container.metadata())?;
    Some(shared(&runs, tokens)).filter(|share| *share > 0.0)
}

/// The share of a text's remembered runs that are among `runs`, which are in order.
fn shared(runs: &[u32], tokens: &[u32]) -> f64 {
    let (mut all, mut found) = (0, 0);
    for run in remembered(tokens) {
        all += 1;
        found += usize::from(runs.binary_search(&run).is_ok());
    }
    if all == 0 { 0.0 } else { found as f64 / f64::from(all) }
}

/// The hashes of the runs of tokens that are remembered.
fn remembered(tokens: &[u32]) -> impl Iterator<Item = u32> {
    tokens.windows(RUN).map(hash).filter(|h| h.is_multiple_of(ONE_OF)).map(|h| (h >> 32) as u32)
}

/// FNV-1a over the tokens' bytes, mixed once more (MurmurHash3's finalizer), since its low bits alone are poor.
fn hash(run: &[u32]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for byte in run.iter().flat_map(|t| t.to_le_bytes()) {
        h = (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_text_is_found_wherever_it_stands() {
        let text = |from: u32, to: u32| -> Vec<u32> {
            (from..to).map(|i| i.wrapping_mul(2_654_435_761) >> 20).collect()
        };
        let sequences = [text(0, 5000), text(5000, 9000)];
        let trace = CalibrationFingerprint::new(&[], sequences.iter().map(Vec::as_slice), String::new());
        assert!(trace.runs.len() > 80, "{}", trace.runs.len());
        assert_eq!(shared(&trace.runs, &text(20_000, 30_000)), 0.0);
        assert_eq!(shared(&trace.runs, &text(5003, 8000)), 1.0);
        let half = [text(1000, 4000), text(20_000, 23_000)].concat();
        let share = shared(&trace.runs, &half);
        assert!((0.3..0.7).contains(&share), "{share}");
        assert_eq!(CalibrationFingerprint::runs_in(&trace.keys()), Some(trace.runs));
    }
}

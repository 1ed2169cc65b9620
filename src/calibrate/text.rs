//! The tokens that a model is calibrated on.

use std::path::PathBuf;

use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::eval::{Corpus, oddity};
use crate::metadata::CalibrationFingerprint;
use crate::pipeline::Stop;
use crate::plan::rules;
use crate::recipe::{CalibrationOptions, LEAST_TOKENS, SELF};
use crate::runner::{Runner, Sampler, State};
use crate::vocab::Coder;

/// Fewest sequences: one to learn from and one to judge by.
const LEAST_SEQUENCES: usize = 2;
/// Interval between held-out sequences: one of so many.
const HELD_OUT: usize = 8;
/// Samples of the model that are drawn side by side.
const ABREAST: usize = 64;

/// Sequences of tokens, each run from an empty state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Sequences that the moments are taken from.
    pub fit: Vec<Vec<u32>>,
    /// Sequences that choices are judged by (held out); no token of them is in `fit`.
    pub held_out: Vec<Vec<u32>>,
    /// Files that the sequences are from.
    pub sources: Vec<PathBuf>,
    /// Reasons that the sequences are unfit to calibrate on.
    pub warnings: Vec<String>,
    /// True once the model was asked whether it finds them likely.
    pub(super) is_judged: bool,
}

impl Text {
    /// The sequences that `options` ask for; `runner` is that of the model, if its own samples are.
    ///
    /// # Errors
    /// As [`Corpus::read`]; [`Error::Usage`] if there are too few tokens, or texts and samples are both asked for.
    pub fn new(
        options: &CalibrationOptions,
        coder: &Coder,
        runner: impl FnOnce() -> Result<Runner>,
        stop: &Stop,
    ) -> Result<Text> {
        rules::calibration(options)?;
        let CalibrationOptions { ctx, tokens, .. } = *options;
        let mut warnings = Vec::new();
        let sequences = match options.is_self() {
            true => {
                let (runner, sequences) = (runner()?, tokens.div_ceil(ctx));
                let samples = sampled(&runner, ctx, sequences, options.seed, stop);
                runner.model().unless_changed(samples)?
            }
            false => {
                let corpus = Corpus::read(&options.paths(), coder, options.allow_non_utf8)?;
                let sequences = spread(&corpus, ctx, tokens);
                warnings = corpus.warnings;
                let odd = oddity(sequences.iter().flatten(), coder);
                let unfit =
                    |odd| format!("the text to calibrate on {odd}; weights fitted to it are worse elsewhere");
                warnings.extend(odd.map(unfit));
                sequences
            }
        };
        if sequences.len() < LEAST_SEQUENCES {
            let found: usize = sequences.iter().map(Vec::len).sum();
            return Err(Error::Usage {
                what: format!(
                    "there is too little to calibrate on: {found} tokens in {} sequences, and at least \
                     {LEAST_SEQUENCES} are needed, one of them to judge by",
                    sequences.len()
                ),
                help: format!(
                    "give more text (some 64 thousand tokens are good), a smaller --calib-ctx, or --calib {SELF}"
                ),
            });
        }
        let (mut fit, mut held_out) = (Vec::new(), Vec::new());
        let every = HELD_OUT.min(sequences.len());
        for (i, sequence) in sequences.into_iter().enumerate() {
            if i % every == every - 1 { held_out.push(sequence) } else { fit.push(sequence) }
        }
        Ok(Text { fit, held_out, sources: options.paths(), warnings, is_judged: false })
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.fit.iter().chain(&self.held_out).map(Vec::len).sum()
    }

    /// Calibration fingerprint of the text, as files store it.
    pub fn fingerprint(&self) -> CalibrationFingerprint {
        let sequences = self.fit.iter().chain(&self.held_out).map(Vec::as_slice);
        CalibrationFingerprint::new(&self.sources, sequences, self.sha256())
    }

    /// SHA-256 of the tokens, as little-endian u32 with the length before each sequence.
    pub fn sha256(&self) -> String {
        let number = |n: usize| (n as u32).to_le_bytes();
        let sequences = self.fit.iter().chain(&self.held_out);
        let bytes: Vec<u8> = sequences
            .flat_map(|s| number(s.len()).into_iter().chain(s.iter().flat_map(|t| t.to_le_bytes())))
            .collect();
        sha256([bytes.as_slice()])
    }
}

/// Sequences of `ctx` tokens from all over the documents, about `tokens` in all.
fn spread(corpus: &Corpus, ctx: usize, tokens: usize) -> Vec<Vec<u32>> {
    let sequences: Vec<&[u32]> = corpus
        .documents
        .iter()
        .flat_map(|d| corpus.tokens[d.clone()].chunks(ctx))
        .filter(|s| s.len() >= LEAST_TOKENS)
        .collect();
    let all: usize = sequences.iter().map(|s| s.len()).sum();
    if all <= tokens {
        return sequences.into_iter().map(<[u32]>::to_vec).collect();
    }
    // As many as are needed of sequences of the mean length, evenly spread.
    let wanted = (tokens * sequences.len()).div_ceil(all).max(LEAST_SEQUENCES).min(sequences.len());
    (0..wanted).map(|i| sequences[i * sequences.len() / wanted].to_vec()).collect()
}

/// Text that the model itself generates, at temperature 1, after its end-of-text token.
pub(super) fn sampled(
    runner: &Runner,
    ctx: usize,
    sequences: usize,
    seed: u64,
    stop: &Stop,
) -> Result<Vec<Vec<u32>>> {
    let mut all = Vec::new();
    for first in (0..sequences).step_by(ABREAST) {
        let numbers = first..sequences.min(first + ABREAST);
        let samplers = numbers.map(|n| Sampler::new(1.0, 1.0, seed.wrapping_add(n as u64)));
        let mut samplers = samplers.collect::<Result<Vec<_>>>()?;
        let mut texts = vec![vec![0u32]; samplers.len()];
        let mut states: Vec<State> = samplers.iter().map(|_| runner.start()).collect();
        for _ in 1..ctx {
            stop.check()?;
            let runs: Vec<&[u32]> = texts.iter().map(|t| &t[t.len() - 1..]).collect();
            let hidden = runner.run(&runs, &mut states)?;
            let rows: Vec<usize> = (0..texts.len()).collect();
            let logits = runner.logits(&hidden, &rows)?;
            for (i, (text, sampler)) in texts.iter_mut().zip(&mut samplers).enumerate() {
                text.push(sampler.choose(logits.row(i)));
            }
        }
        all.extend(texts);
    }
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one document
mod tests {
    use super::*;

    #[test]
    fn sequences_are_taken_from_all_over_the_text() {
        let corpus = Corpus {
            tokens: (0..1000).collect(),
            documents: vec![0..900, 900..910, 910..1000],
            file_bytes: 0,
            sha256: String::new(),
            warnings: Vec::new(),
        };
        let all = spread(&corpus, 100, 10_000);
        assert_eq!(all.len(), 10); // the document of 10 tokens is too short
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 990);
        let some = spread(&corpus, 100, 400);
        assert_eq!(some.iter().map(|s| s[0]).collect::<Vec<_>>(), [0, 200, 400, 600, 800]);
    }
}

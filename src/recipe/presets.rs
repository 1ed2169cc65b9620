//! Presets: how large a calibrated file may be, in names that say what for.
//!
//! A preset has the size of a file of one type throughout, and the types of its tensors are chosen by measurement so that it
//! is as good as can be at that size.

use std::sync::OnceLock;

use serde::Deserialize;

use super::FileType;
use crate::choice::{Choice, choice};
use crate::error::Result;

choice! {
    /// A preset.
    pub enum Preset {
        /// Hardly to be told from the source: the size of q6_k
        Faithful = "faithful",
        /// The usual choice: the size of q4_k_m
        Balanced = "balanced",
        /// Where memory is short: the size of q3_k_m
        Small = "small",
        /// What still works: the size of q2_k
        Smallest = "smallest",
    }
}

/// Measurement of a preset on a model: a row of `benches/record/presets.json`.
#[derive(Debug, Deserialize)]
struct Measured {
    preset: String,
    model: String,
    bytes: u64,
    bits_per_weight: f64,
    kl: Interval,
    top1: f64,
}

/// A mean, and between what it lies.
#[derive(Debug, Deserialize)]
struct Interval {
    mean: f64,
    low: f64,
    high: f64,
}

/// Measurements of the presets, by `benches/quality.py presets`.
const RECORD: &str = include_str!("../../benches/record/presets.json");

fn measured() -> &'static [Measured] {
    static ROWS: OnceLock<Vec<Measured>> = OnceLock::new();
    // A test reads the record; a program without it says less.
    ROWS.get_or_init(|| serde_json::from_str(RECORD).unwrap_or_default())
}

impl Preset {
    /// The type whose files are as large.
    ///
    /// # Errors
    /// None: the types are there.
    pub fn file_type(self) -> Result<&'static FileType> {
        FileType::named(match self {
            Preset::Faithful => "q6_k",
            Preset::Balanced => "q4_k_m",
            Preset::Small => "q3_k_m",
            Preset::Smallest => "q2_k",
        })
    }

    /// Measured divergences in a few words: empty without a record.
    pub fn gave(self) -> String {
        let rows = measured().iter().filter(|m| m.preset == self.name());
        let kls: Vec<String> = rows.map(|m| format!("{:.1e} on {}", m.kl.mean, m.model)).collect();
        if kls.is_empty() { String::new() } else { format!("KL {}", kls.join(", ")) }
    }

    /// Measurements of all presets, as a table in Markdown.
    pub fn table() -> String {
        let mut table =
            "| Preset | Model | Bytes | Bits a weight | KL (95 %) | Same top token |\n".to_owned();
        table += "| --- | --- | ---: | ---: | ---: | ---: |\n";
        for m in measured() {
            table += &format!(
                "| {} | {} | {} | {:.2} | {:.2e} ({:.2e} to {:.2e}) | {:.2} % |\n",
                m.preset,
                m.model,
                m.bytes,
                m.bits_per_weight,
                m.kl.mean,
                m.kl.low,
                m.kl.high,
                100.0 * m.top1
            );
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_what_was_measured() {
        let rows = measured();
        for (preset, ..) in Preset::ALL {
            assert!(rows.iter().any(|m| m.preset == preset.name()), "{}", preset.name());
            assert!(preset.file_type().is_ok());
        }
        let readme = include_str!("../../README.md");
        assert!(readme.contains(&Preset::table()), "README.md should hold:\n{}", Preset::table());
    }
}

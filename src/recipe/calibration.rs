//! Calibration options: the table `[calibration]` of a recipe.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::InputFile;

/// The word that asks for the model's own samples in place of a text.
pub const SELF: &str = "self";
/// Fewest tokens of a sequence: what comes first is hard to predict and no sample of what comes later.
pub const LEAST_TOKENS: usize = 16;

/// The table `[calibration]` of a recipe: texts, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CalibrationOptions {
    /// Texts (text, .jsonl, .npy or .ids), or the word `self`, or one .safetensors file that `calibrate` measured.
    pub texts: Vec<InputFile>,
    /// Tokens in all.
    pub tokens: usize,
    /// Tokens of a sequence, each from an empty state.
    pub ctx: usize,
    /// Seed of the model's own samples.
    pub seed: u64,
    /// True if every matrix is fitted to what meets it in the source, not to what the matrices before it became.
    pub independent: bool,
    /// True if texts may have any bytes.
    pub allow_non_utf8: bool,
}

impl Default for CalibrationOptions {
    fn default() -> CalibrationOptions {
        CalibrationOptions {
            texts: Vec::new(),
            tokens: 65_536,
            ctx: 512,
            seed: 0,
            independent: false,
            allow_non_utf8: false,
        }
    }
}

impl CalibrationOptions {
    /// True if calibration is asked for.
    pub fn is_wanted(&self) -> bool {
        !self.texts.is_empty()
    }

    /// True if the model's own samples are asked for.
    pub fn is_self(&self) -> bool {
        self.texts.iter().any(|text| text.is_word(&[SELF]))
    }

    /// The texts that are files.
    pub fn files(&self) -> impl Iterator<Item = &InputFile> {
        self.texts.iter().filter(|text| !text.is_word(&[SELF]))
    }

    /// Their paths, and the word `self`.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.texts.iter().map(|text| text.0.clone()).collect()
    }

    /// The file with measurements that is asked for in place of a text.
    pub fn stats(&self) -> Option<&Path> {
        let is_stats = |file: &&InputFile| file.0.extension().is_some_and(|e| e == "safetensors");
        self.texts.iter().find(is_stats).map(|file| file.0.as_path())
    }

    /// True if every matrix is fitted to what meets it in the source: measurements tell nothing else.
    pub fn is_independent(&self) -> bool {
        self.independent || self.stats().is_some()
    }
}

//! Configuration that PEFT writes beside an adapter: `adapter_config.json` with alpha, ranks and the kind of scaling.
//!
//! Source: huggingface/peft, `tuners/lora/config.py`, `utils/save_and_load.py`, `utils/other.py` (`get_pattern_key`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::unwrapped;
use crate::error::{Error, Result};
use crate::files;

/// The name of the file.
const CONFIG: &str = "adapter_config.json";
/// The names of the adapter's weights beside it, in PEFT's order of preference.
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// Largest configuration that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Starts of the initializations that change the model's own weights too, so that the adapter alone is not the change.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// The file with an adapter's tensors: of a folder of PEFT's, the one in it.
///
/// # Errors
/// [`Error::Model`] for a folder without one.
pub(super) fn weights(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let all = WEIGHTS.map(|name| path.join(name));
    all.into_iter().find(|file| file.is_file()).ok_or_else(|| Error::Model {
        path: path.to_owned(),
        what: format!("is a folder without an adapter: it has no {}", WEIGHTS.join(" or ")),
        help: "give the folder that PEFT's save_pretrained wrote, or the adapter's file".to_owned(),
    })
}

/// Path of the configuration of an adapter, if it has one.
pub(super) fn config_beside(weights: &Path) -> PathBuf {
    weights.with_file_name(CONFIG)
}

/// Settings by which PEFT scales its LoRA.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    peft_type: Option<String>,
    r: Option<usize>,
    lora_alpha: Option<f32>,
    use_rslora: Option<bool>,
    use_dora: Option<bool>,
    fan_in_fan_out: Option<bool>,
    init_lora_weights: Option<serde_json::Value>,
    rank_pattern: Option<BTreeMap<String, usize>>,
    alpha_pattern: Option<BTreeMap<String, f32>>,
}

impl Config {
    /// The configuration beside `weights`, if that has the name that PEFT gives.
    ///
    /// # Errors
    /// [`Error::Model`] if it cannot be read or understood, or is of another kind of change than `W + B A * scale`.
    pub fn beside(weights: &Path) -> Result<Option<Config>> {
        let path = config_beside(weights);
        let is_named = WEIGHTS.iter().any(|name| weights.file_name().is_some_and(|n| n == *name));
        if !is_named || !path.is_file() {
            return Ok(None);
        }
        let text = files::text(&path, "adapter's configuration", MAX_CONFIG_BYTES)?;
        let unfit =
            |what: String, help: &str| Error::Model { path: path.clone(), what, help: help.to_owned() };
        let config: Config = serde_json::from_str(&text).map_err(|e| {
            unfit(format!("cannot be understood: {e}"), "give the adapter_config.json that PEFT wrote")
        })?;
        match config.refusal() {
            None => Ok(Some(config)),
            Some((what, help)) => Err(unfit(what, help)),
        }
    }

    /// Reason that it is none of the adapters that can be merged, and advice.
    fn refusal(&self) -> Option<(String, &'static str)> {
        const MERGE: &str = "merge it with PEFT (merge_and_unload), and give the merged model";
        if let Some(kind) = self.peft_type.as_deref().filter(|kind| !kind.eq_ignore_ascii_case("lora")) {
            return Some((format!("is that of an adapter of the kind {kind:?}, and LoRA is read"), MERGE));
        }
        if self.use_dora == Some(true) {
            return Some(("is that of a DoRA, whose magnitudes cannot be merged".to_owned(), MERGE));
        }
        if self.fan_in_fan_out == Some(true) {
            return Some(("says fan_in_fan_out, and no matrix of RWKV is stored so".to_owned(), MERGE));
        }
        let start = self.init_lora_weights.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
        if CHANGES_BASE.iter().any(|kind| start.starts_with(kind)) {
            return Some((
                format!(
                    "says that the training started from {start:?}, which changed the model's own weights too"
                ),
                "save the adapter with save_pretrained(path_initial_model_for_weight_conversion=...), or merge it with PEFT",
            ));
        }
        let patterns = self.rank_pattern.iter().flat_map(BTreeMap::keys);
        let patterns = patterns.chain(self.alpha_pattern.iter().flat_map(BTreeMap::keys));
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
        let odd = patterns.into_iter().find(|pattern| !pattern.chars().all(is_plain))?;
        Some((
            format!("has the regular expression {odd:?} for ranks or alphas, and only names are read"),
            MERGE,
        ))
    }

    /// Alpha of all matrices that have none of their own.
    pub fn alpha(&self) -> Option<f32> {
        self.lora_alpha
    }

    /// Alpha of the matrix of this name in the file.
    pub fn alpha_of(&self, matrix: &str) -> Option<f32> {
        pattern(self.alpha_pattern.as_ref(), matrix).or(self.lora_alpha)
    }

    /// The rank that the matrix of this name in the file must have.
    pub fn rank_of(&self, matrix: &str) -> Option<usize> {
        pattern(self.rank_pattern.as_ref(), matrix).or(self.r)
    }

    /// True if `B A` is multiplied by alpha / sqrt(r) instead of alpha / r (rsLoRA, arXiv 2312.03732).
    pub fn is_rank_stabilized(&self) -> bool {
        self.use_rslora == Some(true)
    }
}

/// The value of the first name that `matrix` is or ends with.
fn pattern<T: Copy>(patterns: Option<&BTreeMap<String, T>>, matrix: &str) -> Option<T> {
    let is_of = |name: &str| {
        let before = matrix.strip_suffix(unwrapped(name));
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    patterns?.iter().find(|(name, _)| is_of(name)).map(|(_, value)| *value)
}

//! The recipe: all that the bytes of an output depend on besides its source, as data.
//!
//! ```text
//! mod.rs          Recipe: one field an option, and what it states other than usual
//! calibration.rs  its table [calibration]
//! toml.rs         recipes as files for people
//! choices.rs      whose mix of types, what stands in, how long to search
//! file_types.rs   the types that files are called by, and the encodings of their tensors
//! presets.rs      names for how large and good a file is to be
//! types.rs        types of single tensors
//! ```
//!
//! Flags of the command line are laid over a recipe ([`Recipe::overlaid`]), artifacts of a release are read as one, `--recipe`
//! and `--save-recipe` read and write one. Threads, memory, progress and `--force` change no byte and are not in it.

mod calibration;
mod choices;
mod file_types;
mod presets;
mod toml;
mod types;

pub use calibration::{CalibrationOptions, LEAST_TOKENS, SELF};
pub use choices::{Chat, Fallback, Mix, Search};
pub use file_types::{CODED, FILE_TYPES, FileType, Levels, fitting};
pub use presets::Preset;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
pub use types::{TensorType, Types};

pub use self::toml::explained;
use crate::files::InputFile;
use crate::metadata::MetadataOptions;
use crate::model::adapter::Adapters;
use crate::units;

/// All that the bytes of an output depend on, besides the source and the version of this program. Keys and flags have the
/// same names, `split_max_size` and `--split-max-size`; a flag's key in a table leaves out what the table says
/// (`--calib-tokens` is `tokens` in `[calibration]`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Id of the target; by default the one that the extension of the output tells.
    pub target: Option<String>,
    /// File type; by default the target's own.
    #[serde(rename = "type", with = "file_types::by_name")]
    pub file_type: Option<&'static FileType>,
    /// Preset in place of the type: types that are chosen by measurement.
    pub preset: Option<Preset>,
    /// Target size in place of the type: the most bytes, for which types are chosen.
    #[serde(deserialize_with = "units::bytes_or_text")]
    pub target_size: Option<u64>,
    /// Target bits per weight in place of the type: the most, metadata included.
    pub target_bpw: Option<f64>,
    /// Target divergence in place of the type, for which types are chosen, nats a token.
    pub target_kl: Option<f64>,
    /// Types of single tensors, before all else.
    pub tensors: Types,
    /// Type mix of the tensors.
    pub mix: Mix,
    /// Treatment of tensors whose row length is not a multiple of the block size of a type.
    pub fallback: Fallback,
    /// Effort of the search for codes.
    pub search: Search,
    /// Importance matrix of llama.cpp.
    pub imatrix: Option<InputFile>,
    /// True if channels are rescaled so that quantization errs less.
    pub equalize: bool,
    /// Dimensions of every matrix that are kept apart from what is quantized.
    pub low_rank: Option<u16>,
    /// Names of the matrices that have such branches (`*` stands for anything); by default all but the head.
    pub low_rank_for: Vec<String>,
    /// Number of blocks that are quantized, from the first on, if not all.
    pub layers: Option<usize>,
    /// Number of blocks after which the runtime is to halve its activations (0: never), if not as usual.
    pub rescale: Option<usize>,
    /// Most bytes of tensors in a file, so that several may be needed.
    #[serde(deserialize_with = "units::bytes_or_text")]
    pub split_max_size: Option<u64>,
    /// Names of tensors to leave out (`*` stands for anything).
    pub drop: Vec<String>,
    /// True if the source is a list of tensors of any architecture.
    pub as_tensors: bool,
    /// True if files hold no SHA-256 of their tensors.
    pub no_checksums: bool,
    /// True to write the file even if the runtime computes something else with it.
    pub force_target: bool,
    /// True if activations are computed without fused multiply-add, alike on every processor.
    pub portable: bool,
    /// The chat that a Modelfile beside the file describes.
    pub modelfile: Option<Chat>,
    /// Options of calibration.
    pub calibration: CalibrationOptions,
    /// Adapters merged into the model.
    pub adapters: Adapters,
    /// Metadata of the model in place of the source's.
    pub metadata: MetadataOptions,
}

impl Recipe {
    /// True if types are to be chosen by measurement: for a size or a divergence.
    pub fn has_goal(&self) -> bool {
        self.preset.is_some()
            || self.target_size.is_some()
            || self.target_bpw.is_some()
            || self.target_kl.is_some()
    }

    /// The files that it names, each with its flag.
    pub fn files(&self) -> Vec<(&'static str, &InputFile)> {
        let Recipe { imatrix, calibration, adapters, metadata, .. } = self;
        let single = [
            ("--imatrix", imatrix),
            ("--lora", &adapters.lora),
            ("--lora-init", &adapters.lora_init),
            ("--state", &adapters.state),
            ("--vocab", &metadata.vocab),
            ("--chat-template", &metadata.chat_template),
        ];
        let single = single.into_iter().filter_map(|(flag, file)| Some((flag, file.as_ref()?)));
        let texts = calibration.texts.iter().map(|text| ("--calib", text));
        single.chain(texts).filter(|(flag, file)| !file.is_word(words(flag))).collect()
    }

    /// Input files of the recipe, mutable, so that their paths can be changed.
    pub fn files_mut(&mut self) -> Vec<&mut InputFile> {
        let Recipe { imatrix, calibration, adapters, metadata, .. } = self;
        let single = [
            ("--imatrix", imatrix),
            ("--lora", &mut adapters.lora),
            ("--lora-init", &mut adapters.lora_init),
            ("--state", &mut adapters.state),
            ("--vocab", &mut metadata.vocab),
            ("--chat-template", &mut metadata.chat_template),
        ];
        let single = single.into_iter().filter_map(|(flag, file)| Some((flag, file.as_mut()?)));
        let texts = calibration.texts.iter_mut().map(|text| ("--calib", text));
        single.chain(texts).filter(|(flag, file)| !file.is_word(words(flag))).map(|(_, file)| file).collect()
    }

    /// Values that differ from the defaults, by the paths of keys: `calibration.tokens`.
    pub fn stated(&self) -> Map<String, Value> {
        stated(self)
    }

    /// Recipe overlaid with the values that `over` states: the arguments of a command line, say.
    ///
    /// # Errors
    /// If `over` states what is no key or value of a recipe.
    pub fn overlaid(&self, over: &impl Serialize) -> Result<Recipe, serde_json::Error> {
        overlaid(self, over)
    }
}

/// The words that may stand in place of the file of a flag.
pub fn words(flag: &str) -> &'static [&'static str] {
    match flag {
        "--calib" => &[SELF],
        "--vocab" => &["world", "bytes"],
        "--chat-template" => &["world", "none"],
        _ => &[],
    }
}

/// The flag of the key at a path.
pub fn flag_of(path: &[&str]) -> String {
    let flag = match path {
        ["target"] => "to".to_owned(),
        ["calibration", "texts"] => "calib".to_owned(),
        ["calibration", "allow_non_utf8"] => "allow_non_utf8".to_owned(),
        ["calibration", key] => format!("calib_{key}"),
        [.., key] => (*key).to_owned(),
        [] => String::new(),
    };
    format!("--{}", flag.replace('_', "-"))
}

/// `base` with all that `over` states: values other than null, false and empty lists.
///
/// # Errors
/// If that is no `T`.
pub fn overlaid<T: Serialize + DeserializeOwned>(
    base: &T,
    over: &impl Serialize,
) -> Result<T, serde_json::Error> {
    let mut value = serde_json::to_value(base)?;
    lay(&mut value, serde_json::to_value(over)?);
    T::deserialize(value)
}

fn lay(base: &mut Value, over: Value) {
    match (base, over) {
        (_, Value::Null | Value::Bool(false)) => {}
        (_, Value::Array(values)) if values.is_empty() => {}
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                lay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// Values of `value` that differ from its default.
fn stated<T: Serialize + Default>(value: &T) -> Map<String, Value> {
    fn without(value: Value, usual: &Value) -> Option<Value> {
        match (value, usual) {
            (Value::Object(value), Value::Object(usual)) => {
                let kept: Map<String, Value> = value
                    .into_iter()
                    .filter_map(|(key, value)| {
                        let kept = without(value, usual.get(&key).unwrap_or(&Value::Null))?;
                        Some((key, kept))
                    })
                    .collect();
                (!kept.is_empty()).then_some(Value::Object(kept))
            }
            (value, usual) => (value != *usual).then_some(value),
        }
    }
    // Plain data always has a JSON.
    let of = |value: &T| serde_json::to_value(value).unwrap_or_default();
    match without(of(value), &of(&T::default())) {
        Some(Value::Object(stated)) => stated,
        _ => Map::new(),
    }
}

//! A recipe on the command line: every flag is laid over the key of its name.
//!
//! Values stay texts and numbers here; what they mean is the recipe's to say, as for those of a file.

use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValue, PossibleValuesParser};
use serde::Serialize;

use crate::choice::Choice;
use crate::error::{Error, Result};
use crate::files::InputFile;
use crate::metadata::SetKey;
use crate::model::adapter::Layout;
use crate::recipe::{Chat, Fallback, FileType, Mix, Preset, Recipe, Search};
use crate::targets::TARGETS;
use crate::units::parse_bytes;

/// Flags of a recipe.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
pub(super) struct RecipeArgs {
    /// File type; see `rwkv-quant targets` for who has which [default: where there is no quantization, `source`: as
    /// it is]
    #[arg(long = "type", short = 't', value_name = "TYPE", value_parser = PossibleValuesParser::new(FileType::names()), ignore_case = true)]
    #[serde(rename = "type")]
    file_type: Option<String>,
    /// What to write, whatever the extension
    #[arg(long, value_name = "TARGET", value_parser = PossibleValuesParser::new(TARGETS.iter().map(|t| t.id())))]
    #[serde(rename = "target")]
    to: Option<String>,
    /// Whose choice of types for the tensors [default: own]
    #[arg(long, value_parser = choice::<Mix>())]
    mix: Option<String>,
    /// What to do where rows are no whole blocks of a type, so that another stands in [default: warn]
    #[arg(long, value_parser = choice::<Fallback>())]
    fallback: Option<String>,
    /// How long to search for the codes of quantized types [default: standard]
    #[arg(long, value_parser = choice::<Search>())]
    search: Option<String>,
    /// Importance matrix of llama.cpp (GGUF or .dat): columns that matter more get the smaller errors
    #[arg(long, value_name = "FILE")]
    imatrix: Option<InputFile>,
    /// Rescale channels, which changes nothing about what the model computes, so that quantization errs less; needs
    /// --imatrix. Adapters and token-shift states made for the model no longer fit
    #[arg(long)]
    equalize: bool,
    /// Spread the tensors over files that hold at most so much of them (a larger tensor has a file of its own)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    split_max_size: Option<u64>,
    /// Quantize the first N blocks only (.prefab)
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Have the runtime halve its activations every N blocks, so that they stay within f16; 0 for never (.prefab)
    /// [default: 6 up to version 6, never from version 7 on]
    #[arg(long, value_name = "N")]
    rescale: Option<usize>,
    /// Take the file for a list of tensors of any architecture: names and shapes stay, only format and type change (.pth,
    /// .safetensors, .rwkvz in plain types)
    #[arg(long, conflicts_with_all = ["imatrix", "equalize", "calib", "lora", "state", "low_rank"])]
    as_tensors: bool,
    /// Leave out the SHA-256 of every tensor, which GGUF and safetensors files hold otherwise (the key
    /// rwkv-quant.sha256); so does --mix of another tool
    #[arg(long)]
    no_checksums: bool,
    /// Write the file even if the runtime is known to compute something else with it
    #[arg(long)]
    force_target: bool,
    /// Leave out the tensors of this name (* stands for anything); may be given several times
    #[arg(long, value_name = "PATTERN")]
    drop: Vec<String>,
    /// Give the same bytes on every processor: compute activations without fused multiply-add. Files that are neither
    /// calibrated nor of measured types are the same everywhere without it
    #[arg(long)]
    portable: bool,
    /// Also write a Modelfile for ollama, NAME.Modelfile, with the prompt format of these models
    #[arg(long, value_name = "MODELS", value_parser = choice::<Chat>())]
    modelfile: Option<String>,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    #[serde(flatten)]
    goals: GoalArgs,
    #[command(flatten)]
    #[serde(flatten)]
    branches: BranchArgs,
    #[command(flatten)]
    metadata: MetadataArgs,
}

/// What is merged into the model.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Adapters")]
pub(super) struct AdapterArgs {
    /// A LoRA, PiSSA, DiSHA or Bone file to merge into the model, or the folder of a LoRA that PEFT wrote
    #[arg(long, value_name = "FILE")]
    lora: Option<InputFile>,
    /// The LoRA's alpha, which files of most training programs do not hold (its rank, if it was trained without scaling)
    /// [default: that of the adapter_config.json beside it, or of a GGUF file]
    #[arg(long, value_name = "ALPHA", requires = "lora", value_parser = finite)]
    lora_alpha: Option<f64>,
    /// The file that a PiSSA training started from (init_pissa.pth)
    #[arg(long, value_name = "FILE", requires = "lora", conflicts_with = "lora_alpha")]
    lora_init: Option<InputFile>,
    /// A tuned initial state that every text starts from
    #[arg(long, value_name = "FILE")]
    state: Option<InputFile>,
    /// How the state file keeps the matrix of a head [default: key-value for .st files, which are web-rwkv's, else
    /// value-key]
    #[arg(long, value_name = "LAYOUT", requires = "state", value_parser = choice::<Layout>())]
    state_layout: Option<String>,
}

/// What it is calibrated on.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Calibration")]
struct CalibrationArgs {
    /// Round the weights so that what the model computes on these texts changes least: text, .jsonl, .npy or .ids, or
    /// `self` for samples of the model itself, or the .safetensors file that `calibrate` measured on them
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    #[serde(rename = "texts")]
    calib: Vec<InputFile>,
    /// Tokens to calibrate on, taken from all over the texts [default: 65536]
    #[arg(long, value_name = "N", requires = "calib")]
    #[serde(rename = "tokens")]
    calib_tokens: Option<usize>,
    /// Tokens of a sequence, each from an empty state [default: 512]
    #[arg(long, value_name = "N", requires = "calib")]
    #[serde(rename = "ctx")]
    calib_ctx: Option<usize>,
    /// Seed of the model's own samples [default: 0]
    #[arg(long, value_name = "N", requires = "calib")]
    #[serde(rename = "seed")]
    calib_seed: Option<u64>,
    /// Take texts of any bytes, not only UTF-8
    #[arg(long, requires = "calib")]
    allow_non_utf8: bool,
    /// Fit every matrix to what meets it in the source, not to what the matrices rounded before it make of that: a
    /// little worse, but each can be done on another machine (--shard)
    #[arg(long, requires = "calib")]
    #[serde(rename = "independent")]
    calib_independent: bool,
}

/// How large or how good a file is to be; at most one of these.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Choice of types")]
struct GoalArgs {
    /// Choose the types of all tensors so that the file is as good as can be at the size of a type throughout
    #[arg(long, value_parser = preset(), conflicts_with_all = ["file_type", "target_size", "target_bpw", "target_kl", "recipe"])]
    preset: Option<String>,
    /// Choose the types of all tensors so that the file is no larger, and as good as can be
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, conflicts_with_all = ["target_bpw", "target_kl"])]
    target_size: Option<u64>,
    /// The same, with the size given in bits a weight, metadata included
    #[arg(long, visible_alias = "bpw", value_name = "BITS", conflicts_with = "target_kl", value_parser = finite)]
    target_bpw: Option<f64>,
    /// Choose the types so that the divergence predicted of the default encoders is no larger (nats a token), and the
    /// file as small as can be; it is measured once the file is written
    #[arg(long, value_name = "KL", requires = "calib", value_parser = finite)]
    target_kl: Option<f64>,
    /// Begin with what a file asks for that --save-recipe wrote, or a hand; other flags go before it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target_size", "target_bpw", "target_kl"])]
    #[serde(skip)]
    recipe: Option<PathBuf>,
    /// Write all that was asked for, and the types that were chosen, to a file
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    save_recipe: Option<PathBuf>,
}

/// Branches of low rank.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Branches of low rank")]
struct BranchArgs {
    /// Keep so many dimensions of every matrix apart from what is quantized: in .rwkvz files within, at no more bytes;
    /// else in a LoRA adapter to load with the model, OUTPUT.lora.gguf. A matrix that it does not help gets none
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u16).range(1..=1024))]
    low_rank: Option<u16>,
    /// Only of the matrices of this name in the file (* stands for anything), the head too; may be given several times
    /// [default: all but the head, which has more bits]
    #[arg(long, value_name = "PATTERN", requires = "low_rank")]
    low_rank_for: Vec<String>,
}

/// What is said of the model in place of what its source states.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Metadata")]
struct MetadataArgs {
    /// Vocabulary: a file, or `world` or `bytes`; for hybrids with Qwen2, the folder of the tokenizer's files
    /// [default: in the source or beside it, else by the number of tokens]
    #[arg(long, value_name = "FILE")]
    vocab: Option<InputFile>,
    /// Chat template: a Jinja file, or `world` or `none` [default: what the source states, else world for the
    /// World vocabulary]
    #[arg(long, value_name = "FILE")]
    chat_template: Option<InputFile>,
    /// Name of the model [default: what the source states, else the name of its folder or file]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Author of the model
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    author: Option<String>,
    /// Version of the model
    #[arg(long, value_name = "VERSION", value_parser = NonEmptyStringValueParser::new())]
    model_version: Option<String>,
    /// Organization behind the model
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    organization: Option<String>,
    /// A sentence about the model
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    description: Option<String>,
    /// Licence, as an SPDX name: apache-2.0
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    license: Option<String>,
    /// Where the model is at home
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    url: Option<String>,
    /// The model that this one was made from: organization/name
    #[arg(long, value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
    base_model: Option<String>,
    /// Set any key of a GGUF file: tokenizer.ggml.eos_token_id=u32:24, rwkv7.context_length=u32:4096, my.tags=str[]:["a"]
    /// (u8 to u64, i8 to i64, f32, f64, bool, str; [] behind it for a JSON array); may be given several times
    #[arg(long, value_name = "KEY=TYPE:VALUE")]
    set_key: Vec<SetKey>,
    /// Leave the model card (README.md) of a Hugging Face folder aside
    #[arg(long)]
    no_card: bool,
}

impl RecipeArgs {
    /// The recipe: that of the file named by --recipe, with the flags laid over it.
    ///
    /// # Errors
    /// As [`Recipe::load`]; [`Error::Usage`] if a flag contradicts the file.
    pub fn recipe(&self) -> Result<Recipe> {
        let base = match &self.goals.recipe {
            Some(path) => Recipe::load(path)?,
            None => Recipe::default(),
        };
        let recipe = laid_over(&base, self)?;
        match (&self.goals.recipe, base.file_type, recipe.file_type) {
            (Some(path), Some(stated), asked) if asked != Some(stated) && !base.tensors.0.is_empty() => {
                Err(Error::Usage {
                    what: format!("the recipe {} is for files of the type {}", path.display(), stated.name),
                    help: "leave --type out".to_owned(),
                })
            }
            _ => Ok(recipe),
        }
    }

    /// The file named by --recipe.
    pub fn file(&self) -> Option<&PathBuf> {
        self.goals.recipe.as_ref()
    }

    /// Where to write the recipe.
    pub fn save_recipe(&self) -> Option<PathBuf> {
        self.goals.save_recipe.clone()
    }
}

/// What flags say in place of what `base` does.
///
/// # Errors
/// [`Error::Usage`] for a value that no recipe has.
pub(super) fn laid_over<T: Serialize + serde::de::DeserializeOwned>(
    base: &T,
    args: &impl Serialize,
) -> Result<T> {
    crate::recipe::overlaid(base, args).map_err(|e| Error::Usage {
        what: e.to_string(),
        help: "see `rwkv-quant convert --help` for the values".to_owned(),
    })
}

/// Takes the names of a choice.
fn choice<T: Choice>() -> PossibleValuesParser {
    PossibleValuesParser::new(
        T::ALL.iter().map(|(_, name, means)| PossibleValue::new(*name).help(means.trim())),
    )
}

/// Takes the names of presets, and says what they gave.
fn preset() -> PossibleValuesParser {
    let about = |(preset, name, means): &(Preset, &'static str, &'static str)| {
        let gave = preset.gave();
        let means = means.trim();
        PossibleValue::new(*name).help(if gave.is_empty() {
            means.to_owned()
        } else {
            format!("{means}; {gave}")
        })
    };
    PossibleValuesParser::new(Preset::ALL.iter().map(about))
}

/// Takes a number that is one.
fn finite(text: &str) -> std::result::Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "this is no number".to_owned())?;
    if number.is_finite() { Ok(number) } else { Err("this is no number".to_owned()) }
}

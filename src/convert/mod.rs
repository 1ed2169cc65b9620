//! One conversion from start to end: what the command `convert` does, and a cell of a batch.

mod planning;
mod prepared;

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::about::Overrides;
use crate::adapter::Flags;
use crate::branches;
use crate::calibrate::{Goals, Settings};
use crate::error::{Error, Result};
use crate::recipe::{CODED, Fallback, FileType, Mix, Search};
use crate::targets::{Chat, TARGETS, Target};
use crate::units::parse_bytes;
pub(crate) use prepared::Companion;
pub use prepared::Prepared;

/// The file type beside goals, which choose the types themselves: what the file calls itself.
///
/// # Errors
/// [`Error::Usage`] if the target's types cannot be chosen one by one.
pub(crate) fn beside_goals(target: &dyn Target) -> Result<&'static FileType> {
    const USUAL: [&str; 2] = ["q4_k_m", "q5_1"];
    if target.codes() {
        return FileType::named(CODED);
    }
    let usual = USUAL.into_iter().map(FileType::named).find(|t| t.as_ref().is_ok_and(|t| target.holds(t)));
    match usual {
        Some(file_type) if !target.rungs().is_empty() => file_type,
        _ => Err(Error::Usage {
            what: format!("the types of {} files cannot be mixed freely", target.name()),
            help: "give --type, or write .gguf".to_owned(),
        }),
    }
}

/// What is asked for: from what to what, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Request {
    /// The model: a .pth, .safetensors, .st, .gguf or rwkv.cpp .bin file, any part of a sharded set, or a folder
    pub input: PathBuf,
    /// The file or folder to write; a file's extension tells the format
    pub output: PathBuf,
    /// File type; see `rwkv-quant targets` for who has which [default: where there is no quantization, `source`: as
    /// it is]
    #[arg(long = "type", short = 't', value_name = "TYPE", value_parser = file_type(), ignore_case = true)]
    pub file_type: Option<&'static FileType>,
    /// What to write, whatever the extension
    #[arg(long, value_name = "TARGET", value_parser = target())]
    pub to: Option<String>,
    /// Whose choice of types for the tensors
    #[arg(long, value_enum, default_value_t)]
    pub mix: Mix,
    /// What to do where rows are no whole blocks of a type, so that another stands in
    #[arg(long, value_enum, default_value_t)]
    pub fallback: Fallback,
    /// How long to search for the codes of quantized types
    #[arg(long, value_enum, default_value_t)]
    pub search: Search,
    /// Importance matrix of llama.cpp (GGUF or .dat): columns that matter more get the smaller errors
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Rescale channels, which changes nothing about what the model computes, so that quantization errs less; needs
    /// --imatrix. Adapters and token-shift states made for the model no longer fit
    #[arg(long)]
    pub equalize: bool,
    /// Spread the tensors over files that hold at most so much of them (a larger tensor has a file of its own)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub split_max_size: Option<u64>,
    /// Quantize the first N blocks only (.prefab)
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Have the runtime halve its activations every N blocks, so that they stay within f16; 0 for never (.prefab)
    /// [default: 6 up to version 6, never from version 7 on]
    #[arg(long, value_name = "N")]
    pub rescale: Option<usize>,
    /// Take the file for a list of tensors of any architecture: names and shapes stay, only format and type change (.pth,
    /// .safetensors, .rwkvz in plain types)
    #[arg(long, conflicts_with_all = ["imatrix", "equalize", "calib", "lora", "state", "low_rank"])]
    pub as_tensors: bool,
    /// Leave out the SHA-256 of every tensor, which GGUF and safetensors files hold otherwise (the key
    /// rwkv-quant.sha256); so does --mix of another tool
    #[arg(long)]
    pub no_checksums: bool,
    /// Also write NAME.sha256, which `sha256sum -c` and `rwkv-quant verify` read: for formats that hold no checksums
    #[arg(long)]
    pub checksum_file: bool,
    /// Write the file even if the runtime is known to compute something else with it
    #[arg(long)]
    pub force_target: bool,
    /// Leave out the tensors of this name (* stands for anything); may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub drop: Vec<String>,
    /// Most memory that the conversion may take [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_memory: Option<u64>,
    /// Threads [default: as many as the machine runs at once, up to 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Give the same bytes on every processor: compute activations without fused multiply-add. Files that are neither
    /// calibrated nor of measured types are the same everywhere without it
    #[arg(long)]
    pub portable: bool,
    /// Also write a Modelfile for ollama, NAME.Modelfile, with the prompt format of these models
    #[arg(long, value_enum, value_name = "MODELS")]
    pub modelfile: Option<Chat>,
    /// What is merged into the model
    #[command(flatten)]
    pub adapters: Flags,
    /// What it is calibrated on
    #[command(flatten)]
    pub calibration: Settings,
    /// Fit every matrix to what meets it in the source, not to what the matrices rounded before it make of that: a
    /// little worse, but each can be done on another machine (--shard)
    #[arg(long, requires = "calib", help_heading = "Calibration")]
    pub calib_independent: bool,
    /// How large or good it is to be
    #[command(flatten)]
    pub goals: Goals,
    /// What is kept apart from its matrices
    #[command(flatten)]
    pub branches: branches::BranchFlags,
    /// What is said of the model in place of what its source states
    #[command(flatten)]
    pub about: Overrides,
}

fn file_type() -> impl TypedValueParser<Value = &'static FileType> {
    PossibleValuesParser::new(FileType::names()).try_map(|name| FileType::named(&name))
}

fn target() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(TARGETS.iter().map(|t| t.id()))
}

//! `rwkv-quant convert`.

use std::path::PathBuf;
use std::time::Instant;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser};

use super::adapters::AdapterArgs;
use super::{STOP, open_model, show, size, stop_on_ctrl_c};
use crate::about::About;
use crate::error::{Error, Result};
use crate::importance::Importance;
use crate::model::Model;
use crate::pipeline::{self, Budget};
use crate::plan::{Plan, Wishes};
use crate::recipe::{Fallback, FileType, Mix, Recipe, Search};
use crate::report::{Conversion, Progress, Style};
use crate::targets::{self, Chat, Content, TARGETS, Target, Tokens};

/// Converts a checkpoint into a file that a runtime loads.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: a .pth, .safetensors, .st, .gguf or rwkv.cpp .bin file, any part of a sharded set, or a folder
    input: PathBuf,
    /// The file or folder to write; a file's extension tells the format
    output: PathBuf,
    /// File type; see `rwkv-quant targets` for who has which [default: where there is no quantization, `source`: as
    /// it is]
    #[arg(long = "type", short = 't', value_name = "TYPE", value_parser = file_type(), ignore_case = true)]
    file_type: Option<&'static FileType>,
    /// What to write, whatever the extension
    #[arg(long, value_name = "TARGET", value_parser = target())]
    to: Option<String>,
    /// Whose choice of types for the tensors
    #[arg(long, value_enum, default_value_t)]
    mix: Mix,
    /// What to do where rows are no whole blocks of a type, so that another stands in
    #[arg(long, value_enum, default_value_t)]
    fallback: Fallback,
    /// How long to search for the codes of quantized types
    #[arg(long, value_enum, default_value_t)]
    search: Search,
    /// Importance matrix of llama.cpp (GGUF or .dat): columns that matter more get the smaller errors
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Spread the tensors over files that hold at most so much of them
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    split_max_size: Option<u64>,
    /// Quantize the first N blocks only (.prefab)
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Have the runtime halve its activations every N blocks, so that they stay within f16; 0 for never (.prefab)
    /// [default: 6 up to version 6, never from version 7 on]
    #[arg(long, value_name = "N")]
    rescale: Option<usize>,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace the output if it exists
    #[arg(long, short = 'f')]
    force: bool,
    /// Write the file even if the runtime is known to compute something else with it
    #[arg(long)]
    force_target: bool,
    /// Leave out the tensors of this name (* stands for anything); may be given several times
    #[arg(long, value_name = "PATTERN")]
    drop: Vec<String>,
    /// Most memory that the conversion may take [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_memory: Option<u64>,
    /// Threads [default: as many as the machine runs at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Also write a Modelfile for ollama, NAME.Modelfile, with the prompt format of these models
    #[arg(long, value_enum, value_name = "MODELS")]
    modelfile: Option<Chat>,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    about: AboutArgs,
}

/// What the metadata of the file says.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Metadata")]
struct AboutArgs {
    /// Vocabulary: a file, or `world` or `bytes`; for hybrids with Qwen2, the folder of the tokenizer's files
    /// [default: in the source or beside it, else by the number of tokens]
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Chat template: a Jinja file, or `world` or `none` [default: what the source states, else world for the
    /// World vocabulary]
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
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
    /// Leave the model card (README.md) of a Hugging Face folder aside
    #[arg(long)]
    no_card: bool,
}

fn file_type() -> impl TypedValueParser<Value = &'static FileType> {
    PossibleValuesParser::new(FileType::names()).try_map(|name| FileType::named(&name))
}

fn target() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(TARGETS.iter().map(|t| t.id()))
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let start = Instant::now();
    let target = targets::choose(&args.output, args.to.as_deref())?;
    let file_type = targets::type_or_default(target, args.file_type)?;
    let mut model = open_model(&args.input, &args.drop)?;
    match target.content() {
        Content::Adapter => args.adapters.add_to(&mut model)?,
        Content::Model | Content::State => args.adapters.merge_into(&mut model)?,
    }
    targets::admit(target, &model, file_type)?;
    let about = about(&args.about, &model, target)?;
    let recipe = Recipe {
        file_type,
        mix: args.mix,
        fallback: args.fallback,
        search: args.search,
        importance: args.imatrix.as_deref().map(Importance::load).transpose()?,
        layers: args.layers,
        rescale: args.rescale,
    };
    let wishes =
        Wishes { force: args.force_target, split_max_bytes: args.split_max_size, modelfile: args.modelfile };
    let plan = Plan::new(&model, target, recipe, &about, &args.output, wishes)?;
    let threads = match args.threads {
        Some(n) => n.into(),
        None => std::thread::available_parallelism().map_or(1, Into::into),
    };
    let budget = Budget::new(&plan, threads, args.max_memory)?;
    let vocabulary = about.tokenizer.as_ref().map(ToString::to_string);
    let conversion = Conversion::planned(&model, &plan, &budget, &args.output, vocabulary);
    if args.dry_run {
        return show(&conversion, style);
    }
    stop_on_ctrl_c();
    let progress = Progress::new(plan.total_bytes(), style);
    let written = pipeline::write(&plan, &model, &args.output, args.force, &budget, &progress, &STOP);
    progress.clear();
    written?;
    show(&conversion.done(start.elapsed().as_secs_f64()), style)
}

/// What the flags say, else what the source says.
fn about(args: &AboutArgs, model: &Model, target: &dyn Target) -> Result<About> {
    let mut about = About::stated(model, !args.no_card)?;
    for (field, flag) in [
        ("name", &args.name),
        ("author", &args.author),
        ("version", &args.model_version),
        ("organization", &args.organization),
        ("description", &args.description),
        ("license", &args.license),
        ("url", &args.url),
    ] {
        if let Some(text) = flag {
            about.set(field, text);
        }
    }
    if let Some(id) = &args.base_model {
        about.set_base_model(id);
    }
    let mut tokenize = || about.tokenize(model, args.vocab.as_deref(), args.chat_template.as_deref());
    match target.tokens() {
        Tokens::No => {}
        Tokens::Yes => tokenize()?,
        Tokens::IfKnown => match tokenize() {
            Err(Error::Usage { .. }) if args.vocab.is_none() => {}
            told => told?,
        },
    }
    Ok(about)
}

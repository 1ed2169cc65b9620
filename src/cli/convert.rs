//! `rwkv-quant convert`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use formats::Value;

use super::{STOP, clean_up_on_ctrl_c, open_model, show, size};
use crate::error::{Error, Result};
use crate::importance::Importance;
use crate::model::{Body, Model};
use crate::pipeline::{self, Budget};
use crate::plan::Plan;
use crate::recipe::{Fallback, FileType, Mix, Recipe, Search};
use crate::report::{Conversion, Progress, Style};
use crate::targets::{self, About, gguf};
use crate::vocab::{Bpe, Tokenizer, Vocab};

/// Converts a checkpoint into a file that a runtime loads.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: a .pth, .safetensors, .st, .gguf or rwkv.cpp .bin file, any part of a sharded set, or a folder
    input: PathBuf,
    /// The file to write; its extension tells the format
    output: PathBuf,
    /// File type
    #[arg(long = "type", short = 't', value_name = "TYPE", value_parser = file_type(), ignore_case = true)]
    file_type: &'static FileType,
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
    #[command(flatten)]
    about: AboutArgs,
}

/// What the metadata of the file says.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Metadata")]
struct AboutArgs {
    /// Vocabulary: a file, or `world` or `bytes`; for hybrids with Qwen2, the folder of the tokenizer's files
    /// [default: by the number of tokens; for hybrids, beside the model]
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Chat template: a Jinja file, or `world` or `none` [default: what the source states, else world for the
    /// World vocabulary]
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Name of the model [default: what the source states, else its file name]
    #[arg(long)]
    name: Option<String>,
    /// Author of the model
    #[arg(long)]
    author: Option<String>,
    /// Version of the model
    #[arg(long, value_name = "VERSION")]
    model_version: Option<String>,
    /// Organization behind the model
    #[arg(long)]
    organization: Option<String>,
    /// A sentence about the model
    #[arg(long)]
    description: Option<String>,
    /// Licence, as an SPDX name: apache-2.0
    #[arg(long)]
    license: Option<String>,
    /// Where the model is at home
    #[arg(long)]
    url: Option<String>,
    /// The model that this one was made from: organization/name
    #[arg(long, value_name = "MODEL")]
    base_model: Option<String>,
}

fn file_type() -> impl TypedValueParser<Value = &'static FileType> {
    PossibleValuesParser::new(FileType::names()).try_map(|name| FileType::named(&name))
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let start = Instant::now();
    let target = targets::of_path(&args.output)?;
    let model = open_model(&args.input, &args.drop)?;
    let about = about(&args.about, &model, &args.input)?;
    let recipe = Recipe {
        file_type: args.file_type,
        mix: args.mix,
        fallback: args.fallback,
        search: args.search,
        importance: args.imatrix.as_deref().map(Importance::load).transpose()?,
    };
    let plan = Plan::new(&model, target, recipe, &about, args.force_target)?;
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
    clean_up_on_ctrl_c();
    let progress = Progress::new(plan.total_bytes(), style);
    let written = pipeline::write(&plan, &model, &args.output, args.force, &budget, &progress, &STOP);
    progress.clear();
    written?;
    show(&conversion.done(start.elapsed().as_secs_f64()), style)
}

/// What the flags say, else what the source says; nothing is guessed but the name.
fn about(args: &AboutArgs, model: &Model, input: &Path) -> Result<About> {
    let stated = |key: &str| model.container.value(key).and_then(Value::as_str).map(str::to_owned);
    let flag_or = |flag: &Option<String>, key: &str| flag.clone().or_else(|| stated(key));
    let stem = || {
        let input = input.canonicalize().unwrap_or_else(|_| input.to_owned());
        let name = if input.is_dir() { input.file_name() } else { input.file_stem() };
        name.unwrap_or_default().to_string_lossy().into_owned()
    };
    let tokenizer = tokenizer(args, model)?;
    let chat_template = match args.chat_template.as_deref() {
        None if stated("tokenizer.chat_template").is_some() => stated("tokenizer.chat_template"),
        None => match &tokenizer {
            Tokenizer::Rwkv(vocab) if vocab.name == "World" => Some(gguf::WORLD_CHAT_TEMPLATE.to_owned()),
            Tokenizer::Bpe(bpe) => bpe.chat_template.clone(),
            _ => None,
        },
        Some(p) if p == Path::new("none") => None,
        Some(p) if p == Path::new("world") => Some(gguf::WORLD_CHAT_TEMPLATE.to_owned()),
        Some(p) => Some(std::fs::read_to_string(p).map_err(Error::io("read the chat template", p))?),
    };
    Ok(About {
        name: flag_or(&args.name, "general.name").unwrap_or_else(stem),
        author: flag_or(&args.author, "general.author"),
        version: flag_or(&args.model_version, "general.version"),
        organization: flag_or(&args.organization, "general.organization"),
        description: flag_or(&args.description, "general.description"),
        license: flag_or(&args.license, "general.license"),
        url: flag_or(&args.url, "general.url"),
        base_model: args.base_model.clone().or_else(|| {
            let name = stated("general.base_model.0.name")?;
            Some(match stated("general.base_model.0.organization") {
                Some(organization) => format!("{organization}/{name}"),
                None => name,
            })
        }),
        tokenizer: Some(tokenizer),
        chat_template,
    })
}

/// The tokenizer of a model: for a hybrid, the folder asked for, else the one in the source, else the files beside
/// it; for RWKV's own, see [`vocab`].
fn tokenizer(args: &AboutArgs, model: &Model) -> Result<Tokenizer> {
    let source = &model.container;
    if model.version.body == Body::Rwkv {
        return vocab(args, model).map(Tokenizer::Rwkv);
    }
    if let (None, Some(carried)) = (&args.vocab, gguf::carried(source)) {
        return Ok(carried);
    }
    let beside = || if source.path().is_dir() { Some(source.path()) } else { source.path().parent() };
    let folder = args.vocab.as_deref().or_else(beside).unwrap_or(Path::new("."));
    Bpe::load(folder, source.config(), model.dims.vocab).map(Tokenizer::Bpe)
}

/// The vocabulary asked for, else the one in the source, else the usual one of this size.
fn vocab(args: &AboutArgs, model: &Model) -> Result<Vocab> {
    if let Some(path) = &args.vocab {
        return Vocab::load(path);
    }
    if let Some(vocab) = gguf::vocab_of(&model.container) {
        return Ok(vocab);
    }
    Vocab::usual(model.dims.vocab).ok_or_else(|| Error::Usage {
        what: format!(
            "no built-in vocabulary has {} tokens, as many as the model has rows for",
            model.dims.vocab
        ),
        help: "give the vocabulary that the model was trained with: --vocab FILE (an RWKV vocabulary text, \
               web-rwkv's JSON, or vocab.txt)"
            .to_owned(),
    })
}

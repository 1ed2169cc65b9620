//! `rwkv-quant calibrate`.

use std::path::PathBuf;
use std::time::Instant;

use super::{STOP, show, stop_on_ctrl_c};
use crate::about;
use crate::calibrate::{self, Settings, Text};
use crate::error::{Error, Result};
use crate::files::replace;
use crate::model::Model;
use crate::pipeline;
use crate::report::{Measurement, Steps, Style};
use crate::runner::{Options, Runner};

/// Measures on a text how much every input channel of every matrix is used.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: any file, sharded set or folder that can be converted
    model: PathBuf,
    /// The texts: text of any kind, .jsonl (a document a line), .npy or .ids (tokens); or `self` for samples of the model
    /// itself
    #[arg(required = true)]
    texts: Vec<PathBuf>,
    /// The importance matrix to write: .gguf, or .dat for llama.cpp's older layout
    #[arg(long, short = 'o', value_name = "FILE")]
    output: PathBuf,
    /// Tokens to calibrate on, taken from all over the texts
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    tokens: usize,
    /// Tokens of a sequence, each from an empty state
    #[arg(long, value_name = "N", default_value_t = 512)]
    ctx: usize,
    /// Seed of the model's own samples
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Vocabulary: a file, or `world` or `bytes` [default: the model's own, else by the number of tokens]
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Threads [default: as many as the machine runs at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Leave out the tensors of this name (* stands for anything); may be given several times
    #[arg(long, value_name = "PATTERN")]
    drop: Vec<String>,
    /// Replace the output if it exists
    #[arg(long, short = 'f')]
    force: bool,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let extension = args.output.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if !["gguf", "dat"].contains(&extension) {
        return Err(Error::Usage {
            what: format!("an importance matrix cannot be written as {}", args.output.display()),
            help: "give a name that ends in .gguf or .dat".to_owned(),
        });
    }
    if args.output.exists() && !args.force {
        return Err(Error::Exists { path: args.output.clone() });
    }
    stop_on_ctrl_c();
    let threads = args.threads.map_or(0, usize::from);
    show(&pipeline::pool(threads)?.install(|| measure(args, style))?, style)
}

fn measure(args: &Args, style: Style) -> Result<Measurement> {
    let start = Instant::now();
    let open = || Model::open(&args.model, &args.drop);
    let model = open()?;
    let settings = Settings {
        calib: args.texts.clone(),
        calib_tokens: Some(args.tokens),
        calib_ctx: Some(args.ctx),
        calib_seed: Some(args.seed),
        calib_independent: false,
    };
    let coder = about::coder(&model, args.vocab.as_deref())?;
    let runner = || Runner::new(open()?, Options { stream: true, ..Options::default() });
    let text = Text::new(&settings, &coder, runner, &STOP)?;
    let steps = Steps::new(2 * model.dims.layers as u64, "half blocks", style);
    let squares = calibrate::mean_squares(open()?, &text, &STOP, || steps.add(1));
    steps.clear();
    let imatrix = calibrate::importance(&model, &squares?, &text);
    let bytes = match args.output.extension().is_some_and(|e| e == "dat") {
        true => imatrix.to_dat(),
        false => imatrix.to_gguf(text.tokens() as u64, args.ctx as u32)?,
    };
    replace(&args.output, &bytes)?;
    Ok(Measurement::new(&model, &text, &args.output, imatrix.entries.len(), start.elapsed().as_secs_f64()))
}

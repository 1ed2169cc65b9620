//! `rwkv-quant calibrate`.

use std::path::PathBuf;
use std::time::Instant;

use super::derived::DerivedArgs;
use super::{STOP, show};
use crate::calibrate::{self, Settings, Text};
use crate::error::Result;
use crate::files::replace;
use crate::report::{Measurement, Steps, Style};
use crate::runner::{Options, Runner};

/// Measures on a text how much every input channel of every matrix is used: an importance matrix, .gguf, or .dat for
/// llama.cpp's older layout.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: DerivedArgs,
    /// The texts: text of any kind, .jsonl (a document a line), .npy or .ids (tokens); or `self` for samples of the model
    /// itself
    #[arg(required = true)]
    texts: Vec<PathBuf>,
    /// Tokens to calibrate on, taken from all over the texts
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    tokens: usize,
    /// Tokens of a sequence, each from an empty state
    #[arg(long, value_name = "N", default_value_t = 512)]
    ctx: usize,
    /// Seed of the model's own samples
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let work = || measure(args, style);
    show(&args.common.run("an importance matrix", &["gguf", "dat"], work)?, style)
}

fn measure(args: &Args, style: Style) -> Result<Measurement> {
    let start = Instant::now();
    let common = &args.common;
    let model = common.open()?;
    let settings = Settings {
        calib: args.texts.clone(),
        calib_tokens: Some(args.tokens),
        calib_ctx: Some(args.ctx),
        calib_seed: Some(args.seed),
    };
    let coder = common.coder(&model)?;
    let runner = || Runner::new(common.open()?, Options { stream: true, ..Options::default() });
    let text = Text::new(&settings, &coder, runner, &STOP)?;
    let steps = Steps::new(2 * model.dims.layers as u64, "half blocks", style);
    let squares = calibrate::mean_squares(common.open()?, &text, &STOP, || steps.add(1));
    steps.clear();
    let imatrix = calibrate::importance(&model, &squares?, &text);
    let bytes = match common.output.extension().is_some_and(|e| e == "dat") {
        true => imatrix.to_dat(),
        false => imatrix.to_gguf(text.tokens() as u64, args.ctx as u32)?,
    };
    replace(&common.output, &bytes)?;
    Ok(Measurement::new(&model, &text, &common.output, imatrix.entries.len(), start.elapsed().as_secs_f64()))
}

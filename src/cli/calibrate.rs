//! `rwkv-quant calibrate`.

use std::path::PathBuf;
use std::time::Instant;

use super::derived::DerivedArgs;
use super::{STOP, show};
use crate::calibrate::{self, Text};
use crate::error::Result;
use crate::files::InputFile;
use crate::recipe::CalibrationOptions;
use crate::report::{Measurement, Steps, Style};
use crate::runner::{Options, Runner};
use crate::storage::Outputs;

/// Measures on a text what meets every matrix: how much every input channel is used, an importance matrix (.gguf, or .dat
/// for llama.cpp's older layout); or all that `convert --calib` wants to know, so that one run serves many conversions
/// (.safetensors, 3 to 4 times as large as the model in bf16).
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
    /// Take texts of any bytes, not only UTF-8
    #[arg(long)]
    allow_non_utf8: bool,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let work = |outputs: &mut Outputs| measure(args, outputs, style);
    show(&args.common.run("what was measured", &["gguf", "dat", "safetensors"], &args.texts, work)?, style)
}

fn measure(args: &Args, outputs: &mut Outputs, style: Style) -> Result<Measurement> {
    let start = Instant::now();
    let common = &args.common;
    let model = common.open()?;
    let options = CalibrationOptions {
        texts: args.texts.iter().cloned().map(InputFile).collect(),
        tokens: args.tokens,
        ctx: args.ctx,
        seed: args.seed,
        allow_non_utf8: args.allow_non_utf8,
        independent: false,
    };
    let coder = common.coder(&model)?;
    let runner = || Runner::new(common.open()?, Options { stream: true, ..Options::default() });
    let mut text = Text::new(&options, &coder, runner, &STOP)?;
    let steps = Steps::new(2 * model.dims.layers as u64, "half blocks", style);
    let (again, progress) = (common.open()?, || steps.add(1));
    let extension = common.output.extension().and_then(|e| e.to_str());
    let matrices = if extension == Some("safetensors") {
        calibrate::measure_all(again, &mut text, outputs, &STOP, progress)
    } else {
        let squares = calibrate::mean_squares(again, &mut text, &STOP, progress);
        squares.and_then(|squares| {
            let imatrix = calibrate::importance(&model, &squares, &text);
            model.unless_changed(Ok(()))?;
            let bytes = match extension {
                Some("dat") => imatrix.to_dat(),
                _ => imatrix.to_gguf(text.tokens() as u64, args.ctx as u32)?,
            };
            outputs.fill(&bytes)?;
            Ok(imatrix.entries.len())
        })
    };
    steps.clear();
    Ok(Measurement::new(&model, &text, &common.output, matrices?, start.elapsed().as_secs_f64()))
}

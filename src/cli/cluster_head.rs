//! `rwkv-quant cluster-head`.

use std::path::PathBuf;
use std::time::Instant;

use super::derived::DerivedArgs;
use super::{STOP, show};
use crate::calibrate::Text;
use crate::error::Result;
use crate::files::InputFile;
use crate::recipe::CalibrationOptions;
use crate::report::{Clustering, Steps, Style};
use crate::runner::{Clustered, Fit, Hidden, Options, Runner, mean_squares, parse_share};
use crate::storage::Outputs;

/// Puts the rows of the output layer into clusters, a .rwkvz or .safetensors file for `generate` and `eval-ppl --head FILE`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: DerivedArgs,
    /// Number of clusters [default: the square root of the number of rows]
    #[arg(long, value_name = "K")]
    clusters: Option<usize>,
    /// Share of the probability up to which clusters are read, likeliest first
    #[arg(long, value_name = "P", default_value = "0.95", value_parser = parse_share)]
    share: f32,
    /// Fit the clusters and their probabilities to these texts: text, .jsonl, .npy or .ids, or `self` for samples of the
    /// model itself
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    calib: Vec<PathBuf>,
    /// Tokens to fit to, taken from all over the texts
    #[arg(long, value_name = "N", default_value_t = 16_384, requires = "calib")]
    calib_tokens: usize,
    /// Tokens of a sequence, each from an empty state
    #[arg(long, value_name = "N", default_value_t = 512, requires = "calib")]
    calib_ctx: usize,
    /// Seed of the model's own samples
    #[arg(long, value_name = "N", default_value_t = 0, requires = "calib")]
    calib_seed: u64,
    /// Take texts of any bytes, not only UTF-8
    #[arg(long, requires = "calib")]
    allow_non_utf8: bool,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let work = |outputs: &mut Outputs| cluster(args, outputs, style);
    show(&args.common.run("clusters", &["rwkvz", "safetensors"], &args.calib, work)?, style)
}

fn cluster(args: &Args, outputs: &mut Outputs, style: Style) -> Result<Clustering> {
    let start = Instant::now();
    let common = &args.common;
    let runner = || Runner::new(common.open()?, Options::default());
    let model = runner()?;
    let rows = model.full_rows().rows();
    let fit = Fit { clusters: args.clusters.unwrap_or_else(|| Fit::usual(rows)), share: args.share };
    let (clustered, text) = match args.calib.is_empty() {
        true => (model.model().unless_changed(fit.cluster(&model, None))?, None),
        false => {
            let options = CalibrationOptions {
                texts: args.calib.iter().cloned().map(InputFile).collect(),
                tokens: args.calib_tokens,
                ctx: args.calib_ctx,
                seed: args.calib_seed,
                allow_non_utf8: args.allow_non_utf8,
                independent: false,
            };
            let coder = common.coder(model.model())?;
            let text = Text::new(&options, &coder, runner, &STOP)?;
            (model.model().unless_changed(fitted(fit, &model, &text, style))?, Some(text))
        }
    };
    outputs.fill(&clustered.file(&common.output)?)?;
    Ok(Clustering::new(&model, &clustered, text.as_ref(), &common.output, start.elapsed().as_secs_f64()))
}

/// Clusters fitted to all of a text.
fn fitted(fit: Fit, runner: &Runner, text: &Text, style: Style) -> Result<Clustered> {
    let steps = Steps::new(text.tokens() as u64, "tokens", style);
    let one = |tokens: &Vec<u32>| -> Result<Hidden> {
        STOP.check()?;
        let hidden = runner.run(&[tokens], &mut [runner.start()])?;
        steps.add(tokens.len() as u64);
        Ok(hidden)
    };
    let hidden = text.fit.iter().chain(&text.held_out).map(one).collect::<Result<Vec<_>>>();
    steps.clear();
    let hidden = hidden?;
    let mut clustered = fit.cluster(runner, Some(&mean_squares(&hidden)))?;
    STOP.check()?;
    clustered.fit(runner, &hidden, text.sha256());
    Ok(clustered)
}

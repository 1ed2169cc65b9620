//! `rwkv-quant certify-head`.

use std::time::Instant;

use super::derived::DerivedArgs;
use super::show;
use crate::error::Result;
use crate::report::{Certification, Style};
use crate::runner::{HeadChoice, Options, Runner};
use crate::storage::Outputs;

/// Writes what a certified output layer reads of every row, so that `generate` and `eval-ppl --head FILE` need not make
/// it: a .rwkvz file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: DerivedArgs,
    /// How many of the likeliest tokens are exact by proof
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    best: u32,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let work = |outputs: &mut Outputs| certify(args, outputs);
    show(&args.common.run("a certified head", &["rwkvz"], &[], work)?, style)
}

fn certify(args: &Args, outputs: &mut Outputs) -> Result<Certification> {
    let start = Instant::now();
    let (common, best) = (&args.common, args.best as usize);
    let model = Runner::new(common.open()?, Options::default())?;
    let certified = model.model().unless_changed(HeadChoice::certified(best, &model))?;
    outputs.fill(&certified.file(&model.full_rows(), &common.output)?)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Certification::new(&model, certified.always_bytes(), best, &common.output, seconds))
}

//! `rwkv-quant convert`.

use std::time::Instant;

use super::{STOP, show, stop_on_ctrl_c};
use crate::convert::Request;
use crate::error::Result;
use crate::report::{Progress, Style};

/// Converts a checkpoint into a file that a runtime loads.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    request: Request,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace the output if it exists
    #[arg(long, short = 'f')]
    force: bool,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let start = Instant::now();
    let prepared = args.request.prepare()?;
    let conversion = prepared.report();
    stop_on_ctrl_c();
    if args.dry_run {
        prepared.check(&STOP)?;
        return show(&conversion, style);
    }
    let progress = Progress::new(prepared.plan.total_bytes(), style);
    let written = prepared.write(args.force, &progress, &STOP);
    progress.clear();
    written?;
    show(&conversion.done(start.elapsed().as_secs_f64()), style)
}

//! `rwkv-quant merge`.

use std::path::PathBuf;

use super::{STOP, show, stop_on_ctrl_c};
use crate::error::Result;
use crate::report::{Progress, Style};
use crate::shards;

/// Puts together a conversion that was spread over machines.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file or folder, as it was named for the shards; these, OUTPUT.shard-1of4 and so on, are beside it
    output: PathBuf,
    /// Replace the output if it exists
    #[arg(long, short = 'f')]
    force: bool,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    stop_on_ctrl_c();
    let progress = Progress::new(style);
    let merged = shards::merge(&args.output, args.force, &progress, &STOP);
    progress.clear();
    show(&merged?, style)
}

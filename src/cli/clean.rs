//! `rwkv-quant clean`.

use std::path::PathBuf;

use super::show;
use crate::clean::clean;
use crate::error::Result;
use crate::report::Style;

/// Lists what broken off runs left, and removes it with -f: unfinished outputs, checkpoints of calibrations, and shards.
/// Each is known by its content, and stays while a run works on it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An output, whose leftovers stand beside it; or a folder, such as that of a release
    path: PathBuf,
    /// Remove what is listed
    #[arg(long, short = 'f')]
    force: bool,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    show(&clean(&args.path, args.force)?, style)
}

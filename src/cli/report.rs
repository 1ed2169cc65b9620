//! `rwkv-quant report`.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::batch::{self, Summary};
use crate::error::{Error, Result};

/// Renders the report of a batch from its summary.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The summary: summary.json of a release, or what `batch --format json` printed
    summary: PathBuf,
    /// The page to write (.html) [default: standard output]
    #[arg(long, short = 'o', value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let page = batch::report(&Summary::read(&args.summary)?)?;
    match &args.out {
        Some(out) => std::fs::write(out, page).map_err(Error::io("write", out)),
        None => {
            std::io::stdout().write_all(&page).map_err(Error::io("write to", Path::new("standard output")))
        }
    }
}

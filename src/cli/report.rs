//! `rwkv-quant report`.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{STOP, stop_on_ctrl_c};
use crate::error::{Error, Result};
use crate::report;
use crate::storage::{self, Inputs};

/// Renders the results of a run, as JSON, as a page: plots, tables, heat maps.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// summary.json of a release, or what `--format json` printed for batch, eval-ppl, diff or convert
    results: PathBuf,
    /// The page to write (.html) [default: standard output]
    #[arg(long, short = 'o', value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the page if it exists
    #[arg(long, short = 'f', requires = "out")]
    force: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let page = report::page(&args.results)?.html()?;
    match &args.out {
        Some(out) => {
            stop_on_ctrl_c();
            let mut inputs = Inputs::new();
            inputs.add(&args.results);
            STOP.check()?;
            storage::write(out, &page, &inputs, args.force)
        }
        None => {
            std::io::stdout().write_all(&page).map_err(Error::io("write to", Path::new("standard output")))
        }
    }
}

//! `rwkv-quant diff`.

use std::path::PathBuf;

use super::show;
use formats::Limits;

use crate::diff::compare;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::report::{DiffReport, Style};

/// Compares the weights of two models.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model to compare with
    a: PathBuf,
    /// The model to compare
    b: PathBuf,
    /// Fail (exit code 3) if the relative error of any tensor is larger, or a tensor is missing
    #[arg(long, value_name = "ERROR")]
    max_relative: Option<f64>,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let (a, b) = (Model::open(&args.a, &[])?, Model::open(&args.b, &[])?);
    for model in [&a, &b] {
        let sums = model.container.format().verify_checksums(&model.container, &Limits::default());
        model.unless_changed(sums.map_err(Error::from))?;
    }
    let path = |p: &PathBuf| p.display().to_string();
    let diff = compare(&a, &b);
    let diff = a.unless_changed(b.unless_changed(Ok(diff)))?;
    let report = DiffReport::new(path(&args.a), path(&args.b), diff);
    show(&report, style)?;
    match args.max_relative.and_then(|limit| report.exceeds(limit)) {
        Some(what) => Err(Error::Check { what }),
        None => Ok(()),
    }
}

//! `rwkv-quant diff`.

use std::path::PathBuf;

use formats::{Limits, Mapped};

use super::show;
use crate::diff::{Tensors, compare, compare_tensors};
use crate::error::{Error, Result};
use crate::hub;
use crate::model::{Model, is_unknown};
use crate::report::{DiffReport, Style};
use crate::storage;

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
    let open = |path: &PathBuf| storage::open(&hub::local(path)?);
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    let files: Vec<_> = a.files().iter().chain(b.files()).cloned().collect();
    for container in [&a, &b] {
        let sums = container.format().verify_checksums(container, &Limits::default());
        container.check_unchanged()?;
        sums?;
    }
    let diff = match is_unknown(&a) && is_unknown(&b) {
        true => compare_tensors(&Tensors::of_container(&a), &Tensors::of_container(&b)),
        false => compare(&Model::detect(a, &[])?, &Model::detect(b, &[])?),
    };
    let path = |p: &PathBuf| p.display().to_string();
    files.iter().try_for_each(Mapped::check_unchanged)?;
    let report = DiffReport::new(path(&args.a), path(&args.b), diff);
    show(&report, style)?;
    match args.max_relative.and_then(|limit| report.exceeds(limit)) {
        Some(what) => Err(Error::Check { what }),
        None => Ok(()),
    }
}

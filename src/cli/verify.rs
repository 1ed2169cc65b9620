//! `rwkv-quant verify`.

use std::path::PathBuf;

use formats::Limits;

use super::show;
use crate::error::{Error, Result};
use crate::hub;
use crate::low_rank;
use crate::model::{Model, companion, is_unknown};
use crate::report::{Style, Verification};
use crate::storage;
use crate::verify::{self, against};

/// Reads all of a file and tells whether it is sound.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file, any part of a sharded set, or a folder
    model: PathBuf,
    /// Fail (exit code 3) if anything is suspicious, such as a matrix of zeros
    #[arg(long)]
    strict: bool,
    /// Compare the weights with those of the model that the file was made from: fail (exit code 3) if a tensor errs
    /// more than plain rounding to its type does. Calibrated files do by design, and are only reported
    #[arg(long, value_name = "MODEL", conflicts_with = "checksums")]
    against: Option<PathBuf>,
    /// Fail (exit code 3) if the relative error of any tensor is larger
    #[arg(long, value_name = "ERROR", requires = "against")]
    max_relative: Option<f64>,
    /// The SHA-256 that the file must have; for a set, once for every file
    #[arg(long, value_name = "HEX")]
    sha256: Vec<String>,
    /// Compare only the checksums in the file with its bytes; its weights are not decoded
    #[arg(long, conflicts_with = "sha256")]
    checksums: bool,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let (verification, exceeded) = args.verification()?;
    let found: Vec<&str> = verification.hashes().collect();
    for wanted in &args.sha256 {
        if !found.iter().any(|found| found.eq_ignore_ascii_case(wanted)) {
            return Err(Error::Check {
                what: format!(
                    "the SHA-256 of {} is {}, not {wanted}",
                    args.model.display(),
                    found.join(", ")
                ),
            });
        }
    }
    show(&verification, style)?;
    let strict = verification.first_warning().filter(|_| args.strict);
    match exceeded.or_else(|| strict.map(str::to_owned)) {
        Some(what) => Err(Error::Check { what }),
        None => Ok(()),
    }
}

impl Args {
    /// What was found, and why the file is not what its source was to become.
    fn verification(&self) -> Result<(Verification, Option<String>)> {
        let container = storage::open(&hub::local(&self.model)?)?;
        if self.checksums {
            let verified = verify::checksums(&container)?;
            return Ok((Verification::unknown(&container, verified), None));
        }
        if let Some((what, _)) = companion(&container) {
            let verified = verify::companion(&container)?;
            return Ok((Verification::beside(&container, what, verified), None));
        }
        if self.against.is_none() && is_unknown(&container) {
            let verified = verify::container(&container)?;
            return Ok((Verification::unknown(&container, verified), None));
        }
        let model = Model::detect(container, &[])?;
        let mut verified = verify::model(&model)?;
        let beside = low_rank::path(model.container.path());
        verified.warnings.extend(low_rank::lacking(&model.container, Some(&beside)));
        let verification = Verification::new(&model, verified);
        let Some(path) = &self.against else { return Ok((verification, None)) };
        let source = Model::open(&hub::local(path)?, &[])?;
        source.container.format().verify_checksums(&source.container, &Limits::default())?;
        let errors = against::compare(&source, &model);
        let exceeded = errors.exceeded(self.max_relative);
        Ok((verification.against(path.display().to_string(), errors), exceeded))
    }
}

//! `rwkv-quant verify`.

use std::path::PathBuf;

use formats::Limits;

use super::show;
use crate::error::{Error, Result};
use crate::model::{Model, companion};
use crate::report::{Style, Verification};
use crate::verify;

/// Reads all of a file and tells whether it is sound.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file, any part of a sharded set, or a folder
    model: PathBuf,
    /// The SHA-256 that the file must have; for a set, once for every file
    #[arg(long, value_name = "HEX")]
    sha256: Vec<String>,
    /// Compare only the checksums in the file (.rwkvz, .pth) with its bytes; its weights are not decoded
    #[arg(long, conflicts_with = "sha256")]
    checksums: bool,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let container = formats::open(&args.model, &Limits::default())?;
    let verify = if args.checksums { verify::checksums } else { verify::verify };
    let verification = match companion(&container) {
        Some((what, _)) => Verification::beside(&container, what, verify(&container)?),
        None => {
            let model = Model::detect(container, &[])?;
            Verification::new(&model, verify(&model.container)?)
        }
    };
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
    show(&verification, style)
}

//! `rwkv-quant inspect`.

use std::path::PathBuf;

use formats::Limits;

use super::show;
use crate::error::Result;
use crate::model::Model;
use crate::report::{Inspection, Style};

/// Shows what is in a file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file, any part of a sharded set, or a folder
    model: PathBuf,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let container = formats::open(&args.model, &Limits::default())?;
    match Model::detect(container, &[]) {
        Ok(model) => show(&Inspection::model(&model), style),
        Err(error) => {
            // A file that holds no model can be looked at all the same.
            let container = formats::open(&args.model, &Limits::default())?;
            show(&Inspection::container(&container, Some(error.to_string())), style)
        }
    }
}

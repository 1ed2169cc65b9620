//! `rwkv-quant inspect`.

use std::path::PathBuf;

use super::show;
use crate::error::Result;
use crate::hub;
use crate::model::Model;
use crate::report::{Inspection, Style};
use crate::storage;

/// Shows what is in a file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file, any part of a sharded set, or a folder
    model: PathBuf,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let path = hub::local(&args.model)?;
    let container = storage::open(&path)?;
    match Model::detect(container, &[]) {
        Ok(model) => {
            let inspection = Inspection::model(&model);
            show(&model.unless_changed(Ok(inspection))?, style)
        }
        Err(error) => {
            // A file that holds no model can be looked at all the same.
            let container = storage::open(&path)?;
            let inspection = Inspection::container(&container, Some(error.to_string()));
            container.check_unchanged()?;
            show(&inspection, style)
        }
    }
}

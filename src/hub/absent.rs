//! Stand-in for the Hub's client, where that is not built in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Address;
use crate::error::{Error, Result};

pub(super) fn load(address: &Address) -> Result<PathBuf> {
    Err(absent(address, "load the file yourself and give its path"))
}

pub(super) fn commit(
    _: &Path,
    _: &BTreeSet<String>,
    address: &Address,
    _: Option<bool>,
    _: &str,
) -> Result<String> {
    Err(absent(address, "upload the folder yourself"))
}

fn absent(address: &Address, instead: &str) -> Error {
    Error::Usage {
        what: format!(
            "{address} is on the Hugging Face Hub, and this program was built without the feature hub"
        ),
        help: format!("{instead}, or build the program with it: cargo install --path . --features hub"),
    }
}

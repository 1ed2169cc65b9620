//! Results in a file as a page.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::batch::{self, Summary};
use crate::error::{Error, Result};
use crate::files;
use crate::html::{Page, comparison, conversion, evaluation};

/// Largest file of results that is read.
const FILE_BYTES: u64 = 256 << 20;

/// The page of the results in a file: of a batch, an evaluation, a comparison or a conversion.
///
/// # Errors
/// If it cannot be read, or is no such thing.
pub fn page(path: &Path) -> Result<Page> {
    let text = files::json(path, "results", FILE_BYTES)?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| unreadable(path, &e.to_string()))?;
    let has = |key: &str| value.get(key).is_some();
    if has("release") && has("cells") {
        Ok(batch::release(&parsed::<Summary>(path, value)?))
    } else if has("candidates") {
        Ok(evaluation::evaluation(parsed(path, value)?))
    } else if has("worst_relative") {
        Ok(comparison::comparison(parsed(path, value)?))
    } else if has("file_type") && has("tensors") {
        Ok(conversion::conversion(parsed(path, value)?))
    } else {
        Err(unreadable(path, "it is of another kind"))
    }
}

fn parsed<T: DeserializeOwned>(path: &Path, value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| unreadable(path, &e.to_string()))
}

fn unreadable(path: &Path, what: &str) -> Error {
    Error::Model {
        path: path.to_owned(),
        what: format!("holds no results that can be shown: {what}"),
        help: "give a release's summary.json, or what `rwkv-quant --format json` printed for batch, eval-ppl, diff or \
               convert, with this version of the program"
            .to_owned(),
    }
}

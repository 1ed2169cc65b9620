//! Opening what may have been left unfinished.

use std::path::Path;

use formats::{Container, Limits};

use super::broken_off;
use crate::error::{Error, Result};

/// Opens the container at `path`, a file, any part of a set, or a folder. Of one that a run was replacing when it was killed,
/// the error says so.
///
/// # Errors
/// As [`formats::open`].
pub fn open(path: &Path) -> Result<Container> {
    formats::open(path, &Limits::default()).map_err(|error| match broken_off(path) {
        Some(journal) if !matches!(error, formats::Error::Io { .. }) || !path.exists() => Error::Model {
            path: path.to_owned(),
            what: format!(
                "cannot be opened ({error}): a run that was writing it was broken off ({})",
                journal.display()
            ),
            help: "run that command again, with the same output: it undoes or completes what was begun"
                .to_owned(),
        },
        _ => error.into(),
    })
}

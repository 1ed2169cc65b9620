//! Files of a finished release, told from whatever else lies in its folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::found::Found;
use super::outputs::{OF_MODEL, OF_RELEASE};
use crate::error::{Error, Result};

/// The files of the release in `folder`, or of one of its models, relative to it and with `/`: the `artifacts` that its
/// checksums name, their records, and what describes them.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be read; [`Error::Check`] if a record was changed since it was written.
pub fn inventory<'a>(folder: &Path, artifacts: impl Iterator<Item = &'a str>) -> Result<BTreeSet<String>> {
    let mut all: BTreeSet<String> = artifacts.map(str::to_owned).collect();
    let models = all.iter().filter_map(|name| Some(format!("{}/", name.split_once('/')?.0)));
    let places: BTreeSet<String> = models.chain([String::new()]).collect();
    for place in places {
        let here = folder.join(&place);
        for entry in fs::read_dir(&here).map_err(Error::io("read", &here))? {
            let entry = entry.map_err(Error::io("read", &here))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let describes = OF_RELEASE.iter().chain(&OF_MODEL).any(|known| *known == name);
            let found = if name.ends_with(".json") { Found::at(&entry.path()) } else { Found::Nothing };
            if let Found::Changed(_) = found {
                return Err(Error::Check {
                    what: format!(
                        "{} was changed after it had been written: run the batch again",
                        entry.path().display()
                    ),
                });
            }
            let is_record = matches!(found, Found::Sound(_) | Found::Older(_));
            if entry.path().is_file() && (describes || is_record) {
                all.insert(format!("{place}{name}"));
            }
        }
    }
    Ok(all)
}

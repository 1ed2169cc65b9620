//! A finished release, or one model of it, to the Hub.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::inventory;
use crate::digest::file_sha256;
use crate::error::{Error, Result};
use crate::files;
use crate::hub::{self, Address};

/// The list of a release's files.
const SUMS: &str = "SHA256SUMS";
/// Largest list that is read.
const SUMS_BYTES: u64 = 64 << 20;

/// A release that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uploaded {
    /// The commit.
    pub commit: String,
    /// Number of artifacts' files.
    pub files: usize,
}

/// Uploads the release in a folder, or one of its models, in one commit to the repository `to`: what its checksums name,
/// and what describes that; whatever else is in the folder stays. The repository is made if `create` says so, and whether it is private.
///
/// # Errors
/// [`Error::Check`] if a file that the folder's checksums name is missing or another; [`Error::Usage`] if it holds
/// unfinished work; [`Error::Model`] if the Hub refuses.
pub fn upload(folder: &Path, to: &Address, create: Option<bool>) -> Result<Uploaded> {
    let sums = files::text(&folder.join(SUMS), "checksums", SUMS_BYTES)?;
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap_or(("", line));
        let path = folder.join(name);
        if !path.is_file() || file_sha256(&formats::Mapped::open(&path)?) != sum {
            return Err(Error::Check {
                what: format!("{} is missing, or not what {SUMS} says", path.display()),
            });
        }
    }
    finished(folder)?;
    let title = folder.canonicalize().ok().and_then(|p| p.file_name().map(|n| n.display().to_string()));
    let message =
        format!("{}: {} files", title.unwrap_or_else(|| "Release".to_owned()), sums.lines().count());
    let names = sums.lines().filter_map(|line| Some(line.split_once("  ")?.1));
    let files = inventory(folder, names)?;
    Ok(Uploaded { commit: hub::commit(folder, &files, to, create, &message)?, files: sums.lines().count() })
}

/// Refuses folders in which something is being made.
fn finished(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".partial") || name.ends_with(".lock") {
            return Err(Error::Usage {
                what: format!("{} is unfinished", path.display()),
                help: "finish the release first: rwkv-quant batch".to_owned(),
            });
        }
        if path.is_dir() {
            finished(&path)?;
        }
    }
    Ok(())
}

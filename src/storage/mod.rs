//! Everything that touches disk: which files a run reads, and the one way in which files change.
//!
//! ```text
//! inputs.rs    Inputs: every file that a run reads, by identity; none of them is ever written, none may change meanwhile
//! outputs.rs   Outputs: one transaction for all that a command writes: claim, create, write, read back, commit
//! journal.rs   what a run is about to do, so that the next one undoes or completes what a kill broke off
//! commit.rs    from staged files to their names: at every moment the old whole, the new whole, or nothing to open
//! ledger.rs    checksums of bytes, taken in memory when they are made, compared with what is on disk
//! open.rs      opening a container that a run may have left unfinished
//! identity.rs  what tells a file from all others
//! own.rs       files within a folder that belongs to this program alone: calibration checkpoints
//! space.rs     room on the disk
//! ```
//!
//! Protocol of [`Outputs`]: `claim` (refuses, recovers, locks), `create` (files of a known size), `write_at` and `put`
//! (bytes, with their checksums), `read_back`, `commit`. Dropping it before `commit` leaves everything as it was.

mod commit;
mod identity;
mod inputs;
mod journal;
mod ledger;
mod open;
mod outputs;
pub(crate) mod own;
mod space;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use identity::FileId;
pub use inputs::Inputs;
pub(crate) use journal::open_lock;
pub use journal::{broken_off, journal_path, left_by, recover};
pub use ledger::{Checked, Ledger, Progress, Sealed, crc32};
pub(crate) use ledger::{damaged, unopened};
pub use open::open;
pub use outputs::{Output, Outputs, Stream, Targets, Written};
pub use space::check_space;

use crate::error::{Error, Result};

/// Writes one small file: whole, or not at all. What is there is replaced if `force`.
///
/// # Errors
/// As [`Outputs::claim`] and [`Outputs::commit`].
pub fn write(path: &Path, bytes: &[u8], inputs: &Inputs, force: bool) -> Result<()> {
    let mut outputs = Outputs::claim(Targets::file(path), inputs, force)?;
    outputs.fill(bytes)?;
    outputs.commit(inputs)
}

/// The folder that a file lies in: `.` for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name of `path` with something before and behind it, in the same folder.
fn beside(path: &Path, before: &str, behind: &str) -> PathBuf {
    let mut name = OsString::from(before);
    name.push(path.file_name().unwrap_or_default());
    name.push(behind);
    path.with_file_name(name)
}

/// True if anything has that name, a dangling link too.
pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Waits until the disk has the names in a folder. (Not every system can flush one, which is no error.)
fn flush_folder(folder: &Path) -> Result<()> {
    use std::io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    let flushed = File::open(folder).and_then(|folder| folder.sync_all());
    match flushed {
        Err(e) if !matches!(e.kind(), InvalidInput | PermissionDenied | Unsupported) => {
            Err(Error::io("flush", folder)(e))
        }
        _ => Ok(()),
    }
}

/// Everything in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut list: Vec<PathBuf> =
        list.map(|e| Ok(e.map_err(Error::io("read", folder))?.path())).collect::<Result<_>>()?;
    list.sort_unstable();
    Ok(list)
}

fn in_the_way(path: &Path) -> Error {
    Error::Usage {
        what: format!("{} is in the way: it is no file that an interrupted run left", path.display()),
        help: "move it away, or give the output another name".to_owned(),
    }
}

fn in_use(out: &Path) -> Error {
    Error::Usage {
        what: format!("{} is being written by another process", out.display()),
        help: "wait until it is done, or give another name".to_owned(),
    }
}

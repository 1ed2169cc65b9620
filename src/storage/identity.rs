//! Identity that tells a file from all others.

use std::fs::Metadata;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// A file that a run made, whatever it is called by now: its number on the disk, and when it was made.
///
/// Both outlast a rename; a file of somebody else's that is put in its place has another identity, even if the disk gives
/// it the same number again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FileId {
    inode: u64,
    /// Nanoseconds since 1970, where the file system tells.
    born: Option<u64>,
}

impl FileId {
    /// The identity of what has that name; a link's own.
    pub fn at(path: &Path) -> Option<FileId> {
        path.symlink_metadata().ok().map(|meta| FileId::of(&meta))
    }

    /// The identity of an open file or folder.
    pub fn of(meta: &Metadata) -> FileId {
        FileId { inode: inode(meta), born: meta.created().ok().and_then(nanoseconds) }
    }
}

/// Snapshot of an input when the run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: Option<u64>,
    /// Time of the last change of its content or its attributes: no program can set it back.
    changed: i128,
}

impl Snapshot {
    pub fn of(meta: &Metadata) -> Snapshot {
        Snapshot {
            device: device(meta),
            inode: inode(meta),
            bytes: meta.len(),
            modified: meta.modified().ok().and_then(nanoseconds),
            changed: changed(meta),
        }
    }

    /// True if both are names of one file, whatever became of its content.
    pub fn is_same_file(&self, other: &Snapshot) -> bool {
        cfg!(unix) && (self.device, self.inode) == (other.device, other.inode)
    }

    /// True if nothing happened to the file since the other one was taken; new rights or names of it count as a change.
    pub fn is_unchanged_since(&self, other: &Snapshot) -> bool {
        let times = self.modified == other.modified && self.changed == other.changed;
        (self.device, self.inode, self.bytes) == (other.device, other.inode, other.bytes) && times
    }
}

fn nanoseconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    since.as_nanos().try_into().ok()
}

#[cfg(unix)]
fn inode(meta: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(unix)]
fn device(meta: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::dev(meta)
}

#[cfg(unix)]
fn changed(meta: &Metadata) -> i128 {
    use std::os::unix::fs::MetadataExt;
    i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec())
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

#[cfg(not(unix))]
fn device(_: &Metadata) -> u64 {
    0
}

#[cfg(not(unix))]
fn changed(_: &Metadata) -> i128 {
    0
}

//! Leftovers of interrupted runs, found by their content and removed on request.
//!
//! A name alone proves nothing: a checkpoint is a folder whose identity this program sealed, a shard a file with the head
//! of one, an unfinished file one that a journal knows by its identity. What a run still works on is locked, and stays.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files::os_string;
use crate::shard::Shard;
use crate::{shards, storage};

/// A kind of leftover.
struct Kind {
    name: &'static str,
    /// All files and folders of the leftover at a path; `None` if it is none.
    files: fn(&Path) -> Option<Vec<PathBuf>>,
    /// The file within it that runs lock; itself if empty.
    lock: &'static str,
    /// Removes it; the lock is had so long.
    remove: fn(&Path, File) -> Result<()>,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "checkpoint",
        files: |path| Checkpoint::is_at(path).then(|| vec![path.to_owned()]),
        lock: "lock",
        remove: |path, _lock| Checkpoint::remove_at(path),
    },
    Kind {
        name: "checkpoint",
        // A kill between making the folder and its first file left it empty.
        files: |path| (is_of_checkpoint(path) && is_empty(path)).then(|| vec![path.to_owned()]),
        lock: "",
        remove: |path, _lock| fs::remove_dir(path).map_err(Error::io("remove", path)),
    },
    Kind {
        name: "shard",
        files: |path| shards::is_shard(path).then(|| vec![path.to_owned()]),
        lock: "",
        remove: |path, _lock| fs::remove_file(path).map_err(Error::io("remove", path)),
    },
    Kind {
        name: "unfinished output",
        files: storage::left_by,
        lock: "",
        // Whoever recovers takes the lock himself.
        remove: |path, lock| {
            drop(lock);
            let output = output_of(path).unwrap_or_default();
            storage::recover(&path.with_file_name(output)).map(drop)
        },
    },
];

/// Ending of the name of a checkpoint, behind that of the output.
const CHECKPOINT: &str = ".calibration";

/// Endings of the names of leftovers, behind that of the output.
const ENDINGS: [&str; 2] = [".partial", CHECKPOINT];

/// State of a leftover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Leftover that is still there.
    Found,
    /// Leftover that was removed.
    Removed,
    /// A run works on it, so it stays.
    InUse,
}

/// A leftover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// The file or folder.
    pub path: PathBuf,
    /// Its kind: `checkpoint`, `shard`, `unfinished output`.
    pub kind: &'static str,
    /// All that goes with it: of an unfinished output its journal, and the files that it made.
    pub files: Vec<PathBuf>,
    /// Size of all its files.
    pub bytes: u64,
    /// State of the leftover.
    pub state: State,
}

/// All leftovers that were found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// Leftovers in the order of their paths.
    pub leftovers: Vec<Leftover>,
}

/// Looks for leftovers of the output `path` or, if it is a folder, also in it and in the folders in it, such as those of
/// the models of a release; removes those that no run works on if `remove`.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be read, or a leftover not be removed.
pub fn clean(path: &Path, remove: bool) -> Result<Cleaned> {
    let mut leftovers = Vec::new();
    for found in candidates(path)? {
        let known = KINDS.iter().find_map(|kind| Some((kind, (kind.files)(&found)?)));
        let Some((kind, files)) = known else { continue };
        let lock = match kind.lock {
            "" => found.clone(),
            name => found.join(name),
        };
        let Ok(lock) = File::open(lock) else { continue };
        // A folder has the bytes of what is in it.
        let is_within = |file: &PathBuf| files.iter().any(|other| file != other && file.starts_with(other));
        let bytes = files.iter().filter(|file| !is_within(file)).map(|file| bytes_of(file)).sum();
        let state = match lock.try_lock() {
            Err(TryLockError::WouldBlock) => State::InUse,
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &found)(e)),
            Ok(()) if !remove => State::Found,
            Ok(()) => {
                (kind.remove)(&found, lock)?;
                State::Removed
            }
        };
        leftovers.push(Leftover { path: found, kind: kind.name, files, bytes, state });
    }
    Ok(Cleaned { leftovers })
}

/// Files and folders that are named like leftovers, in order; none of them is a link.
fn candidates(path: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    if path.is_dir() {
        let (named, others): (Vec<PathBuf>, _) =
            entries(path)?.into_iter().partition(|entry| output_of(entry).is_some());
        all.extend(named);
        for folder in others.iter().filter(|entry| entry.is_dir() && !entry.is_symlink()) {
            all.extend(entries(folder)?.into_iter().filter(|entry| output_of(entry).is_some()));
        }
    }
    if let Some(name) = path.file_name() {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        all.extend(
            entries(parent)?
                .into_iter()
                .filter(|entry| output_of(entry).is_some_and(|output| output == name)),
        );
    }
    all.retain(|path| !path.is_symlink());
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    list.map(|entry| Ok(entry.map_err(Error::io("read", folder))?.path())).collect()
}

fn is_of_checkpoint(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(CHECKPOINT.as_bytes()))
}

fn is_empty(folder: &Path) -> bool {
    folder.is_dir() && entries(folder).is_ok_and(|entries| entries.is_empty())
}

/// The name of the output that a leftover of this name belongs to: `a.gguf` of `a.gguf.shard-1of2.partial`.
fn output_of(path: &Path) -> Option<OsString> {
    let whole = path.file_name()?.as_encoded_bytes();
    if let Some(journal) = whole.strip_prefix(b".").and_then(|name| name.strip_suffix(b".journal")) {
        return Some(os_string(journal.to_vec()));
    }
    let mut name = whole;
    while let Some(shorter) =
        ENDINGS.iter().find_map(|ending| name.strip_suffix(ending.as_bytes())).or_else(|| unsharded(name))
    {
        name = shorter;
    }
    (name.len() < whole.len() && !name.is_empty()).then(|| os_string(name.to_vec()))
}

/// `a.gguf` of `a.gguf.shard-1of2`.
fn unsharded(name: &[u8]) -> Option<&[u8]> {
    const MARK: &[u8] = b".shard-";
    let at = name.windows(MARK.len()).rposition(|window| window == MARK)?;
    let shard = str::from_utf8(&name[at + MARK.len()..]).ok()?;
    shard.replacen("of", "/", 1).parse::<Shard>().ok().map(|_| &name[..at])
}

/// Size of a file, or of all files in a folder.
fn bytes_of(path: &Path) -> u64 {
    let Ok(found) = path.symlink_metadata() else { return 0 };
    match found.is_dir() {
        true => entries(path).unwrap_or_default().iter().map(|entry| bytes_of(entry)).sum(),
        false => found.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_belong_to_outputs() {
        for (name, output) in [
            ("a.gguf.partial", Some("a.gguf")),
            ("a.gguf.calibration", Some("a.gguf")),
            ("a.gguf.shard-1of2", Some("a.gguf")),
            ("a.gguf.shard-1of2.calibration", Some("a.gguf")),
            (".a.gguf.journal", Some("a.gguf")),
            ("a.gguf", None),
            ("a.gguf.shard-3of2", None),
            (".partial", None),
            ("journal", None),
        ] {
            assert_eq!(output_of(Path::new(name)), output.map(OsString::from), "{name}");
        }
    }
}

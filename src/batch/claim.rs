//! Two workers on one artifact: the second waits for the first.
//!
//! A worker holds the lock of a small file beside what it works on. The file goes away with the claim; if a worker was
//! killed it stays, and what is written in it tells the next one that the killed one was about to write.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::pipeline::Stop;
use crate::storage::{self, open_lock};

/// Delay between two looks at another worker's claim.
const PAUSE: Duration = Duration::from_millis(100);

/// Text in the lock of a worker that is about to write.
const NOTE: &str = "being written\n";

/// The sole right to write something.
#[derive(Debug)]
pub(super) struct Claim {
    file: File,
    path: PathBuf,
    /// True if a worker that had this claim was killed while it wrote.
    pub broken_off: bool,
}

impl Claim {
    /// Waits for the right to write what the lock file at `path` stands for.
    ///
    /// # Errors
    /// [`Error::Io`] if the lock file cannot be made; [`Error::Interrupted`].
    pub fn take(path: &Path, stop: &Stop) -> Result<Claim> {
        loop {
            stop.check()?;
            match Claim::free(path)? {
                Some(claim) => return Ok(claim),
                None => std::thread::sleep(PAUSE),
            }
        }
    }

    /// The right that nobody has at this moment; `None` if somebody has it.
    fn free(path: &Path) -> Result<Option<Claim>> {
        let Some(mut file) = open_lock(path)? else { return Ok(None) };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", path)(e)),
            // Whoever had it may have removed it meanwhile, so that it is nobody's any more.
            Ok(()) if !is_at(&file, path) => Ok(None),
            Ok(()) => {
                let mut note = String::new();
                file.read_to_string(&mut note).map_err(Error::io("read", path))?;
                if !NOTE.starts_with(&note) {
                    return Err(Error::Usage {
                        what: format!("{} is in the way: it is no lock of a batch", path.display()),
                        help: "move it away".to_owned(),
                    });
                }
                Ok(Some(Claim { file, path: path.to_owned(), broken_off: !note.is_empty() }))
            }
        }
    }

    /// Notes that from now on something is written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(&mut self) -> Result<()> {
        let note = self.file.rewind().and_then(|()| self.file.write_all(NOTE.as_bytes()));
        note.map_err(Error::io("write to", &self.path))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// File name of an artifact's lock.
pub(super) fn lock_name(artifact: &str) -> String {
    format!(".{artifact}.lock")
}

/// Removes what workers that were killed while they wrote left of artifacts in `folder` that are not wanted any more,
/// unless somebody is at work on them: locks, and unfinished files. Other locks may be another program's.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn sweep(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let names = entries.filter_map(|e| Some(e.ok()?.file_name().to_str()?.to_owned()));
    let names: Vec<String> = names.collect();
    let artifacts = names.iter().filter_map(|n| n.strip_prefix('.')?.strip_suffix(".lock"));
    for artifact in artifacts.filter(|artifact| !is_wanted(artifact)) {
        let path = folder.join(lock_name(artifact));
        let is_ours =
            path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == NOTE.len() as u64)
                && fs::read(&path).is_ok_and(|note| note == NOTE.as_bytes());
        if !is_ours {
            continue;
        }
        let Some(_claim) = Claim::free(&path)? else { continue };
        let out = folder.join(artifact);
        storage::recover(&out)?;
        Checkpoint::discard(&out)?;
    }
    Ok(())
}

/// True if `path` still is this file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(ours), Ok(there)) => same(ours, there),
        _ => false,
    }
}

/// Stand-in for systems where an open file cannot be removed: true if `path` exists.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Makes a folder, and those above it.
///
/// # Errors
/// [`Error::Io`]; it is no error if the folder is there already.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    match fs::create_dir_all(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(Error::io("create the folder", path)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_has_the_claim_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (path, stop, inside) = (dir.path().join("lock"), Stop::new(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut claim = Claim::take(&path, &stop).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    assert!(!claim.broken_off);
                    claim.begin().unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn locks_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (name, note) in
            [(".empty.lock", ""), (".theirs.lock", "12345\n"), (".ours.lock", NOTE), (".kept.lock", NOTE)]
        {
            fs::write(at(name), note).unwrap();
        }
        sweep(dir.path(), |artifact| artifact == "kept").unwrap();
        let left = [".empty.lock", ".theirs.lock", ".ours.lock", ".kept.lock"].map(|name| at(name).exists());
        assert_eq!(left, [true, true, false, true]);
    }

    #[test]
    fn a_killed_worker_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        fs::write(&path, "").unwrap();
        assert!(!Claim::take(&path, &Stop::new()).unwrap().broken_off, "it had not begun");
        fs::write(&path, "being written\n").unwrap();
        assert!(Claim::take(&path, &Stop::new()).unwrap().broken_off);
        let stop = Stop::new();
        let _held = Claim::take(&path, &stop).unwrap();
        stop.ask();
        assert!(matches!(Claim::take(&path, &stop), Err(Error::Interrupted)));
    }
}

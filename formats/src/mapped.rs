//! A file mapped into memory, read only, and whether it is still the file that was opened.
//!
//! A map shows what other programs write to the file. Nothing prevents that, so it is found: what the path leads to is
//! compared at the end with what was opened ([`Mapped::check_unchanged`]), and pages that are lost meanwhile read as
//! zeros and leave a mark (`guard`). A result counts only once that check has passed.
//!
//! The comparison is by device, inode, size, and the times of the last write and of the last change in nanoseconds.
//! A map keeps its inode alive, so that no other file can have the number, and no open handle is needed besides (a model
//! may have more parts than a process may have handles).
//! The change time cannot be set by a program, but it is no finer than the file system keeps it: Linux before 6.13
//! takes it from a clock that ticks every 1 to 10 ms, other systems and network drives may count in seconds. Bytes that
//! are overwritten within the tick in which the file was written last, without a change of size, after it was opened,
//! are not noticed. (Linux 6.13 and later give a file that was looked at a finer time with the next write.)

#![allow(unsafe_code)] // a map is made, and its pages are given back

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::guard::Guard;

/// A file mapped read only; a clone is the same map. The bytes are read from disk when they are first touched.
#[derive(Clone, Debug)]
pub struct Mapped {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Identity of the file when it was opened.
    identity: Identity,
    /// The guard comes first, so that it is dropped before the map that it guards.
    map: Option<(Guard, Mmap)>,
}

impl Mapped {
    /// Maps the whole file.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or mapped, or is a folder.
    pub fn open(path: &Path) -> Result<Mapped> {
        // Before it is opened, since opening a pipe waits for somebody to write to it.
        regular(&std::fs::metadata(path).map_err(dangling(path))?, path)?;
        let file = File::open(path).map_err(Error::io("open", path))?;
        let meta = file.metadata().map_err(Error::io("read", path))?;
        regular(&meta, path)?;
        // SAFETY: the map is private and read only, so this program never changes what it shows. Another program
        // can: bytes that are overwritten show through, and pages that are lost read as zeros (`guard`). Neither is
        // noticed by the reader at once, so no check of a value holds for a second look at it; all readers bound
        // every access by the slice, and no result counts before `check_unchanged` has passed.
        let map = match meta.len() {
            0 => None,
            _ => Some(unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?),
        };
        let map = map.map(|map| (Guard::new(&map), map));
        Ok(Mapped { shared: Arc::new(Shared { path: path.to_owned(), identity: Identity::of(&meta), map }) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Looks at the file once more: everything read from the map so far is what the file held when it was opened.
    ///
    /// # Errors
    /// [`Error::Changed`] if the file was written, shortened or removed, if its path now leads to another file, or if
    /// a page of it could not be read; [`Error::Io`] if the system does not tell.
    pub fn check_unchanged(&self) -> Result<()> {
        let Shared { path, identity, map } = &*self.shared;
        let changed = |what: String| Err(Error::Changed { path: path.clone(), what });
        match std::fs::metadata(path) {
            Ok(now) => {
                if let Some(what) = identity.difference(&Identity::of(&now)) {
                    return changed(what);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return changed("it was removed".to_owned()),
            Err(source) => return Err(Error::Io { action: "read", path: path.clone(), source }),
        }
        match map {
            Some((guard, _)) if guard.is_torn() => changed(
                "a part of it could not be read: the disk failed, or the file was shortened for a while"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map().map(|map| &**map).unwrap_or_default()
    }

    fn map(&self) -> Option<&Mmap> {
        self.shared.map.as_ref().map(|(_, map)| map)
    }

    /// Bytes `offset .. offset + len`, or `None` if the file does not reach that far.
    pub fn slice(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = usize::try_from(offset.checked_add(len)?).ok()?;
        self.bytes().get(start..end)
    }

    /// The file once more, to be read front to back; `None` if that cannot be, or if its path leads to another file by
    /// now.
    pub fn reopened(&self) -> Option<File> {
        let file = File::open(&self.shared.path).ok()?;
        let same = Identity::of(&file.metadata().ok()?) == self.shared.identity;
        same.then_some(file)
    }

    /// Says that `range` is needed soon: the disk reads it meanwhile, beside all else that is said so.
    pub fn prefetch(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Some(map) = self.map() {
            let end = range.end.min(map.len() as u64);
            if range.start < end {
                // A failure only means that it is read when it is touched.
                let len = (end - range.start) as usize;
                let _ = map.advise_range(memmap2::Advice::WillNeed, range.start as usize, len);
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Says that `range` is not needed for now: its pages leave this process' resident memory (and come
    /// back from the page cache if they are touched again).
    pub fn release(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Some(map) = self.map() {
            // A fault also maps cached pages around it, at most to the ends of its page table. They would stay
            // if exactly the range were released, so all that the table covers goes.
            const WINDOW: u64 = 2 << 20;
            let start = (range.start / WINDOW * WINDOW) as usize;
            let end = (range.end.next_multiple_of(WINDOW) as usize).min(map.len());
            if start < end {
                // SAFETY: the map is a private, read-only map of a file and is never written, so dropping
                // its pages loses nothing: the next access reads the same bytes from the file. A failure
                // only means that the pages stay.
                let _ = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// Marks that tell a file, and a state of it, from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    /// Device and inode, where the system numbers files.
    number: (u64, u64),
    bytes: u64,
    /// Time of the last write: seconds and nanoseconds, or ticks of 100 ns.
    written: (i64, i64),
    /// Time of the last change of bytes, size, name or permissions; on Windows that at which it was made.
    changed: (i64, i64),
}

impl Identity {
    #[cfg(unix)]
    fn of(meta: &Metadata) -> Identity {
        use std::os::unix::fs::MetadataExt;
        Identity {
            number: (meta.dev(), meta.ino()),
            bytes: meta.len(),
            written: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    #[cfg(windows)]
    fn of(meta: &Metadata) -> Identity {
        use std::os::windows::fs::MetadataExt;
        let ticks = |t: u64| (0, t.cast_signed());
        Identity {
            number: (0, 0),
            bytes: meta.len(),
            written: ticks(meta.last_write_time()),
            changed: ticks(meta.creation_time()),
        }
    }

    #[cfg(not(any(unix, windows)))]
    fn of(meta: &Metadata) -> Identity {
        Identity { number: (0, 0), bytes: meta.len(), written: (0, 0), changed: (0, 0) }
    }

    /// Describes how a file differs that was like this when it was opened.
    fn difference(&self, now: &Identity) -> Option<String> {
        if self == now {
            return None;
        }
        Some(match now.bytes {
            _ if now.number != self.number => "another file has its name now".to_owned(),
            bytes if bytes < self.bytes => format!("it was shortened from {} to {bytes} bytes", self.bytes),
            bytes if bytes > self.bytes => format!("it grew from {} to {bytes} bytes", self.bytes),
            _ if now.written != self.written => "it was overwritten".to_owned(),
            _ => "it was written, linked, or its permissions changed".to_owned(),
        })
    }
}

fn regular(meta: &Metadata, path: &Path) -> Result<()> {
    if meta.is_file() {
        return Ok(());
    }
    let what = if meta.is_dir() { "it is a folder" } else { "it is a pipe or a device, not a file" };
    Err(Error::Io { action: "read", path: path.to_owned(), source: io::Error::other(what) })
}

/// An [`Error::Io`] for `path` that says so if the path is a link to nothing, as an incomplete copy of a
/// Hugging Face cache leaves it.
pub(crate) fn dangling(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| {
        let target = std::fs::read_link(&path).ok().filter(|_| source.kind() == io::ErrorKind::NotFound);
        let source = match target {
            Some(target) => io::Error::new(
                io::ErrorKind::NotFound,
                format!("it is a link to {}, which is not there", target.display()),
            ),
            None => source,
        };
        Error::Io { action: "open", path, source }
    }
}

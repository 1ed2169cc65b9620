//! A file mapped into memory, read only.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A file mapped read only. The bytes are read from disk when they are first touched.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    /// What tells the file from all others, if anything does.
    identity: Option<(u64, u64)>,
    map: Option<Mmap>,
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
        // SAFETY: the map is private and read only, so this program never changes what it shows. Another
        // program that shortens the file meanwhile makes the kernel end this one by a signal: no wrong
        // value is ever read, and no finished output is ever touched, since output is renamed at the end.
        let map = match meta.len() {
            0 => None,
            _ => Some(unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?),
        };
        Ok(Mapped { path: path.to_owned(), identity: identity(&meta), map })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Bytes `offset .. offset + len`, or `None` if the file does not reach that far.
    pub fn slice(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = usize::try_from(offset.checked_add(len)?).ok()?;
        self.bytes().get(start..end)
    }

    /// The file once more, to be read front to back; `None` if that cannot be, or if another file has its name by now.
    pub fn reopened(&self) -> Option<File> {
        let file = File::open(&self.path).ok()?;
        let same = identity(&file.metadata().ok()?) == Some(self.identity?);
        same.then_some(file)
    }

    /// Says that `range` is needed soon: the disk reads it meanwhile, beside all else that is said so.
    pub fn prefetch(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
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
        if let Some(map) = &self.map {
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

/// The numbers of a file and of the disk that it lies on.
fn identity(meta: &Metadata) -> Option<(u64, u64)> {
    #[cfg(unix)]
    return Some((std::os::unix::fs::MetadataExt::dev(meta), std::os::unix::fs::MetadataExt::ino(meta)));
    #[cfg(not(unix))]
    {
        let _ = meta;
        None
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

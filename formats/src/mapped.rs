//! A file mapped into memory, read only.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A file mapped read only. The bytes are read from disk when they are first touched.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    map: Option<Mmap>,
}

impl Mapped {
    /// Maps the whole file.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or mapped, or is a folder.
    pub fn open(path: &Path) -> Result<Mapped> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let meta = file.metadata().map_err(Error::io("read", path))?;
        if !meta.is_file() {
            let source = std::io::Error::other("it is not a regular file");
            return Err(Error::Io { action: "read", path: path.to_owned(), source });
        }
        // SAFETY: the map is private and read only, so this program never changes what it shows. Another
        // program that shortens the file meanwhile makes the kernel end this one by a signal: no wrong
        // value is ever read, and no finished output is ever touched, since output is renamed at the end.
        let map = match meta.len() {
            0 => None,
            _ => Some(unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?),
        };
        Ok(Mapped { path: path.to_owned(), map })
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

    /// Says that `range` is not needed for now: its pages leave this process' resident memory (and come
    /// back from the page cache if they are touched again).
    pub fn release(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            let (start, end) = (range.start as usize, (range.end as usize).min(map.len()));
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

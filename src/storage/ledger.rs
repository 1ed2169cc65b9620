//! Checksums of bytes, taken in memory when they are made, compared with what is on disk.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use formats::Mapped;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// What was written where in one file, and its CRC-32. Ranges do not overlap.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Vec<Range>>);

#[derive(Clone, Copy, Debug)]
struct Range {
    offset: u64,
    bytes: u64,
    crc32: u32,
}

impl Ledger {
    /// Notes that `bytes` are about to be written at `offset`; their CRC-32.
    pub fn note(&self, offset: u64, bytes: &[u8]) -> u32 {
        let crc32 = crc32fast::hash(bytes);
        let range = Range { offset, bytes: bytes.len() as u64, crc32 };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(range);
        crc32
    }

    /// Reads every noted range of the file at `path` and compares it; what is right is not compared again. `progress` hears
    /// of the bytes that were found right and may stop the work.
    ///
    /// # Errors
    /// [`Error::Model`] at the first range that is not what was written; [`Error::Format`] if the file cannot be read; those
    /// of `progress`.
    pub fn compare(&self, path: &Path, progress: &(dyn Fn(u64) -> Result<()> + Sync)) -> Result<()> {
        let ranges = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if ranges.is_empty() {
            return Ok(());
        }
        let file = Mapped::open(path)?;
        ranges.par_iter().try_for_each(|range| {
            let found = file.slice(range.offset, range.bytes).map(crc32fast::hash);
            file.release(range.offset..range.offset + range.bytes);
            if found != Some(range.crc32) {
                let what = format!("the {} bytes at {} are not what was written", range.bytes, range.offset);
                return Err(damaged(path, &what));
            }
            progress(range.bytes)
        })
    }
}

/// That a file on disk is not what was written.
pub(crate) fn damaged(path: &Path, what: &str) -> Error {
    Error::Model {
        path: path.to_owned(),
        what: format!("was read back and found wrong: {what}"),
        help: "the disk or the memory of this machine may be faulty: check them, then try again".to_owned(),
    }
}

/// Why a file that was just written cannot be opened: the system refuses, or it is not what was written.
pub(crate) fn unopened(path: &Path, error: formats::Error) -> Error {
    match error {
        formats::Error::Io { .. } => error.into(),
        _ => damaged(path, &error.to_string()),
    }
}

/// A new file that is written front to back, or piece by piece, and whose bytes are noted on the way.
#[derive(Debug)]
pub struct Checked {
    file: File,
    at: u64,
    ledger: Ledger,
}

impl Checked {
    /// Writes to `file`, which is empty.
    pub fn new(file: File) -> Checked {
        Checked { file, at: 0, ledger: Ledger::default() }
    }

    /// The file, and what was written into it.
    pub fn finish(self) -> (File, Ledger) {
        (self.file, self.ledger)
    }
}

impl Write for Checked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // All of it, so that a piece is noted once.
        self.file.write_all(bytes)?;
        self.ledger.note(self.at, bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Checked {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

/// A file within a folder of this program's own whose bytes will be copied into an output, with the CRC-32 that they had in
/// memory when they were made.
#[derive(Debug)]
pub struct Sealed {
    file: Mapped,
    crc32: u32,
}

impl Sealed {
    /// An open file whose bytes have this CRC-32, or had when they were made.
    pub fn new(file: Mapped, crc32: u32) -> Sealed {
        Sealed { file, crc32 }
    }

    /// The file.
    pub fn file(&self) -> &Mapped {
        &self.file
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.file.bytes()
    }

    /// Compares the file with what was made.
    ///
    /// # Errors
    /// [`Error::Model`] if the disk changed it.
    pub fn check(&self) -> Result<()> {
        if crc32(&self.file) == self.crc32 {
            return Ok(());
        }
        Err(damaged(self.file.path(), "its bytes are not what was written"))
    }
}

/// The CRC-32 of a file, whose pages are let go.
pub fn crc32(file: &Mapped) -> u32 {
    const STEP: usize = 8 << 20;
    let mut hasher = crc32fast::Hasher::new();
    for (n, piece) in file.bytes().chunks(STEP).enumerate() {
        hasher.update(piece);
        let start = (n * STEP) as u64;
        file.release(start..start + piece.len() as u64);
    }
    hasher.finalize()
}

//! Checksums of bytes, taken in memory when they are made, compared with what is on disk.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use formats::Mapped;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Ranges written to one file, each with its CRC-32. Ranges do not overlap.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Vec<Range>>);

#[derive(Clone, Copy, Debug)]
struct Range {
    offset: u64,
    bytes: u64,
    crc32: u32,
    /// True once it was read back and found right.
    is_right: bool,
}

impl Ledger {
    /// Notes that `bytes` are about to be written at `offset`; their CRC-32.
    pub fn note(&self, offset: u64, bytes: &[u8]) -> u32 {
        let crc32 = crc32fast::hash(bytes);
        self.lock().push(Range { offset, bytes: bytes.len() as u64, crc32, is_right: false });
        crc32
    }

    /// Reads every noted range of the file at `path` and compares it; what is right is not compared again. `progress` hears
    /// of the bytes that were found right and may stop the work.
    ///
    /// # Errors
    /// [`Error::Model`] at the first range that is not what was written; [`Error::Format`] if the file cannot be read; those
    /// of `progress`.
    pub fn compare(&self, path: &Path, progress: &Progress) -> Result<()> {
        self.with_ranges(|ranges| {
            let mut left: Vec<&mut Range> = ranges.iter_mut().filter(|range| !range.is_right).collect();
            if left.is_empty() {
                return Ok(());
            }
            let file = Mapped::open(path)?;
            left.par_iter_mut().try_for_each(|range| range.compare(&file, progress, |_| ()))
        })
    }

    /// The SHA-256 of regions `(offset, bytes)` of the file at `path`, in order, each of which was noted in whole ranges:
    /// these are compared as [`Ledger::compare`] does while they are read, so that what is hashed is what was written.
    ///
    /// # Errors
    /// As [`Ledger::compare`].
    pub fn sha256s(&self, path: &Path, regions: &[(u64, u64)], progress: &Progress) -> Result<Vec<[u8; 32]>> {
        self.with_ranges(|ranges| {
            let (mut rest, mut of_regions) = (ranges, Vec::new());
            for (offset, bytes) in regions {
                let first = rest.partition_point(|range| range.offset < *offset);
                let behind = rest.partition_point(|range| range.offset < offset + bytes);
                let (region, later) = rest[first..].split_at_mut(behind - first);
                of_regions.push(region);
                rest = later;
            }
            let file = Mapped::open(path)?;
            let hashes = of_regions.into_par_iter().map(|ranges| {
                let mut hash = Sha256::new();
                ranges.iter_mut().try_for_each(|r| r.compare(&file, progress, |bytes| hash.update(bytes)))?;
                Ok(hash.finalize().into())
            });
            hashes.collect()
        })
    }

    /// The SHA-256 of the whole file at `path`, of which what was noted is compared while it is read, and all else is a
    /// hole; and its size.
    ///
    /// # Errors
    /// As [`Ledger::compare`].
    pub fn sha256(&self, path: &Path) -> Result<([u8; 32], u64)> {
        let (file, mut hash, mut at) = (Mapped::open(path)?, Sha256::new(), 0);
        let end = file.bytes().len() as u64;
        let hole = |from: u64, to: u64, hash: &mut Sha256| match file.slice(from, to.saturating_sub(from)) {
            Some(bytes) if bytes.iter().all(|byte| *byte == 0) => {
                hash.update(bytes);
                Ok(())
            }
            _ => Err(damaged(path, &format!("nothing was written at {from} to {to}"))),
        };
        self.with_ranges(|ranges| {
            for range in ranges {
                hole(at, range.offset, &mut hash)?;
                range.compare(&file, &|_| Ok(()), |bytes| hash.update(bytes))?;
                at = range.offset + range.bytes;
            }
            hole(at, end, &mut hash)?;
            Ok((hash.finalize().into(), end))
        })
    }

    /// Lends out the ranges, by their offsets; nobody waits for them meanwhile.
    fn with_ranges<R>(&self, work: impl FnOnce(&mut [Range]) -> R) -> R {
        let mut ranges = std::mem::take(&mut *self.lock());
        ranges.sort_unstable_by_key(|range| range.offset);
        let result = work(&mut ranges);
        self.lock().append(&mut ranges);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Range>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of bytes that were read back and found right, and may stop the work.
pub type Progress<'a> = dyn Fn(u64) -> Result<()> + Sync + 'a;

impl Range {
    /// Reads the range, gives its bytes to `take`, and compares them.
    fn compare(&mut self, file: &Mapped, progress: &Progress, mut take: impl FnMut(&[u8])) -> Result<()> {
        let found = file.slice(self.offset, self.bytes).unwrap_or_default();
        if crc32fast::hash(found) != self.crc32 {
            let what = format!("the {} bytes at {} are not what was written", self.bytes, self.offset);
            return Err(damaged(file.path(), &what));
        }
        take(found);
        self.is_right = true;
        file.release(self.offset..self.offset + self.bytes);
        progress(self.bytes)
    }
}

/// Error for a file on disk that is not what was written.
pub(crate) fn damaged(path: &Path, what: &str) -> Error {
    Error::Model {
        path: path.to_owned(),
        what: format!("was read back and found wrong: {what}"),
        help: "the disk or the memory of this machine may be faulty: check them, then try again".to_owned(),
    }
}

/// Error for a file that was just written and cannot be opened: the system refuses, or it is not what was written.
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

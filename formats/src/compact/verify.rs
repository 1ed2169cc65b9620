//! Checking the data of compact files against the SHA-256s in them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use super::index::Entry;
use super::read::Footer;
use super::{HEAD_BYTES, NAME};
use crate::budget::Budget;
use crate::container::Container;
use crate::error::{Blame, Error, Result};
use crate::format::Checksums;
use crate::limits::Limits;
use crate::mapped::Mapped;

/// Bytes hashed at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// Reads every section, several at a time, and compares it with its SHA-256.
///
/// # Errors
/// [`Error::Malformed`] that names the first damaged section; [`Error::Io`].
pub(super) fn sums(container: &Container, limits: &Limits) -> Result<Checksums> {
    let mut verified = 0;
    let budget = &Budget::new(limits);
    for file in container.files() {
        let blame = Blame { path: file.path(), format: NAME };
        budget.next_file();
        let footer = Footer::read(file, budget, blame)?;
        let entries = footer.index(budget, blame)?.sections;
        let damaged = first_damaged(file, &entries, footer.sums).map_err(Error::io("read", file.path()))?;
        if let Some(damaged) = damaged {
            let what = "the section does not match its SHA-256: it is damaged";
            return Err(blame.malformed(what).at(damaged.offset).in_tensor(&damaged.name));
        }
        if let Some(at) = first_stray(file, &entries, footer.offset) {
            return Err(blame
                .malformed("there is something between the sections, where nothing may be")
                .at(at));
        }
        verified += entries.len();
    }
    Ok(Checksums::Match(verified))
}

/// Offset of the first byte that belongs to nothing and is not zero, in front of the index at `end`.
fn first_stray(file: &Mapped, entries: &[Entry], end: u64) -> Option<u64> {
    let starts = entries.iter().map(|entry| entry.offset).chain([end]);
    let ends = entries.iter().map(|entry| entry.offset.saturating_add(entry.bytes));
    [HEAD_BYTES].into_iter().chain(ends).zip(starts).find_map(|(from, to)| {
        let between = file.slice(from, to.saturating_sub(from))?;
        between.iter().position(|b| *b != 0).map(|n| from + n as u64)
    })
}

/// The first section that does not match its sum.
fn first_damaged<'a>(
    file: &Mapped,
    entries: &'a [Entry],
    sums: &[[u8; 32]],
) -> io::Result<Option<&'a Entry>> {
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<Option<usize>> {
        let mut bytes = Bytes::of(file);
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some((entry, sum)) = entries.get(n).zip(sums.get(n)) else { return Ok(None) };
            if bytes.sha256(entry)? != *sum {
                return Ok(Some(n)); // all that is left lies behind it
            }
        }
    };
    let found = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(entries.len());
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let others = others.into_iter().map(|t| t.join().unwrap_or_else(|panic| resume_unwind(panic)));
        others.chain([mine]).collect::<io::Result<Vec<_>>>()
    })?;
    Ok(found.into_iter().flatten().min().and_then(|n| entries.get(n)))
}

/// The bytes of a file as one thread gets them: read if they can be, since from a map they come a few pages at a time.
struct Bytes<'a> {
    map: &'a Mapped,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl<'a> Bytes<'a> {
    fn of(map: &'a Mapped) -> Bytes<'a> {
        Bytes { map, file: map.reopened(), buffer: vec![0; CHUNK_BYTES as usize] }
    }

    fn sha256(&mut self, entry: &Entry) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        let (mut at, end) = (entry.offset, entry.offset.saturating_add(entry.bytes));
        if let Some(file) = &mut self.file {
            file.seek(SeekFrom::Start(at))?;
        }
        while at < end {
            let len = CHUNK_BYTES.min(end - at);
            if let Some(file) = &mut self.file {
                let part = &mut self.buffer[..len as usize];
                file.read_exact(part)?;
                hash.update(&*part);
            } else {
                hash.update(self.map.slice(at, len).unwrap_or_default());
                self.map.release(at..at + len);
            }
            at += len;
        }
        Ok(hash.finalize().into())
    }
}

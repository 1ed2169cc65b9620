//! Checking the data of compact files against the SHA-256s in them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use super::NAME;
use super::index::Entry;
use super::read::Footer;
use crate::container::Container;
use crate::error::{Blame, Result};
use crate::format::Checksums;
use crate::limits::Limits;
use crate::mapped::Mapped;

/// How much is read before its pages are given back.
const CHUNK_BYTES: u64 = 4 << 20;

/// Reads every section, several at a time, and compares it with its SHA-256.
///
/// # Errors
/// [`Error::Malformed`](crate::Error::Malformed) that names the first damaged section.
pub(super) fn sums(container: &Container, limits: &Limits) -> Result<Checksums> {
    let mut verified = 0;
    for file in container.files() {
        let blame = Blame { path: file.path(), format: NAME };
        let footer = Footer::read(file, limits, blame)?;
        let entries = footer.index(blame)?.sections;
        if let Some(damaged) = first_damaged(file, &entries, footer.sums) {
            let what = "the section does not match its SHA-256: it is damaged";
            return Err(blame.malformed(what).at(damaged.offset).in_tensor(&damaged.name));
        }
        verified += entries.len();
    }
    Ok(Checksums::Match(verified))
}

/// The first section that does not match its sum.
fn first_damaged<'a>(file: &Mapped, entries: &'a [Entry], sums: &[[u8; 32]]) -> Option<&'a Entry> {
    let (next, first) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some((entry, sum)) = entries.get(n).zip(sums.get(n)) else { break };
            if sha256(file, entry) != *sum {
                first.fetch_min(n, Ordering::Relaxed);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, Into::into).min(entries.len());
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    entries.get(first.into_inner())
}

fn sha256(file: &Mapped, entry: &Entry) -> [u8; 32] {
    let mut hash = Sha256::new();
    let (mut at, end) = (entry.offset, entry.offset.saturating_add(entry.bytes));
    while at < end {
        let len = CHUNK_BYTES.min(end - at);
        hash.update(file.slice(at, len).unwrap_or_default());
        file.release(at..at + len);
        at += len;
    }
    hash.finalize().into()
}

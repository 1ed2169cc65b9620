//! Checking the data of compact files against the SHA-256s in them.

use sha2::{Digest, Sha256};

use super::NAME;
use super::read::Footer;
use crate::container::Container;
use crate::error::{Blame, Result};
use crate::format::Checksums;
use crate::limits::Limits;

/// How much is read before its pages are given back.
const CHUNK_BYTES: u64 = 4 << 20;

/// Reads every section and compares it with its SHA-256.
///
/// # Errors
/// [`Error::Malformed`](crate::Error::Malformed) that names the first damaged section.
pub(super) fn sums(container: &Container, limits: &Limits) -> Result<Checksums> {
    let mut verified = 0;
    for file in container.files() {
        let blame = Blame { path: file.path(), format: NAME };
        let footer = Footer::read(file, limits, blame)?;
        for (entry, sum) in footer.index(blame)?.sections.iter().zip(footer.sums) {
            let mut hash = Sha256::new();
            let (mut at, end) = (entry.offset, entry.offset.saturating_add(entry.bytes));
            while at < end {
                let len = CHUNK_BYTES.min(end - at);
                hash.update(file.slice(at, len).unwrap_or_default());
                file.release(at..at + len);
                at += len;
            }
            if hash.finalize().as_slice() != sum {
                let what = "the section does not match its SHA-256: it is damaged";
                return Err(blame.malformed(what).at(entry.offset).in_tensor(&entry.name));
            }
            verified += 1;
        }
    }
    Ok(Checksums::Match(verified))
}

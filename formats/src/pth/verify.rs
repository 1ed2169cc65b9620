//! Checking the data of torch files against the CRC-32s in them.

use crate::budget::Budget;
use crate::container::Container;
use crate::error::{Blame, Result};
use crate::format::Checksums;
use crate::limits::Limits;
use crate::pth::zip::Archive;
use crate::pth::{Crc32, NAME, refuse};

/// Bytes read before their pages are given back.
const CHUNK_BYTES: u64 = 4 << 20;

/// Reads all data of an opened torch checkpoint and compares it with the CRC-32 of every entry of the
/// archive. The legacy layout has none, and torch can be told to leave them out.
///
/// torch itself never looks at them, so a damaged file loads there without a word.
///
/// # Errors
/// [`Error::Malformed`](crate::Error::Malformed) that names the first damaged entry and the tensor in it.
pub(super) fn verify_crcs(container: &Container, limits: &Limits) -> Result<Checksums> {
    let budget = &Budget::new(limits);
    let mut verified = 0;
    for (number, file) in container.files().iter().enumerate() {
        let blame = Blame { path: file.path(), format: NAME };
        if !refuse::is_zip(file.bytes()) {
            continue;
        }
        budget.next_file();
        let archive = Archive::read(file, budget, blame)?;
        if archive.entries().iter().all(|e| e.crc == 0) {
            continue; // saved after torch.serialization.set_crc32_options(False)
        }
        for entry in archive.entries() {
            let (start, bytes) = entry.stored(blame)?;
            let end = start.saturating_add(bytes);
            let (mut crc, mut at) = (Crc32::new(), start);
            while at < end {
                let len = CHUNK_BYTES.min(end - at);
                crc.update(file.slice(at, len).unwrap_or_default());
                file.release(at..at + len);
                at += len;
            }
            if crc.finalize() != entry.crc {
                let what = format!("the data of {:?} does not match its CRC-32: it is damaged", entry.name);
                let error = blame.malformed(what).at(start);
                let inside = |t: &&crate::Tensor| t.file == number && (start..end).contains(&t.offset);
                return Err(match container.tensors().iter().find(inside) {
                    Some(tensor) => error.in_tensor(&tensor.name),
                    None => error,
                });
            }
            verified += 1;
        }
    }
    Ok(if verified > 0 { Checksums::Match(verified) } else { Checksums::Absent })
}

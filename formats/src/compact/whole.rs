//! Small files that are made in memory.

use sha2::{Digest, Sha256};

use super::place::{Section, place};
use crate::error::Result;
use crate::placement::{Layout, Sum};
use crate::value::Metadata;

/// The bytes of a file of these sections, each with its data.
///
/// # Errors
/// As [`place`].
pub fn whole(metadata: &Metadata, sections: &[(Section, Vec<u8>)]) -> Result<Vec<u8>> {
    let described: Vec<Section> = sections.iter().map(|(section, _)| section.clone()).collect();
    let layout = Layout::from(place(metadata, &described)?);
    let sum = |data: &[u8]| Sum { crc32: 0, sha256: Sha256::digest(data).into() };
    let sums: Vec<Sum> = sections.iter().map(|(_, data)| sum(data)).collect();
    let data = layout.offsets().iter().copied().zip(sections.iter().map(|(_, data)| data.clone()));
    let mut pieces: Vec<(u64, Vec<u8>)> = layout.finish(&sums).into_iter().chain(data).collect();
    pieces.sort_by_key(|(offset, _)| *offset);
    let mut file = Vec::new();
    for (offset, bytes) in pieces {
        // What lies between is zero.
        file.resize(usize::try_from(offset).unwrap_or(usize::MAX), 0);
        file.extend(bytes);
    }
    Ok(file)
}

//! Files of pieces of other files, so that those can be made in parts: safetensors files of plain bytes, with a CRC-32
//! of every piece.
//!
//! ```text
//! pieces     u8 [n]       bytes that are still to come, under their names
//! known      u8 [n]       bytes that are known beforehand
//! crc32      u8 [4 n]     the CRC-32 of every piece, little endian, in the order of their data
//! ```

use quant::Encoding;

use super::place;
use crate::container::Container;
use crate::error::Result;
use crate::placement::{Placement, Planned};
use crate::value::Metadata;

/// The tensor of checksums.
const SUMS: &str = "crc32";

/// Layout of a file of pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The file; its offsets are those of the pieces, and what is known lies between.
    pub(crate) placement: Placement,
    /// Offset of the checksums.
    sums: u64,
}

impl Bundle {
    /// Lays out a file of `pieces`, each so many bytes under its name, and of bytes that are known already.
    ///
    /// # Errors
    /// As [`place`].
    pub fn new(
        metadata: &Metadata,
        pieces: &[(String, usize)],
        known: &[(String, Vec<u8>)],
    ) -> Result<Bundle> {
        let bytes =
            |name: &str, len| Planned { name: name.to_owned(), encoding: Encoding::U8, shape: vec![len] };
        let mut tensors: Vec<Planned> = pieces.iter().map(|(name, len)| bytes(name, *len)).collect();
        tensors.extend(known.iter().map(|(name, data)| bytes(name, data.len())));
        tensors.push(bytes(SUMS, 4 * pieces.len()));
        let mut placement = place(metadata, &tensors)?;
        let mut others = placement.offsets.split_off(pieces.len()).into_iter();
        for ((_, data), offset) in known.iter().zip(others.by_ref()) {
            placement.between.push((offset, data.clone()));
        }
        let sums = others.next().unwrap_or(placement.total_bytes); // there is one more than known
        Ok(Bundle { placement, sums })
    }

    /// Number of tensors that are no pieces.
    pub(crate) fn known(&self) -> usize {
        self.placement.between.len() + 1
    }

    /// All bytes but those of the pieces, which have these CRC-32s.
    pub(crate) fn finish(&self, crcs: &[u32]) -> Vec<(u64, Vec<u8>)> {
        let Placement { head, between, .. } = &self.placement;
        let sums = crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect();
        let mut all = vec![(0, head.clone())];
        all.extend(between.iter().cloned());
        all.push((self.sums, sums));
        all
    }

    /// The CRC-32s that a file of pieces holds, in the order of its data; `None` if it holds none.
    pub fn sums(container: &Container) -> Option<Vec<u32>> {
        let (sums, rest) = container.bytes(container.tensor(SUMS)?).as_chunks::<4>();
        rest.is_empty().then(|| sums.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, Limits, open};

    #[test]
    fn a_bundle_is_a_sound_file() {
        let pieces = [("b".to_owned(), 3), ("a".to_owned(), 5)];
        let known = [("k".to_owned(), b"known".to_vec())];
        let layout = Layout::from(Bundle::new(&Vec::new(), &pieces, &known).unwrap());
        let mut file = vec![0u8; layout.total_bytes() as usize];
        let (data, crcs) = (["bbb", "aaaaa"], [7, 0xffff_fffe]);
        let sums = crcs.map(|crc32| crate::Sum { crc32, ..crate::Sum::default() });
        let mut put = |at: u64, bytes: &[u8]| file[at as usize..][..bytes.len()].copy_from_slice(bytes);
        layout.offsets().iter().zip(data).for_each(|(at, data)| put(*at, data.as_bytes()));
        layout.finish(&sums).iter().for_each(|(at, bytes)| put(*at, bytes));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle");
        std::fs::write(&path, file).unwrap();
        let read = open(&path, &Limits::default()).unwrap();
        assert_eq!(read.tensors().len(), layout.offsets().len() + layout.known_tensors());
        for (name, data) in [("b", "bbb"), ("a", "aaaaa"), ("k", "known")] {
            assert_eq!(read.bytes(read.tensor(name).unwrap()), data.as_bytes());
        }
        assert_eq!(Bundle::sums(&read), Some(crcs.to_vec()));
    }
}

//! Placing a file of rwkv.cpp: its head, what stands before every tensor, and the offset of its data.

use std::collections::{BTreeMap, BTreeSet};

use quant::Encoding;

use crate::error::{Error, Result};
use crate::placement::{Placement, Planned};
use crate::rwkv_cpp::{DIMS, MAGIC, NUMBERS, VERSION, key, type_id};
use crate::value::{Metadata, Value};

/// Longest tensor name that ggml holds (it keeps 64 bytes, the last a zero).
const NAME_BYTES: usize = 63;

/// The numbers in the head of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Rows of the embedding.
    pub n_vocab: u32,
    /// Width of the model.
    pub n_embed: u32,
    /// Number of layers.
    pub n_layer: u32,
    /// Encoding of the large matrices.
    pub encoding: Encoding,
}

impl Header {
    /// The metadata that a file with this head is read back with.
    ///
    /// # Errors
    /// [`Error::CannotHold`] if the encoding has no number in rwkv.cpp.
    pub fn metadata(&self) -> Result<Metadata> {
        let data_type = type_of(self.encoding, None)?;
        let numbers = [VERSION, self.n_vocab, self.n_embed, self.n_layer, data_type];
        Ok(NUMBERS.iter().zip(numbers).map(|(name, n)| (key(name), Value::U32(n))).collect())
    }
}

/// Lays out a file of rwkv.cpp with these tensors, in the order given.
///
/// The description of every tensor but the first stands behind the data of the one before it, in
/// [`Placement::between`].
///
/// # Errors
/// [`Error::CannotHold`] if a name is too long or used twice, a shape has no or more than 3 dimensions or
/// a dimension of 2^32 or more, or an encoding has no number in rwkv.cpp.
pub fn place(header: &Header, tensors: &[Planned]) -> Result<Placement> {
    let data_type = type_of(header.encoding, None)?;
    let mut head = MAGIC.to_vec();
    for number in [VERSION, header.n_vocab, header.n_embed, header.n_layer, data_type] {
        head.extend_from_slice(&number.to_le_bytes());
    }

    let mut between = Vec::new();
    let mut offsets = Vec::new();
    let mut seen = BTreeSet::new();
    let mut end = head.len() as u64;
    for t in tensors {
        let cannot = |what: String| cannot(what, Some(&t.name));
        if !seen.insert(t.name.as_str()) {
            return Err(cannot("two tensors have this name".to_owned()));
        }
        if t.name.len() > NAME_BYTES {
            return Err(cannot(format!("the name is longer than {NAME_BYTES} bytes")));
        }
        let dims = t.shape.len() as u32;
        if dims == 0 || dims > DIMS {
            return Err(cannot(format!("{dims} dimensions, and 1 to {DIMS} are possible")));
        }
        let id = type_of(t.encoding, Some(&t.name))?;
        let bytes = t.bytes().ok_or_else(|| {
            cannot(format!("rows of {:?} values are no whole blocks of {}", t.shape.last(), t.encoding))
        })?;
        let mut description = Vec::new();
        for number in [dims, t.name.len() as u32, id] {
            description.extend_from_slice(&number.to_le_bytes());
        }
        for dim in t.shape.iter().rev() {
            let dim = u32::try_from(*dim).map_err(|_| cannot(format!("the dimension {dim} is too large")))?;
            description.extend_from_slice(&dim.to_le_bytes());
        }
        description.extend_from_slice(t.name.as_bytes());

        let start = end + description.len() as u64;
        if offsets.is_empty() {
            head.append(&mut description);
        } else {
            between.push((end, description));
        }
        offsets.push(start);
        end = start
            .checked_add(bytes)
            .filter(|end| *end <= i64::MAX as u64)
            .ok_or_else(|| cannot("the file would be absurdly large".to_owned()))?;
    }
    Ok(Placement { head, offsets, between, splits: BTreeMap::new(), total_bytes: end })
}

fn type_of(encoding: Encoding, tensor: Option<&str>) -> Result<u32> {
    type_id(encoding).ok_or_else(|| cannot(format!("the type {encoding} has no number there"), tensor))
}

fn cannot(what: String, tensor: Option<&str>) -> Error {
    Error::CannotHold { format: "rwkv.cpp", what, tensor: tensor.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Container, Limits, Value, open};

    const HEADER: Header = Header { n_vocab: 5, n_embed: 32, n_layer: 1, encoding: Encoding::Q5_1 };

    fn planned(name: &str, encoding: Encoding, shape: &[usize]) -> Planned {
        Planned { name: name.into(), encoding, shape: shape.to_vec() }
    }

    fn sample() -> Vec<Planned> {
        vec![
            planned("emb.weight", Encoding::F16, &[5, 32]),
            planned("blocks.0.ffn.key.weight", Encoding::Q5_1, &[3, 64]),
            planned("blocks.0.att.x_rwkvag", Encoding::F32, &[6, 1, 3]),
        ]
    }

    fn file(tensors: &[Planned]) -> Vec<u8> {
        let Placement { head, offsets, between, total_bytes, .. } = place(&HEADER, tensors).unwrap();
        let mut bytes = head;
        bytes.resize(total_bytes as usize, 0);
        for (offset, t) in offsets.iter().zip(tensors) {
            bytes[*offset as usize..][..t.bytes().unwrap() as usize].fill(7);
        }
        for (offset, piece) in between {
            bytes[offset as usize..][..piece.len()].copy_from_slice(&piece);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Container> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bin");
        std::fs::write(&path, bytes).unwrap();
        open(&path, &Limits::default())
    }

    /// The sample with another number at this place of the file.
    #[track_caller]
    fn refused(at: usize, number: u32, text: &str) {
        let mut bytes = file(&sample());
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        let error = read(&bytes).expect_err("this must be refused").to_string();
        assert!(error.contains(text), "{error}");
    }

    #[test]
    fn what_is_placed_is_read_back() {
        let bytes = file(&sample());
        let read = read(&bytes).unwrap();
        assert_eq!(read.format().name(), "rwkv.cpp");
        let number = |key: &str| read.value(&format!("rwkv_cpp.{key}")).and_then(Value::as_u64);
        let keys = ["version", "n_vocab", "n_embed", "n_layer", "data_type"];
        assert_eq!(keys.map(number), [101, 5, 32, 1, 8].map(Some));
        assert_eq!(read.tensors().len(), 3);
        for (found, planned) in read.tensors().iter().zip(&sample()) {
            assert_eq!((&found.name, &found.shape), (&planned.name, &planned.shape));
            assert_eq!((found.encoding, Some(found.bytes)), (planned.encoding, planned.bytes()));
            assert!(read.bytes(found).iter().all(|b| *b == 7));
        }
        assert_eq!(&bytes[..12], b"fmgg\x65\0\0\0\x05\0\0\0");
        assert_eq!(&bytes[24..44], b"\x02\0\0\0\x0a\0\0\0\x01\0\0\0\x20\0\0\0\x05\0\0\0");
    }

    #[test]
    fn every_cut_within_a_tensor_is_an_error() {
        let bytes = file(&sample());
        let ends: Vec<usize> = (1..=3).map(|n| file(&sample()[..n]).len()).collect();
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]).is_ok(), ends.contains(&cut), "cut at {cut}");
        }
        for rest in 1..40 {
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + rest, 0);
            assert!(read(&longer).is_err(), "{rest} bytes behind the end");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused(4, 99, "uses version 99 of rwkv.cpp's format");
        refused(4, 100, "uses the q5_1 of version 100");
        refused(20, 5, "uses the type Q4_2, which rwkv.cpp gave up,");
        refused(20, 10, "there is no type number 10");
        // The first tensor.
        refused(24, 0, "a tensor of 0 dimensions, not of 1 to 3, at byte 24");
        refused(24, 4, "a tensor of 4 dimensions");
        refused(28, u32::MAX, "4294967295 bytes of name");
        refused(32, 77, "there is no type number 77, in tensor \"emb.weight\", at byte 24");
        refused(32, 4, "uses the type Q4_1_O");
        refused(36, 31, "a tensor of 117901063 dimensions");
        refused(36, 1 << 30, "it ends within the data (10737418240 bytes needed");
        refused(36, u32::MAX, "it ends within the data");
        // A matrix of blocks whose rows are no whole blocks.
        let at = place(&HEADER, &sample()).unwrap().between[0].0 as usize;
        refused(at + 12, 63, "the shape [3, 63] cannot be stored as q5_1, in tensor");
        // A name that is no text, and a name that stands twice.
        refused(44, u32::MAX, "is not valid UTF-8");
        let tensors = [planned("a", Encoding::F32, &[1]), planned("b", Encoding::F32, &[1])];
        let mut bytes = file(&tensors);
        let b = bytes.iter().rposition(|b| *b == b'b').unwrap();
        bytes[b] = b'a';
        assert!(read(&bytes).unwrap_err().to_string().contains("same name, in tensor \"a\""));
    }

    #[test]
    fn absurd_shapes_are_refused() {
        let mut bytes = file(&[planned("a", Encoding::F32, &[1, 1, 1])]);
        bytes[36..48].fill(0xff);
        assert!(read(&bytes).unwrap_err().to_string().contains("cannot be stored as f32"));
    }

    #[test]
    fn plain_files_of_the_old_version_are_read() {
        let header = Header { encoding: Encoding::F16, ..HEADER };
        let tensors = [planned("a", Encoding::F16, &[2, 2]), planned("b", Encoding::Q8_0, &[32])];
        for (count, fine) in [(1, true), (2, false)] {
            let placement = place(&header, &tensors[..count]).unwrap();
            let mut bytes = placement.head;
            bytes[4] = 100;
            bytes.resize(placement.total_bytes as usize, 0);
            for (offset, piece) in placement.between {
                bytes[offset as usize..][..piece.len()].copy_from_slice(&piece);
            }
            assert_eq!(read(&bytes).is_ok(), fine);
        }
    }

    #[test]
    fn what_rwkv_cpp_cannot_hold_is_refused() {
        let long = "x".repeat(64);
        for bad in [
            vec![planned("a", Encoding::F32, &[3]), planned("a", Encoding::F32, &[3])],
            vec![planned(&long, Encoding::F32, &[3])],
            vec![planned("a", Encoding::F32, &[])],
            vec![planned("a", Encoding::F32, &[1; 4])],
            vec![planned("a", Encoding::F32, &[1 << 32, 1])],
            vec![planned("a", Encoding::Q8_0, &[33])],
            vec![planned("a", Encoding::Q4K, &[256])],
            vec![planned("a", Encoding::F32, &[u32::MAX as usize, u32::MAX as usize])],
            vec![planned("a", Encoding::F16, &[u32::MAX as usize, u32::MAX as usize])],
        ] {
            assert!(matches!(place(&HEADER, &bad), Err(Error::CannotHold { .. })), "{bad:?}");
        }
        let header = Header { encoding: Encoding::BF16, ..HEADER };
        assert!(place(&header, &[]).is_err());
    }

    proptest! {
        #[test]
        fn flipped_bytes_do_not_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = file(&sample());
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(container) = read(&bytes) {
                for t in container.tensors() {
                    prop_assert_eq!(container.bytes(t).len() as u64, t.bytes);
                }
            }
        }
    }
}

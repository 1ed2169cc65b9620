//! Placing a torch file: where every byte will be, before the data is known.

use std::collections::BTreeSet;

use quant::Encoding;

use crate::error::{Error, Result};
use crate::placement::Planned;
use crate::pth::write_pickle::pickle;
use crate::pth::zip_write::{self, Entry};
use crate::pth::{NAME, globals};
use crate::value::Metadata;

/// Longest folder name in the archive.
const ROOT_BYTES: usize = 255;

/// The layout of a torch file whose data is still to be written.
///
/// A zip archive holds a CRC-32 of each entry, in front of the data and in the directory at the end. So
/// there are two steps: write every tensor's data at its offset and take its CRC-32 meanwhile, in any order
/// (the CRCs of chunks of one tensor can be [combined](crate::pth::Crc32::combine)), then write what
/// [`finish`](PthPlacement::finish) gives.
///
/// ```text
/// NAME/data.pkl  NAME/byteorder  NAME/version  NAME/data/0  NAME/data/1 ...  zip directory
/// ```
///
/// The data of every entry starts at a multiple of 64 bytes, as torch has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PthPlacement {
    /// Offset of each tensor's data, in the order given.
    pub offsets: Vec<u64>,
    /// Size of the whole file.
    pub total_bytes: u64,
    /// The files before the storages, with their contents.
    small: Vec<(Entry, Vec<u8>)>,
    storages: Vec<Entry>,
    /// Offset of the zip directory.
    directory: u64,
}

/// Lays out a torch file with these tensors, in the order given, in a zip folder named `root` (torch takes
/// the stem of the file's name; any name will do).
///
/// The result is a dict of tensors that `torch.load(path, weights_only=True)` reads; each tensor has a storage
/// of its own. The metadata become further keys of the dict, which programs that expect nothing but tensors
/// may not like.
///
/// # Example
/// ```
/// use formats::{Metadata, Planned, pth};
/// use quant::Encoding;
///
/// let tensors = [Planned { name: "emb.weight".into(), encoding: Encoding::F32, shape: vec![2, 2] }];
/// let placement = pth::place("model", &Metadata::new(), &tensors)?;
/// let mut file = vec![0; placement.total_bytes as usize];
/// let data = [1f32, 2., 3., 4.].map(f32::to_le_bytes).concat();
/// file[placement.offsets[0] as usize..][..data.len()].copy_from_slice(&data);
/// let mut crc = pth::Crc32::new();
/// crc.update(&data);
/// for (offset, piece) in placement.finish(&[crc.finalize()]) {
///     file[offset as usize..][..piece.len()].copy_from_slice(&piece);
/// }
/// # Ok::<(), formats::Error>(())
/// ```
///
/// # Errors
/// [`Error::CannotHold`] if a name is used twice, torch has no type for an encoding, or `root` is no name.
pub fn place(root: &str, metadata: &Metadata, tensors: &[Planned]) -> Result<PthPlacement> {
    if root.is_empty() || root.len() > ROOT_BYTES || root.contains(['/', '\\', '\0']) {
        return Err(cannot(format!("{root:?} can be no folder name in it"), None));
    }
    let mut seen: BTreeSet<&str> = metadata.iter().map(|(key, _)| key.as_str()).collect();
    if seen.len() != metadata.len() {
        return Err(cannot("two metadata keys are the same".to_owned(), None));
    }
    let mut bytes = Vec::new();
    for t in tensors {
        let cannot = |what: String| cannot(what, Some(t.name.clone()));
        if !seen.insert(&t.name) {
            return Err(cannot("two tensors, or a tensor and a metadata key, have this name".to_owned()));
        }
        if !holds(t.encoding) {
            return Err(cannot(format!("torch has no type {}", t.encoding)));
        }
        // Sizes in a pickle are signed.
        let size = t.bytes().filter(|b| i64::try_from(*b).is_ok());
        bytes.push(size.ok_or_else(|| cannot(format!("the shape {:?} is absurdly large", t.shape)))?);
    }

    let mut end = 0u64;
    let mut put = |name: String, bytes: u64| {
        let entry = Entry::place(format!("{root}/{name}"), end, bytes);
        let next = entry.as_ref().and_then(Entry::end);
        end = next.ok_or_else(|| cannot("the file would be absurdly large".to_owned(), None))?;
        entry.ok_or_else(|| cannot("the file would be absurdly large".to_owned(), None))
    };
    let mut small = Vec::new();
    for (name, data) in [
        ("data.pkl", pickle(metadata, tensors)),
        ("byteorder", b"little".to_vec()),
        ("version", b"3\n".to_vec()),
    ] {
        small.push((put(name.to_owned(), data.len() as u64)?, data));
    }
    let storages = bytes
        .iter()
        .enumerate()
        .map(|(key, bytes)| put(format!("data/{key}"), *bytes))
        .collect::<Result<Vec<_>>>()?;
    let directory = end;
    let offsets = storages.iter().map(|e| e.offset).collect();
    let mut placement = PthPlacement { offsets, total_bytes: 0, small, storages, directory };
    placement.total_bytes = placement
        .directory
        .checked_add(placement.directory(&vec![0; tensors.len()]).len() as u64)
        .ok_or_else(|| cannot("the file would be absurdly large".to_owned(), None))?;
    Ok(placement)
}

/// True if a torch file can hold tensors of this encoding.
pub fn holds(encoding: Encoding) -> bool {
    globals::storage_class(encoding).is_some() || globals::classless_dtype(encoding).is_some()
}

impl PthPlacement {
    /// All bytes that are not tensor data, as pieces with their offsets, front to back. Together with the
    /// data they fill the file exactly.
    ///
    /// `crcs` are the CRC-32s (of zip and zlib) of the tensors' data, in the order given.
    ///
    /// # Panics
    /// If there are not as many CRCs as tensors.
    pub fn finish(&self, crcs: &[u32]) -> Vec<(u64, Vec<u8>)> {
        assert_eq!(crcs.len(), self.storages.len(), "one CRC-32 for each tensor");
        let mut pieces = Vec::new();
        let mut last = Vec::new();
        for (entry, data) in &self.small {
            entry.put_header(&mut last, crc32fast::hash(data));
            last.extend_from_slice(data);
        }
        let mut start = 0;
        for (entry, crc) in self.storages.iter().zip(crcs) {
            entry.put_header(&mut last, *crc);
            pieces.push((start, std::mem::take(&mut last)));
            start = entry.offset + entry.bytes;
        }
        last.extend(self.directory(crcs));
        pieces.push((start, last));
        pieces
    }

    fn directory(&self, crcs: &[u32]) -> Vec<u8> {
        let small = self.small.iter().map(|(entry, data)| (entry, crc32fast::hash(data)));
        let storages = self.storages.iter().zip(crcs.iter().copied());
        zip_write::directory(self.directory, small.chain(storages))
    }
}

fn cannot(what: String, tensor: Option<String>) -> Error {
    Error::CannotHold { format: NAME, what, tensor }
}

//! Placing a compact file: where every section will lie, and the index.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::index::{Entry, Index, typed};
use super::tiles::Tiles;
use super::{ALIGNMENT, END, FOOTER_BYTES, HEAD_BYTES, MAGIC, NAME, SUM_BYTES, VERSION};
use crate::error::{Error, Result};
use crate::placement::Planned;
use crate::value::Metadata;

/// Level at which zstd compresses the index, which is small.
const LEVEL: i32 = 19;

/// Storage of the values of a tensor in a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As they are.
    Plain,
    /// As a zstd frame, of so many bytes.
    Zstd(u64),
    /// In tiles, of so many bytes with all that belongs to them.
    Tiled(Tiles, u64),
}

/// A section to be written: a tensor, and how its values are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The tensor; the encoding is that of its values.
    pub planned: Planned,
    /// Storage of its values.
    pub storage: Storage,
}

/// Layout of a compact file to be written; the checksums come when the data are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactPlacement {
    /// Offset of each section, in the order given.
    pub offsets: Vec<u64>,
    /// Size of the whole file.
    pub total_bytes: u64,
    /// The index as stored.
    index: Vec<u8>,
    index_offset: u64,
    json_bytes: u64,
}

/// Lays out a compact file with these keys and sections, in the order given.
///
/// # Errors
/// [`Error::CannotHold`] if a name is used twice, a value has no form in JSON, or a size is absurd.
///
/// # Examples
/// ```
/// use formats::{Metadata, Planned, compact};
/// let planned = Planned { name: "x".into(), encoding: quant::Encoding::F16, shape: vec![2, 3] };
/// let section = compact::Section { planned, storage: compact::Storage::Plain };
/// let placement = compact::place(&Metadata::new(), &[section])?;
/// assert_eq!(placement.offsets, [64]);
/// # Ok::<(), formats::Error>(())
/// ```
pub fn place(metadata: &Metadata, sections: &[Section]) -> Result<CompactPlacement> {
    let metadata = typed(metadata).ok_or_else(|| cannot("a value has no form in JSON", None))?;
    let mut seen = BTreeSet::new();
    let (mut offsets, mut entries) = (Vec::new(), Vec::new());
    let mut end = HEAD_BYTES;
    for Section { planned, storage } in sections {
        let Planned { name, encoding, shape } = planned;
        let cannot = |what| cannot(what, Some(name.clone()));
        if !seen.insert(name) {
            return Err(cannot("two tensors have this name"));
        }
        let (coding, tiles, bytes) = match storage {
            Storage::Plain => (None, None, planned.bytes()),
            Storage::Zstd(bytes) => (Some(super::read::ZSTD), None, Some(*bytes)),
            Storage::Tiled(tiles, _) if tiles.coding.decoded() != *encoding => {
                return Err(cannot("its values are of another type than its coding gives"));
            }
            Storage::Tiled(tiles, bytes) => {
                (Some(tiles.coding.name()), Some(tiles.rows as u64), Some(*bytes))
            }
        };
        let bytes = bytes.ok_or_else(|| cannot("its rows are no whole blocks"))?;
        let start = end.checked_next_multiple_of(ALIGNMENT);
        let (start, after) = start
            .and_then(|start| Some((start, start.checked_add(bytes)?)))
            .ok_or_else(|| cannot("the file would be absurdly large"))?;
        entries.push(Entry {
            name: name.clone(),
            shape: shape.iter().map(|d| *d as u64).collect(),
            values: encoding.name().to_owned(),
            coding: coding.map(str::to_owned),
            tile_rows: tiles,
            offset: start,
            bytes,
        });
        offsets.push(start);
        end = after;
    }
    let index = Index { requires: Vec::new(), metadata, sections: entries };
    let json = serde_json::to_vec(&index).map_err(|e| cannot(&e.to_string(), None))?;
    let index = zstd::bulk::compress(&json, LEVEL).map_err(|e| cannot(&e.to_string(), None))?;
    let total_bytes = (index.len() as u64)
        .checked_add(SUM_BYTES * sections.len() as u64)
        .and_then(|n| n.checked_add(FOOTER_BYTES)?.checked_add(end))
        .ok_or_else(|| cannot("the file would be absurdly large", None))?;
    Ok(CompactPlacement { offsets, total_bytes, index, index_offset: end, json_bytes: json.len() as u64 })
}

impl CompactPlacement {
    /// All bytes but those of the sections, which have these SHA-256s.
    pub(crate) fn finish(&self, sums: impl Iterator<Item = [u8; 32]>) -> Vec<(u64, Vec<u8>)> {
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend([0; 4]);
        let mut tail = self.index.clone();
        tail.extend(sums.flatten());
        let sum = Sha256::digest(&tail);
        for field in [self.index_offset, self.index.len() as u64, self.json_bytes, self.offsets.len() as u64]
        {
            tail.extend(field.to_le_bytes());
        }
        tail.extend(VERSION.to_le_bytes());
        tail.extend([0; 4]);
        tail.extend(sum);
        tail.extend(END);
        vec![(0, head), (self.index_offset, tail)]
    }
}

fn cannot(what: &str, tensor: Option<String>) -> Error {
    Error::CannotHold { format: NAME, what: what.to_owned(), tensor }
}

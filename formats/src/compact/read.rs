//! Reading compact files, from the end.

use quant::Encoding;
use quant::coding::Coding;
use sha2::{Digest, Sha256};

use super::index::{self, Entry, Index, Needs};
use super::tiles::{Tiled, Tiles};
use super::{
    ALIGNMENT, Compact, END, FOOTER_BYTES, HEAD_BYTES, MAGIC, NAME, ROW_VALUES, SUM_BYTES, TILE_VALUES,
    VERSION, ZSTD_BYTES, unpacked,
};
use crate::budget::Budget;
use crate::container::{Coded, Container, Tensor};
use crate::cursor::Cursor;
use crate::error::{Blame, Result};
use crate::mapped::Mapped;

/// The coding of small tensors.
pub(super) const ZSTD: &str = "zstd";
/// Bytes of memory that a value of the index takes, beside its text. (A section has about nine.)
const VALUE_BYTES: u64 = 64;
/// Help for a file that is too new.
const NEWER: &str = "it was made by a newer rwkv-quant: use that one";

/// Content of the footer, checked against the file's length.
pub(super) struct Footer<'a> {
    /// Offset of the index.
    pub offset: u64,
    /// The index as stored.
    index: &'a [u8],
    /// Bytes of the index as JSON.
    json_bytes: u64,
    /// The SHA-256 of every section.
    pub sums: &'a [[u8; 32]],
}

impl<'a> Footer<'a> {
    /// Reads head and footer; the index and the checksums are sound.
    pub fn read(file: &'a Mapped, budget: &Budget<'_>, blame: Blame<'a>) -> Result<Footer<'a>> {
        let len = file.bytes().len() as u64;
        let mut head = Cursor::new(file.bytes(), blame);
        if head.take(8, "the magic number")? != MAGIC {
            return Err(blame.malformed("its first bytes are those of another format").at(0));
        }
        known(head.u32("the version")?, blame)?;
        zero(head.u32("the version")?, blame)?;
        let start = len.checked_sub(FOOTER_BYTES).filter(|start| *start >= HEAD_BYTES);
        let start = start.ok_or_else(|| blame.malformed("it has no footer: the file was cut off"))?;
        if !file.bytes().ends_with(END) {
            return Err(blame.malformed("it does not end with a footer: the file was cut off").at(start));
        }
        let mut footer = Cursor::starting_at(file.bytes(), start, blame);
        let offset = footer.u64("the footer")?;
        let index_bytes = footer.u64("the footer")?;
        let json_bytes = blame.within("bytes of index", footer.u64("the footer")?, budget.header_bytes)?;
        let count = blame.within("tensors", footer.u64("the footer")?, budget.tensors)?;
        let version = footer.u32("the footer")?;
        let zeros = footer.u32("the footer")?;
        let sum = footer.take(SUM_BYTES, "the footer")?;
        known(version, blame)?;
        zero(zeros, blame)?;
        let fits = count
            .checked_mul(SUM_BYTES)
            .and_then(|sums| offset.checked_add(index_bytes)?.checked_add(sums))
            .is_some_and(|end| end == start && offset >= HEAD_BYTES);
        let tail = file.slice(offset, start.saturating_sub(offset)).filter(|_| fits);
        budget.read_to(len - start);
        let tail = tail.ok_or_else(|| {
            let what = format!("an index of {index_bytes} bytes at {offset} does not end at the footer");
            blame.malformed(what).at(start)
        })?;
        budget.read_to(len - offset);
        if Sha256::digest(tail).as_slice() != sum {
            return Err(blame.malformed("the index does not match its SHA-256: it is damaged").at(offset));
        }
        // It fits, so it is in memory.
        let (index, sums) = tail.split_at(index_bytes as usize);
        Ok(Footer { offset, index, json_bytes, sums: sums.as_chunks::<32>().0 })
    }

    /// Unpacks and parses the index.
    pub fn index(&self, budget: &Budget<'_>, blame: Blame<'_>) -> Result<Index> {
        let broken = |what: String| blame.malformed(format!("the index is broken: {what}")).at(self.offset);
        let json = unpacked(self.index, self.json_bytes, budget, blame)?;
        let json = json.ok_or_else(|| broken(format!("it does not unpack to {} bytes", self.json_bytes)))?;
        crate::json::reserve(&json, VALUE_BYTES, budget, blame)?;
        // A newer index may be of another form, but for this.
        let needs: Needs = serde_json::from_slice(&json).map_err(|e| broken(crate::json::message(&e)))?;
        if let Some(word) = needs.requires.first() {
            let what = format!("the feature {:?}", crate::json::short(word));
            return Err(blame.unsupported(what, NEWER));
        }
        let index: Index = serde_json::from_slice(&json).map_err(|e| broken(crate::json::message(&e)))?;
        if index.sections.len() != self.sums.len() {
            let what = format!("it has {} sections, not {}", index.sections.len(), self.sums.len());
            return Err(broken(what));
        }
        Ok(index)
    }
}

fn known(version: u32, blame: Blame<'_>) -> Result<()> {
    match version {
        VERSION => Ok(()),
        newer => Err(blame.unsupported(format!("version {newer} of this format"), NEWER)),
    }
}

/// Checks that the number behind the version is zero.
fn zero(found: u32, blame: Blame<'_>) -> Result<()> {
    match found {
        0 => Ok(()),
        _ => Err(blame.malformed("what stands behind its version is not zero: it is damaged")),
    }
}

pub(super) fn read(file: Mapped, budget: &Budget<'_>) -> Result<Container> {
    let path = file.path().to_owned();
    let blame = Blame { path: &path, format: NAME };
    let footer = Footer::read(&file, budget, blame)?;
    let index = footer.index(budget, blame)?;
    // All are looked at, one after the other: the disk need not wait for that.
    index.sections.iter().for_each(|entry| file.prefetch(entry.looked_at()));
    let (mut tensors, mut held, mut packed) = (Vec::new(), Vec::new(), 0);
    let mut end = HEAD_BYTES;
    for entry in &index.sections {
        let in_section = |e: crate::Error| e.in_tensor(&entry.name);
        let after = entry.offset.checked_add(entry.bytes).filter(|after| *after <= footer.offset);
        let fits = entry.offset >= end && entry.offset.is_multiple_of(ALIGNMENT);
        end = after.filter(|_| fits).ok_or_else(|| {
            let what = "its bytes lie where they cannot: sections are in order, in front of the index";
            in_section(blame.malformed(what).at(entry.offset))
        })?;
        let (tensor, values) = tensor(entry, &file, packed, budget, blame).map_err(in_section)?;
        if let Some(values) = values {
            packed += values.len() as u64;
            held.push((entry.name.clone(), values));
        }
        tensors.push(tensor);
    }
    let metadata = index::metadata(index.metadata);
    let mut container = Container::new(&Compact, &path, vec![file], tensors, metadata, budget)?;
    for (name, values) in held {
        container.hold(&name, values);
    }
    Ok(container)
}

/// A tensor, and its values if they had to be unpacked, behind so many bytes of others.
fn tensor(
    entry: &Entry,
    file: &Mapped,
    packed: u64,
    budget: &Budget<'_>,
    blame: Blame<'_>,
) -> Result<(Tensor, Option<Vec<u8>>)> {
    let encoding: Encoding = entry.values.parse().map_err(|()| {
        blame.unsupported(format!("the encoding {:?}", crate::json::short(&entry.values)), NEWER)
    })?;
    blame.within("dimensions", entry.shape.len() as u64, budget.dims)?;
    let absurd = || blame.malformed(format!("the shape {:?} is absurd", entry.shape));
    let shape = entry.shape.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>();
    let shape = shape.ok_or_else(absurd)?;
    let span = Tensor::span_bytes(encoding, &shape, None).ok_or_else(absurd)?;
    Tensor::reserve(entry.name.len(), entry.shape.len(), budget, blame)?;
    budget.item::<Tensor>(0, blame)?;
    let mut tensor = Tensor {
        name: entry.name.clone(),
        encoding,
        shape,
        strides: None,
        split: None,
        coded: None,
        file: 0,
        offset: entry.offset,
        bytes: entry.bytes,
    };
    let stored = file.slice(entry.offset, entry.bytes).unwrap_or_default();
    match (entry.coding.as_deref(), entry.tile_rows) {
        (None, None) => Ok((tensor, None)),
        (Some(ZSTD), None) => {
            let all = packed.saturating_add(span);
            blame.within("bytes of packed tensors", all, ZSTD_BYTES)?;
            let wrong =
                || blame.malformed(format!("its frame does not unpack to {span} bytes")).at(entry.offset);
            let values = unpacked(stored, span, budget, blame)?.ok_or_else(wrong)?;
            budget.entry(entry.name.len() + size_of::<(String, Vec<u8>)>(), blame)?;
            tensor.coded = Some(Coded::Zstd);
            Ok((tensor, Some(values)))
        }
        (None | Some(ZSTD), Some(_)) => Err(blame.malformed("it is in tiles, and its coding has none")),
        (Some(name), Some(rows)) => {
            let unknown = || blame.unsupported(format!("the coding {:?}", crate::json::short(name)), NEWER);
            let coding = Coding::named(name).ok_or_else(unknown)?;
            let rows = usize::try_from(rows).ok().filter(|rows| *rows > 0);
            let rows = rows.ok_or_else(|| blame.malformed("its tiles have no rows"))?;
            if coding.decoded() != encoding {
                return Err(blame.malformed(format!("{encoding} cannot be coded as {name:?}")));
            }
            let cols = tensor.shape.last().copied().unwrap_or(1);
            if encoding.row_bytes(cols as u64).is_none() {
                let what = format!("its rows of {cols} are no whole blocks, which {name:?} codes");
                return Err(blame.malformed(what));
            }
            let (values, one) = (rows.saturating_mul(cols), rows == 1 || tensor.rows() == 1);
            if values > if one { ROW_VALUES } else { TILE_VALUES } {
                return Err(blame.malformed(format!("its tiles would have {values} values")));
            }
            let tiles = Tiles { coding, rows };
            if Tiled::new(stored, tiles, tensor.rows()).is_none() {
                return Err(blame.malformed("its tiles do not end where it ends").at(entry.offset));
            }
            tensor.coded = Some(Coded::Tiles(tiles));
            Ok((tensor, None))
        }
        (Some(name), None) => {
            Err(blame.unsupported(format!("the coding {:?} without tiles", crate::json::short(name)), NEWER))
        }
    }
}

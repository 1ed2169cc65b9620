//! Opened models, whatever their format.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use quant::Encoding;

use crate::aside::LeftAside;
use crate::budget::Budget;
use crate::checksums::{self, CHECKSUMS_KEY};
use crate::compact::{Tiled, Tiles};
use crate::error::{Blame, Result};
use crate::format::{Checksums, Format};
use crate::hf::Config;
use crate::mapped::Mapped;
use crate::value::{Metadata, Value};

/// A tensor as it lies in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Encoding of its elements.
    pub encoding: Encoding,
    /// Its shape, slowest dimension first (row-major, as numpy and torch print it); empty for a scalar.
    pub shape: Vec<usize>,
    /// Distance between neighbours along each dimension, in elements; `None` if the elements lie row-major
    /// without gaps. Only plain encodings have strides.
    pub strides: Option<Vec<usize>>,
    /// Places of the scales and levels, if the blocks are planar; at [`offset`](Tensor::offset) are then the codes.
    pub split: Option<Split>,
    /// Compression of the values in the file, if they are not simply there.
    pub coded: Option<Coded>,
    /// Index of its file among the container's files.
    pub file: usize,
    /// Offset of its first element in that file, in bytes.
    pub offset: u64,
    /// Number of bytes that it spans there.
    pub bytes: u64,
}

impl Tensor {
    /// Draws from the budget what a tensor of such a name holds, and its place in the list by which the order of data is
    /// checked; its place in the list of a reader is not in it.
    pub(crate) fn reserve(name: usize, dims: usize, budget: &Budget<'_>, blame: Blame<'_>) -> Result<()> {
        let dims = (dims as u64).saturating_mul(2 * size_of::<usize>() as u64);
        budget.reserve((name as u64).saturating_add(dims).saturating_add(64), blame)
    }
}

/// Compression of the values of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coded {
    /// As a frame of zstd; they were unpacked when the file was opened.
    Zstd,
    /// In tiles, to be decoded with [`quant::coding`].
    Tiles(Tiles),
}

/// Places of the planes of planar blocks: the codes of all blocks stand together ([`Encoding::code_bytes`] of each),
/// and so do their scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Offset of the scales in the file.
    pub scales: u64,
    /// Offset of the tensor's own [levels](Codebook) in the file, little-endian f32.
    pub codebook: Option<u64>,
}

/// The 16 levels that 4-bit codes stand for.
pub type Codebook = [f32; 16];

/// Bytes of a [`Codebook`] in a file.
pub const CODEBOOK_BYTES: u64 = 64;

impl Tensor {
    /// The bytes of the whole tensor in the file.
    pub fn stored_bytes(&self) -> u64 {
        let scales = self.scale_bytes().unwrap_or(0);
        let codebook = self.split.and_then(|s| s.codebook).map_or(0, |_| CODEBOOK_BYTES);
        self.bytes.saturating_add(scales).saturating_add(codebook)
    }

    /// The bytes of the scales of a split tensor.
    fn scale_bytes(&self) -> Option<u64> {
        self.split?;
        Some(Tensor::span_bytes(self.encoding, &self.shape, None)?.saturating_sub(self.bytes))
    }

    /// Name of the storage of its values: the coding if they are coded in tiles, else the encoding.
    pub fn stored_as(&self) -> &'static str {
        match self.coded {
            Some(Coded::Tiles(tiles)) => tiles.coding.name(),
            Some(Coded::Zstd) | None => self.encoding.name(),
        }
    }

    /// Number of rows: all dimensions but the last.
    pub fn rows(&self) -> usize {
        let cols = self.shape.last().copied().unwrap_or(1);
        self.shape.iter().product::<usize>().checked_div(cols).unwrap_or(0)
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|d| *d as u64).product()
    }

    /// The bytes that a tensor of this shape, encoding and strides spans; `None` if that is no whole number
    /// of blocks or overflows.
    pub fn span_bytes(encoding: Encoding, shape: &[usize], strides: Option<&[usize]>) -> Option<u64> {
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64))?;
        let Some(strides) = strides else {
            let cols = shape.last().map_or(1, |d| *d as u64);
            let rows = elements.checked_div(cols);
            return rows.map_or(Some(0), |rows| encoding.matrix_bytes(rows, cols));
        };
        if !encoding.is_plain() || strides.len() != shape.len() {
            return None;
        }
        if elements == 0 {
            return Some(0);
        }
        let mut last = 0u64; // index of the last element
        for (d, s) in shape.iter().zip(strides) {
            last = last.checked_add((*d as u64 - 1).checked_mul(*s as u64)?)?;
        }
        last.checked_add(1)?.checked_mul(encoding.block_bytes() as u64)
    }
}

/// An opened model: tensors as windows on mapped files, and metadata.
///
/// Everything here was checked when it was made: names are unique, and every tensor's bytes lie within its
/// file and fit its shape and encoding.
#[derive(Debug)]
pub struct Container {
    format: &'static dyn Format,
    path: PathBuf,
    files: Vec<Mapped>,
    tensors: Vec<Tensor>,
    index: BTreeMap<String, usize>,
    metadata: Metadata,
    config: Option<serde_json::Map<String, serde_json::Value>>,
    side_files: Vec<Mapped>,
    left_aside: Option<LeftAside>,
    /// Values of coded tensors that were decoded already, by the tensor's name.
    held: BTreeMap<String, Vec<u8>>,
    /// Checksums in the metadata of its files.
    checksums: Vec<checksums::Held>,
}

impl Container {
    /// Checks and joins what a reader found: `tensors` in file order, `files` in the order that
    /// [`Tensor::file`] counts.
    pub(crate) fn new(
        format: &'static dyn Format,
        path: &Path,
        files: Vec<Mapped>,
        tensors: Vec<Tensor>,
        metadata: Metadata,
        budget: &Budget<'_>,
    ) -> Result<Container> {
        let blame = Blame { path, format: format.name() };
        blame.within("tensors", tensors.len() as u64, budget.tensors)?;
        blame.within("metadata entries", metadata.len() as u64, budget.values)?;
        let mut index = BTreeMap::new();
        for (i, t) in tensors.iter().enumerate() {
            let blame = Blame { path: files[t.file].path(), ..blame };
            blame.within("bytes of name", t.name.len() as u64, budget.name_bytes)?;
            blame.within("dimensions", t.shape.len() as u64, budget.dims)?;
            budget.entry(t.name.len(), blame)?;
            let mut span = Tensor::span_bytes(t.encoding, &t.shape, t.strides.as_deref());
            if t.split.is_some() {
                let (codes, block) = (t.encoding.code_bytes() as u64, t.encoding.block_bytes() as u64);
                span = span.map(|bytes| bytes / block * codes);
            }
            if t.coded.is_none() && span != Some(t.bytes) {
                let what = match span {
                    Some(span) => {
                        format!("{:?} {} needs {span} bytes but has {}", t.shape, t.encoding, t.bytes)
                    }
                    None => format!("the shape {:?} cannot be stored as {}", t.shape, t.encoding),
                };
                return Err(blame.malformed(what).in_tensor(&t.name));
            }
            if files[t.file].slice(t.offset, t.bytes).is_none() {
                let len = files[t.file].bytes().len();
                let what = format!("the data reaches past the end of the file ({len} bytes)");
                return Err(blame.malformed(what).in_tensor(&t.name).at(t.offset));
            }
            if let Some(split) = t.split {
                let parts = [(Some(split.scales), t.scale_bytes()), (split.codebook, Some(CODEBOOK_BYTES))];
                for (offset, bytes) in parts.into_iter().filter_map(|(offset, bytes)| offset.zip(bytes)) {
                    if files[t.file].slice(offset, bytes).is_none() {
                        let what = "the scales reach past the end of the file";
                        return Err(blame.malformed(what).in_tensor(&t.name).at(offset));
                    }
                }
            }
            if index.insert(t.name.clone(), i).is_some() {
                return Err(blame.malformed("two tensors have the same name").in_tensor(&t.name));
            }
        }
        for file in &files {
            // The description may be spread over the file (a zip archive has a header in front of each storage).
            file.release(0..file.bytes().len() as u64);
        }
        let (path, config, held, checksums) = (path.to_owned(), None, BTreeMap::new(), Vec::new());
        let (side_files, left_aside) = (Vec::new(), None);
        Ok(Container {
            format,
            path,
            files,
            tensors,
            index,
            metadata,
            config,
            side_files,
            left_aside,
            held,
            checksums,
        })
    }

    /// The SHA-256 of all data of a model, in hex, as its checksums state it; `None` if it has none, or they are those of
    /// another header.
    pub fn model_digest(&self) -> Option<&str> {
        self.checksums.first().filter(|held| held.is_of(&self.files)).map(checksums::Held::model)
    }

    /// Joins the parts of a sharded set into one container that was opened as `path`.
    pub(crate) fn join(path: &Path, parts: Vec<Container>, budget: &Budget<'_>) -> Result<Container> {
        let mut parts = parts.into_iter();
        let Some(mut first) = parts.next() else {
            let blame = Blame { path, format: "sharded" };
            return Err(blame.malformed("the set names no files"));
        };
        // Part 1 of one model beside part 2 of another would be a sound-looking file.
        // (What another program split anew states the digest of the file that it took apart, in a changed header.)
        let stated = first.model_digest();
        if let Some(stranger) = parts.as_slice().iter().find(|part| part.model_digest() != stated) {
            let blame = Blame { path, format: first.format.name() };
            return Err(blame.malformed(format!(
                "{} belongs to another model than {}: they were not written together",
                stranger.path.display(),
                first.path.display()
            )));
        }
        let mut held = std::mem::take(&mut first.held);
        let mut side_files = std::mem::take(&mut first.side_files);
        let mut checksums = std::mem::take(&mut first.checksums);
        let mut left_aside = first.left_aside.take();
        let mut keys: BTreeSet<String> = first.metadata.iter().map(|(key, _)| key.clone()).collect();
        for part in parts {
            let bytes = 2 * size_of_val(part.tensors.as_slice()) as u64;
            budget.reserve(bytes, Blame { path, format: first.format.name() })?;
            let before = first.files.len();
            held.extend(part.held);
            side_files.extend(part.side_files);
            checksums.extend(part.checksums.into_iter().map(|c| c.behind(before)));
            left_aside = left_aside.or(part.left_aside);
            first.files.extend(part.files);
            first.tensors.extend(part.tensors.into_iter().map(|t| Tensor { file: t.file + before, ..t }));
            for (key, value) in part.metadata {
                if keys.insert(key.clone()) {
                    first.metadata.push((key, value));
                }
            }
        }
        let all = Container::new(first.format, path, first.files, first.tensors, first.metadata, budget)?;
        Ok(Container { side_files, left_aside, held, checksums, ..all })
    }

    /// Replaces the tensors by others in the same files, which are checked.
    pub(crate) fn with_tensors(self, tensors: Vec<Tensor>, budget: &Budget<'_>) -> Result<Container> {
        let Container {
            format, path, files, metadata, config, side_files, left_aside, held, checksums, ..
        } = self;
        let container = Container::new(format, &path, files, tensors, metadata, budget)?;
        Ok(Container { config, side_files, left_aside, held, checksums, ..container })
    }

    /// Changes the metadata by `change`.
    #[must_use]
    pub(crate) fn with_metadata(mut self, change: impl FnOnce(&mut Metadata)) -> Self {
        change(&mut self.metadata);
        self
    }

    /// Adds checksums of its file, which are no metadata.
    #[must_use]
    pub(crate) fn with_checksums(mut self, held: checksums::Held) -> Self {
        self.metadata.retain(|(key, _)| key != CHECKSUMS_KEY);
        self.checksums.push(held);
        self
    }

    /// Compares the checksums in the metadata of its files with their data.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed) with the first tensor whose data differ.
    pub(crate) fn compare_checksums(&self) -> Result<Checksums> {
        checksums::compare(self, &self.checksums)
    }

    /// Sets the `config.json` that stands beside it.
    #[must_use]
    pub(crate) fn with_config(mut self, config: Option<Config>) -> Self {
        self.config = config.map(|config| {
            self.side_files.push(config.file);
            config.members
        });
        self
    }

    /// Adds another file that was used to read it.
    #[must_use]
    pub(crate) fn with_side_file(mut self, file: Mapped) -> Self {
        self.side_files.push(file);
        self
    }

    /// Sets the record of other weights that the file holds too.
    #[must_use]
    pub(crate) fn with_left_aside(mut self, left_aside: Option<LeftAside>) -> Self {
        self.left_aside = left_aside;
        self
    }

    /// State dicts that the file holds beside the one that is read, if there are any.
    pub fn left_aside(&self) -> Option<&LeftAside> {
        self.left_aside.as_ref()
    }

    /// The format it was read from.
    pub fn format(&self) -> &'static dyn Format {
        self.format
    }

    /// The path that was opened: a file, or a folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> &[Mapped] {
        &self.files
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|i| &self.tensors[*i])
    }

    /// Keeps the decoded values of a coded tensor, in its encoding, in memory from now on; the file is not read for
    /// it any more.
    ///
    /// # Panics
    /// If it is not coded, or they are not as many bytes as its values take.
    pub fn hold(&mut self, name: &str, values: Vec<u8>) {
        let tensor = self.tensor(name).filter(|t| t.coded.is_some());
        let bytes = tensor.and_then(|t| Tensor::span_bytes(t.encoding, &t.shape, None));
        assert_eq!(bytes, Some(values.len() as u64), "the values of {name:?}");
        self.held.insert(name.to_owned(), values);
    }

    /// The tiles that a tensor's values are to be decoded from; `None` if they are there as they are.
    pub fn tiled(&self, tensor: &Tensor) -> Option<Tiled<'_>> {
        let Some(Coded::Tiles(tiles)) = tensor.coded else { return None };
        if self.held.contains_key(&tensor.name) {
            return None;
        }
        Tiled::new(self.files[tensor.file].slice(tensor.offset, tensor.bytes)?, tiles, tensor.rows())
    }

    /// The bytes that a tensor spans; of a split one, the codes; of one in tiles, those of the file.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        if tensor.coded.is_some()
            && let Some(values) = self.held.get(&tensor.name)
        {
            return values;
        }
        self.files[tensor.file].slice(tensor.offset, tensor.bytes).unwrap_or_default()
    }

    /// Some of a tensor's blocks, one behind the other; those of a split tensor are put together. (What reaches past
    /// the end is left out.)
    pub fn blocks(&self, tensor: &Tensor, blocks: Range<usize>) -> Cow<'_, [u8]> {
        let (size, codes) = (tensor.encoding.block_bytes(), tensor.encoding.code_bytes());
        let part = |bytes: &'_ [u8], size: usize| -> Range<usize> {
            let end = blocks.end.saturating_mul(size).min(bytes.len());
            blocks.start.saturating_mul(size).min(end)..end
        };
        let bytes = self.bytes(tensor);
        let Some(split) = tensor.split else { return Cow::Borrowed(&bytes[part(bytes, size)]) };
        let scale_bytes = tensor.scale_bytes().unwrap_or(0);
        let scales = self.files[tensor.file].slice(split.scales, scale_bytes).unwrap_or_default();
        let scales = &scales[part(scales, size - codes)];
        Cow::Owned(joined(&bytes[part(bytes, codes)], codes, scales, size - codes))
    }

    /// The levels of a tensor that has its own.
    pub fn codebook(&self, tensor: &Tensor) -> Option<Codebook> {
        let bytes = self.files[tensor.file].slice(tensor.split?.codebook?, CODEBOOK_BYTES)?;
        let (levels, _) = bytes.as_chunks::<4>();
        levels.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>().try_into().ok()
    }

    /// Says that a range of bytes of a tensor's blocks is not needed for now (see [`Mapped::release`]).
    pub fn release(&self, tensor: &Tensor, range: Range<u64>) {
        let (size, codes) = (tensor.encoding.block_bytes() as u64, tensor.encoding.code_bytes() as u64);
        let part = |offset: u64, bytes: u64| {
            offset + range.start / size * bytes..offset + range.end.div_ceil(size) * bytes
        };
        let file = &self.files[tensor.file];
        if tensor.coded.is_some() {
            // About where the tiles of those values are; the rest stays a little longer.
            let all = Tensor::span_bytes(tensor.encoding, &tensor.shape, None).unwrap_or(0).max(1) as f64;
            let at = |values: u64| (tensor.bytes as f64 * (values as f64 / all).min(1.0)) as u64;
            return file.release(tensor.offset + at(range.start)..tensor.offset + at(range.end));
        }
        match tensor.split {
            None => file.release(tensor.offset + range.start..tensor.offset + range.end),
            Some(split) => {
                file.release(part(tensor.offset, codes));
                file.release(part(split.scales, size - codes));
            }
        }
    }

    /// Metadata, in file order.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The metadata value of that key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// The `config.json` of a Hugging Face folder.
    pub fn config(&self) -> Option<&serde_json::Map<String, serde_json::Value>> {
        self.config.as_ref()
    }

    /// Small files that were read beside those of the tensors: an index, a `config.json`.
    pub fn side_files(&self) -> &[Mapped] {
        &self.side_files
    }

    /// Looks at all files once more (see [`Mapped::check_unchanged`]). A result that was computed from the container
    /// counts only once this has passed; an error met on the way may be a consequence of the change.
    ///
    /// # Errors
    /// [`Error::Changed`](crate::Error::Changed) for the first file that changed.
    pub fn check_unchanged(&self) -> Result<()> {
        self.files.iter().chain(&self.side_files).try_for_each(Mapped::check_unchanged)
    }

    /// Bytes of all files together.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes().len() as u64).sum()
    }
}

/// Blocks from their codes and scales, so many bytes of each.
pub(crate) fn joined(codes: &[u8], code_bytes: usize, scales: &[u8], scale_bytes: usize) -> Vec<u8> {
    let mut blocks = Vec::with_capacity(codes.len() + scales.len());
    for (codes, scale) in codes.chunks_exact(code_bytes).zip(scales.chunks_exact(scale_bytes)) {
        blocks.extend_from_slice(codes);
        blocks.extend_from_slice(scale);
    }
    blocks
}

//! Reading prefabs: a walk over the CBOR that keeps blobs and scalars by their paths.

use std::collections::BTreeMap;

use quant::Encoding;

use super::cbor::{ARRAY, BYTES, Head, MAP, NEGATIVE, SIMPLE, TEXT, UNSIGNED};
use super::{DIMS, Prefab, TENSORS};
use crate::array::Array;
use crate::budget::Budget;
use crate::container::{CODEBOOK_BYTES, Container, Split, Tensor};
use crate::cursor::Cursor;
use crate::error::{Blame, Result};
use crate::mapped::Mapped;
use crate::value::{Metadata, Value};

/// Deepest nesting of maps and arrays; web-rwkv's is 7.
const DEPTH: usize = 16;

pub(super) fn read(file: Mapped, budget: &Budget<'_>) -> Result<Container> {
    let path = file.path().to_owned();
    let blame = Blame { path: &path, format: "prefab" };
    let mut walk = Walk {
        cursor: Cursor::new(file.bytes(), blame),
        budget,
        blobs: Vec::new(),
        data_bytes: 0,
        metadata: Metadata::new(),
    };
    walk.item(&mut String::new(), DEPTH)?;
    let Walk { cursor, blobs, metadata, .. } = walk;
    if cursor.left() > 0 {
        let what = format!("{} bytes behind its end belong to nothing", cursor.left());
        return Err(blame.malformed(what).at(cursor.pos()));
    }
    let tensors = tensors(blobs, blame)?;
    Container::new(&Prefab, &path, vec![file], tensors, metadata, budget)
}

/// A byte string with a shape.
struct Blob {
    path: String,
    /// Fastest dimension first.
    shape: [u64; DIMS],
    offset: u64,
    bytes: u64,
}

impl Blob {
    fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))
    }

    /// Slowest dimension first, without the ones that fill it up.
    fn shape(&self) -> Option<Vec<usize>> {
        let dims = self.shape.iter().rposition(|d| *d != 1).map_or(1, |last| last + 1);
        self.shape[..dims].iter().rev().map(|d| usize::try_from(*d).ok()).collect()
    }
}

struct Walk<'a> {
    cursor: Cursor<'a>,
    budget: &'a Budget<'a>,
    blobs: Vec<Blob>,
    /// Bytes of the blobs so far; all others describe.
    data_bytes: u64,
    metadata: Metadata,
}

impl<'a> Walk<'a> {
    /// One item at `path` with all that is in it.
    fn item(&mut self, path: &mut String, depth: usize) -> Result<()> {
        let described = self.cursor.pos() - self.data_bytes;
        self.cursor.blame.within("bytes of description", described, self.budget.header_bytes)?;
        self.budget.read_to(described);
        let at = self.cursor.pos();
        let head = Head::read(&mut self.cursor)?;
        let nested = matches!(head.major, MAP | ARRAY);
        if nested && depth == 0 {
            let what = format!("maps and arrays are nested more than {DEPTH} deep");
            return Err(self.cursor.blame.malformed(what).at(at));
        }
        match head.major {
            MAP => self.map(head.argument, path, depth - 1),
            ARRAY => self.array(head.argument, path, depth - 1),
            _ => {
                let value = self.scalar(head, at)?;
                self.keep(path, value)
            }
        }
    }

    fn map(&mut self, count: u64, path: &mut String, depth: usize) -> Result<()> {
        let (mut shape, mut data) = (None, None);
        for _ in 0..count {
            let at = self.cursor.pos();
            let head = Head::read(&mut self.cursor)?;
            if head.major != TEXT {
                return Err(self.cursor.blame.malformed("a key that is no text").at(at));
            }
            let long = head.argument.saturating_add(path.len() as u64);
            self.cursor.blame.within("bytes of name", long, self.budget.name_bytes)?;
            let key = self.cursor.text(head.argument, "a key")?;
            let twice = match key {
                "shape" => shape.replace(self.shape()?).is_some(),
                "data" => data.replace(self.data()?).is_some(),
                _ => {
                    let len = path.len();
                    if len > 0 {
                        path.push('.');
                    }
                    path.push_str(key);
                    self.item(path, depth)?;
                    path.truncate(len);
                    false
                }
            };
            if twice {
                return Err(self.cursor.blame.malformed(format!("{key:?} stands twice")).at(at));
            }
        }
        let blame = self.cursor.blame;
        match (shape, data) {
            (None, None) => Ok(()),
            (Some(shape), Some((offset, bytes))) => {
                blame.within("tensors", self.blobs.len() as u64 / 3, self.budget.tensors)?;
                // A blob, the table of parts that it may be one of, and a tensor.
                self.budget.item::<Blob>(3 * path.len() as u64, blame)?;
                self.budget.entry(size_of::<Parts>(), blame)?;
                Tensor::reserve(path.len(), DIMS, self.budget, blame)?;
                self.budget.item::<Tensor>(0, blame)?;
                self.blobs.push(Blob { path: path.clone(), shape, offset, bytes });
                Ok(())
            }
            _ => Err(blame.malformed("a shape without data, or data without a shape").in_tensor(path)),
        }
    }

    fn shape(&mut self) -> Result<[u64; DIMS]> {
        let at = self.cursor.pos();
        let head = Head::read(&mut self.cursor)?;
        let mut shape = [0; DIMS];
        let mut fits = head.major == ARRAY && head.argument == DIMS as u64;
        for dim in &mut shape {
            if !fits {
                break;
            }
            let head = Head::read(&mut self.cursor)?;
            fits &= head.major == UNSIGNED;
            *dim = head.argument;
        }
        if fits {
            Ok(shape)
        } else {
            Err(self.cursor.blame.malformed("a shape of other than 4 numbers").at(at))
        }
    }

    /// Reads past a byte string; returns its offset and its bytes.
    fn data(&mut self) -> Result<(u64, u64)> {
        let at = self.cursor.pos();
        let head = Head::read(&mut self.cursor)?;
        if head.major != BYTES {
            return Err(self.cursor.blame.malformed("data that is no byte string").at(at));
        }
        let offset = self.cursor.pos();
        self.cursor.take(head.argument, "the data")?;
        self.data_bytes += head.argument;
        Ok((offset, head.argument))
    }

    /// An array of numbers or texts as one value, any other item by item.
    fn array(&mut self, count: u64, path: &mut String, depth: usize) -> Result<()> {
        let blame = self.cursor.blame;
        // An item takes a byte at least, so no more than that are ever there.
        let count = count.min(self.cursor.left().saturating_add(1));
        let (mut array, mut scalars) = (None, 0);
        for i in 0..count {
            let at = self.cursor.pos();
            let before = self.cursor.clone();
            let head = Head::read(&mut self.cursor)?;
            if matches!(head.major, MAP | ARRAY) {
                self.cursor = before;
                let len = path.len();
                *path += &format!(".{i}");
                self.item(path, depth)?;
                path.truncate(len);
                continue;
            }
            blame.within("elements", i, self.budget.values)?;
            self.budget.read_to(self.cursor.pos() - self.data_bytes);
            let value = self.scalar(head, at)?;
            // An array grows by doubling, and so do the texts in it.
            self.budget.reserve(3 * Array::item_bytes(value.kind()), blame)?;
            scalars += 1;
            let array = match &mut array {
                Some(array) => array,
                none => none.insert(
                    Array::empty(value.kind())
                        .ok_or_else(|| blame.malformed(format!("the array {path:?} holds arrays")).at(at))?,
                ),
            };
            if !array.push(value) {
                return Err(blame.malformed(format!("the array {path:?} mixes types")).at(at));
            }
        }
        match array {
            _ if scalars != count => Ok(()), // maps; scalars between them say nothing
            Some(array) => self.keep(path, Value::Array(array)),
            None => self.keep(path, Value::from(Vec::<u8>::new())),
        }
    }

    fn scalar(&mut self, head: Head, at: u64) -> Result<Value> {
        let blame = self.cursor.blame;
        let n = head.argument;
        match (head.major, head.width) {
            (UNSIGNED, _) => Ok(Value::U64(n)),
            (NEGATIVE, _) => i64::try_from(n)
                .map(|n| Value::I64(-1 - n))
                .map_err(|_| blame.malformed("a number below those of 64 bits").at(at)),
            (TEXT, _) => {
                blame.within("bytes of text", n, self.budget.header_bytes)?;
                let text = self.cursor.text(n, "a text")?;
                self.budget.read_to(self.cursor.pos() - self.data_bytes);
                self.budget.reserve(n.saturating_mul(4).saturating_add(32), blame)?;
                Ok(Value::from(text))
            }
            (SIMPLE, 0) if n == 20 || n == 21 => Ok(Value::Bool(n == 21)),
            (SIMPLE, 4) => Ok(Value::F32(f32::from_bits(n as u32))),
            (SIMPLE, 8) => Ok(Value::F64(f64::from_bits(n))),
            _ => Err(blame.malformed("an item that is neither number nor text nor data").at(at)),
        }
    }

    fn keep(&mut self, path: &str, value: Value) -> Result<()> {
        let count = self.metadata.len() as u64 + 1;
        self.cursor.blame.within("metadata entries", count, self.budget.values)?;
        self.budget.item::<(String, Value)>(path.len() as u64 + 32, self.cursor.blame)?;
        self.metadata.push((path.to_owned(), value));
        Ok(())
    }
}

/// The parts of a matrix, by the last word of their paths.
#[derive(Default)]
struct Parts {
    first: usize,
    codes: Option<Blob>,
    scales: Option<Blob>,
    levels: Option<Blob>,
}

/// Puts the parts of matrices together, in the order of the file.
fn tensors(blobs: Vec<Blob>, blame: Blame<'_>) -> Result<Vec<Tensor>> {
    let mut found: Vec<(usize, Tensor)> = Vec::new();
    let mut split: BTreeMap<(String, Encoding), Parts> = BTreeMap::new();
    for (i, blob) in blobs.into_iter().enumerate() {
        let name = blob.path.strip_prefix(TENSORS).unwrap_or(&blob.path).to_owned();
        let part = name.rsplit_once('.').and_then(|(matrix, part)| {
            let (name, kind) = matrix.rsplit_once('.')?;
            let encoding = match kind {
                "Int8" => Encoding::Int8,
                "Fp4" | "Nf4" => Encoding::Fp4,
                _ => return None,
            };
            Some((name.to_owned(), encoding, part.to_owned()))
        });
        let Some((name, encoding, part)) = part else {
            found.push((i, plain(name, &blob, blame)?));
            continue;
        };
        let parts = split.entry((name.clone(), encoding)).or_insert(Parts { first: i, ..Parts::default() });
        let twice = match part.as_str() {
            "w" => parts.codes.replace(blob).is_some(),
            "m" => parts.scales.replace(blob).is_some(),
            "q" if encoding == Encoding::Fp4 => parts.levels.replace(blob).is_some(),
            _ => return Err(blame.malformed(format!("a matrix with the part {part:?}")).in_tensor(&name)),
        };
        if twice {
            return Err(blame.malformed(format!("the part {part:?} stands twice")).in_tensor(&name));
        }
    }
    for ((name, encoding), parts) in split {
        let first = parts.first;
        found.push((first, matrix(&name, encoding, parts, blame).map_err(|e| e.in_tensor(&name))?));
    }
    found.sort_by_key(|(i, _)| *i);
    Ok(found.into_iter().map(|(_, tensor)| tensor).collect())
}

/// A tensor of one blob, whose length tells its type.
fn plain(name: String, blob: &Blob, blame: Blame<'_>) -> Result<Tensor> {
    let name = name.strip_suffix(".Fp16").map_or(name.clone(), str::to_owned);
    let elements = blob.elements();
    let encoding = [Encoding::F16, Encoding::F32]
        .into_iter()
        .find(|e| elements.and_then(|n| n.checked_mul(e.block_bytes() as u64)) == Some(blob.bytes));
    let (Some(encoding), Some(shape)) = (encoding, blob.shape()) else {
        let what = format!("{:?} is no shape of {} bytes of f16 or f32", blob.shape, blob.bytes);
        return Err(blame.malformed(what).in_tensor(&name).at(blob.offset));
    };
    Ok(Tensor {
        name,
        encoding,
        shape,
        strides: None,
        split: None,
        coded: None,
        file: 0,
        offset: blob.offset,
        bytes: blob.bytes,
    })
}

fn matrix(name: &str, encoding: Encoding, parts: Parts, blame: Blame<'_>) -> Result<Tensor> {
    let (Some(mut codes), Some(scales)) = (parts.codes, parts.scales) else {
        return Err(blame.malformed("a matrix without codes or without scales"));
    };
    let codebook = match (encoding, parts.levels) {
        (Encoding::Fp4, Some(levels)) if levels.bytes == CODEBOOK_BYTES => Some(levels.offset),
        (Encoding::Fp4, _) => return Err(blame.malformed("a matrix without 16 levels")),
        _ => None,
    };
    if encoding == Encoding::Fp4 {
        // A byte holds two codes.
        codes.shape[0] = codes.shape[0].saturating_mul(2);
    }
    let wrong = || {
        let what = format!("{:?} is no shape of {} bytes of {encoding}", codes.shape, codes.bytes);
        blame.malformed(what).at(codes.offset)
    };
    let shape = codes.shape().ok_or_else(wrong)?;
    let bytes = Tensor::span_bytes(encoding, &shape, None).ok_or_else(wrong)?;
    let split = Some(Split { scales: scales.offset, codebook });
    // The container checks the number of codes; what is left of the blocks are the scales.
    if bytes.checked_sub(codes.bytes) != Some(scales.bytes) {
        let what = format!("{} bytes of scales for {} bytes of codes", scales.bytes, codes.bytes);
        return Err(blame.malformed(what).at(scales.offset));
    }
    Ok(Tensor {
        name: name.to_owned(),
        encoding,
        shape,
        strides: None,
        split,
        coded: None,
        file: 0,
        offset: codes.offset,
        bytes: codes.bytes,
    })
}

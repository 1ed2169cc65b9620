//! Reading safetensors.

use ::safetensors::SafeTensors;
use quant::Encoding;

use crate::budget::Budget;
use crate::checksums;
use crate::container::{Container, Tensor};
use crate::cursor::Cursor;
use crate::error::{Blame, Result};
use crate::json;
use crate::mapped::Mapped;
use crate::safetensors::header::{self, Entry};
use crate::safetensors::{DTYPES, Safetensors};
use crate::value::Value;

/// Dtypes that exist but are not read here.
const UNREAD: &[&str] = &[
    "F8_E5M2",
    "F8_E8M0",
    "F8_E4M3FNUZ",
    "F8_E5M2FNUZ",
    "F6_E2M3",
    "F6_E3M2",
    "F4",
    "U16",
    "U32",
    "U64",
    "C64",
];

/// Bytes of memory that a value of the header takes in the two parsers, beside its text. (A tensor has about nine.)
const VALUE_BYTES: u64 = 80;

pub(super) fn read(file: Mapped, budget: &Budget<'_>) -> Result<Container> {
    let path = file.path().to_owned();
    let blame = Blame { path: &path, format: "safetensors" };
    let mut cursor = Cursor::new(file.bytes(), blame);
    let header_bytes = cursor.u64("the length of the header")?;
    blame.within("bytes of header", header_bytes, budget.header_bytes)?;
    let header = cursor.take(header_bytes, "the header")?;
    budget.read_to(cursor.pos());
    json::reserve(header, VALUE_BYTES, budget, blame)?;
    let header = header::parse(header, budget, blame)?;
    let base = cursor.pos();

    let mut tensors = Vec::new();
    for (name, entry) in header.tensors {
        Tensor::reserve(name.len(), entry.shape.len(), budget, blame)?;
        budget.item::<Tensor>(0, blame)?;
        tensors.push(tensor(name, &entry, budget, blame)?);
    }
    // A stable sort, so that empty tensors, which share their offset with a neighbour, keep their order.
    tensors.sort_by_key(|t| (t.offset, t.bytes));
    covered(&tensors, cursor.left(), blame)?;
    for t in &mut tensors {
        t.offset = base.checked_add(t.offset).ok_or_else(|| blame.malformed("an offset is absurd"))?;
    }
    SafeTensors::read_metadata(file.bytes()).map_err(|e| blame.malformed(e.to_string()))?;
    let metadata = header.metadata.into_iter().map(|(key, text)| (key, Value::String(text))).collect();
    let container = Container::new(&Safetensors, &path, vec![file], tensors, metadata, budget)?;
    Ok(checksums::taken(container, base))
}

/// One tensor; its offset is still relative to the data.
fn tensor(name: String, entry: &Entry, budget: &Budget<'_>, blame: Blame<'_>) -> Result<Tensor> {
    let in_tensor = |e: crate::Error| e.in_tensor(&name);
    let encoding = encoding(&entry.dtype, blame).map_err(in_tensor)?;
    blame.within("dimensions", entry.shape.len() as u64, budget.dims)?;
    let absurd =
        || in_tensor(blame.malformed(format!("the shape {:?} of {encoding} is absurd", entry.shape)));
    let shape: Vec<usize> = entry
        .shape
        .iter()
        .map(|d| usize::try_from(*d))
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| absurd())?;
    let span = Tensor::span_bytes(encoding, &shape, None).ok_or_else(absurd)?;
    let (start, end) = entry.data_offsets;
    let Some(bytes) = end.checked_sub(start) else {
        return Err(in_tensor(blame.malformed(format!("the data ends ({end}) before it starts ({start})"))));
    };
    if bytes != span {
        let what = format!("{shape:?} {encoding} needs {span} bytes but has {bytes}");
        return Err(in_tensor(blame.malformed(what)));
    }
    Ok(Tensor {
        name,
        encoding,
        shape,
        strides: None,
        split: None,
        coded: None,
        file: 0,
        offset: start,
        bytes,
    })
}

fn encoding(dtype: &str, blame: Blame<'_>) -> Result<Encoding> {
    if let Some((_, encoding)) = DTYPES.iter().find(|(name, _)| *name == dtype) {
        return Ok(*encoding);
    }
    let help = if UNREAD.contains(&dtype) {
        "start from a file of another type, best from the original checkpoint"
    } else {
        "safetensors 0.8 knows no such dtype: if a newer version does, ask for it"
    };
    Err(blame.unsupported(format!("the dtype {:?}", crate::json::short(dtype)), help))
}

/// Checks that the tensors, in order of their offsets, cover `len` bytes of data without gaps or overlaps.
fn covered(tensors: &[Tensor], len: u64, blame: Blame<'_>) -> Result<()> {
    let mut end = 0;
    let mut previous = "";
    for t in tensors {
        if t.offset < end {
            let what = format!("the data overlaps that of {previous:?}");
            return Err(blame.malformed(what).in_tensor(&t.name));
        }
        if t.offset > end {
            let what = format!("{} bytes before the data belong to no tensor", t.offset - end);
            return Err(blame.malformed(what).in_tensor(&t.name));
        }
        end = t.offset.saturating_add(t.bytes);
        previous = &t.name;
    }
    if end > len {
        return Err(
            blame.malformed(format!("it is cut off: {end} bytes of data are announced, {len} are there"))
        );
    }
    if end < len {
        return Err(blame.malformed(format!("{} bytes at its end belong to no tensor", len - end)));
    }
    Ok(())
}

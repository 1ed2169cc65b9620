//! Reading GGUF.

use std::collections::BTreeSet;

use crate::array::{Array, Strings};
use crate::budget::Budget;
use crate::checksums;
use crate::container::{Container, Tensor};
use crate::cursor::Cursor;
use crate::error::{Blame, Result};
use crate::gguf::{ALIGNMENT, ALIGNMENT_KEY, Gguf, MAGIC, types};
use crate::mapped::Mapped;
use crate::value::{Metadata, Value, ValueKind};

pub(super) fn read(file: Mapped, budget: &Budget<'_>) -> Result<Container> {
    let path = file.path().to_owned();
    let blame = Blame { path: &path, format: "GGUF" };
    let mut cursor = Cursor::new(file.bytes(), blame);
    cursor.take(MAGIC.len() as u64, "the magic number")?;
    match cursor.u32("the version")? {
        2 | 3 => {}
        v if v.swap_bytes() <= 3 => {
            return Err(blame.unsupported(
                "big-endian numbers",
                "convert the file with llama.cpp's gguf_convert_endian.py",
            ));
        }
        v => {
            return Err(blame.unsupported(
                format!("version {v} of GGUF"),
                "versions 2 and 3 are read: make the file again with a current llama.cpp",
            ));
        }
    }
    let tensor_count = blame.within("tensors", cursor.u64("the number of tensors")?, budget.tensors)?;
    let key_count = blame.within("keys", cursor.u64("the number of keys")?, budget.values)?;

    let mut metadata = Metadata::new();
    let mut keys = BTreeSet::new();
    for _ in 0..key_count {
        let at = cursor.pos();
        advance(&cursor, budget)?;
        let key = name(&mut cursor, budget, "a key")?;
        budget.item::<(String, Value)>(key.len() as u64 + 32, blame)?;
        budget.entry(0, blame)?;
        if !keys.insert(key) {
            return Err(blame.malformed(format!("the key {key:?} stands twice")).at(at));
        }
        let kind = kind(&mut cursor)?;
        let value = value(&mut cursor, kind, budget)?;
        metadata.push((key.to_owned(), value));
    }
    let alignment = match metadata.iter().find(|(k, _)| k == ALIGNMENT_KEY) {
        None => ALIGNMENT,
        Some((_, value)) => match value.as_u64() {
            Some(a) if a.is_power_of_two() && a <= 1 << 20 => a,
            _ => return Err(blame.malformed(format!("{ALIGNMENT_KEY} is no power of two"))),
        },
    };

    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        advance(&cursor, budget)?;
        tensors.push(tensor(&mut cursor, budget)?);
    }
    advance(&cursor, budget)?;
    let base = cursor.pos().next_multiple_of(alignment);
    place(&mut tensors, base, alignment, blame)?;
    let container = Container::new(&Gguf, &path, vec![file], tensors, metadata, budget)?;
    Ok(checksums::taken(container, base))
}

/// Tells the budget how far the header was read, which must not be too far.
fn advance(cursor: &Cursor<'_>, budget: &Budget<'_>) -> Result<()> {
    budget.read_to(cursor.pos());
    cursor.blame.within("bytes of header", cursor.pos(), budget.header_bytes).map(drop)
}

/// One entry of the tensor table; its offset is still relative to the data base.
fn tensor(cursor: &mut Cursor<'_>, budget: &Budget<'_>) -> Result<Tensor> {
    let name = name(cursor, budget, "a tensor name")?.to_owned();
    let blame = cursor.blame;
    let in_tensor = |e: crate::Error| e.in_tensor(&name);
    let dims = cursor.u32("the number of dimensions")?;
    blame.within("dimensions", dims.into(), budget.dims)?;
    Tensor::reserve(name.len(), dims as usize, budget, blame)?;
    budget.item::<Tensor>(0, blame)?;
    let mut shape = Vec::new();
    for _ in 0..dims {
        let dim = cursor.u64("a dimension").map_err(in_tensor)?;
        let dim = usize::try_from(dim).map_err(|_| blame.malformed("a dimension is absurd"));
        shape.insert(0, dim.map_err(in_tensor)?);
    }
    let id = cursor.u32("the type").map_err(in_tensor)?;
    let offset = cursor.u64("the offset").map_err(in_tensor)?;
    let Some(encoding) = types::encoding_of(id) else {
        return Err(in_tensor(match types::name_of_unread(id) {
            Some(name) => blame.unsupported(
                format!("the type {name}"),
                "start from a file of another type, best from the original checkpoint",
            ),
            None => blame.malformed(format!("there is no type number {id}")),
        }));
    };
    let bytes = Tensor::span_bytes(encoding, &shape, None).ok_or_else(|| {
        in_tensor(blame.malformed(format!("the shape {shape:?} cannot be stored as {encoding}")))
    })?;
    Ok(Tensor { name, encoding, shape, strides: None, split: None, coded: None, file: 0, offset, bytes })
}

/// Makes the offsets absolute and checks that no two tensors overlap.
fn place(tensors: &mut [Tensor], base: u64, alignment: u64, blame: Blame<'_>) -> Result<()> {
    for t in tensors.iter_mut() {
        if !t.offset.is_multiple_of(alignment) {
            let what = format!("the offset {} is no multiple of {alignment}", t.offset);
            return Err(blame.malformed(what).in_tensor(&t.name));
        }
        t.offset = base
            .checked_add(t.offset)
            .ok_or_else(|| blame.malformed("the offset is absurd").in_tensor(&t.name))?;
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if pair[0].offset.saturating_add(pair[0].bytes) > pair[1].offset {
            let what = format!("the data overlaps that of {:?}", pair[0].name);
            return Err(blame.malformed(what).in_tensor(&pair[1].name).at(pair[1].offset));
        }
    }
    Ok(())
}

fn name<'a>(cursor: &mut Cursor<'a>, budget: &Budget<'_>, what: &str) -> Result<&'a str> {
    let len = cursor.u64(what)?;
    cursor.blame.within("bytes of name", len, budget.name_bytes)?;
    cursor.text(len, what)
}

fn kind(cursor: &mut Cursor<'_>) -> Result<ValueKind> {
    use ValueKind::*;
    const KINDS: [ValueKind; 13] = [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64];
    let at = cursor.pos();
    let id = cursor.u32("the kind of a value")?;
    KINDS
        .get(id as usize)
        .copied()
        .ok_or_else(|| cursor.blame.malformed(format!("there is no value kind {id}")).at(at))
}

fn value(cursor: &mut Cursor<'_>, kind: ValueKind, budget: &Budget<'_>) -> Result<Value> {
    let what = "a value";
    Ok(match kind {
        ValueKind::U8 => Value::U8(cursor.u8(what)?),
        ValueKind::I8 => Value::I8(cursor.u8(what)? as i8),
        ValueKind::U16 => Value::U16(cursor.u16(what)?),
        ValueKind::I16 => Value::I16(cursor.u16(what)? as i16),
        ValueKind::U32 => Value::U32(cursor.u32(what)?),
        ValueKind::I32 => Value::I32(cursor.u32(what)? as i32),
        ValueKind::F32 => Value::F32(f32::from_bits(cursor.u32(what)?)),
        ValueKind::U64 => Value::U64(cursor.u64(what)?),
        ValueKind::I64 => Value::I64(cursor.u64(what)? as i64),
        ValueKind::F64 => Value::F64(f64::from_bits(cursor.u64(what)?)),
        ValueKind::Bool => match cursor.u8(what)? {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => {
                return Err(cursor.blame.malformed(format!("{other} is no boolean")).at(cursor.pos() - 1));
            }
        },
        ValueKind::String => {
            let text = string(cursor, budget)?;
            advance(cursor, budget)?;
            budget.reserve(text.len() as u64, cursor.blame)?;
            Value::from(text)
        }
        ValueKind::Array => {
            let item = self::kind(cursor)?;
            let len = cursor.u64("an array")?;
            cursor.blame.within("array elements", len, budget.values)?;
            Value::Array(array(cursor, item, len as usize, budget)?)
        }
    })
}

fn string<'a>(cursor: &mut Cursor<'a>, budget: &Budget<'_>) -> Result<&'a str> {
    let len = cursor.u64("a string")?;
    // Before the text is looked at, which may lie beyond the limit.
    cursor.blame.within("bytes of header", cursor.pos().saturating_add(len), budget.header_bytes)?;
    cursor.text(len, "a string")
}

/// `len` values of one kind. The bytes of numbers are there before any memory is taken for them.
fn array(cursor: &mut Cursor<'_>, kind: ValueKind, len: usize, budget: &Budget<'_>) -> Result<Array> {
    let blame = cursor.blame;
    let mut bytes = |size: usize| {
        let bytes = cursor.take((len as u64).saturating_mul(size as u64), "an array")?;
        advance(cursor, budget)?; // nothing was touched yet
        budget.reserve((len as u64).saturating_mul(Array::item_bytes(kind)), blame)?;
        Ok::<_, crate::Error>(bytes)
    };
    Ok(match kind {
        ValueKind::U8 => Array::U8(bytes(1)?.to_vec()),
        ValueKind::I8 => Array::I8(bytes(1)?.iter().map(|b| b.cast_signed()).collect()),
        ValueKind::U16 => Array::U16(numbers(bytes(2)?, u16::from_le_bytes)),
        ValueKind::I16 => Array::I16(numbers(bytes(2)?, i16::from_le_bytes)),
        ValueKind::U32 => Array::U32(numbers(bytes(4)?, u32::from_le_bytes)),
        ValueKind::I32 => Array::I32(numbers(bytes(4)?, i32::from_le_bytes)),
        ValueKind::F32 => Array::F32(numbers(bytes(4)?, f32::from_le_bytes)),
        ValueKind::U64 => Array::U64(numbers(bytes(8)?, u64::from_le_bytes)),
        ValueKind::I64 => Array::I64(numbers(bytes(8)?, i64::from_le_bytes)),
        ValueKind::F64 => Array::F64(numbers(bytes(8)?, f64::from_le_bytes)),
        ValueKind::Bool => {
            let bytes = bytes(1)?;
            if let Some(other) = bytes.iter().find(|b| **b > 1) {
                return Err(blame.malformed(format!("{other} is no boolean")).at(cursor.pos()));
            }
            Array::Bool(bytes.iter().map(|b| *b == 1).collect())
        }
        ValueKind::String => {
            // Twice: first to know how much there is.
            let (mut ahead, mut text_bytes) = (cursor.clone(), 0);
            for _ in 0..len {
                text_bytes += string(&mut ahead, budget)?.len();
                advance(&ahead, budget)?;
            }
            let ends = (len as u64).saturating_mul(Array::item_bytes(kind));
            budget.reserve(ends.saturating_add(text_bytes as u64), blame)?;
            let mut texts = Strings::with_capacity(len, text_bytes);
            for _ in 0..len {
                texts.push(string(cursor, budget)?);
            }
            Array::String(texts)
        }
        ValueKind::Array => return Err(blame.unsupported("arrays of arrays", "no RWKV file has them")),
    })
}

fn numbers<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|b| number(*b)).collect()
}

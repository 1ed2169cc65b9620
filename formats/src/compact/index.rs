//! The index: JSON that says what the sections are.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Blame, Result};
use crate::value::{Metadata, Value, ValueKind};

/// The whole index.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Index {
    /// What a reader must know besides this version.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Keys in order.
    pub metadata: Vec<(String, Typed)>,
    /// Sections in order.
    pub sections: Vec<Entry>,
}

/// What of an index every reader understands.
#[derive(Debug, Deserialize)]
pub(super) struct Needs {
    /// As [`Index::requires`].
    #[serde(default)]
    pub requires: Vec<String>,
}

/// A section.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Entry {
    pub name: String,
    pub shape: Vec<u64>,
    pub values: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coding: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile_rows: Option<u64>,
    pub offset: u64,
    pub bytes: u64,
}

impl Entry {
    /// Which of its bytes are looked at when the file is opened: all of a zstd frame, or the lengths of tiles.
    pub fn looked_at(&self) -> Range<u64> {
        let bytes = match (&self.coding, self.tile_rows) {
            (None, _) => 0,
            (Some(_), None) => self.bytes,
            (Some(_), Some(rows)) => {
                let rows_of_all = self.shape.iter().rev().skip(1).fold(1, |n: u64, d| n.saturating_mul(*d));
                self.bytes.min(rows_of_all.div_ceil(rows.max(1)).saturating_add(1).saturating_mul(4))
            }
        };
        self.offset..self.offset.saturating_add(bytes)
    }
}

/// A value and its type.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Typed {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Kind, Vec<serde_json::Value>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// The type of the values of an array.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    U64,
    I64,
    F64,
}

/// Pairs of the kinds here and in metadata.
#[rustfmt::skip]
const KINDS: [(Kind, ValueKind); 12] = [
    (Kind::U8, ValueKind::U8),     (Kind::I8, ValueKind::I8),     (Kind::U16, ValueKind::U16),
    (Kind::I16, ValueKind::I16),   (Kind::U32, ValueKind::U32),   (Kind::I32, ValueKind::I32),
    (Kind::F32, ValueKind::F32),   (Kind::Bool, ValueKind::Bool), (Kind::String, ValueKind::String),
    (Kind::U64, ValueKind::U64),   (Kind::I64, ValueKind::I64),   (Kind::F64, ValueKind::F64),
];

/// The keys for a file; `None` if a value is an array of arrays, or of several types, or a number that JSON has not.
pub(super) fn typed(metadata: &Metadata) -> Option<Vec<(String, Typed)>> {
    metadata.iter().map(|(key, value)| Some((key.clone(), to_typed(value)?))).collect()
}

fn to_typed(value: &Value) -> Option<Typed> {
    Some(match value {
        Value::U8(v) => Typed::U8(*v),
        Value::I8(v) => Typed::I8(*v),
        Value::U16(v) => Typed::U16(*v),
        Value::I16(v) => Typed::I16(*v),
        Value::U32(v) => Typed::U32(*v),
        Value::I32(v) => Typed::I32(*v),
        Value::U64(v) => Typed::U64(*v),
        Value::I64(v) => Typed::I64(*v),
        Value::F32(v) if v.is_finite() => Typed::F32(*v),
        Value::F64(v) if v.is_finite() => Typed::F64(*v),
        Value::F32(_) | Value::F64(_) => return None,
        Value::Bool(v) => Typed::Bool(*v),
        Value::String(v) => Typed::String(v.clone()),
        Value::Array(of, items) => {
            let (kind, _) = KINDS.iter().find(|(_, k)| k == of)?;
            let plain = |item: &Value| plain(item).filter(|_| item.kind() == *of);
            Typed::Array(*kind, items.iter().map(plain).collect::<Option<_>>()?)
        }
    })
}

fn plain(value: &Value) -> Option<serde_json::Value> {
    Some(match value {
        Value::Bool(v) => (*v).into(),
        Value::String(v) => v.as_str().into(),
        Value::F32(v) if v.is_finite() => f64::from(*v).into(),
        Value::F64(v) if v.is_finite() => (*v).into(),
        Value::I8(v) => (*v).into(),
        Value::I16(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        other => other.as_u64()?.into(),
    })
}

/// The metadata that the keys of a file are.
///
/// # Errors
/// If an item of an array is not of its type.
pub(super) fn metadata(keys: Vec<(String, Typed)>, blame: Blame<'_>) -> Result<Metadata> {
    let value = |(key, typed): (String, Typed)| match from_typed(typed) {
        Some(value) => Ok((key, value)),
        None => {
            let what = format!("the array {:?} holds values of another type", crate::json::short(&key));
            Err(blame.malformed(what))
        }
    };
    keys.into_iter().map(value).collect()
}

fn from_typed(typed: Typed) -> Option<Value> {
    Some(match typed {
        Typed::U8(v) => Value::U8(v),
        Typed::I8(v) => Value::I8(v),
        Typed::U16(v) => Value::U16(v),
        Typed::I16(v) => Value::I16(v),
        Typed::U32(v) => Value::U32(v),
        Typed::I32(v) => Value::I32(v),
        Typed::U64(v) => Value::U64(v),
        Typed::I64(v) => Value::I64(v),
        Typed::F32(v) => Value::F32(v),
        Typed::F64(v) => Value::F64(v),
        Typed::Bool(v) => Value::Bool(v),
        Typed::String(v) => Value::String(v),
        Typed::Array(kind, items) => {
            let of = KINDS.iter().find(|(k, _)| *k as u8 == kind as u8)?.1;
            Value::Array(of, items.into_iter().map(|item| of_kind(of, item)).collect::<Option<_>>()?)
        }
    })
}

fn of_kind(kind: ValueKind, item: serde_json::Value) -> Option<Value> {
    let (unsigned, signed) = (item.as_u64(), item.as_i64());
    Some(match kind {
        ValueKind::U8 => Value::U8(unsigned?.try_into().ok()?),
        ValueKind::U16 => Value::U16(unsigned?.try_into().ok()?),
        ValueKind::U32 => Value::U32(unsigned?.try_into().ok()?),
        ValueKind::U64 => Value::U64(unsigned?),
        ValueKind::I8 => Value::I8(signed?.try_into().ok()?),
        ValueKind::I16 => Value::I16(signed?.try_into().ok()?),
        ValueKind::I32 => Value::I32(signed?.try_into().ok()?),
        ValueKind::I64 => Value::I64(signed?),
        ValueKind::F32 => Value::F32(item.as_f64()? as f32),
        ValueKind::F64 => Value::F64(item.as_f64()?),
        ValueKind::Bool => Value::Bool(item.as_bool()?),
        ValueKind::String => match item {
            serde_json::Value::String(text) => Value::String(text),
            _ => return None,
        },
        ValueKind::Array => return None,
    })
}

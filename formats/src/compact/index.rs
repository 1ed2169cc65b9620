//! The index: JSON that says what the sections are.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Error as _, SeqAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::array::Array;
use crate::value::{Metadata, Value, ValueKind};

/// The whole index.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Index {
    /// Features that a reader must know besides this version.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Keys in order.
    pub metadata: Vec<(String, Typed)>,
    /// Sections in order.
    pub sections: Vec<Entry>,
}

/// Part of an index that every reader understands.
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
    /// Range of its bytes that is looked at when the file is opened: all of a zstd frame, or the lengths of tiles.
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
    Array(Items),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array, which is a pair of the kind and the values in JSON.
#[derive(Debug)]
pub(super) struct Items(Array);

impl Serialize for Items {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Items(array) = self;
        let kind = KINDS.iter().find(|(_, kind)| *kind == array.kind()).map(|(kind, _)| kind);
        let values: Vec<serde_json::Value> = array.iter().filter_map(|item| plain(&item)).collect();
        (kind.ok_or_else(|| S::Error::custom("an array of arrays"))?, values).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Items, D::Error> {
        struct Pair;

        impl<'de> Visitor<'de> for Pair {
            type Value = Array;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a kind and values of it")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> std::result::Result<Array, A::Error> {
                let kind: Kind = pair.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                let array = KINDS.iter().find(|(k, _)| *k == kind).and_then(|(_, kind)| Array::empty(*kind));
                let array = array.ok_or_else(|| A::Error::custom("an array of arrays"))?;
                pair.next_element_seed(Fill(array))?.ok_or_else(|| A::Error::invalid_length(1, &self))
            }
        }

        /// Appends the values of a list to an array, one at a time.
        struct Fill(Array);

        impl<'de> DeserializeSeed<'de> for Fill {
            type Value = Array;

            fn deserialize<D: Deserializer<'de>>(self, list: D) -> std::result::Result<Array, D::Error> {
                list.deserialize_seq(self)
            }
        }

        impl<'de> Visitor<'de> for Fill {
            type Value = Array;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Array, A::Error> {
                let Fill(mut array) = self;
                while let Some(item) = list.next_element::<serde_json::Value>()? {
                    if !of_kind(array.kind(), item).is_some_and(|value| array.push(value)) {
                        return Err(A::Error::custom("an array holds values of another type"));
                    }
                }
                Ok(array)
            }
        }

        deserializer.deserialize_tuple(2, Pair).map(Items)
    }
}

/// The type of the values of an array.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
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
        Value::Array(items) => {
            let has_form = items.iter().all(|item| plain(&item).is_some());
            Typed::Array(Items(has_form.then(|| items.clone())?))
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
pub(super) fn metadata(keys: Vec<(String, Typed)>) -> Metadata {
    keys.into_iter().map(|(key, typed)| (key, from_typed(typed))).collect()
}

fn from_typed(typed: Typed) -> Value {
    match typed {
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
        Typed::Array(Items(array)) => Value::Array(array),
    }
}

/// A value of an array; `None` if it is of another kind.
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

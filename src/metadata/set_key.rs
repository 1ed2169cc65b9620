//! A key of a GGUF file as a user sets it: `KEY=TYPE:VALUE`.

use std::fmt;
use std::str::FromStr;

use formats::{Array, Value, ValueKind};
use serde::{Deserialize, Serialize};

/// Longest key that GGUF allows.
const MAX_KEY_BYTES: usize = (1 << 16) - 1;

/// The types and their names.
const TYPES: [(&str, ValueKind); 12] = [
    ("u8", ValueKind::U8),
    ("i8", ValueKind::I8),
    ("u16", ValueKind::U16),
    ("i16", ValueKind::I16),
    ("u32", ValueKind::U32),
    ("i32", ValueKind::I32),
    ("u64", ValueKind::U64),
    ("i64", ValueKind::I64),
    ("f32", ValueKind::F32),
    ("f64", ValueKind::F64),
    ("bool", ValueKind::Bool),
    ("str", ValueKind::String),
];

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct SetKey {
    /// The key: `tokenizer.ggml.eos_token_id`.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// The two as they were written.
    text: String,
}

impl FromStr for SetKey {
    type Err = String;

    fn from_str(text: &str) -> Result<SetKey, String> {
        let (key, rest) = text.split_once('=').ok_or("give KEY=TYPE:VALUE")?;
        let (name, value) = rest.split_once(':').ok_or("give the type before the value: KEY=u32:24")?;
        if key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(|c| c.is_control() || c == ' ') {
            return Err(format!("{key:?} is no key"));
        }
        let (name, is_array) = match name.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let kind = TYPES.iter().find(|(n, _)| *n == name).map(|(_, kind)| *kind);
        let kind = kind.ok_or_else(|| {
            let names = TYPES.map(|(name, _)| name).join(", ");
            format!("there is no type {name:?}; the types are {names}, and [] behind one for a JSON array")
        })?;
        let value = if is_array { array(kind, value)? } else { scalar(kind, value)? };
        Ok(SetKey { key: key.to_owned(), value, text: text.to_owned() })
    }
}

impl TryFrom<String> for SetKey {
    type Error = String;

    fn try_from(text: String) -> Result<SetKey, String> {
        text.parse()
    }
}

impl From<SetKey> for String {
    fn from(set: SetKey) -> String {
        set.text
    }
}

impl fmt::Display for SetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn scalar(kind: ValueKind, text: &str) -> Result<Value, String> {
    fn number<T: FromStr>(text: &str, value: fn(T) -> Value) -> Option<Value> {
        text.parse().ok().map(value)
    }
    // A number too large for the type is refused; infinity must be asked for by its name.
    fn float<T: Copy>(text: &str, rounded: fn(f64) -> T, is_finite: fn(T) -> bool) -> Option<T> {
        let value = rounded(text.parse().ok()?);
        (is_finite(value) || text.contains(['n', 'N'])).then_some(value)
    }
    let value = match kind {
        ValueKind::U8 => number(text, Value::U8),
        ValueKind::I8 => number(text, Value::I8),
        ValueKind::U16 => number(text, Value::U16),
        ValueKind::I16 => number(text, Value::I16),
        ValueKind::U32 => number(text, Value::U32),
        ValueKind::I32 => number(text, Value::I32),
        ValueKind::U64 => number(text, Value::U64),
        ValueKind::I64 => number(text, Value::I64),
        ValueKind::F32 => float(text, |v| v as f32, f32::is_finite).map(Value::F32),
        ValueKind::F64 => float(text, |v| v, f64::is_finite).map(Value::F64),
        ValueKind::Bool => number(text, Value::Bool),
        ValueKind::String => Some(Value::from(text)),
        ValueKind::Array => None,
    };
    let name = TYPES.iter().find(|(_, k)| *k == kind).map_or("array", |(name, _)| name);
    value.ok_or_else(|| format!("{text:?} is no {name}"))
}

fn array(kind: ValueKind, text: &str) -> Result<Value, String> {
    let items: Vec<serde_json::Value> =
        serde_json::from_str(text).map_err(|e| format!("{text:?} is no JSON array: {e}"))?;
    let items = items.iter().map(|item| match item {
        serde_json::Value::String(text) if kind == ValueKind::String => Ok(Value::from(text.as_str())),
        other if kind != ValueKind::String => scalar(kind, &other.to_string()),
        other => Err(format!("{other} is no text")),
    });
    let items: Vec<Value> = items.collect::<Result<_, _>>()?;
    Array::of(kind, items).map(Value::Array).ok_or_else(|| "there are no arrays of arrays".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_types_are_read() {
        for (text, key, value) in [
            ("a.b=u32:24", "a.b", Value::U32(24)),
            ("a=i8:-3", "a", Value::I8(-3)),
            ("a=f32:1e-5", "a", Value::F32(1e-5)),
            ("a=f64:-inf", "a", Value::F64(f64::NEG_INFINITY)),
            ("a=bool:true", "a", Value::Bool(true)),
            ("a=str:x=y:z", "a", Value::from("x=y:z")),
            ("a=str:", "a", Value::from("")),
            ("a=u16[]:[1, 2]", "a", Value::Array(Array::from(vec![1u16, 2]))),
            (r#"a=str[]:["x", ""]"#, "a", Value::strings(["x".to_owned(), String::new()])),
        ] {
            let set: SetKey = text.parse().unwrap();
            assert_eq!((set.key.as_str(), &set.value), (key, &value), "{text}");
            assert_eq!(String::from(set), text);
        }
        for (text, why) in [
            ("a", "give KEY=TYPE:VALUE"),
            ("a=24", "give the type before the value"),
            ("=u32:1", "is no key"),
            ("a b=u32:1", "is no key"),
            ("a=int:1", "there is no type \"int\""),
            ("a=u8:256", "\"256\" is no u8"),
            ("a=bool:1", "\"1\" is no bool"),
            ("a=f32:1e99", "\"1e99\" is no f32"),
            ("a=f64:1e999", "\"1e999\" is no f64"),
            ("a=u8[]:1", "is no JSON array"),
            ("a=u8[]:[1, 256]", "\"256\" is no u8"),
            ("a=str[]:[1]", "1 is no text"),
        ] {
            assert!(text.parse::<SetKey>().unwrap_err().contains(why), "{text}");
        }
    }
}

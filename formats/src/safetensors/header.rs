//! The JSON header, parsed strictly.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use crate::budget::Budget;
use crate::error::{Blame, Error, Result};
use crate::json::{self, Members};
use crate::safetensors::{LENGTH_BYTES, METADATA};

/// Most entries of metadata: each takes some hundred bytes in the two parsers, however short it is.
const MOST_METADATA: usize = 1 << 16;

/// Header entry of one tensor.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub dtype: String,
    pub shape: Vec<u64>,
    pub data_offsets: (u64, u64),
}

/// The header in file order. Names are unique and within the budget.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub metadata: Vec<(String, String)>,
    pub tensors: Vec<(String, Entry)>,
}

/// Parses the header: `bytes` without the length in front.
pub(super) fn parse(bytes: &[u8], budget: &Budget<'_>, blame: Blame<'_>) -> Result<Header> {
    let mut parse = Parse { budget, blame, header: Header::default(), current: None, over: None };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = parse.deserialize(&mut json).and_then(|()| json.end());
    let Parse { header, current, over, .. } = parse;
    if let Err(error) = parsed {
        let broken = blame.malformed(format!("the header is broken: {}", json::message(&error)));
        let broken = broken.at(LENGTH_BYTES + position(bytes, error.line(), error.column()));
        return Err(over.unwrap_or(match current {
            Some(name) => broken.in_tensor(&name),
            None => broken,
        }));
    }
    if let Some(name) = json::twice(header.tensors.iter().map(|(name, _)| name.as_str())) {
        return Err(blame.malformed("two tensors have the same name").in_tensor(name));
    }
    Ok(header)
}

/// The byte that a line and a column (both from 1) stand for.
fn position(bytes: &[u8], line: usize, column: usize) -> u64 {
    let before: usize =
        bytes.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    before as u64 + column.saturating_sub(1) as u64
}

/// The parser's state: what was read, where it stands, and the limit that stopped it.
struct Parse<'a> {
    budget: &'a Budget<'a>,
    blame: Blame<'a>,
    header: Header,
    current: Option<String>,
    over: Option<Error>,
}

impl<'de> DeserializeSeed<'de> for &mut Parse<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Parse<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                let members: Option<Members<String, MOST_METADATA>> = map.next_value()?;
                if metadata.replace(members).is_some() {
                    return Err(A::Error::custom("\"__metadata__\" stands twice"));
                }
                continue;
            }
            let count = self.header.tensors.len() as u64 + 1;
            let within = self
                .blame
                .within("tensors", count, self.budget.tensors)
                .and_then(|_| self.blame.within("bytes of name", name.len() as u64, self.budget.name_bytes));
            if let Err(error) = within {
                self.over = Some(error);
                return Err(A::Error::custom("over a limit"));
            }
            self.current = Some(name.clone());
            let entry: Entry = map.next_value()?;
            self.current = None;
            self.header.tensors.push((name, entry));
        }
        self.header.metadata = metadata.flatten().map(|m| m.0).unwrap_or_default();
        Ok(())
    }
}

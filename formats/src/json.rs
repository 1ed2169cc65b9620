//! JSON as it stands in headers and beside models: bounded, and strict about names that stand twice.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::budget::Budget;
use crate::error::{Blame, Error, Result};
use crate::mapped::Mapped;

/// The members of a JSON object in file order; no two have the same name.
///
/// A map would keep the last of two and say nothing, so that two readers may see two different files.
#[derive(Debug)]
pub(crate) struct Members<T, const MOST: usize = { usize::MAX }>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Members<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Collect<T, const MOST: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Collect<T, MOST> {
            type Value = Members<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Members<T, MOST>, A::Error> {
                // Not reserved ahead: every member takes bytes of the file, so growth is bounded by it.
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, T>()? {
                    if members.len() == MOST {
                        return Err(A::Error::custom(format_args!("more than {MOST} members")));
                    }
                    members.push(member);
                }
                match twice(members.iter().map(|(name, _)| name.as_str())) {
                    Some(name) => Err(A::Error::custom(format_args!("{:?} stands twice", short(name)))),
                    None => Ok(Members(members)),
                }
            }
        }

        deserializer.deserialize_map(Collect::<T, MOST>(PhantomData))
    }
}

/// The first name that stands there a second time.
pub(crate) fn twice<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.find(|name| !seen.insert(*name))
}

/// The start of a name, for use in messages.
pub(crate) fn short(name: &str) -> String {
    let mut chars = name.chars();
    let mut text: String = chars.by_ref().take(100).collect();
    if chars.next().is_some() {
        text.push('…');
    }
    text
}

/// The file's text without the mark that some Windows editors put in front.
pub(crate) fn text<'a>(file: &'a Mapped, what: &'static str, limit: u64) -> Result<&'a [u8]> {
    let bytes = file.bytes();
    let blame = Blame { path: file.path(), format: "JSON" };
    blame.within(what, bytes.len() as u64, limit)?;
    Ok(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

/// Most bytes of memory that serde_json's own type takes for a value, its name and its place in a growing list.
pub(crate) const ANY_VALUE: u64 = 3 * size_of::<serde_json::Value>() as u64 + 96;

/// Draws from the budget what parsing `text` can take, if each value takes at most so many bytes beside the text itself.
///
/// The parser is another crate's and draws from no budget. But every value of JSON follows a comma or an opening bracket,
/// so that counting those bounds the values before there is any.
pub(crate) fn reserve(text: &[u8], value_bytes: u64, budget: &Budget<'_>, blame: Blame<'_>) -> Result<()> {
    let values = text.iter().filter(|b| matches!(b, b',' | b'[' | b'{')).count() as u64;
    budget.reserve(values.saturating_mul(value_bytes).saturating_add(text.len() as u64), blame)
}

/// Reads a whole file of JSON; the error names the line and the column.
pub(crate) fn read(
    file: &Mapped,
    what: &'static str,
    limit: u64,
    budget: &Budget<'_>,
) -> Result<serde_json::Map<String, serde_json::Value>> {
    let blame = Blame { path: file.path(), format: "JSON" };
    let text = text(file, what, limit)?;
    budget.next_file();
    budget.read_to(text.len() as u64);
    reserve(text, ANY_VALUE, budget, blame)?;
    serde_json::from_slice(text).map_err(|e| broken(&e, blame))
}

/// Error of serde, as this crate's error.
pub(crate) fn broken(error: &serde_json::Error, blame: Blame<'_>) -> Error {
    blame.malformed(message(error))
}

/// Message of serde with the line and the column, without the text of a file that it may cite in full.
pub(crate) fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(200) {
        Some((cut, _)) => {
            format!("{}… at line {} column {}", &text[..cut], error.line(), error.column())
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_stand_once() {
        let members: Members<u32> = serde_json::from_str(r#"{"b": 1, "a": 2}"#).unwrap();
        assert_eq!(members.0, [("b".to_owned(), 1), ("a".to_owned(), 2)]);
        let error = serde_json::from_str::<Members<u32>>(r#"{"b": 1, "\u0062": 2}"#).unwrap_err();
        assert!(error.to_string().starts_with("\"b\" stands twice"), "{error}");
    }

    #[test]
    fn long_names_are_shortened_in_messages() {
        assert_eq!(short("abc"), "abc");
        assert_eq!(short(&"é".repeat(1000)).chars().count(), 101);
    }
}

//! The three formats of vocabulary files.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{Token, literal};

/// Most ids that a vocabulary may have.
const LIMIT: usize = 1 << 20;

/// Reads any of the formats, found by the first character.
///
/// # Errors
/// A sentence about the first line that cannot be understood.
pub(super) fn any(text: &[u8]) -> Result<Vec<Token>, String> {
    match text.trim_ascii_start().first() {
        Some(b'{') => json(text),
        Some(b'b' | b'\'' | b'"') => literals(text),
        Some(_) => lines(text),
        None => Err("it is empty".to_owned()),
    }
}

/// RWKV's text format: `<id> <python literal> <length in bytes>`, split at the first and the last space.
/// An id that is not listed is unused, but id 0 ends a text.
pub(super) fn lines(text: &[u8]) -> Result<Vec<Token>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
    let mut tokens = Tokens::default();
    for (n, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let mut entry = || -> Result<(), String> {
            let (id, rest) = line.split_once(' ').ok_or("it has no space")?;
            let (token, length) = rest.rsplit_once(' ').ok_or("it has one space only")?;
            let id = number(id)?;
            let length: usize = length.parse().map_err(|_| format!("{length:?} is no length"))?;
            let bytes = literal::bytes(token)?;
            if bytes.len() != length {
                return Err(format!("the token has {} bytes, not {length}", bytes.len()));
            }
            tokens.put(id, bytes)
        };
        entry().map_err(|why| format!("line {}: {why}", n + 1))?;
    }
    tokens.finish()
}

/// Hugging Face's `vocab.txt`: the literal of id n on line n; line 0 is the end token `<s>`.
fn literals(text: &[u8]) -> Result<Vec<Token>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
    let mut tokens = Tokens::default();
    for (id, line) in text.lines().enumerate() {
        let bytes = literal::bytes(line.trim());
        let put = |bytes: Vec<u8>| match id {
            0 if bytes == b"<s>" => Ok(()),
            _ => tokens.put(id as u64, bytes),
        };
        bytes.and_then(put).map_err(|why| format!("line {}: {why}", id + 1))?;
    }
    tokens.finish()
}

/// web-rwkv's JSON: `{"id": "text"}`, or `{"id": [byte, ...]}` where the bytes are no text.
fn json(text: &[u8]) -> Result<Vec<Token>, String> {
    let Json(tokens) =
        serde_json::from_slice(text).map_err(|e| format!("it is no vocabulary in JSON: {e}"))?;
    tokens.finish()
}

/// The id that a text spells.
fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no id"))
}

/// Tokens by their ids, as far as they were read.
#[derive(Default)]
struct Tokens(Vec<Token>);

impl Tokens {
    /// Puts a token at its id.
    fn put(&mut self, id: u64, bytes: Vec<u8>) -> Result<(), String> {
        let Tokens(tokens) = self;
        let at = usize::try_from(id).ok().filter(|at| *at < LIMIT);
        let at = at.ok_or_else(|| format!("the id {id} exceeds the limit of {LIMIT} ids"))?;
        if bytes.is_empty() {
            return Err(format!("the token of id {id} is empty"));
        }
        if tokens.len() <= at {
            tokens.resize(at + 1, Token::Unused);
        }
        match tokens.get_mut(at) {
            Some(place @ Token::Unused) => *place = Token::Bytes(bytes),
            _ => return Err(format!("the id {id} stands twice")),
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Token>, String> {
        let Tokens(mut tokens) = self;
        match tokens.first_mut() {
            Some(first @ Token::Unused) => *first = Token::End,
            Some(_) => {}
            None => return Err("it has no tokens".to_owned()),
        }
        Ok(tokens)
    }
}

/// A vocabulary in JSON, taken apart while it is parsed.
struct Json(Tokens);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut tokens = Tokens::default();
                while let Some(id) = map.next_key::<String>()? {
                    if ["version", "added_tokens", "model"].contains(&id.as_str()) {
                        let why = "it is a tokenizer.json, and this takes a list of byte strings only";
                        return Err(A::Error::custom(why));
                    }
                    let id = number(&id).map_err(A::Error::custom)?;
                    let Bytes(bytes) = map.next_value()?;
                    tokens.put(id, bytes).map_err(A::Error::custom)?;
                }
                Ok(Json(tokens))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A token in JSON.
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of bytes")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                Ok(Bytes(text.as_bytes().to_vec()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bytes, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element::<u8>()? {
                    bytes.push(byte);
                }
                Ok(Bytes(bytes))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_formats_agree() {
        let text = b"1 'a' 1\r\n2 b'\\x80' 1\n4 ' b' 2";
        let expected = Ok(vec![
            Token::End,
            Token::Bytes(b"a".to_vec()),
            Token::Bytes(b"\x80".to_vec()),
            Token::Unused,
            Token::Bytes(b" b".to_vec()),
        ]);
        assert_eq!(any(text), expected);
        assert_eq!(any(br#"{"1": "a", "2": [128], "4": " b"}"#), expected);
        let listed = b"b'<s>'\nb'a'\nb'\\x80'\nb'c'\nb' b'\n";
        assert_eq!(any(listed).unwrap()[4], Token::Bytes(b" b".to_vec()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, why) in [
            (&b"1 'a' 1\n2 'b' 2"[..], "line 2: the token has 1 bytes, not 2"),
            (b"x 'a' 1", "line 1: \"x\" is no id"),
            (b"1 a 1", "line 1: it is not quoted"),
            (b"1 'a' 1\n1 'b' 1", "line 2: the id 1 stands twice"),
            (b"99999999 'a' 1", "line 1: the id 99999999 exceeds the limit of 1048576 ids"),
            // case vocab-overflow
            (
                b"1 'a' 1\n2 'b' 1\n18446744073709551615 'c' 1",
                "line 3: the id 18446744073709551615 exceeds the limit of 1048576 ids",
            ),
            (b"18446744073709551616 'a' 1", "line 1: \"18446744073709551616\" is no id"),
            (b"1 'a' 18446744073709551615", "line 1: the token has 1 bytes, not 18446744073709551615"),
            (b"1048576 'a' 1", "line 1: the id 1048576 exceeds the limit of 1048576 ids"),
            (b"  ", "it is empty"),
            (b"1 '' 0", "line 1: the token of id 1 is empty"),
        ] {
            assert_eq!(any(text), Err(why.to_owned()));
        }
    }

    #[test]
    fn what_is_wrong_in_json_is_said_with_its_line() {
        for (text, why) in [
            ("{\n\"1\": 7}", "invalid type: integer `7`, expected text or a list of bytes at line 2"),
            ("{\"1\": [256]}", "invalid value: integer `256`"),
            ("{\"x\": \"a\"}", "\"x\" is no id at line 1"),
            ("{\"1\": \"a\",\n\"1\": \"b\"}", "the id 1 stands twice at line 2"),
            ("{\"model\": {}}", "it is a tokenizer.json"),
            ("{}", "it has no tokens"),
            // case vocab-overflow
            (
                "{\"18446744073709551615\": \"a\"}",
                "the id 18446744073709551615 exceeds the limit of 1048576 ids at line 1",
            ),
        ] {
            let said = any(text.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}

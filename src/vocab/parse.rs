//! The three formats of vocabulary files.

use super::{Token, literal};

/// Most ids that a vocabulary may have.
const LIMIT: usize = 1 << 20;

/// The id that a text spells.
fn id(text: &str) -> Result<usize, String> {
    let id: u64 = text.parse().map_err(|_| format!("{text:?} is no id"))?;
    usize::try_from(id)
        .ok()
        .filter(|id| *id < LIMIT)
        .ok_or_else(|| format!("the id {id} exceeds the limit of {LIMIT} ids"))
}

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
    let mut entries = Vec::new();
    for (n, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let entry = || -> Result<(usize, Vec<u8>), String> {
            let (number, rest) = line.split_once(' ').ok_or("it has no space")?;
            let (token, length) = rest.rsplit_once(' ').ok_or("it has one space only")?;
            let id = id(number)?;
            let length: usize = length.parse().map_err(|_| format!("{length:?} is no length"))?;
            let bytes = literal::bytes(token)?;
            if bytes.len() != length {
                return Err(format!("the token has {} bytes, not {length}", bytes.len()));
            }
            Ok((id, bytes))
        };
        entries.push(entry().map_err(|why| format!("line {}: {why}", n + 1))?);
    }
    collect(entries)
}

/// Hugging Face's `vocab.txt`: the literal of id n on line n; line 0 is the end token `<s>`.
fn literals(text: &[u8]) -> Result<Vec<Token>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
    let mut entries = Vec::new();
    for (id, line) in text.lines().enumerate() {
        if id >= LIMIT {
            return Err(format!("it has more than {LIMIT} lines"));
        }
        let bytes = literal::bytes(line.trim()).map_err(|why| format!("line {}: {why}", id + 1))?;
        if !(id == 0 && bytes == b"<s>") {
            entries.push((id, bytes));
        }
    }
    collect(entries)
}

/// web-rwkv's JSON: `{"id": "text"}`, or `{"id": [byte, ...]}` where the bytes are no text.
fn json(text: &[u8]) -> Result<Vec<Token>, String> {
    let map: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(|e| format!("it is no JSON object: {e}"))?;
    if map.contains_key("model") {
        return Err("it is a tokenizer.json, and this takes a list of byte strings only".to_owned());
    }
    let mut entries = Vec::new();
    for (key, token) in map {
        let number = id(&key)?;
        let bytes = match &token {
            serde_json::Value::String(s) => Some(s.clone().into_bytes()),
            serde_json::Value::Array(items) => {
                items.iter().map(|b| b.as_u64().and_then(|b| u8::try_from(b).ok())).collect()
            }
            _ => None,
        };
        entries.push((number, bytes.ok_or_else(|| format!("id {key} is neither text nor a list of bytes"))?));
    }
    collect(entries)
}

/// Puts every token at its id, which is below [`LIMIT`].
fn collect(entries: Vec<(usize, Vec<u8>)>) -> Result<Vec<Token>, String> {
    let last = entries.iter().map(|(id, _)| *id).max().ok_or("it has no tokens")?;
    let mut tokens = vec![Token::Unused; last + 1];
    for (id, bytes) in entries {
        if bytes.is_empty() {
            return Err(format!("the token of id {id} is empty"));
        }
        if tokens[id] != Token::Unused {
            return Err(format!("the id {id} stands twice"));
        }
        tokens[id] = Token::Bytes(bytes);
    }
    if tokens[0] == Token::Unused {
        tokens[0] = Token::End;
    }
    Ok(tokens)
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
            (b"1 'a' 1\n1 'b' 1", "the id 1 stands twice"),
            (b"99999999 'a' 1", "line 1: the id 99999999 exceeds the limit of 1048576 ids"),
            // case vocab-overflow
            (
                b"1 'a' 1\n2 'b' 1\n18446744073709551615 'c' 1",
                "line 3: the id 18446744073709551615 exceeds the limit of 1048576 ids",
            ),
            (
                b"{\"18446744073709551615\": \"a\"}",
                "the id 18446744073709551615 exceeds the limit of 1048576 ids",
            ),
            (b"18446744073709551616 'a' 1", "line 1: \"18446744073709551616\" is no id"),
            (b"1 'a' 18446744073709551615", "line 1: the token has 1 bytes, not 18446744073709551615"),
            (b"1048576 'a' 1", "line 1: the id 1048576 exceeds the limit of 1048576 ids"),
            (b"{\"1\": 7}", "id 1 is neither text nor a list of bytes"),
            (b"  ", "it is empty"),
            (b"1 '' 0", "the token of id 1 is empty"),
        ] {
            assert_eq!(any(text), Err(why.to_owned()));
        }
    }
}

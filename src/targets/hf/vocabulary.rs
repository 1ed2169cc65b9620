//! A vocabulary as the text file that the code of RWKV's tokenizers reads.
//!
//! ```text
//! 65 'A' 1           id, Python literal, number of bytes
//! 129 b'\x80' 1      what is no UTF-8 is a literal of bytes
//! ```
//!
//! The end token (id 0) has no line, unused ids neither. Everything but printable ASCII is escaped, so that no reader
//! takes a character for the end of a line.

use std::fmt::Write;

use crate::vocab::{Token, Vocab};

/// The name by which that code finds the file.
pub(super) const FILE: &str = "rwkv_vocab_v20230424.txt";

/// The text of the file.
pub(super) fn text(vocab: &Vocab) -> String {
    let mut text = String::new();
    for (id, token) in vocab.tokens.iter().enumerate() {
        if let Token::Bytes(bytes) = token {
            // Writing into a String does not fail.
            let _ = writeln!(text, "{id} {} {}", literal(bytes), bytes.len());
        }
    }
    text
}

/// A Python literal.
fn literal(bytes: &[u8]) -> String {
    let mut out = String::new();
    let utf8 = std::str::from_utf8(bytes);
    out += if utf8.is_ok() { "'" } else { "b'" };
    match utf8 {
        Ok(text) => text.chars().for_each(|c| out += &escaped(c)),
        Err(_) => bytes.iter().for_each(|b| out += &escaped(char::from(*b))),
    }
    out + "'"
}

/// A character of a literal: of text, or a byte of a literal of bytes.
fn escaped(c: char) -> String {
    match (c, u32::from(c)) {
        ('\n', _) => "\\n".to_owned(),
        ('\r', _) => "\\r".to_owned(),
        ('\t', _) => "\\t".to_owned(),
        ('\'' | '\\', _) => format!("\\{c}"),
        (' '..='~', _) => c.to_string(),
        (_, code @ 0..=0xff) => format!("\\x{code:02x}"),
        (_, code @ 0..=0xffff) => format!("\\u{code:04x}"),
        (_, code) => format!("\\U{code:08x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.txt");
        let world = Vocab::world();
        std::fs::write(&path, text(&world)).unwrap();
        assert_eq!(Vocab::load(&path).unwrap(), world);
        assert!(text(&world).is_ascii());
        let bytes = Vocab::bytes();
        std::fs::write(&path, text(&bytes)).unwrap();
        assert_eq!(Vocab::load(&path).unwrap(), bytes);
    }
}

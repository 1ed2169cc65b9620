//! Vocabularies: which bytes a token stands for.
//!
//! RWKV tokenizers are lists of byte strings, used greedily: the longest token that fits is taken. The World
//! vocabulary of all RWKV World, G1 and later models is built in (`world.txt.zst`: `rwkv_vocab_v20230424.txt`
//! by Bo Peng, Apache-2.0); others come from a file. The hybrids with Qwen2 have its tokenizer ([`Bpe`]).
//! What a model is run with is a [`Coder`], be the tokenizer greedy or of byte pairs.

mod bpe;
mod coder;
mod greedy;
mod literal;
mod merging;
mod parse;
mod post;
mod qwen2;
mod tokenizer;

pub use bpe::{Bpe, Piece, SPECIAL};
pub use coder::{Coder, Untokenizable};
pub use tokenizer::Tokenizer;

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// Meaning of every id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocab {
    /// Origin, as shown to people: `World`, `bytes`, or the file's name.
    pub name: String,
    /// The tokens; the index is the id.
    pub tokens: Vec<Token>,
}

/// Meaning of one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// The end of a text (id 0 of the World vocabulary).
    End,
    /// A string of bytes.
    Bytes(Vec<u8>),
    /// Unused id: the model has a row for it, but no text ever becomes it.
    Unused,
}

/// Number of tokens that World models have rows for.
pub const WORLD_SIZE: usize = 65536;
/// Number of tokens of byte-level models.
pub const BYTES_SIZE: usize = 256;

/// The name of the World vocabulary.
pub const WORLD: &str = "World";
/// The name of the vocabulary of byte-level models.
pub const BYTES: &str = "bytes";

const WORLD_TEXT: &[u8] = include_bytes!("world.txt.zst");
/// Number of tokens of the World vocabulary.
const WORLD_TOKENS: usize = 65530;
/// Largest vocabulary file that is read.
const FILE_BYTES: u64 = 64 << 20;

impl Vocab {
    /// The World vocabulary: the end token and 65529 byte strings.
    ///
    /// # Panics
    /// If the program itself is damaged.
    pub fn world() -> Vocab {
        let text = zstd::decode_all(WORLD_TEXT).unwrap_or_default();
        let tokens = parse::lines(&text).unwrap_or_default();
        assert_eq!(tokens.len(), WORLD_TOKENS, "the vocabulary built into this program is damaged");
        Vocab { name: WORLD.to_owned(), tokens }
    }

    /// The vocabulary of byte-level models: the id is the byte.
    pub fn bytes() -> Vocab {
        let tokens = (0..=u8::MAX).map(|b| Token::Bytes(vec![b])).collect();
        Vocab { name: BYTES.to_owned(), tokens }
    }

    /// `size` tokens of which nobody knows what they stand for.
    pub fn unknown(size: usize) -> Vocab {
        Vocab { name: "unknown".to_owned(), tokens: vec![Token::Unused; size] }
    }

    /// The vocabulary that a model of `size` tokens has if no other is given.
    pub fn usual(size: usize) -> Option<Vocab> {
        match size {
            WORLD_SIZE => Some(Vocab::world()),
            BYTES_SIZE => Some(Vocab::bytes()),
            _ => None,
        }
    }

    /// Reads a vocabulary file: `world` and `bytes` name the built-in ones. The formats are RWKV's text files
    /// (`<id> <python literal> <length>`), web-rwkv's JSON (`{"1": "a", "2": [128]}`), and `vocab.txt` of
    /// Hugging Face folders (one Python bytes literal a line). A copy of a built-in vocabulary is that vocabulary,
    /// whatever the name of the file.
    ///
    /// # Errors
    /// If the file cannot be read, or a line of it cannot be understood.
    pub fn load(path: &Path) -> Result<Vocab> {
        match path.to_str() {
            Some("world") => return Ok(Vocab::world()),
            Some("bytes") => return Ok(Vocab::bytes()),
            _ => {}
        }
        Vocab::of(path, &files::text(path, "vocabulary", FILE_BYTES)?)
    }

    /// The vocabulary that the file `path` holds as `text`.
    fn of(path: &Path, text: &str) -> Result<Vocab> {
        let tokens = parse::any(text.as_bytes()).map_err(|what| Error::Model {
            path: path.to_owned(),
            what: format!("is no vocabulary: {what}"),
            help:
                "give an RWKV vocabulary text file, web-rwkv's JSON, or a vocab.txt of a Hugging Face folder"
                    .to_owned(),
        })?;
        let built_in = match tokens.len() {
            WORLD_TOKENS.. => Vocab::world(),
            _ => Vocab::bytes(),
        };
        let used = tokens.iter().rposition(|t| *t != Token::Unused).map_or(0, |last| last + 1);
        if tokens[..used] == built_in.tokens {
            return Ok(built_in);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Vocab { name, tokens })
    }

    /// Vocabulary with unused ids up to `size`; `None` if it has more.
    #[must_use]
    pub fn padded(mut self, size: usize) -> Option<Vocab> {
        if self.tokens.len() > size {
            return None;
        }
        self.tokens.resize(size, Token::Unused);
        Some(self)
    }
}

impl fmt::Display for Vocab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.tokens.iter().filter(|t| **t != Token::Unused).count();
        write!(f, "{} ({used} tokens)", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_vocabulary_is_whole() {
        let world = Vocab::world();
        assert_eq!(world.tokens.len(), 65530);
        assert_eq!(world.tokens[0], Token::End);
        for b in 0..=255u8 {
            assert_eq!(world.tokens[b as usize + 1], Token::Bytes(vec![b]));
        }
        assert_eq!(world.tokens[261], Token::Bytes(b"\n\n".to_vec()));
        assert_eq!(world.tokens[65529], Token::Bytes(vec![b' '; 128]));
        let mut all: Vec<_> = world.tokens.iter().collect();
        all.sort_by_key(|t| format!("{t:?}"));
        all.dedup();
        assert_eq!(all.len(), 65530, "no token stands twice");
    }

    #[test]
    fn a_copy_of_a_built_in_vocabulary_is_that_vocabulary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.txt");
        let mut copy = "\u{feff}".as_bytes().to_vec();
        copy.extend(zstd::decode_all(WORLD_TEXT).unwrap());
        std::fs::write(&path, copy).unwrap();
        assert_eq!(Vocab::load(&path).unwrap(), Vocab::world());
        let bytes: String = (0..=255).map(|b| format!("{b} b'\\x{b:02x}' 1\n")).collect();
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Vocab::load(&path).unwrap(), Vocab::bytes());
        std::fs::write(&path, "1 'a' 1\n").unwrap();
        assert_eq!(Vocab::load(&path).unwrap().name, "v.txt");
    }
}

//! Text to tokens and back, as a model is run with it.

use std::path::Path;

use super::greedy::Greedy;
use super::merging::Merging;
use super::{FILE_BYTES, Token, Vocab};
use crate::error::{Error, Result};
use crate::files;

/// A vocabulary, and the rule by which text becomes its tokens.
///
/// ```
/// use rwkv_quant::vocab::{Coder, Vocab};
/// let coder = Coder::greedy(Vocab::world());
/// let ids = coder.encode(b"Hello, world").unwrap();
/// assert_eq!(ids, [33155, 45, 40213]);
/// assert_eq!(coder.decode(&ids), b"Hello, world");
/// ```
#[derive(Clone, Debug)]
pub struct Coder {
    vocab: Vocab,
    rule: Rule,
    end: Option<u32>,
}

/// Rule by which text becomes tokens. (A coder is made once and used for long; the difference in size is of no
/// account.)
#[derive(Clone, Debug)]
enum Rule {
    Greedy(Greedy),
    Merging(Box<Merging>),
}

/// Reason that a text cannot be turned into tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untokenizable {
    /// A byte for which the vocabulary has no token.
    #[error("the vocabulary has no token for the byte 0x{byte:02x} at offset {offset}")]
    Byte {
        /// The byte.
        byte: u8,
        /// Offset in the text.
        offset: usize,
    },
    /// The tokenizer's own rules fail.
    #[error("the tokenizer fails on it: {0}")]
    Rule(String),
}

impl Coder {
    /// RWKV's tokenizer: at every place the longest token that fits.
    pub fn greedy(vocab: Vocab) -> Coder {
        let end = vocab.tokens.iter().position(|t| *t == Token::End).map(|id| id as u32);
        Coder { rule: Rule::Greedy(Greedy::new(&vocab)), vocab, end }
    }

    /// Reads a tokenizer from a file: a vocabulary as [`Vocab::load`] takes it, or Hugging Face's `tokenizer.json`
    /// of byte pairs, like the `20B_tokenizer.json` of RWKV's Pile models.
    ///
    /// # Errors
    /// If the file cannot be read or understood, or is a tokenizer of another kind.
    pub fn load(path: &Path) -> Result<Coder> {
        if matches!(path.to_str(), Some("world" | "bytes")) {
            return Vocab::load(path).map(Coder::greedy);
        }
        let text = files::text(path, "vocabulary", FILE_BYTES)?;
        if !Merging::is_meant(&text) {
            return Vocab::of(path, &text).map(Coder::greedy);
        }
        let (merging, tokens, end) = Merging::parse(&text).map_err(|what| Error::Model {
            path: path.to_owned(),
            what: format!("is a tokenizer that cannot be used: {what}"),
            help: "give a tokenizer.json of byte-level pairs (BPE, ByteLevel), or another vocabulary: --vocab FILE"
                .to_owned(),
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Coder { vocab: Vocab { name, tokens }, rule: Rule::Merging(Box::new(merging)), end })
    }

    /// The tokens of a text, which may be any bytes.
    ///
    /// A tokenizer of byte pairs works on characters: a byte that is part of none becomes the token of that byte.
    /// Names of special tokens in the text become those tokens. If the tokenizer says that text is to be
    /// normalized (NFC), it is, and so comes back normalized.
    ///
    /// # Errors
    /// If the text has a byte that the vocabulary has no token for.
    pub fn encode(&self, text: &[u8]) -> std::result::Result<Vec<u32>, Untokenizable> {
        match &self.rule {
            Rule::Greedy(greedy) => greedy.encode(text),
            Rule::Merging(merging) => merging.encode(text),
        }
    }

    /// The bytes of a token; none for ids that stand for nothing, and for RWKV's end of a text.
    pub fn bytes(&self, id: u32) -> &[u8] {
        match self.vocab.tokens.get(id as usize) {
            Some(Token::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    /// The bytes of tokens.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|id| self.bytes(*id)).copied().collect()
    }

    /// Vocabulary: the meaning of every id.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Number of ids.
    pub fn size(&self) -> usize {
        self.vocab.tokens.len()
    }

    /// The token that ends a text.
    pub fn end(&self) -> Option<u32> {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_come_back(text: Vec<u8>) {
            thread_local!(static WORLD: Coder = Coder::greedy(Vocab::world()));
            let back = WORLD.with(|w| w.decode(&w.encode(&text).unwrap()));
            prop_assert_eq!(back, text);
        }
    }

    #[test]
    fn what_stands_for_no_bytes_decodes_to_none() {
        let tokens = vec![Token::End, Token::Bytes(b"ab".to_vec()), Token::Unused];
        let coder = Coder::greedy(Vocab { name: "test".to_owned(), tokens });
        assert_eq!(coder.decode(&[0, 1, 2, 99]), b"ab");
        assert_eq!((coder.end(), coder.size()), (Some(0), 3));
    }
}

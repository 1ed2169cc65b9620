//! Tokenization of a model's text.

use std::fmt;

use formats::Metadata;

use super::{Bpe, Vocab};

/// Tokenizer of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Tokenizer {
    /// RWKV's: the longest token that fits.
    Rwkv(Vocab),
    /// Qwen2's: byte pairs merged by rank.
    Bpe(Bpe),
    /// Keys by which a GGUF file describes its tokenizer, kept as they are: all that start with `tokenizer.`, but the
    /// chat template.
    Carried(Metadata),
}

impl fmt::Display for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tokenizer::Rwkv(vocab) => vocab.fmt(f),
            Tokenizer::Bpe(bpe) => bpe.fmt(f),
            Tokenizer::Carried(_) => f.write_str("of the source"),
        }
    }
}

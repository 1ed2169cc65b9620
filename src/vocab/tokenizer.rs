//! How a model's text becomes tokens.

use std::fmt;

use formats::Metadata;

use super::{Bpe, Vocab};

/// How a model's text becomes tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Tokenizer {
    /// RWKV's: the longest token that fits.
    Rwkv(Vocab),
    /// Qwen2's: byte pairs merged by rank.
    Bpe(Bpe),
    /// What a GGUF file says of its tokenizer, kept as it is: all its keys that start with `tokenizer.`, but the
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

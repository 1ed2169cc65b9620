//! Byte-pair tokenizers, which the hybrids of RWKV and Qwen2 have instead of a list of byte strings.

use std::fmt;

/// A byte-level BPE tokenizer with everything that a GGUF file says of one.
///
/// Tokens and merges are spelled as in Hugging Face's files: every byte is a printable character, so that ` the`
/// is `Ġthe`. Added tokens are plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bpe {
    /// Origin, as shown to people.
    pub name: String,
    /// llama.cpp's name of the rule by which text is split before the merges: `qwen2`.
    pub pre: &'static str,
    /// The tokens; the index is the id.
    pub tokens: Vec<Piece>,
    /// Pairs to be merged, the most wanted first: `Ġ the`.
    pub merges: Vec<String>,
    /// Ids of special tokens, by their names in [`SPECIAL`].
    pub special: Vec<(&'static str, u32)>,
    /// True if a special token of this name is put at the start (`bos`), the end (`eos`) or between two texts
    /// (`sep`).
    pub added: Vec<(&'static str, bool)>,
    /// The chat template (Jinja).
    pub chat_template: Option<String>,
}

/// Meaning of one id of a [`Bpe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A token that merges make.
    Merged(String),
    /// An added token that only programs write: `<|im_end|>`.
    Control(String),
    /// An added token that text may hold.
    Added(String),
    /// Unused id: the model has a row for it, but no text ever becomes it.
    Unused,
}

/// The kinds of special tokens, by the names that Hugging Face's files give them.
pub const SPECIAL: [&str; 7] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];

impl fmt::Display for Bpe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.tokens.iter().filter(|t| **t != Piece::Unused).count();
        write!(f, "{} ({used} tokens, {} merges)", self.name, self.merges.len())
    }
}

//! Tokens of a text.

use std::io::{self, Write};

use serde::Serialize;

use super::Report;
use crate::vocab::Coder;

/// The tokens of a text, with what each stands for.
#[derive(Debug, Serialize)]
pub struct Tokens {
    count: usize,
    bytes: usize,
    tokens: Vec<Piece>,
}

#[derive(Debug, Serialize)]
struct Piece {
    id: u32,
    /// The bytes as text; what is not UTF-8 is replaced.
    text: String,
}

impl Tokens {
    /// Tokens `ids` of a coder.
    pub fn new(ids: Vec<u32>, coder: &Coder) -> Tokens {
        let bytes = ids.iter().map(|id| coder.bytes(*id).len()).sum();
        let piece = |id| Piece { id, text: String::from_utf8_lossy(coder.bytes(id)).into_owned() };
        Tokens { count: ids.len(), bytes, tokens: ids.into_iter().map(piece).collect() }
    }
}

impl Report for Tokens {
    /// The numbers alone, on one line, as `--decode` takes them.
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let ids: Vec<String> = self.tokens.iter().map(|t| t.id.to_string()).collect();
        writeln!(out, "{}", ids.join(" "))
    }
}

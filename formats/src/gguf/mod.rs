//! GGUF, the file format of llama.cpp and everything built on it.
//!
//! ```text
//! "GGUF"  u32 version  u64 tensors  u64 keys
//! keys:     string key, u32 kind, value          (string = u64 length + UTF-8; array = u32 kind, u64 n, values)
//! tensors:  string name, u32 dims, u64 dim[]     (fastest first), u32 type, u64 offset from the data base
//! zeros up to a multiple of the alignment (32 unless `general.alignment` says otherwise)
//! data:     each tensor padded with zeros to the alignment, in the order of the table, without gaps
//! ```
//!
//! Everything is little endian. Version 3 is written; 2 and 3, which differ in nothing here, are read.
//! Source: ggml's `docs/gguf.md` and what llama.cpp's loader accepts.

mod read;
mod types;
mod write;

pub use types::{encoding_of, type_id};
pub use write::place;

use crate::budget::Budget;
use crate::container::Container;
use crate::error::Result;
use crate::format::{Format, Sniff};
use crate::mapped::Mapped;
use crate::value::Value;

/// The format's name.
pub const NAME: &str = "GGUF";

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT: u64 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";

/// The format GGUF.
pub struct Gguf;

impl Format for Gguf {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "llama.cpp, ollama, LM Studio, KoboldCpp"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["gguf"]
    }

    fn sniff(&self, file: Sniff<'_>) -> bool {
        file.bytes.starts_with(MAGIC)
    }

    fn read(&self, file: Mapped, budget: &Budget<'_>) -> Result<Container> {
        read::read(file, budget)
    }

    fn gap(&self, container: &Container) -> Option<String> {
        let alignment = container.value(ALIGNMENT_KEY).and_then(Value::as_u64).unwrap_or(ALIGNMENT);
        let mut order: Vec<_> = container.tensors().iter().collect();
        order.sort_by_key(|t| (t.file, t.offset, t.bytes));
        order.windows(2).filter(|pair| pair[0].file == pair[1].file).find_map(|pair| {
            let end = (pair[0].offset + pair[0].bytes).next_multiple_of(alignment);
            let bytes = pair[1].offset.checked_sub(end).filter(|bytes| *bytes > 0)?;
            let (before, after) = (&pair[0].name, &pair[1].name);
            Some(format!("{bytes} bytes between the data of {before} and {after} belong to no tensor"))
        })
    }

    fn stray_bytes(&self, container: &Container) -> Option<(usize, u64)> {
        let alignment = container.value(ALIGNMENT_KEY).and_then(Value::as_u64).unwrap_or(ALIGNMENT);
        container.files().iter().enumerate().find_map(|(number, file)| {
            let tensors = container.tensors().iter().filter(|t| t.file == number);
            let end = tensors.map(|t| t.offset + t.bytes).max()?.next_multiple_of(alignment);
            let stray = (file.bytes().len() as u64).checked_sub(end).filter(|bytes| *bytes > 0)?;
            Some((number, stray))
        })
    }
}

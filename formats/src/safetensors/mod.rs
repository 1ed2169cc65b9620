//! safetensors, the tensor file of Hugging Face, candle and web-rwkv (`.st`).
//!
//! ```text
//! u64 n                      length of the header, little endian
//! header: n bytes of JSON    {"__metadata__": {key: text, ...},
//!                             name: {"dtype": "BF16", "shape": [2, 3], "data_offsets": [start, end]}, ...}
//!                            may end in spaces
//! data                       every tensor row-major, little endian; offsets count from here
//! ```
//!
//! The tensors must cover the data without gaps, overlaps or a rest, so that nothing can hide in a file
//! and a cut is always noticed. Shapes are slowest dimension first.
//!
//! The header is read twice: by the parser here, which names the tensor and the place in every error and
//! refuses names that stand twice, and by the crate `safetensors`, whose verdict is the format's.
//! Source: the format's README and `safetensors/src/tensor.rs`.

mod bundle;
mod header;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use bundle::Bundle;
pub use write::place;

use quant::Encoding;

use crate::budget::Budget;
use crate::container::Container;
use crate::error::Result;
use crate::format::{Format, Sniff};
use crate::mapped::Mapped;

/// Bytes of the length in front of the header.
const LENGTH_BYTES: u64 = 8;
/// The one name of the header that is no tensor's.
const METADATA: &str = "__metadata__";

/// The dtype of every encoding that safetensors can hold.
#[rustfmt::skip]
const DTYPES: &[(&str, Encoding)] = &[
    ("F64",     Encoding::F64),    ("F32", Encoding::F32), ("F16", Encoding::F16), ("BF16", Encoding::BF16),
    ("F8_E4M3", Encoding::F8E4M3), ("I64", Encoding::I64), ("I32", Encoding::I32), ("I16",  Encoding::I16),
    ("I8",      Encoding::I8),     ("U8",  Encoding::U8),  ("BOOL", Encoding::Bool),
];

/// The format safetensors.
pub struct Safetensors;

impl Format for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn about(&self) -> &'static str {
        "Hugging Face transformers, candle, web-rwkv, Ai00"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["safetensors", "st"]
    }

    /// There is no magic number: a length that is no text (its last byte is zero, so it is below 2^56),
    /// then the header's brace.
    fn sniff(&self, file: Sniff<'_>) -> bool {
        file.bytes.get(7) == Some(&0) && file.bytes.get(8) == Some(&b'{')
    }

    fn read(&self, file: Mapped, budget: &Budget<'_>) -> Result<Container> {
        read::read(file, budget)
    }
}

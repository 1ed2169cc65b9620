//! The `.prefab` file of web-rwkv, Ai00 and the RWKV App: CBOR of the model as it lies in their memory.
//!
//! ```text
//! {context: [], info: {version: "V7", num_layer: 12, ...}, rescale: 1024, sep: 1024,
//!  tensor: {embed: {...}, head: {...}, layers: [{...}, ...]}}          maps, by the names of Rust's fields
//! blob    {shape: [x, y, z, w], data: bytes}                           x is the fastest dimension
//! matrix  {Fp16: blob} | {Int8: {w, m}} | {Fp4: {q, w, m}}             codes w, scales m, 16 levels q: blobs
//! ```
//!
//! There is no magic number and no version; the names are the schema, their order is free and unknown ones are skipped.
//! The type of a blob is that of its field, so here its length tells: two bytes a value are f16, four f32.
//!
//! A tensor's name is the path to it below `tensor`, without the matrix' kind: `layers.0.att.w_k`. Everything that is
//! no blob becomes metadata by its path: `info.num_layer`, `rescale`.
//! Source: web-rwkv 0.10, `tensor/serialization.rs` and `tensor/matrix.rs` (read), and files that it saved.

mod cbor;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use write::place;

use crate::budget::Budget;
use crate::container::Container;
use crate::error::Result;
use crate::format::{Format, Sniff};
use crate::mapped::Mapped;

/// The map that all tensors are below.
const TENSORS: &str = "tensor.";
/// Most dimensions of a blob, which are always all given.
const DIMS: usize = 4;
/// The fields of the file's outermost map.
const FIELDS: &[&str] = &["context", "info", "rescale", "sep", "tensor"];

/// The format of web-rwkv's prefabs.
pub struct Prefab;

impl Format for Prefab {
    fn name(&self) -> &'static str {
        "prefab"
    }

    fn about(&self) -> &'static str {
        "web-rwkv, Ai00, RWKV App"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["prefab"]
    }

    /// A small map whose first key is one of the known fields.
    fn sniff(&self, file: Sniff<'_>) -> bool {
        let [map, text, rest @ ..] = file.bytes else { return false };
        let key = rest.get(..usize::from(text & 0x1f));
        map >> 5 == cbor::MAP
            && text >> 5 == cbor::TEXT
            && FIELDS.iter().any(|field| key == Some(field.as_bytes()))
    }

    fn read(&self, file: Mapped, budget: &Budget<'_>) -> Result<Container> {
        read::read(file, budget)
    }
}

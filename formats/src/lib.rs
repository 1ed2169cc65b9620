//! The containers of rwkv-quant: how named tensors lie in files.
//!
//! This crate knows no RWKV version and no quality: only names, shapes, encodings, bytes and metadata. From
//! the crate `quant` it takes [`Encoding`](quant::Encoding) ids and their sizes, nothing else.
//!
//! Reading is one call: [`open`] looks at the content (never at the extension), finds the [`Format`] in
//! [`FORMATS`], maps the file and returns a [`Container`], whose tensors are windows on the mapped bytes.
//! A part of a sharded set, its index or a Hugging Face folder opens the whole model, or fails.
//! Nothing is copied and nothing is believed: every count, size and offset is checked against [`Limits`]
//! and the file's length first, and every allocation is drawn from a [`Budget`]. A file that changes while it is mapped
//! is an error ([`Container::check_unchanged`]), never a signal.
//!
//! Writing starts with a *placement*: a format turns the list of tensors to come and the metadata into the
//! finished head of the file and the offset of every tensor ([`Placement`]), before any work is done.

#![deny(unsafe_code)] // but in `guard` and `mapped`

mod array;
mod aside;
pub mod bitsandbytes;
mod budget;
mod checksums;
pub mod compact;
mod container;
mod cursor;
mod error;
mod format;
pub mod gguf;
mod guard;
mod hf;
mod imatrix;
mod json;
mod limits;
mod mapped;
mod open;
mod placement;
pub mod prefab;
pub mod pth;
pub mod rwkv_cpp;
pub mod safetensors;
mod shards;
mod unknown;
mod value;

pub use array::{Array, Strings};
pub use aside::LeftAside;
pub use budget::Budget;
pub use checksums::{CHECKSUMS_KEY, Checksummed, model_digest, put_digest};
pub use container::{CODEBOOK_BYTES, Codebook, Coded, Container, Split, Tensor};
pub use error::{Error, Result};
pub use format::{Checksums, FORMATS, Format, Sniff};
pub use hf::{INDEX_SUFFIX, index};
pub use imatrix::Imatrix;
pub use limits::Limits;
pub use mapped::Mapped;
pub use open::open;
pub use placement::{Layout, Placement, Planned, Sum};
pub use shards::{is_of_set, part_name, split_keys, whole_name};
pub use value::{Metadata, Value, ValueKind};

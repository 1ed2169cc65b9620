//! Torch checkpoints: `.pth`, `.pt`, `pytorch_model.bin`; read without Python, never running any code.
//!
//! ```text
//! zip archive, nothing compressed; NAME is any folder name
//!   NAME/data.pkl     a pickle: the dict of tensors, each a window (offset, shape, strides) on a storage
//!   NAME/byteorder    "little" (may be missing)
//!   NAME/data/KEY     the elements of one storage, little endian, raw
//!   NAME/version      "3", and a few more small files that are not needed
//!
//! legacy file (before torch 1.6)
//!   pickle of 0x1950a86a20f9469cfc6c, pickle of 1001, pickle of a dict about the machine that wrote it,
//!   pickle of the dict of tensors, pickle of the list of storage keys,
//!   for each key: i64 number of elements, the elements
//! ```
//!
//! # What is read of it
//!
//! The *state dict* is looked for from the outermost dict inwards. If there are dicts (or lists) with tensors
//! under the keys `state_dict`, `model_state_dict`, `model`, `module` or `weights`, the first of these is
//! entered. Else, a dict that holds tensors itself is it. Else, the only dict in it that holds tensors is
//! entered; with several it is an error. A list of tensors has the names `0`, `1`, and so on.
//! All that stands beside the tensors on the way becomes metadata: numbers, text and lists of them as they
//! are, anything else as a word for what it is.
//!
//! Names are kept as they are stored. Tensors that share a storage are fine.
//!
//! # Writing
//!
//! [`place`] lays out a file in the zip layout; the data can then be written in any order.
//!
//! Source: torch's `serialization.py` and `_utils.py`.

mod arena;
mod globals;
mod legacy;
mod literal;
mod object;
mod pickle;
mod read;
mod rebuild;
mod refuse;
mod state;
mod verify;
mod write;
mod write_pickle;
mod zip;
mod zip_write;

/// The CRC-32 of zip archives; [`combine`](crc32fast::Hasher::combine) joins those of two neighbours.
pub use crc32fast::Hasher as Crc32;
pub use write::{PthPlacement, holds, place};

use crate::budget::Budget;
use crate::container::Container;
use crate::error::Result;
use crate::format::{Checksums, Format, Sniff};
use crate::limits::Limits;
use crate::mapped::Mapped;

/// Checkpoints of torch.
pub struct Pth;

const NAME: &str = "torch";

impl Format for Pth {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "PyTorch checkpoints, the form in which RWKV is published"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["pth", "pt", "bin"]
    }

    /// Also takes what only looks like torch (other zip archives, pickles and tar files), to refuse it by
    /// its name.
    fn sniff(&self, file: Sniff<'_>) -> bool {
        refuse::is_zip(file.bytes) || refuse::is_pickle(file.bytes) || refuse::is_tar(file.bytes)
    }

    fn verify_checksums(&self, container: &Container, limits: &Limits) -> Result<Checksums> {
        verify::verify_crcs(container, limits)
    }

    fn read(&self, file: Mapped, budget: &Budget<'_>) -> Result<Container> {
        read::read(file, budget)
    }
}

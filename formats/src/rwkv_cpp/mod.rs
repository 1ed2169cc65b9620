//! The `.bin` file of rwkv.cpp (and of RWKV-Runner's CPU mode).
//!
//! ```text
//! u32 magic 0x67676d66  u32 version  u32 n_vocab  u32 n_embed  u32 n_layer  u32 type
//! for every tensor, until the end of the file:
//!   u32 dims (1 to 3)  u32 bytes of name  u32 type  u32 dim[] (fastest first)  name  data
//! ```
//!
//! Everything is little endian and nothing is aligned or padded. Version 101 is written; 100, which has
//! the blocks of an older ggml, is read if it is not quantized. There is no count of tensors: a file that
//! was cut between two tensors looks whole here, and the model that is built from it lacks them.
//!
//! The numbers of the head become the metadata `rwkv_cpp.version`, `rwkv_cpp.n_vocab`, `rwkv_cpp.n_embed`,
//! `rwkv_cpp.n_layer` and `rwkv_cpp.data_type`. The tensors are not those of the checkpoint: rwkv.cpp's
//! converter transposes, joins and transforms some.
//! Source: rwkv.cpp's `docs/FILE_FORMAT.md` and `rwkv_file_format.inc`.

mod read;
mod write;

pub use write::{Header, place};

use quant::Encoding;

use crate::budget::Budget;
use crate::container::Container;
use crate::error::{Blame, Error, Result};
use crate::format::{Format, Sniff};
use crate::mapped::Mapped;

/// 0x67676d66, little endian.
const MAGIC: &[u8; 4] = b"fmgg";
/// The version that is written, and the first whose quantized files today's rwkv.cpp reads.
const VERSION: u32 = 101;
/// The only other version.
const OLD_VERSION: u32 = 100;
/// Most dimensions of a tensor.
const DIMS: u32 = 3;

/// The numbers in the head, behind the magic.
const NUMBERS: [&str; 5] = ["version", "n_vocab", "n_embed", "n_layer", "data_type"];

/// The metadata key of a number in the head.
fn key(number: &str) -> String {
    format!("rwkv_cpp.{number}")
}

/// rwkv.cpp's own number of every encoding.
#[rustfmt::skip]
const TYPES: &[(u32, Encoding)] = &[
    (0, Encoding::F32),  (1, Encoding::F16),  (2, Encoding::Q4_0), (3, Encoding::Q4_1),
    (7, Encoding::Q5_0), (8, Encoding::Q5_1), (9, Encoding::Q8_0),
];
/// Types of the past.
const DEAD: &[(u32, &str)] = &[(4, "Q4_1_O"), (5, "Q4_2"), (6, "Q4_3")];

/// The format of rwkv.cpp.
pub struct RwkvCpp;

impl Format for RwkvCpp {
    fn name(&self) -> &'static str {
        "rwkv.cpp"
    }

    fn about(&self) -> &'static str {
        "rwkv.cpp, RWKV-Runner (CPU)"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["bin"]
    }

    fn sniff(&self, file: Sniff<'_>) -> bool {
        file.bytes.starts_with(MAGIC)
    }

    fn read(&self, file: Mapped, budget: &Budget<'_>) -> Result<Container> {
        read::read(file, budget)
    }
}

/// rwkv.cpp's number of an encoding, if it has one.
pub fn type_id(encoding: Encoding) -> Option<u32> {
    TYPES.iter().find(|(_, e)| *e == encoding).map(|(id, _)| *id)
}

/// The encoding of a type number in a file of this version.
fn encoding_of(id: u32, version: u32, blame: Blame<'_>) -> Result<Encoding> {
    let again = |what: String| -> Error {
        blame.unsupported(what, "start from a file of type FP16 or FP32, best from the original checkpoint")
    };
    if let Some((_, name)) = DEAD.iter().find(|(i, _)| *i == id) {
        return Err(again(format!("the type {name}, which rwkv.cpp gave up,")));
    }
    match TYPES.iter().find(|(i, _)| *i == id) {
        Some((_, e)) if version == OLD_VERSION && !e.is_plain() => {
            Err(again(format!("the {e} of version {version}, whose blocks are those of an old ggml,")))
        }
        Some((_, e)) => Ok(*e),
        None => Err(blame.malformed(format!("there is no type number {id}"))),
    }
}

//! Coding of the tensors of compact files.

use formats::compact::{Storage, Tiles};
use quant::Encoding;
use quant::coding::{Coding, tile_rows};
use quant::nf4::nested;

use crate::model::Role;

/// Fewest weights of a matrix that is coded: of a smaller one the tables would be larger than what they save.
const FEWEST: usize = 2048;

/// True if a tensor is coded at a rate: not vectors, nor small matrices.
pub fn has_rate(role: Role, elements: usize) -> bool {
    role != Role::Vector && elements >= FEWEST
}

/// Coding of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Coded {
    /// Packed with zstd.
    Zstd,
    /// bf16 without loss.
    Lossless,
    /// Codes.
    Codes {
        /// Bits per weight.
        bits: f64,
        /// Dimensions of the branch of low rank that they may have beside them.
        rank: usize,
    },
    /// Blocks of nf4 with double quantization.
    Nf4Dq,
}

/// Most values of a tensor that is packed with zstd: readers unpack it when they open the file.
const ZSTD_VALUES: usize = 1 << 16;
/// Share of bf16's bytes that are left without loss, about.
const LOSSLESS: f64 = 0.7;

impl Coded {
    /// True if it is rounded for what meets it: what is as it was has nothing to choose.
    pub fn is_rounded(self) -> bool {
        matches!(self, Coded::Codes { .. } | Coded::Nf4Dq)
    }

    /// Best coding of values of this encoding without further loss.
    pub fn exactly(encoding: Encoding, values: usize) -> Option<Coded> {
        match encoding {
            Encoding::BF16 => Some(Coded::Lossless),
            Encoding::F32 | Encoding::F16 if values <= ZSTD_VALUES => Some(Coded::Zstd),
            _ => None,
        }
    }

    /// Approximate bytes of a section of so many values.
    pub fn about(self, encoding: Encoding, values: u64) -> u64 {
        let plain = (encoding.block_bytes() as u64 * values) as f64;
        match self {
            Coded::Zstd => plain as u64,
            // Of few values little is known when they are coded.
            Coded::Lossless if values < FEWEST as u64 => plain as u64,
            Coded::Lossless => (LOSSLESS * plain) as u64,
            Coded::Codes { bits, .. } => (bits * values as f64 / 8.0).ceil() as u64,
            Coded::Nf4Dq => (nested::BITS * values as f64 / 8.0).ceil() as u64,
        }
    }

    /// Storage that the file states for a section of so many bytes.
    pub fn storage(self, cols: usize, bytes: u64) -> Storage {
        match self.coding() {
            None => Storage::Zstd(bytes),
            Some(coding) => Storage::Tiled(Tiles { coding, rows: tile_rows(cols) }, bytes),
        }
    }

    /// Its tiles' coding.
    pub fn coding(self) -> Option<Coding> {
        match self {
            Coded::Zstd => None,
            Coded::Lossless => Some(Coding::Lossless),
            Coded::Codes { .. } => Some(Coding::Codes),
            Coded::Nf4Dq => Some(Coding::Nf4Dq),
        }
    }
}

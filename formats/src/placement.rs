//! Where everything will lie in a file to be written, known before any work.

use std::collections::BTreeMap;

use quant::Encoding;

use crate::container::Split;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name in the file.
    pub name: String,
    /// How its elements will be stored.
    pub encoding: Encoding,
    /// Its shape, slowest dimension first.
    pub shape: Vec<usize>,
}

impl Planned {
    /// Exact bytes of the data; `None` if a row is no whole number of blocks or the size overflows.
    pub fn bytes(&self) -> Option<u64> {
        crate::Tensor::span_bytes(self.encoding, &self.shape, None)
    }
}

/// The finished head of a file, what else is known beforehand, and the offset of the data of every tensor.
/// All other bytes are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The first bytes of the file: magic, metadata, tensor table, padding.
    pub head: Vec<u8>,
    /// Where each tensor's data starts, in the order given.
    pub offsets: Vec<u64>,
    /// Where the other parts of split tensors are, by the tensor's number; their codes are at its offset.
    pub splits: BTreeMap<usize, Split>,
    /// Bytes behind the head that are no tensor's data, by offset: formats without a table at the start
    /// describe every tensor in front of its data.
    pub between: Vec<(u64, Vec<u8>)>,
    /// Size of the whole file.
    pub total_bytes: u64,
}

//! Layout of a file to be written, known before any work.

use std::collections::BTreeMap;

use quant::Encoding;

use crate::checksums::{Checksummed, model_digest};
use crate::compact::CompactPlacement;
use crate::container::Split;
use crate::pth::PthPlacement;
use crate::safetensors::Bundle;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name in the file.
    pub name: String,
    /// Encoding of its elements.
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
    /// Offset of each tensor's data, in the order given.
    pub offsets: Vec<u64>,
    /// Places of the scales and levels of tensors in planar blocks, by the tensor's number; the codes are at the
    /// tensor's offset.
    pub splits: BTreeMap<usize, Split>,
    /// Bytes behind the head that are no tensor's data, by offset: formats without a table at the start
    /// describe every tensor in front of its data.
    pub between: Vec<(u64, Vec<u8>)>,
    /// Size of the whole file.
    pub total_bytes: u64,
}

/// Layout of a file of any format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All bytes but the data are known beforehand.
    Known(Placement),
    /// All bytes but the data are known beforehand, except for the SHA-256 of every tensor's data.
    Checksummed(Checksummed),
    /// A torch file, which also holds checksums of the data.
    Torch(PthPlacement),
    /// A file of pieces of others, with checksums of them.
    Bundle(Bundle),
    /// A compact file, with checksums of its sections.
    Compact(CompactPlacement),
}

/// The checksums of a tensor's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// CRC-32 (of zip and zlib).
    pub crc32: u32,
    /// SHA-256; zeros unless the file wants it ([`Layout::wants_sha256`]).
    pub sha256: [u8; 32],
}

impl Layout {
    /// Offset of each tensor's data, in the order given.
    pub fn offsets(&self) -> &[u64] {
        match self {
            Layout::Known(placement) => &placement.offsets,
            Layout::Checksummed(c) => &c.placement.offsets,
            Layout::Torch(placement) => &placement.offsets,
            Layout::Bundle(bundle) => &bundle.placement.offsets,
            Layout::Compact(placement) => &placement.offsets,
        }
    }

    /// Places of the scales and levels of tensor number `i`, if its blocks are planar.
    pub fn split(&self, i: usize) -> Option<Split> {
        match self {
            Layout::Known(placement) => placement.splits.get(&i).copied(),
            Layout::Checksummed(c) => c.placement.splits.get(&i).copied(),
            Layout::Torch(_) | Layout::Bundle(_) | Layout::Compact(_) => None,
        }
    }

    /// Size of the whole file.
    pub fn total_bytes(&self) -> u64 {
        match self {
            Layout::Known(placement) => placement.total_bytes,
            Layout::Checksummed(c) => c.placement.total_bytes,
            Layout::Torch(placement) => placement.total_bytes,
            Layout::Bundle(bundle) => bundle.placement.total_bytes,
            Layout::Compact(placement) => placement.total_bytes,
        }
    }

    /// Number of tensors in the file besides those given: their data is part of what [`finish`](Layout::finish) tells.
    pub fn known_tensors(&self) -> usize {
        match self {
            Layout::Known(_) | Layout::Checksummed(_) | Layout::Torch(_) | Layout::Compact(_) => 0,
            Layout::Bundle(bundle) => bundle.known(),
        }
    }

    /// True if all bytes but the data are the same whatever the data, except for digests at
    /// [`digests_at`](Layout::digests_at).
    pub fn is_known(&self) -> bool {
        matches!(self, Layout::Known(_) | Layout::Checksummed(_))
    }

    /// Offset of the SHA-256 of the first tensor's data, if the header holds those of all (see [`put_digest`]).
    ///
    /// [`put_digest`]: crate::put_digest
    pub fn digests_at(&self) -> Option<u64> {
        match self {
            Layout::Checksummed(c) => Some(c.digests_at()),
            _ => None,
        }
    }

    /// True if the file holds the SHA-256 of every tensor's data.
    pub fn wants_sha256(&self) -> bool {
        matches!(self, Layout::Compact(_) | Layout::Checksummed(_))
    }

    /// All bytes that are no tensor's data, as pieces with their offsets; what lies between them and the data is
    /// zero. `sums` are the checksums of the tensors' data, in the order given.
    ///
    /// # Panics
    /// If there are not as many as tensors.
    pub fn finish(&self, sums: &[Sum]) -> Vec<(u64, Vec<u8>)> {
        self.finish_part(sums, &model_digest(sums.iter().map(|sum| &sum.sha256)))
    }

    /// Result of [`finish`](Layout::finish) for one file of several, whose model has the digest `model` (see
    /// [`model_digest`]).
    ///
    /// # Panics
    /// If there are not as many as tensors.
    pub fn finish_part(&self, sums: &[Sum], model: &[u8; 32]) -> Vec<(u64, Vec<u8>)> {
        assert_eq!(sums.len(), self.offsets().len(), "checksums of each tensor");
        let crcs = || sums.iter().map(|sum| sum.crc32).collect::<Vec<u32>>();
        match self {
            Layout::Known(Placement { head, between, .. }) => {
                std::iter::once((0, head.clone())).chain(between.iter().cloned()).collect()
            }
            Layout::Checksummed(c) => c.finish(sums, model),
            Layout::Torch(placement) => placement.finish(&crcs()),
            Layout::Bundle(bundle) => bundle.finish(&crcs()),
            Layout::Compact(placement) => placement.finish(sums.iter().map(|sum| sum.sha256)),
        }
    }
}

impl From<Placement> for Layout {
    fn from(placement: Placement) -> Layout {
        Layout::Known(placement)
    }
}

impl From<Checksummed> for Layout {
    fn from(checksummed: Checksummed) -> Layout {
        Layout::Checksummed(checksummed)
    }
}

impl From<PthPlacement> for Layout {
    fn from(placement: PthPlacement) -> Layout {
        Layout::Torch(placement)
    }
}

impl From<CompactPlacement> for Layout {
    fn from(placement: CompactPlacement) -> Layout {
        Layout::Compact(placement)
    }
}

impl From<Bundle> for Layout {
    fn from(bundle: Bundle) -> Layout {
        Layout::Bundle(bundle)
    }
}

//! Entropy coding: symbols in as few bits as they are probable, decoded by the hundreds of millions a second.
//!
//! - [`Frequencies`]: how often each of 256 symbols comes, in parts of 4096; a few dozen bytes in a file;
//! - [`rans`]: asymmetric numeral systems (Duda, arXiv 1311.2540) with a state of 32 bits that is refilled by 16, in
//!   sixteen lanes that share one stream;
//! - [`Model`]: which frequencies the codes of a matrix are coded with: rows and columns have classes by the size of
//!   their codes, and a pair of classes has a table;
//! - [`tile`]: whole rows of codes as bytes that decode on their own, given the model;
//! - [`planes`]: bytes without a model.
//!
//! Decoders take nothing on trust: any bytes give values or an [`EntropyError`], in time and memory that what the
//! caller asked for bounds, not what the bytes say.

pub(crate) mod frequencies;
mod log;
pub(crate) mod low_bits;
mod model;
pub mod planes;
pub mod rans;
pub mod tile;

pub use frequencies::Frequencies;
pub(crate) use log::{exp2, log2};
pub use model::{Codes, Model};

/// Reason why bytes cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntropyError {
    /// The bytes end too early.
    #[error("the bytes end within {0}")]
    Truncated(&'static str),
    /// There are bytes behind the end.
    #[error("{bytes} bytes are left over behind {what}")]
    LeftOver {
        /// Name of the part that should be last.
        what: &'static str,
        /// Number of bytes left over.
        bytes: usize,
    },
    /// The coder does not end as it began: a bit is wrong somewhere before.
    #[error("the coded symbols are damaged: the coder does not end in its first state")]
    State,
    /// A field holds what it cannot.
    #[error("{what} is {value}")]
    Field {
        /// The field.
        what: &'static str,
        /// Value of the field.
        value: u64,
    },
}

/// Fields at the front of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], EntropyError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(EntropyError::Truncated(what))?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], EntropyError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(EntropyError::Truncated(what))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, EntropyError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Bytes behind their number as u32.
    pub(crate) fn counted(&mut self, what: &'static str) -> Result<&'a [u8], EntropyError> {
        let n = u32::from_le_bytes(self.array(what)?);
        self.bytes(usize::try_from(n).map_err(|_| EntropyError::Truncated(what))?, what)
    }

    /// An integer in LEB128, of 32 bits at most.
    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u32, EntropyError> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.u8(what)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| EntropyError::Field { what, value });
            }
        }
        Err(EntropyError::Field { what, value })
    }

    pub(crate) fn end(self, what: &'static str) -> Result<(), EntropyError> {
        if self.0.is_empty() { Ok(()) } else { Err(EntropyError::LeftOver { what, bytes: self.0.len() }) }
    }
}

/// Appends what [`Fields::varint`] reads.
pub(crate) fn push_varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends what [`Fields::counted`] reads.
pub(crate) fn push_counted(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(bytes);
}

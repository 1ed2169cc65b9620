//! Limits on what a file may ask for.

/// Bounds on what a file may ask a reader to hold; far above any real model, far below what hurts.
///
/// Readers check against them while they read, and draw from a [`Budget`](crate::Budget) before they allocate. Tensor data
/// is mapped, not allocated, and is bounded by the file's own length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of the part that describes the tensors: JSON header, pickle, GGUF keys and tensor table.
    pub header_bytes: u64,
    /// Tensors in one model.
    pub tensors: u64,
    /// Bytes of one tensor or key name.
    pub name_bytes: u64,
    /// Dimensions of one tensor.
    pub dims: u64,
    /// Entries of metadata, and elements of one metadata array.
    pub values: u64,
    /// Files of one sharded set.
    pub shards: u64,
    /// Bytes of a `config.json`.
    pub config_bytes: u64,
    /// Bytes of memory that opening any model may take, beside 4 for each byte of its files that was read.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: 100 << 20,
            tensors: 1 << 17,
            name_bytes: 1 << 10,
            dims: 8,
            values: 1 << 20,
            shards: 10_000,
            config_bytes: 4 << 20,
            memory_bytes: 56 << 20,
        }
    }
}

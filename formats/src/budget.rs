//! The bytes that reading a model may allocate.

use std::cell::Cell;
use std::ops::Deref;

use crate::error::{Blame, Result};
use crate::limits::Limits;

/// Bytes that reading one model may still allocate: a fixed part ([`Limits::memory_bytes`]), and a few for each byte of
/// its files that was read.
///
/// Every reader reserves *before* it allocates, and gives back no more than is free again, so the sum bounds the memory
/// at any moment from above. Bytes count as read once a reader has gone past them; the data of tensors is mapped and
/// counts neither way.
#[derive(Debug)]
pub struct Budget<'a> {
    limits: &'a Limits,
    reserved: Cell<u64>,
    /// Bytes of the files before the present one.
    before: Cell<u64>,
    /// Bytes of the present file.
    read: Cell<u64>,
}

/// Bytes that may be allocated for each byte that was read.
const PER_BYTE: u64 = 4;
/// Bytes that a table entry takes in a tree, beside its key and value.
const TREE_ENTRY: u64 = 48;
/// The smallest piece that an allocator hands out, with what it keeps of it.
const PIECE: u64 = 32;

impl<'a> Budget<'a> {
    /// A budget of which nothing is spent.
    pub fn new(limits: &'a Limits) -> Budget<'a> {
        Budget { limits, reserved: Cell::new(0), before: Cell::new(0), read: Cell::new(0) }
    }

    /// Says that `bytes` of the present file were read so far.
    pub(crate) fn read_to(&self, bytes: u64) {
        self.read.set(self.read.get().max(bytes));
    }

    /// Says that more bytes of the present file were read.
    pub(crate) fn read_more(&self, bytes: u64) {
        self.read.set(self.read.get().saturating_add(bytes));
    }

    /// Begins with another file of the same model.
    pub(crate) fn next_file(&self) {
        self.before.set(self.before.get().saturating_add(self.read.take()));
    }

    /// Takes `bytes` of the budget, which may be allocated then.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if there are not as many left.
    pub(crate) fn reserve(&self, bytes: u64, blame: Blame<'_>) -> Result<()> {
        let all = self.reserved.get().saturating_add(bytes);
        let read = self.before.get().saturating_add(self.read.get());
        let limit = self.limits.memory_bytes.saturating_add(read.saturating_mul(PER_BYTE));
        blame.within("bytes of memory to be opened", all, limit)?;
        self.reserved.set(all);
        Ok(())
    }

    /// Gives back `bytes` of what was reserved, which are free again.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.reserved.set(self.reserved.get().saturating_sub(bytes));
    }

    /// Takes what one more item of a growing list needs, with `heap` bytes that it holds elsewhere.
    ///
    /// # Errors
    /// As [`reserve`](Budget::reserve).
    pub(crate) fn item<T>(&self, heap: u64, blame: Blame<'_>) -> Result<()> {
        self.reserve((2 * size_of::<T>() as u64).saturating_add(heap), blame)
    }

    /// Takes what an entry of a table by name needs.
    ///
    /// # Errors
    /// As [`reserve`](Budget::reserve).
    pub(crate) fn entry(&self, name: usize, blame: Blame<'_>) -> Result<()> {
        self.reserve((name as u64).saturating_add(PIECE + TREE_ENTRY), blame)
    }

    /// Makes room for `more` items in `list`.
    ///
    /// # Errors
    /// As [`reserve`](Budget::reserve).
    pub(crate) fn grow<T>(&self, list: &mut Vec<T>, more: usize, blame: Blame<'_>) -> Result<()> {
        let needed = list.len().saturating_add(more);
        if needed > list.capacity() {
            let capacity = needed.max(list.capacity().saturating_mul(2)).max(8);
            self.reserve((capacity as u64).saturating_mul(size_of::<T>() as u64), blame)?;
            list.reserve_exact(capacity - list.len());
        }
        Ok(())
    }
}

impl Deref for Budget<'_> {
    type Target = Limits;

    fn deref(&self) -> &Limits {
        self.limits
    }
}

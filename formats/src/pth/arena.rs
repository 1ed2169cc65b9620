//! A list that grows without ever moving, so that its memory is that of its items and no more.

use crate::budget::Budget;
use crate::error::{Blame, Result};

/// Items of a chunk.
const CHUNK: usize = 1024;

/// Items by number.
#[derive(Debug)]
pub(super) struct Arena<T> {
    chunks: Vec<Vec<T>>,
}

impl<T> Arena<T> {
    pub fn new() -> Arena<T> {
        Arena { chunks: Vec::new() }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        let full = self.chunks.len().saturating_sub(1);
        full * CHUNK + self.chunks.last().map_or(0, Vec::len)
    }

    /// Bytes that the items were given.
    pub fn bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK * size_of::<T>()) as u64
    }

    /// Appends an item.
    ///
    /// # Errors
    /// If the budget does not allow another chunk.
    pub fn push(&mut self, item: T, budget: &Budget<'_>, blame: Blame<'_>) -> Result<()> {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            budget.reserve((CHUNK * size_of::<T>() + 2 * size_of::<Vec<T>>()) as u64, blame)?;
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(item);
        }
        Ok(())
    }

    /// Item number `i`.
    pub fn get(&self, i: usize) -> Option<&T> {
        self.chunks.get(i / CHUNK)?.get(i % CHUNK)
    }

    /// Item number `i`, to be changed.
    pub fn get_mut(&mut self, i: usize) -> Option<&mut T> {
        self.chunks.get_mut(i / CHUNK)?.get_mut(i % CHUNK)
    }

    /// All items in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

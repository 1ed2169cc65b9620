//! Matrices of activations, from a pool: a pass takes and returns the same few buffers block after block.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use aligned_vec::{AVec, ConstAlign};

/// Values that begin a cache line, so that a vector register of them is loaded from one line, not from two.
pub(super) type Aligned = AVec<f32, ConstAlign<64>>;

/// Buffer without values yet.
pub(super) fn aligned() -> Aligned {
    AVec::new(64)
}

/// Buffers that were used and may be used again.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Vec<Aligned>>>);

impl Pool {
    /// A matrix whose values are unspecified (but initialised: leftovers of an earlier one).
    pub(super) fn matrix(&self, rows: usize, cols: usize) -> Matrix {
        let size = rows * cols;
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, so that the large ones stay for large matrices.
        let fit = (0..free.len()).filter(|i| free[*i].capacity() >= size).min_by_key(|i| free[*i].capacity());
        let mut data = fit.map_or_else(aligned, |i| free.swap_remove(i));
        drop(free);
        data.resize(size, 0.0);
        Matrix { rows, cols, data, pool: self.clone() }
    }
}

/// Row-major values that go back to the pool in the end.
#[derive(Debug)]
pub(super) struct Matrix {
    /// Number of rows: one a token.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// The values.
    pub data: Aligned,
    pool: Pool,
}

impl Matrix {
    /// One row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// One row, to be written.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// The pool it came from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl Clone for Matrix {
    fn clone(&self) -> Matrix {
        let mut copy = self.pool.matrix(self.rows, self.cols);
        copy.data.copy_from_slice(&self.data);
        copy
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        let data = mem::replace(&mut self.data, aligned());
        if data.capacity() > 0 {
            self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(data);
        }
    }
}

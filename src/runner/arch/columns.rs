//! Windows on neighbouring columns of a matrix, for threads that each compute some of the columns.

#![allow(unsafe_code)] // parts of one matrix for several threads

use std::marker::PhantomData;

/// Some columns of all rows of a row-major matrix, to be written by one thread.
pub(in crate::runner) struct Columns<'a> {
    first: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Columns` is the only one that reaches its elements (see `split_columns`), like a `&mut [f32]`.
unsafe impl Send for Columns<'_> {}

/// Cuts a matrix of rows of `width` values into windows of `cols` columns (the last may be narrower), which share
/// no element.
///
/// # Panics
/// If `cols` is 0 or `matrix` holds no whole number of rows.
pub(in crate::runner) fn split_columns(matrix: &mut [f32], width: usize, cols: usize) -> Vec<Columns<'_>> {
    assert!(cols > 0 && (width > 0 || matrix.is_empty()));
    let rows = matrix.len().checked_div(width).unwrap_or(0);
    assert!(rows * width == matrix.len());
    let first = matrix.as_mut_ptr();
    (0..width.div_ceil(cols))
        .map(|n| Columns {
            // SAFETY: `n * cols` is less than `width`, so this is within the first row, or the matrix is empty and
            // the pointer is never used.
            first: if rows == 0 { first } else { unsafe { first.add(n * cols) } },
            rows,
            cols: cols.min(width - n * cols),
            stride: width,
            matrix: PhantomData,
        })
        .collect()
}

impl Columns<'_> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values of columns `from..from + len` of a row.
    ///
    /// # Panics
    /// If they do not exist.
    pub fn row(&mut self, row: usize, from: usize, len: usize) -> &mut [f32] {
        assert!(row < self.rows && from + len <= self.cols);
        // SAFETY: the row and the columns exist (just checked), they lie within the matrix that `split_columns`
        // borrowed, and no other `Columns` has them.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.stride + from), len) }
    }

    /// Tile of the values of columns `from..from + cols` of rows `row..row + rows`: a pointer to the first one, and the
    /// distance from row to row. They may be read and written as long as the borrow lasts.
    ///
    /// # Panics
    /// If they do not exist.
    pub fn tile(&mut self, row: usize, rows: usize, from: usize, cols: usize) -> (*mut f32, usize) {
        assert!(row + rows <= self.rows && from + cols <= self.cols);
        // SAFETY: the first value exists, or the tile is empty and the pointer at most one past the window's rows.
        (unsafe { self.first.add(row * self.stride + from) }, self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_belongs_to_one_window() {
        let mut matrix = [0.0; 21];
        for (n, mut window) in split_columns(&mut matrix, 7, 3).into_iter().enumerate() {
            for row in 0..window.rows() {
                let cols = window.cols();
                window.row(row, 0, cols).iter_mut().for_each(|v| *v += n as f32 + 1.0);
            }
        }
        assert_eq!(matrix[..7], [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0]);
        assert_eq!(matrix[14..], matrix[..7]);
    }
}

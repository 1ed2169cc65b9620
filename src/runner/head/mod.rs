//! Output layers: the full one, and such as read less of it.
//!
//! ```text
//! full.rs       every row, as the file stores it
//! certified.rs  a copy of 6 bits of all rows, then the rows that can still be among the best: exact by proof
//! clustered.rs  the rows of the clusters that seem likeliest: an approximation
//! fit.rs        how the clusters of a model are made, and fitted to a text
//! stored/       clusters and certified copies in files
//! choice.rs     how a head is asked for
//! ```
//! A [`Head`] gives logits for all tokens, and says which rows of the full matrix it read for them ([`Reading`]).

mod certified;
mod choice;
mod clustered;
mod fit;
mod full;
mod stored;
#[cfg(test)]
mod tests;

use std::fmt;

pub use certified::Certified;
pub use choice::{FORMS, HeadChoice, parse_share};
pub use clustered::Clustered;
pub use fit::{Fit, mean_squares};
pub use full::Full;

use super::Logits;
use super::arch::{product_of_few, split_columns};
use super::matrix::Matrix;
use super::weight::{Inputs, Weight};

/// A way to compute what a model predicts from what its last block says.
pub trait Head: fmt::Debug + Send + Sync {
    /// Name that selects the head: `certified:5`.
    fn name(&self) -> String;

    /// Number of the likeliest tokens that are certainly those of the full head, in their order and with its logits: of
    /// [`Full`] all, of an approximation none.
    fn exact(&self) -> usize;

    /// The logits of all tokens, a row an input; where the full matrix was not read, what stands in their place. For
    /// each input also what was read.
    fn logits(&self, full: &FullRows<'_>, inputs: &Inputs<'_>) -> (Logits, Vec<Reading>);
}

/// Rows and bytes that were read for the logits of one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The rows of the full matrix.
    pub rows: Rows,
    /// Bytes of these rows as they are stored, and of whatever else was read.
    pub bytes: u64,
}

/// Rows of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Number of rows, which are all.
    All(usize),
    /// Numbers of the rows.
    Some(Vec<u32>),
}

impl Rows {
    /// Number of rows.
    pub fn count(&self) -> usize {
        match self {
            Rows::All(n) => *n,
            Rows::Some(rows) => rows.len(),
        }
    }

    /// True if `row` is among them.
    pub fn contains(&self, row: u32) -> bool {
        match self {
            Rows::All(n) => (row as usize) < *n,
            Rows::Some(rows) => rows.contains(&row),
        }
    }
}

/// The matrix of the full head: [tokens, channels], as the file stores it.
pub struct FullRows<'a> {
    pub(super) weight: Weight<'a>,
    /// Bytes of a row in the file.
    pub(super) row_bytes: u64,
}

/// Rows that are read together where all are.
const CHUNK: usize = 256;
/// Rows that are multiplied together where some are.
const TOGETHER: usize = 8;

impl FullRows<'_> {
    /// Number of rows: tokens.
    pub fn rows(&self) -> usize {
        self.weight.rows()
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.weight.cols()
    }

    /// Bytes of a row in the file.
    pub fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    /// Bytes of all rows in the file.
    pub fn bytes(&self) -> u64 {
        self.rows() as u64 * self.row_bytes
    }

    /// Gives all rows, decoded, to `work`, some at a time.
    pub fn each_chunk<E>(&self, mut work: impl FnMut(&[f32]) -> Result<(), E>) -> Result<(), E> {
        let all = self.rows();
        let mut chunk = Vec::new();
        (0..all).step_by(CHUNK).try_for_each(|from| {
            chunk.clear();
            self.weight.with_rows(from..all.min(from + CHUNK), |rows| chunk.extend_from_slice(rows));
            work(&chunk)
        })
    }

    /// Puts the logits of some rows for one input where they belong in `out`: the same to the last bit as those of the
    /// full product.
    fn fill(&self, x: &[f32], rows: &[u32], out: &mut [f32]) {
        let cols = self.cols();
        let mut decoded = vec![0.0; TOGETHER * cols];
        let mut logits = [0.0; TOGETHER];
        for rows in rows.chunks(TOGETHER) {
            for (row, decoded) in rows.iter().zip(decoded.chunks_exact_mut(cols)) {
                let row = *row as usize;
                self.weight.with_rows(row..row + 1, |values| decoded.copy_from_slice(values));
            }
            for columns in split_columns(&mut logits[..rows.len()], rows.len(), rows.len()) {
                product_of_few(x, &decoded[..rows.len() * cols], cols, columns);
            }
            for (row, logit) in rows.iter().zip(logits) {
                out[*row as usize] = logit;
            }
        }
    }
}

/// Computes the logits of each input by itself: `one` gets its number and its logits to be written, and tells what it
/// read.
fn each_input(
    mut logits: Matrix,
    one: impl Fn(usize, &mut [f32]) -> Reading + Sync,
) -> (Logits, Vec<Reading>) {
    use rayon::prelude::*;
    let cols = logits.cols.max(1);
    let readings = logits.data.par_chunks_mut(cols).enumerate().map(|(i, row)| one(i, row)).collect();
    (Logits(logits), readings)
}

//! Norms over a row or over the heads of a row.

use rayon::prelude::*;

use super::arch::kernel;
use super::matrix::Matrix;

/// Rows that a thread takes at a time.
pub(super) const ROWS: usize = 16;

/// Epsilon of the norm over heads, of every version (the official runner's).
pub(super) const GROUP_EPSILON: f32 = 64e-5;

/// Weight, bias and epsilon of a norm.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub epsilon: f32,
}

impl Norm<'_> {
    /// The norm of every row.
    pub fn rows(&self, x: &Matrix) -> Matrix {
        let mut out = x.pool().matrix(x.rows, x.cols);
        out.data.copy_from_slice(&x.data);
        self.groups(&mut out, x.cols);
        out
    }

    /// Normalises every group of `size` values of every row, in place.
    pub fn groups(&self, x: &mut Matrix, size: usize) {
        let cols = x.cols;
        x.data.par_chunks_mut(ROWS * cols).for_each(|rows| {
            for row in rows.chunks_mut(cols) {
                normalise(row, self.weight, self.bias, self.epsilon, size);
            }
        });
    }
}

kernel! {
    /// Each run of `size` values: minus its mean, over its standard deviation, times weight, plus bias.
    fn normalise(row: &'w mut [f32], weight: &'w [f32], bias: &'w [f32], epsilon: f32, size: usize) as A {
        let parameters = weight.chunks_exact(size).zip(bias.chunks_exact(size));
        for (x, (weight, bias)) in row.chunks_exact_mut(size).zip(parameters) {
            let n = size as f32;
            let mean = sum::<A>(x, |v| v) / n;
            let variance = sum::<A>(x, |v| (v - mean) * (v - mean)) / n;
            let scale = 1.0 / (variance + epsilon).sqrt();
            for ((x, w), b) in x.iter_mut().zip(weight).zip(bias) {
                *x = A::fma((*x - mean) * scale, *w, *b);
            }
        }
    }
}

/// Partial sums of a sum over a row: value `i` goes to partial sum `i % LANES`.
const LANES: usize = 16;

/// The sum of `of` over all values, in [`LANES`] partial sums.
#[inline(always)]
fn sum<A: super::arch::Arithmetic>(x: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in whole {
        for l in 0..LANES {
            lanes[l] += of(chunk[l]);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane += of(*v);
    }
    let quad = |q: usize| (lanes[4 * q] + lanes[4 * q + 2]) + (lanes[4 * q + 1] + lanes[4 * q + 3]);
    (quad(0) + quad(2)) + (quad(1) + quad(3))
}

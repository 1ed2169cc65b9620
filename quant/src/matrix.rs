//! Products of matrices of f32, in an order of operations that nothing changes.
//!
//! An element of a product is the sum over runs of [`DEPTH`] terms, each run added up term by term from its start.
//! That does not depend on the instruction set, nor on which other rows and columns are multiplied in the same call:
//! what is computed from a row of weights is the same however rows are cut over threads.

use crate::arch::{self, Kernel, Lanes};

/// Terms that are added up in registers before they reach the result.
pub(crate) const DEPTH: usize = 256;

/// Columns of the right factor that are packed side by side.
const WIDTH: usize = 32;

/// Rows of the left factor that share a load of the right one.
const HEIGHT: usize = 6;

/// A matrix in row-major order whose rows start `stride` values apart.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub values: &'a [f32],
    pub stride: usize,
}

impl<'a> View<'a> {
    pub(crate) fn new(values: &'a [f32], stride: usize) -> Self {
        View { values, stride }
    }
}

/// The right factor: as it stands, or transposed.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// `[depth, cols]`.
    Plain(View<'a>),
    /// `[cols, depth]`.
    Transposed(View<'a>),
}

/// Subtracts `left` (`[rows, depth]`) times `right` from `out` (`[rows, cols]`, rows `stride` apart).
///
/// # Panics
/// If a matrix is shorter than its shape.
pub(crate) fn subtract_product(
    out: &mut [f32],
    stride: usize,
    left: View<'_>,
    right: Right<'_>,
    (rows, depth, cols): (usize, usize, usize),
) {
    if rows == 0 || cols == 0 || depth == 0 {
        return;
    }
    arch::dispatch(SubtractProduct { out, stride, left, right, rows, depth, cols });
}

struct SubtractProduct<'a> {
    out: &'a mut [f32],
    stride: usize,
    left: View<'a>,
    right: Right<'a>,
    rows: usize,
    depth: usize,
    cols: usize,
}

impl Kernel for SubtractProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let mut packed = [[0.0; WIDTH]; DEPTH];
        for first in (0..self.depth).step_by(DEPTH) {
            let depth = DEPTH.min(self.depth - first);
            for col in (0..self.cols).step_by(WIDTH) {
                let width = WIDTH.min(self.cols - col);
                pack(self.right, (first, depth), (col, width), &mut packed);
                for row in (0..self.rows).step_by(HEIGHT) {
                    let out = &mut self.out[row * self.stride + col..];
                    let left = &self.left.values[row * self.left.stride + first..];
                    let left = View::new(left, self.left.stride);
                    match self.rows - row {
                        1 => tile::<S, 1>(s, out, self.stride, left, &packed[..depth], width),
                        2 => tile::<S, 2>(s, out, self.stride, left, &packed[..depth], width),
                        3 => tile::<S, 3>(s, out, self.stride, left, &packed[..depth], width),
                        4 => tile::<S, 4>(s, out, self.stride, left, &packed[..depth], width),
                        5 => tile::<S, 5>(s, out, self.stride, left, &packed[..depth], width),
                        _ => tile::<S, HEIGHT>(s, out, self.stride, left, &packed[..depth], width),
                    }
                }
            }
        }
    }
}

/// Copies a strip of the right factor, with zeros to the right of its last column.
#[inline(always)]
fn pack(
    right: Right<'_>,
    (first, depth): (usize, usize),
    (col, width): (usize, usize),
    packed: &mut [[f32; WIDTH]; DEPTH],
) {
    if width < WIDTH {
        packed.fill([0.0; WIDTH]);
    }
    match right {
        Right::Plain(View { values, stride }) => {
            for (k, packed) in packed[..depth].iter_mut().enumerate() {
                packed[..width].copy_from_slice(&values[(first + k) * stride + col..][..width]);
            }
        }
        Right::Transposed(View { values, stride }) => {
            for i in 0..width {
                let row = &values[(col + i) * stride + first..][..depth];
                for (packed, v) in packed.iter_mut().zip(row) {
                    packed[i] = *v;
                }
            }
        }
    }
}

/// `R` rows of a strip.
#[inline(always)]
fn tile<S: Lanes, const R: usize>(
    s: S,
    out: &mut [f32],
    stride: usize,
    left: View<'_>,
    packed: &[[f32; WIDTH]],
    width: usize,
) {
    let rows: [&[f32]; R] = std::array::from_fn(|r| &left.values[r * left.stride..][..packed.len()]);
    for at in (0..width).step_by(2 * S::N) {
        let mut sums = [[s.splat(0.0); 2]; R];
        for (k, right) in packed.iter().enumerate() {
            let right = [s.load(&right[at..]), s.load(&right[at + S::N..])];
            for r in 0..R {
                let left = s.splat(rows[r][k]);
                sums[r] = [sums[r][0] + left * right[0], sums[r][1] + left * right[1]];
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let mut run = [0.0; WIDTH];
            s.store(sums[0], &mut run);
            s.store(sums[1], &mut run[S::N..]);
            let count = (2 * S::N).min(width - at);
            for (out, run) in out[r * stride + at..][..count].iter_mut().zip(run) {
                *out -= run;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arch::{Level, with_limit};

    fn numbers(n: usize, mut seed: u32) -> Vec<f32> {
        let mut next = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The definition at the top of this file.
    fn by_definition(
        out: &mut [f32],
        left: &[f32],
        right: &[f32],
        (rows, depth, cols): (usize, usize, usize),
    ) {
        for i in 0..rows {
            for j in 0..cols {
                for run in (0..depth).step_by(DEPTH) {
                    let mut sum = 0.0f32;
                    for k in run..(run + DEPTH).min(depth) {
                        sum += left[i * depth + k] * right[k * cols + j];
                    }
                    out[i * cols + j] -= sum;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn products_are_those_of_the_definition_at_every_level(
            shape in (1usize..20, 1usize..600, 1usize..80), seed in any::<u32>(),
        ) {
            let (rows, depth, cols) = shape;
            let (left, right) = (numbers(rows * depth, seed), numbers(depth * cols, seed ^ 1));
            let start = numbers(rows * cols, seed ^ 2);
            let mut expected = start.clone();
            by_definition(&mut expected, &left, &right, shape);
            let mut turned = vec![0.0; right.len()];
            for k in 0..depth {
                for j in 0..cols {
                    turned[j * depth + k] = right[k * cols + j];
                }
            }
            for level in Level::available() {
                for right in [Right::Plain(View::new(&right, cols)), Right::Transposed(View::new(&turned, depth))] {
                    let mut out = start.clone();
                    let left = View::new(&left, depth);
                    with_limit(level, || subtract_product(&mut out, cols, left, right, shape));
                    prop_assert!(out == expected, "{:?}", level);
                }
            }
        }
    }
}

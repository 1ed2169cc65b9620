//! The part of a matrix that few dimensions hold, kept apart from what is quantized: `W ~ up down + Q(W - up down)`
//! (SVDQuant, arXiv 2411.05007, without its activations).
//!
//! Which part is best depends on the inputs. For second moments `H = R R^T` of the inputs, the best rank-k `C` leaves
//! the least of `tr((W - C) H (W - C)^T) = |W R - C R|^2`, so `C R` is the truncated singular value decomposition of
//! `W R` (QERA, arXiv 2410.06040, has this with the root of `H` and its inverse). With the left singular vectors `P`
//! that is `C R = P P^T W R`, hence `C = P P^T W`: neither root nor inverse is needed, and `H` may be singular. `P`
//! are the leading eigenvectors of `W H W^T`, found by subspace iteration from random vectors (Halko, Martinsson,
//! Tropp, arXiv 0909.4061), so no big matrix is ever decomposed.

use nalgebra::DMatrix;

use crate::codec::{Codec, EncodeError};
use crate::hessian::Hessian;
use crate::matrix::{Right, View, subtract_product};
use crate::random::Random;

/// Vectors iterated beyond the rank.
const MORE: usize = 8;

/// Applications of `W H W^T`.
const ITERATIONS: usize = 4;

/// Measure of the error of a matrix.
#[derive(Clone, Copy, Debug)]
pub enum Metric<'a> {
    /// Errors of all weights count alike.
    Plain,
    /// Errors of a column count by the mean square of its input (QERA-approx).
    Diagonal(&'a [f32]),
    /// Errors of the outputs count.
    Full(&'a Hessian),
}

impl Metric<'_> {
    /// The error `tr(E H E^T)` of decoded weights.
    ///
    /// # Panics
    /// If the lengths do not fit together.
    pub fn error(&self, cols: usize, original: &[f32], decoded: &[f32]) -> f64 {
        assert!(original.len() == decoded.len() && original.len().is_multiple_of(cols.max(1)));
        let square = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).powi(2);
        match self {
            Metric::Plain => original.iter().zip(decoded).map(square).sum(),
            Metric::Diagonal(weights) => {
                assert_eq!(weights.len(), cols);
                let weights = weights.iter().map(|w| f64::from(*w)).cycle();
                original.iter().zip(decoded).map(square).zip(weights).map(|(e, w)| e * w).sum()
            }
            Metric::Full(hessian) => hessian.output_error(original, decoded),
        }
    }

    /// `rows` (`[n, cols]`) times `H`, or minus that.
    fn apply(&self, rows: &[f32], cols: usize) -> Vec<f32> {
        match self {
            Metric::Plain => rows.to_vec(),
            Metric::Diagonal(weights) => {
                rows.iter().zip(weights.iter().cycle()).map(|(v, w)| v * w).collect()
            }
            Metric::Full(hessian) => {
                let mut out = vec![0.0; rows.len()];
                let right = Right::Plain(View::new(hessian.data(), cols));
                let shape = (rows.len() / cols.max(1), cols, cols);
                subtract_product(&mut out, cols, View::new(rows, cols), right, shape);
                for v in &mut out {
                    *v = -*v;
                }
                out
            }
        }
    }
}

/// A matrix `up` (`[rows, rank]`) times `down` (`[rank, cols]`).
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// Dimensions kept.
    pub rank: usize,
    /// `[rows, rank]`, orthonormal columns as [`factor`] gives them.
    pub up: Vec<f32>,
    /// `[rank, cols]`.
    pub down: Vec<f32>,
}

impl LowRank {
    /// Adds the product to `values`, `[rows, cols]`.
    ///
    /// # Panics
    /// If `values` does not have the shape of the product.
    pub fn add_to(&self, values: &mut [f32]) {
        let up = self.up.iter().map(|v| -v).collect();
        LowRank { rank: self.rank, up, down: self.down.clone() }.subtract_from(values);
    }

    /// Subtracts the product from `values`, `[rows, cols]`.
    ///
    /// # Panics
    /// If `values` does not have the shape of the product.
    pub fn subtract_from(&self, values: &mut [f32]) {
        let (rows, cols) = (self.up.len() / self.rank.max(1), self.down.len() / self.rank.max(1));
        assert_eq!(values.len(), rows * cols);
        let right = Right::Plain(View::new(&self.down, cols));
        subtract_product(values, cols, View::new(&self.up, self.rank), right, (rows, self.rank, cols));
    }
}

/// The `rank` dimensions of `values` (`[rows, cols]`) that leave the least error by `metric`; no more than the matrix
/// has. The same for a seed, whatever the machine's number of cores.
///
/// # Panics
/// If the lengths do not fit together.
pub fn factor(
    rows: usize,
    cols: usize,
    values: &[f32],
    metric: Metric<'_>,
    rank: usize,
    seed: u64,
) -> LowRank {
    assert_eq!(values.len(), rows * cols);
    let rank = rank.min(rows).min(cols);
    let width = (rank + MORE).min(rows);
    let mut random = Random::new(seed);
    let mut basis = DMatrix::from_fn(rows, width, |_, _| random.normal());
    for _ in 0..ITERATIONS {
        basis = basis.qr().q();
        let inner = metric.apply(&below(&basis, values, cols), cols);
        let mut next = vec![0.0; width * rows];
        let right = Right::Transposed(View::new(values, cols));
        subtract_product(&mut next, rows, View::new(&inner, cols), right, (width, cols, rows));
        basis = DMatrix::from_fn(rows, width, |i, k| f64::from(next[k * rows + i]));
    }
    let basis = basis.qr().q();
    // The leading eigenvectors within the basis.
    let projected = below(&basis, values, cols);
    let inner = metric.apply(&projected, cols);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let row = |m: &'_ [f32], k: usize| m[k * cols..(k + 1) * cols].to_vec();
    let small = DMatrix::from_fn(width, width, |i, k| dot(&row(&projected, i), &row(&inner, k)));
    let vectors = ((&small + small.transpose()) * 0.5).svd(true, false).u.unwrap_or(small);
    let vectors = vectors.columns(0, rank).into_owned();
    let up = product(&basis, &vectors);
    let projected = DMatrix::from_row_iterator(width, cols, projected.iter().map(|v| f64::from(*v)));
    let down = product(&vectors.transpose(), &projected);
    LowRank { rank, up: row_major(&up), down: row_major(&down) }
}

/// The transpose of `basis` times `values`.
fn below(basis: &DMatrix<f64>, values: &[f32], cols: usize) -> Vec<f32> {
    let (rows, width) = basis.shape();
    // Column-major: the transpose, row by row.
    let left: Vec<f32> = basis.as_slice().iter().map(|v| -*v as f32).collect();
    let mut out = vec![0.0; width * cols];
    let right = Right::Plain(View::new(values, cols));
    subtract_product(&mut out, cols, View::new(&left, rows), right, (width, rows, cols));
    out
}

/// The product `a b`; sums in the order of the columns of `a`, none fused. (nalgebra's own product has other last bits
/// where the processor multiplies and adds in one step.)
pub(crate) fn product(a: &DMatrix<f64>, b: &DMatrix<f64>) -> DMatrix<f64> {
    let mut out = DMatrix::zeros(a.nrows(), b.ncols());
    for (mut out, factors) in out.column_iter_mut().zip(b.column_iter()) {
        for (column, factor) in a.column_iter().zip(factors.iter()) {
            out.iter_mut().zip(column.iter()).for_each(|(sum, v)| *sum += v * factor);
        }
    }
    out
}

fn row_major(matrix: &DMatrix<f64>) -> Vec<f32> {
    matrix.transpose().as_slice().iter().map(|v| *v as f32).collect()
}

/// Settings of [`split`].
#[derive(Clone, Copy)]
pub struct Split<'a> {
    /// Measure of the error that is minimized.
    pub metric: Metric<'a>,
    /// Dimensions kept apart.
    pub rank: usize,
    /// Seed of the random vectors.
    pub seed: u64,
    /// Most rounds in which the two parts are fitted to each other; fitting stops when the error falls no more.
    pub rounds: usize,
    /// The type that the factors are stored in; `rank` and the columns are whole blocks of it.
    pub factors: &'a dyn Codec,
}

/// A matrix in two parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// The factors as they decode from the type they are stored in.
    pub low_rank: LowRank,
    /// The quantized rest.
    pub bytes: Vec<u8>,
    /// The error of both together.
    pub error: f64,
    /// That of the quantized matrix alone.
    pub error_without: f64,
    /// Number of rounds in which the parts were fitted.
    pub rounds: usize,
}

/// Divides `values` (`[rows, cols]`) into low rank and a rest in `codec`'s blocks, which `encode` makes of it.
///
/// The matrix is quantized, its error approximated, what the factors leave of the matrix is quantized, and so on;
/// the pair of least error is kept, never one worse than that of the first round.
///
/// # Errors
/// [`EncodeError`] of `encode`, or of the factors.
///
/// # Panics
/// If the lengths do not fit together.
pub fn split(
    codec: &dyn Codec,
    values: &[f32],
    cols: usize,
    how: &Split<'_>,
    mut encode: impl FnMut(&[f32], &mut [u8]) -> Result<(), EncodeError>,
) -> Result<Parts, EncodeError> {
    assert!(cols > 0 && values.len().is_multiple_of(cols));
    let e = codec.encoding();
    let rows = values.len() / cols;
    let mut decoded = vec![0.0; values.len()];
    let mut rest = values.to_vec();
    let mut best: Option<Parts> = None;
    let mut error_without = 0.0;
    for round in 1..=how.rounds.max(1) {
        let mut bytes = vec![0; values.len() / e.block_len() * e.block_bytes()];
        encode(&rest, &mut bytes)?;
        codec.decode(&bytes, &mut decoded);
        if round == 1 {
            error_without = how.metric.error(cols, values, &decoded);
        }
        for ((rest, v), d) in rest.iter_mut().zip(values).zip(&decoded) {
            *rest = v - d;
        }
        let mut low_rank = factor(rows, cols, &rest, how.metric, how.rank, how.seed);
        store(how.factors, &mut low_rank.up, low_rank.rank)?;
        store(how.factors, &mut low_rank.down, cols)?;
        low_rank.subtract_from(&mut rest);
        let error = how.metric.error(cols, &rest, &vec![0.0; rest.len()]);
        if best.as_ref().is_some_and(|best| error >= best.error) {
            break;
        }
        rest.copy_from_slice(values);
        low_rank.subtract_from(&mut rest);
        best = Some(Parts { low_rank, bytes, error, error_without, rounds: round });
    }
    let nothing = LowRank { rank: 0, up: Vec::new(), down: Vec::new() };
    Ok(best.unwrap_or(Parts { low_rank: nothing, bytes: Vec::new(), error: 0.0, error_without, rounds: 0 }))
}

/// Replaces values by what they decode to.
fn store(codec: &dyn Codec, values: &mut [f32], cols: usize) -> Result<(), EncodeError> {
    let e = codec.encoding();
    let mut bytes = vec![0; values.len() / e.block_len() * e.block_bytes()];
    codec.encode_best(crate::Rows::new(values, cols), &mut bytes)?;
    codec.decode(&bytes, values);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rows, float, ggml};

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..n).map(|_| random.normal() as f32).collect()
    }

    /// A matrix whose singular values fall.
    fn matrix(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
        let (a, b) = (numbers(rows * rows, seed), numbers(rows * cols, seed + 1));
        let a = DMatrix::from_fn(rows, rows, |i, k| f64::from(a[i * rows + k]) * 0.8f64.powi(k as i32));
        let b = DMatrix::from_fn(rows, cols, |i, k| f64::from(b[i * cols + k]));
        row_major(&(a * b))
    }

    fn moments(n: usize) -> Hessian {
        let x = numbers(n * 2 * n, 9);
        let x = DMatrix::from_fn(n, 2 * n, |i, k| f64::from(x[i * 2 * n + k]) * (1.0 + i as f64 / 5.0));
        Hessian::new(n, row_major(&(&x * x.transpose() / n as f64))).unwrap()
    }

    /// The least error that any matrix of that rank leaves, by the full decomposition of `W R`.
    fn least_error(rows: usize, cols: usize, values: &[f32], hessian: &[f32], rank: usize) -> f64 {
        let w = DMatrix::from_fn(rows, cols, |i, k| f64::from(values[i * cols + k]));
        let h = DMatrix::from_fn(cols, cols, |i, k| f64::from(hessian[i * cols + k]));
        let root = h.cholesky().unwrap().l();
        let mut values: Vec<f64> = (w * root).singular_values().iter().copied().collect();
        values.sort_by(|a, b| b.total_cmp(a));
        values[rank..].iter().map(|v| v * v).sum()
    }

    #[test]
    fn the_error_is_that_of_the_full_decomposition() {
        let (rows, cols) = (40, 56);
        let values = matrix(rows, cols, 1);
        let hessian = moments(cols);
        let diagonal = hessian.diagonal();
        let as_matrix = |diagonal: &dyn Fn(usize) -> f32| -> Vec<f32> {
            (0..cols * cols).map(|i| if i / cols == i % cols { diagonal(i % cols) } else { 0.0 }).collect()
        };
        for (metric, moments) in [
            (Metric::Plain, as_matrix(&|_| 1.0)),
            (Metric::Diagonal(&diagonal), as_matrix(&|i| diagonal[i])),
            (Metric::Full(&hessian), hessian.data().to_vec()),
        ] {
            let mut before = f64::INFINITY;
            for rank in [1, 4, 12] {
                let found = factor(rows, cols, &values, metric, rank, 3);
                let mut rest = values.clone();
                found.subtract_from(&mut rest);
                let error = metric.error(cols, &rest, &vec![0.0; rest.len()]);
                let least = least_error(rows, cols, &values, &moments, rank);
                assert!(
                    error <= 1.01 * least && error >= 0.999 * least,
                    "{metric:?} {rank}: {error} {least}"
                );
                assert!(error < before);
                before = error;
                assert_eq!(found, factor(rows, cols, &values, metric, rank, 3));
            }
        }
    }

    #[test]
    fn the_metric_of_the_inputs_is_worth_it() {
        let (rows, cols, rank) = (64, 96, 8);
        let values = numbers(rows * cols, 5);
        let hessian = moments(cols);
        let diagonal = hessian.diagonal();
        let error = |metric| {
            let mut rest = values.clone();
            factor(rows, cols, &values, metric, rank, 1).subtract_from(&mut rest);
            hessian.output_error(&rest, &vec![0.0; rest.len()])
        };
        let (plain, scaled, full) =
            (error(Metric::Plain), error(Metric::Diagonal(&diagonal)), error(Metric::Full(&hessian)));
        assert!(full < scaled && scaled < plain, "{full} {scaled} {plain}");
    }

    #[test]
    fn more_dimensions_than_the_matrix_has_leave_nothing() {
        let values = matrix(8, 12, 2);
        let found = factor(8, 12, &values, Metric::Plain, 100, 1);
        assert_eq!((found.rank, found.up.len(), found.down.len()), (8, 64, 96));
        let mut rest = values.clone();
        found.subtract_from(&mut rest);
        assert!(rest.iter().all(|v| v.abs() < 1e-4));
        let zeros = factor(8, 12, &[0.0; 96], Metric::Plain, 4, 1);
        assert!(zeros.down.iter().all(|v| *v == 0.0) && zeros.up.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn splitting_beats_the_quantized_matrix_and_rounds_never_hurt() {
        let cols = 64;
        let mut values = numbers(64 * cols, 6);
        for row in values.chunks_mut(cols) {
            row[7] *= 40.0;
        }
        let hessian = moments(cols);
        let encode = |rest: &[f32], out: &mut [u8]| ggml::Q4_0.encode_best(Rows::new(rest, cols), out);
        let mut before = f64::INFINITY;
        for rounds in [1, 2, 6] {
            let how =
                Split { metric: Metric::Full(&hessian), rank: 4, seed: 1, rounds, factors: &float::F16 };
            let parts = split(&ggml::Q4_0, &values, cols, &how, encode).unwrap();
            assert!(parts.error <= before && parts.error < 0.9 * parts.error_without, "{parts:?}");
            before = parts.error;
            let mut decoded = vec![0.0; values.len()];
            ggml::Q4_0.decode(&parts.bytes, &mut decoded);
            let mut rest: Vec<f32> = values.iter().zip(&decoded).map(|(v, d)| v - d).collect();
            parts.low_rank.subtract_from(&mut rest);
            let error = hessian.output_error(&rest, &vec![0.0; rest.len()]);
            assert!((error - parts.error).abs() <= 1e-3 * error);
        }
    }
}

//! The triangular factor of an inverse: blocked, in place, in single precision.

use crate::matrix::{Right, View, subtract_product};

/// Rows and columns that are factored together.
const BLOCK: usize = 128;

/// The least pivot of a matrix with 1 on its diagonal: below this single precision has hardly a digit left.
const LEAST_PIVOT: f32 = 1e-5;

/// Replaces the symmetric matrix `a` (`[n, n]`, 1 on the diagonal, the half below counts) by the upper triangular
/// `u` with `u^T u = a^-1`; the half below becomes 0.
///
/// Read backwards, `a` has the Cholesky factor `l` with `a = l l^T`; the inverse of `l` read backwards again is `u`.
/// So there is one factorization and one inversion of a triangle, `2 n^3 / 3` operations.
///
/// # Errors
/// The column at which `a` is singular in single precision.
pub(super) fn inverse_upper(a: &mut [f32], n: usize) -> Result<(), usize> {
    a.reverse();
    // The half above the diagonal is now what was below.
    for i in 0..n {
        let (above, below) = a.split_at_mut((i + 1) * n);
        for (j, row) in below.chunks_exact_mut(n).enumerate() {
            row[i] = above[i * n + i + 1 + j];
        }
    }
    cholesky(a, n).map_err(|column| n - 1 - column)?;
    invert_lower(a, n);
    a.reverse();
    Ok(())
}

/// The lower factor, in place of the lower half.
///
/// # Errors
/// The column whose pivot is too small.
fn cholesky(a: &mut [f32], n: usize) -> Result<(), usize> {
    let mut inverse = vec![0.0; BLOCK * BLOCK];
    let mut panel = vec![0.0; n * BLOCK];
    for at in (0..n).step_by(BLOCK) {
        let width = BLOCK.min(n - at);
        cholesky_of_block(&mut a[at * n + at..], n, width).map_err(|column| at + column)?;
        let below = n - at - width;
        if below == 0 {
            break;
        }
        // The panel below the block times the inverse of the block's transpose.
        negative_inverse(&a[at * n + at..], n, width, &mut inverse);
        let rest = &mut a[(at + width) * n..];
        for (row, panel) in rest.chunks_exact(n).zip(panel.chunks_exact_mut(width)) {
            panel.copy_from_slice(&row[at..at + width]);
        }
        for row in rest.chunks_exact_mut(n) {
            row[at..at + width].fill(0.0);
        }
        let shape = (below, width, width);
        let factor = Right::Transposed(View::new(&inverse, width));
        subtract_product(&mut rest[at..], n, View::new(&panel, width), factor, shape);
        for (row, panel) in rest.chunks_exact(n).zip(panel.chunks_exact_mut(width)) {
            panel.copy_from_slice(&row[at..at + width]);
        }
        for strip in (0..below).step_by(BLOCK) {
            let strip_width = BLOCK.min(below - strip);
            let left = View::new(&panel[strip * width..], width);
            let out = &mut rest[strip * n + at + width + strip..];
            subtract_product(out, n, left, Right::Transposed(left), (below - strip, width, strip_width));
        }
    }
    Ok(())
}

/// The lower factor of a block.
fn cholesky_of_block(a: &mut [f32], stride: usize, n: usize) -> Result<(), usize> {
    for j in 0..n {
        let from = &mut a[j * stride..];
        let (row, below) = from.split_at_mut(stride.min(from.len()));
        let pivot = row[j] - square(&row[..j]);
        if pivot <= LEAST_PIVOT || pivot.is_nan() {
            return Err(j);
        }
        let root = pivot.sqrt();
        row[j] = root;
        for other in below.chunks_mut(stride).take(n - j - 1) {
            let sum: f32 = other[..j].iter().zip(&row[..j]).map(|(a, b)| a * b).sum();
            other[j] = (other[j] - sum) / root;
        }
    }
    Ok(())
}

fn square(values: &[f32]) -> f32 {
    values.iter().map(|v| v * v).sum()
}

/// Minus the inverse of the lower triangular block `a`, `[n, n]`.
fn negative_inverse(a: &[f32], stride: usize, n: usize, out: &mut [f32]) {
    for i in 0..n {
        let (done, row) = out.split_at_mut(i * n);
        let row = &mut row[..n];
        row.fill(0.0);
        for (k, done) in done.chunks_exact(n).enumerate() {
            let factor = a[i * stride + k];
            for (v, done) in row[..=k].iter_mut().zip(done) {
                *v += factor * done;
            }
        }
        let pivot = a[i * stride + i];
        for v in &mut row[..i] {
            *v = -*v / pivot;
        }
        row[i] = -1.0 / pivot;
    }
}

/// The inverse of a lower triangle, in its place; what stands above the diagonal becomes 0.
fn invert_lower(a: &mut [f32], n: usize) {
    let mut inverse = vec![0.0; BLOCK * BLOCK];
    let mut factors = vec![0.0; BLOCK * n];
    for at in (0..n).step_by(BLOCK) {
        let width = BLOCK.min(n - at);
        let (done, rows) = a.split_at_mut(at * n);
        let rows = &mut rows[..width * n];
        negative_inverse(&rows[at..], n, width, &mut inverse);
        for (row, factors) in rows.chunks_exact_mut(n).zip(factors.chunks_exact_mut(n)) {
            factors[..at].copy_from_slice(&row[..at]);
            row.fill(0.0);
        }
        // Minus the factors times what is inverted already...
        for strip in (0..at).step_by(BLOCK) {
            let left = View::new(&factors[strip..], n);
            let right = Right::Plain(View::new(&done[strip * n + strip..], n));
            subtract_product(&mut rows[strip..], n, left, right, (width, at - strip, BLOCK));
        }
        // ... times the inverse of the block.
        for (row, factors) in rows.chunks_exact_mut(n).zip(factors.chunks_exact_mut(n)) {
            factors[..at].copy_from_slice(&row[..at]);
            row.fill(0.0);
        }
        let right = Right::Plain(View::new(&factors, n));
        subtract_product(rows, n, View::new(&inverse, width), right, (width, width, at));
        for (row, inverse) in rows.chunks_exact_mut(n).zip(inverse.chunks_exact(width)) {
            for (v, negative) in row[at..].iter_mut().zip(inverse) {
                *v = 0.0 - negative;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of correlations that fall with distance, and one of few inputs.
    fn correlations(n: usize) -> Vec<f32> {
        (0..n * n).map(|i| 0.9f32.powi((i / n).abs_diff(i % n) as i32)).collect()
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        for n in [1, 2, 127, 128, 129, 300] {
            let a = correlations(n);
            let mut u = a.clone();
            inverse_upper(&mut u, n).unwrap();
            // u a u^T = 1
            let mut ua = vec![0.0f64; n * n];
            for i in 0..n {
                for k in i..n {
                    for j in 0..n {
                        ua[i * n + j] += f64::from(u[i * n + k]) * f64::from(a[k * n + j]);
                    }
                }
            }
            for i in 0..n {
                assert!(u[i * n..][..i].iter().all(|v| *v == 0.0) && u[i * n + i] > 0.0);
                for j in 0..n {
                    let v: f64 = (j..n).map(|k| ua[i * n + k] * f64::from(u[j * n + k])).sum();
                    assert!((v - f64::from(u8::from(i == j))).abs() < 1e-4, "{n}: {i} {j} {v}");
                }
            }
        }
    }

    #[test]
    fn a_singular_matrix_is_an_error_at_its_column() {
        let n = 200;
        let mut a = correlations(n);
        for k in 0..n {
            // Input 40 is input 150.
            let v = if k == 40 { 1.0 } else { a[150 * n + k] };
            (a[40 * n + k], a[k * n + 40]) = (v, v);
        }
        assert_eq!(inverse_upper(&mut a, n), Err(40));
    }
}

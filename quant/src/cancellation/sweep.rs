//! Rounding: at once, or column by column.

use super::LIMIT;
use super::fit::as_step;
use crate::arch::{self, Kernel, Lanes};
use crate::feedback::Feedback;
use crate::matrix::{Right, View, subtract_product};

/// Columns after which the later ones are corrected by a product of matrices.
const PANEL: usize = 64;

/// Adding it rounds to an integer, ties to even.
const MAGIC: f32 = 12_582_912.0;

#[inline(always)]
fn nearest(v: f32) -> f32 {
    (v.clamp(-LIMIT, LIMIT) + MAGIC) - MAGIC
}

/// The codes of `values`: each times `inverse` of its column, rounded.
pub(super) fn round(values: &[f32], inverse: &[f32], codes: &mut [i32]) {
    arch::dispatch(Round { values, inverse, codes });
}

struct Round<'a> {
    values: &'a [f32],
    inverse: &'a [f32],
    codes: &'a mut [i32],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        let cols = self.inverse.len().max(1);
        for (row, codes) in self.values.chunks_exact(cols).zip(self.codes.chunks_exact_mut(cols)) {
            for ((v, inverse), code) in row.iter().zip(self.inverse).zip(codes) {
                let v = v * inverse;
                // No time for NaN, which a product of 0 and infinity can be.
                let v = if v.is_nan() { 0.0 } else { v.clamp(-LIMIT, LIMIT) };
                // The integer is in the lowest bits.
                *code = (v + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32;
            }
        }
    }
}

/// Rounds the columns of `work` (`[rows, n]`) one after the other to multiples of `steps`, correcting later ones for
/// what each is off by. `work` is left as noise.
///
/// With a `scale` the step of each column is first chosen: the multiple of `scale` in f16 that fits the codes best.
pub(super) fn cancel(
    feedback: &Feedback,
    work: &mut [f32],
    inverse: &[f32],
    steps: &mut [f32],
    scale: Option<f32>,
    codes: &mut [i32],
) {
    assert!(work.len() == codes.len() && feedback.n() == steps.len() && inverse.len() == steps.len());
    if !work.is_empty() {
        arch::dispatch(Cancel { feedback, work, inverse, steps, scale, codes });
    }
}

struct Cancel<'a> {
    feedback: &'a Feedback,
    work: &'a mut [f32],
    inverse: &'a [f32],
    steps: &'a mut [f32],
    scale: Option<f32>,
    codes: &'a mut [i32],
}

impl Kernel for Cancel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        let n = self.feedback.n();
        let rows = self.work.len() / n;
        let upper = self.feedback.upper();
        // A panel column by column, and what each is off by over `U[j][j]`.
        let mut panel = vec![0.0f32; PANEL * rows];
        let mut errors = vec![0.0f32; rows * PANEL];
        for at in (0..n).step_by(PANEL) {
            let width = PANEL.min(n - at);
            for (r, row) in self.work.chunks_exact(n).enumerate() {
                for (j, v) in row[at..at + width].iter().enumerate() {
                    panel[j * rows + r] = *v;
                }
            }
            for j in 0..width {
                let (done, later) = panel.split_at_mut((j + 1) * rows);
                let column = &mut done[j * rows..];
                let inverse = self.inverse[at + j];
                if let Some(scale) = self.scale {
                    self.steps[at + j] = best_step(column, inverse, scale);
                }
                let (step, over) = (self.steps[at + j], 1.0 / upper[(at + j) * n + at + j]);
                for (r, v) in column.iter_mut().enumerate() {
                    let code = nearest(*v * inverse);
                    self.codes[r * n + at + j] = code as i32;
                    *v = (*v - code * step) * over;
                }
                let factors = &upper[(at + j) * n + at + j + 1..][..width - j - 1];
                for (other, factor) in later.chunks_exact_mut(rows).zip(factors) {
                    for (v, e) in other.iter_mut().zip(&*column) {
                        *v -= factor * e;
                    }
                }
            }
            for (r, row) in errors.chunks_exact_mut(PANEL).enumerate() {
                for (j, v) in row[..width].iter_mut().enumerate() {
                    *v = panel[j * rows + r];
                }
            }
            let after = at + width;
            if after < n {
                let right = Right::Plain(View::new(&upper[at * n + after..], n));
                let shape = (rows, width, n - after);
                subtract_product(&mut self.work[after..], n, View::new(&errors, PANEL), right, shape);
            }
        }
    }
}

/// The step that leaves the least error of a column. It is held near `1 / inverse` where there are few codes.
fn best_step(column: &[f32], inverse: f32, scale: f32) -> f32 {
    let step = f64::from(1.0 / inverse);
    let (mut dot, mut squares) = (step, 1.0);
    for v in column {
        let code = f64::from(nearest(*v * inverse));
        dot += code * f64::from(*v);
        squares += code * code;
    }
    as_step(dot / squares, scale)
}

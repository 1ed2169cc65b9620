//! Rounding with feedback: the error of a weight is made good by the weights that are not rounded yet (GPTQ, arXiv
//! 2210.17323, into blocks whose scales are searched for).
//!
//! A matrix multiplies inputs with second moments `H` ([`Hessian`]). Weights are rounded column by column; what a
//! column is off by changes the outputs, and the columns after it, being correlated with it, can undo a part: the best
//! such correction is known from the Cholesky factor `U` of `H^-1` ([`Feedback`]): after column `j` was rounded to
//! `q`, the columns `k > j` change by `-(w - q) / U[j][j] * U[j][k]`, and the error that remains is
//! `((w - q) / U[j][j])^2`.
//!
//! The scales of a block are searched when all columns before it are rounded, on the weights as corrected till then,
//! each weighted by `1 / U[j][j]^2`: what an error of that column costs after all correction.
//!
//! [`Codec::encode_feedback`](crate::Codec::encode_feedback) encodes rows so.

mod encode;
mod factor;
mod polish;

use crate::hessian::{Hessian, HessianError};
use crate::importance::negligible;

pub(crate) use encode::{Format, Levels, Solution, encode};
pub(crate) use polish::polish;

/// Cholesky factor `U` of the inverse Hessian of a matrix's inputs, for GPTQ error feedback (see above, and
/// [`Codec::encode_feedback`](crate::Codec::encode_feedback)): 4 bytes for each pair of inputs.
///
/// ```
/// use quant::{Codec, Rows, feedback::Feedback, hessian::Hessian, ggml::Q8_0};
/// // Inputs in pairs that are nearly alike.
/// let moment = |i: usize| match (i / 32, i % 32) { (r, c) if r == c => 1.0, (r, c) if r / 2 == c / 2 => 0.9, _ => 0.0 };
/// let hessian = Hessian::new(32, (0..32 * 32).map(moment).collect())?;
/// let weights: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) / 100.0).collect();
/// let mut bytes = [0; 68];
/// Q8_0.encode_feedback(Rows::new(&weights, 32), &Feedback::new(&hessian, 0.01)?, &mut bytes)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Feedback {
    n: usize,
    /// `[n, n]`.
    upper: Vec<f32>,
    /// `1 / U[j][j]`.
    inverse: Vec<f32>,
    /// `1 / U[j][j]^2`, 1 on average.
    weights: Vec<f32>,
    /// The mean square of each input.
    diagonal: Vec<f32>,
}

/// The mean square that an input has at least, as a part of the mean of all: an input that is always 0 in the
/// calibration text would else have weights that mean nothing.
const LEAST_PART: f64 = 1e-6;

impl Feedback {
    /// Factors the moments, shrunk towards their diagonal: `(1 - shrinkage) H + shrinkage diag(H)`.
    ///
    /// Moments from too little text know more than is true; shrinkage (0.003 to 0.3) is chosen on text that they
    /// have not seen. With shrinkage 1 nothing is fed back.
    ///
    /// Takes about `2 n^3 / 3` operations on one core.
    ///
    /// # Errors
    /// [`HessianError::Shrinkage`], and [`HessianError::Singular`] if inputs depend on each other and the shrinkage is
    /// too little for single precision (0.001 always suffices for moments that come from inputs).
    pub fn new(hessian: &Hessian, shrinkage: f32) -> Result<Feedback, HessianError> {
        if !(0.0..=1.0).contains(&shrinkage) {
            return Err(HessianError::Shrinkage(shrinkage));
        }
        let (n, data) = (hessian.n(), hessian.data());
        let diagonal = hessian.diagonal();
        let mean = diagonal.iter().map(|v| f64::from(*v)).sum::<f64>() / n.max(1) as f64;
        // Of inputs that are all 0 nothing is known: they count alike.
        let mean = if mean > 0.0 { mean } else { 1.0 };
        let roots: Vec<f64> = diagonal.iter().map(|v| (f64::from(*v) + LEAST_PART * mean).sqrt()).collect();
        let mut upper = vec![0.0; n * n];
        let part = 1.0 - f64::from(shrinkage);
        for i in 0..n {
            // Correlations, so that single precision serves inputs of any size.
            for j in 0..i {
                upper[i * n + j] = (part * f64::from(data[i * n + j]) / (roots[i] * roots[j])) as f32;
            }
            upper[i * n + i] = 1.0;
        }
        factor::inverse_upper(&mut upper, n)
            .map_err(|column| HessianError::Singular { column, shrinkage })?;
        for row in upper.chunks_exact_mut(n.max(1)) {
            for (j, v) in row.iter_mut().enumerate() {
                *v = (f64::from(*v) * mean.sqrt() / roots[j]) as f32;
            }
        }
        let mut inverse: Vec<f32> = (0..n).map(|j| 1.0 / upper[j * n + j]).collect();
        let average = mean.sqrt();
        let mean = inverse.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n.max(1) as f64;
        let weights = inverse.iter().map(|v| (f64::from(*v).powi(2) / mean) as f32).collect();
        // The moments say nothing about inputs that are always 0: their steps are those of an average input. (What they
        // weigh beside others of their block stays next to nothing.)
        let unmeasured = negligible(&diagonal);
        for j in (0..n).filter(|j| unmeasured[*j]) {
            let factor = (roots[j] / average) as f32;
            upper.iter_mut().skip(j).step_by(n).for_each(|v| *v *= factor);
            inverse[j] = 1.0 / upper[j * n + j];
        }
        Ok(Feedback { n, upper, inverse, weights, diagonal })
    }

    /// The number of inputs: the columns of the weight matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// `U`, `[n, n]`.
    pub(crate) fn upper(&self) -> &[f32] {
        &self.upper
    }

    /// The mean square of each input: the importance of encoders that know no feedback.
    pub fn diagonal(&self) -> &[f32] {
        &self.diagonal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_moments_are_an_error_unless_shrunk() {
        let hessian = Hessian::new(64, vec![1.0; 64 * 64]).unwrap();
        let error = Feedback::new(&hessian, 0.0).err();
        assert!(matches!(error, Some(HessianError::Singular { shrinkage: 0.0, .. })), "{error:?}");
        assert!(Feedback::new(&hessian, 0.001).is_ok());
    }

    #[test]
    fn shrinkage_is_a_part() {
        let hessian = Hessian::new(1, vec![1.0]).unwrap();
        for shrinkage in [-0.1, 1.1, f32::NAN] {
            assert!(matches!(Feedback::new(&hessian, shrinkage), Err(HessianError::Shrinkage(_))));
        }
    }

    #[test]
    fn inputs_that_are_always_0_count_for_next_to_nothing() {
        let n = 64;
        let moment = |k: usize| if k / n == k % n && k % n != 5 { 4.0 } else { 0.0 };
        let hessian = Hessian::new(n, (0..n * n).map(moment).collect()).unwrap();
        let feedback = Feedback::new(&hessian, 0.01).unwrap();
        assert!(feedback.weights[5] < 1e-5 && feedback.weights[6] > 0.9);
        let nothing = Feedback::new(&Hessian::new(n, vec![0.0; n * n]).unwrap(), 0.01).unwrap();
        assert!(nothing.weights.iter().all(|w| (*w - 1.0).abs() < 1e-3));
    }
}

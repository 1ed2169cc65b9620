//! The second moments of what a matrix is multiplied with: which errors of its weights count, and together with
//! which others.
//!
//! For inputs `x` of a matrix with weights `w` decoded as `w'`, the mean square error of the output is
//! `sum over rows of e H e^T` with `e = w - w'` and `H = E[x x^T]`. (GPTQ calls `H` the Hessian: it is half the second
//! derivative of that error.)

/// Reason why a [`Hessian`] cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HessianError {
    /// The number of moments is not the square of the number of inputs.
    #[error("{values} second moments are not those of {n} inputs ({n} x {n})")]
    Shape {
        /// Inputs.
        n: usize,
        /// Values given.
        values: usize,
    },
    /// A moment is NaN or infinite.
    #[error("the second moment of inputs {row} and {column} is {value}")]
    NonFinite {
        /// Row in the matrix of moments.
        row: usize,
        /// Column.
        column: usize,
        /// The moment.
        value: f32,
    },
    /// The mean square of an input is negative.
    #[error("the mean square of input {column} is {value}")]
    Negative {
        /// Position on the diagonal.
        column: usize,
        /// The value there.
        value: f32,
    },
    /// The part of the diagonal that is added is no number from 0 to 1.
    #[error("the shrinkage {0} is not between 0 and 1")]
    Shrinkage(f32),
    /// The inputs depend on each other (up to rounding), and too little shrinkage tells them apart.
    #[error(
        "the second moments are singular at input {column} with shrinkage {shrinkage}; use more shrinkage or more text"
    )]
    Singular {
        /// The input that depends on those after it.
        column: usize,
        /// The shrinkage that was too little.
        shrinkage: f32,
    },
}

/// The matrix `E[x x^T]` of the inputs of a weight matrix, `[n, n]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hessian {
    n: usize,
    values: Vec<f32>,
}

impl Hessian {
    /// The moments of `n` inputs, row-major and symmetric (of unequal halves the one below the diagonal counts).
    ///
    /// # Errors
    /// [`HessianError`] if there are not `n * n` values, one is not finite, or a mean square is negative.
    pub fn new(n: usize, values: Vec<f32>) -> Result<Hessian, HessianError> {
        if n.checked_mul(n) != Some(values.len()) {
            return Err(HessianError::Shape { n, values: values.len() });
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(HessianError::NonFinite { row: at / n, column: at % n, value: values[at] });
        }
        let hessian = Hessian { n, values };
        match (0..n).find(|i| hessian.values[i * n + i] < 0.0) {
            Some(column) => {
                Err(HessianError::Negative { column, value: hessian.values[column * n + column] })
            }
            None => Ok(hessian),
        }
    }

    /// The moments shrunk towards their diagonal: `(1 - shrinkage) H + shrinkage diag(H)`.
    ///
    /// # Errors
    /// [`HessianError::Shrinkage`] if that is no number from 0 to 1.
    pub fn shrunk(mut self, shrinkage: f32) -> Result<Hessian, HessianError> {
        if !(0.0..=1.0).contains(&shrinkage) {
            return Err(HessianError::Shrinkage(shrinkage));
        }
        for (i, row) in self.values.chunks_exact_mut(self.n.max(1)).enumerate() {
            for (j, v) in row.iter_mut().enumerate() {
                if i != j {
                    *v *= 1.0 - shrinkage;
                }
            }
        }
        Ok(self)
    }

    /// The number of inputs: the columns of the weight matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The mean square of each input.
    pub fn diagonal(&self) -> Vec<f32> {
        self.values.iter().step_by(self.n + 1).copied().collect()
    }

    /// The moments, row-major.
    pub fn data(&self) -> &[f32] {
        &self.values
    }

    /// The mean square error of the output, summed over the rows: `tr(E H E^T)` for `E = original - decoded`, both
    /// row-major with `n` columns. Errors of an input that is always 0 count for nothing.
    ///
    /// # Panics
    /// If the weights are no whole number of rows, or not as many in both.
    pub fn output_error(&self, original: &[f32], decoded: &[f32]) -> f64 {
        assert!(original.len() == decoded.len() && original.len().is_multiple_of(self.n.max(1)));
        let mut off = vec![0.0f64; self.n];
        let mut sum = 0.0;
        for (x, y) in original.chunks_exact(self.n.max(1)).zip(decoded.chunks_exact(self.n.max(1))) {
            for (off, (x, y)) in off.iter_mut().zip(x.iter().zip(y)) {
                *off = f64::from(*x) - f64::from(*y);
            }
            sum += self.form(&off);
        }
        sum
    }

    /// `e H e^T`. The half below the diagonal counts twice.
    fn form(&self, e: &[f64]) -> f64 {
        let mut sum = 0.0;
        for (i, row) in self.values.chunks_exact(self.n).enumerate() {
            if e[i] != 0.0 {
                sum += e[i] * (2.0 * dot(&row[..i], &e[..i]) + f64::from(row[i]) * e[i]);
            }
        }
        sum
    }
}

/// Eight sums run side by side.
fn dot(a: &[f32], b: &[f64]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (a8, a1) = a.as_chunks::<8>();
    let (b8, b1) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for k in 0..8 {
            sums[k] += f64::from(a[k]) * b[k];
        }
    }
    let rest: f64 = a1.iter().zip(b1).map(|(a, b)| f64::from(*a) * b).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_are_no_second_moments_is_refused() {
        assert_eq!(Hessian::new(2, vec![0.0; 3]), Err(HessianError::Shape { n: 2, values: 3 }));
        let error = Hessian::new(2, vec![1.0, 0.0, f32::INFINITY, 1.0]);
        assert_eq!(error, Err(HessianError::NonFinite { row: 1, column: 0, value: f32::INFINITY }));
        let error = Hessian::new(2, vec![1.0, 0.0, 0.0, -1.0]);
        assert_eq!(error, Err(HessianError::Negative { column: 1, value: -1.0 }));
        assert!(Hessian::new(usize::MAX, Vec::new()).is_err());
        assert_eq!(Hessian::new(0, Vec::new()).unwrap().output_error(&[], &[]), 0.0);
    }

    #[test]
    fn the_output_error_is_the_mean_square_over_inputs() {
        let inputs = [[1.0f32, 2.0, 0.0], [-3.0, 0.5, 0.0], [0.25, -1.0, 0.0]];
        let mut moments = vec![0.0; 9];
        for x in inputs {
            for i in 0..3 {
                for j in 0..3 {
                    moments[3 * i + j] += x[i] * x[j] / 3.0;
                }
            }
        }
        let (original, decoded) = ([1.0, 2.0, 3.0, 0.5, 0.0, 0.0], [0.5, 2.5, 9.0, 0.5, -1.0, 0.0]);
        let mut expected = 0.0;
        for x in inputs {
            for row in 0..2 {
                let off: f32 = (0..3).map(|i| (original[3 * row + i] - decoded[3 * row + i]) * x[i]).sum();
                expected += f64::from(off * off) / 3.0;
            }
        }
        let hessian = Hessian::new(3, moments).unwrap();
        assert!((hessian.output_error(&original, &decoded) - expected).abs() < 1e-6);
        assert_eq!(hessian.diagonal()[2], 0.0);
    }
}

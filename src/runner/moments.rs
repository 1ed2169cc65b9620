//! Second moments of what meets a matrix: E[x x^T], and its diagonal.

use rayon::prelude::*;

use super::matrix::{Matrix, Pool};
use super::weight::{By, Dense, Inputs, Values, Weight};

/// Rows of the sums that are computed together.
const PANEL: usize = 512;

/// Sums of products of inputs [tokens, n]. Products of the tokens of one call are summed in f32, those of all calls in
/// f64, always in the same order; of the symmetric sums only panels that reach the diagonal are kept.
#[derive(Clone, Debug)]
pub struct Moments {
    n: usize,
    tokens: u64,
    /// Sum of squares of every channel, if nothing else is wanted.
    squares: Vec<f64>,
    /// Rows `PANEL * p ..` of the sums up to the last of these columns; empty if only squares are wanted.
    panels: Vec<Vec<f64>>,
}

impl Moments {
    /// Moments without sums yet, of inputs of `n` channels; the full matrix if `full`, else its diagonal.
    pub fn new(n: usize, full: bool) -> Moments {
        let panels = (0..n).step_by(PANEL).filter(|_| full).map(|start| {
            let end = n.min(start + PANEL);
            vec![0.0; (end - start) * end]
        });
        Moments { n, tokens: 0, squares: vec![0.0; n], panels: panels.collect() }
    }

    /// The moments that [`rows`](Moments::rows) gave, of so many tokens.
    ///
    /// # Panics
    /// If there are not `n (n + 1) / 2` values.
    pub fn from_rows(n: usize, tokens: u64, rows: &[f32]) -> Moments {
        assert_eq!(rows.len(), n * (n + 1) / 2);
        let mut moments = Moments { tokens, ..Moments::new(n, true) };
        let mut rest = rows;
        for i in 0..n {
            let (row, later) = rest.split_at(i + 1);
            rest = later;
            let start = moments.place(i, 0);
            let sums = &mut moments.panels[i / PANEL][start..=start + i];
            // The product is exact, so the mean of it is what was given.
            sums.iter_mut().zip(row).for_each(|(sum, mean)| *sum = f64::from(*mean) * tokens as f64);
        }
        moments
    }

    /// Bytes that full moments of `n` channels take.
    pub fn bytes(n: usize) -> u64 {
        (n as u64 * (n + PANEL) as u64) / 2 * 8
    }

    /// Number of inputs that were added.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds inputs.
    ///
    /// # Panics
    /// If they have another number of channels.
    pub fn add(&mut self, inputs: &Inputs<'_>) {
        let x = inputs.0;
        assert_eq!(x.cols, self.n);
        self.tokens += x.rows as u64;
        if self.panels.is_empty() {
            for row in x.data.chunks_exact(self.n) {
                for (sum, x) in self.squares.iter_mut().zip(row) {
                    *sum += f64::from(*x) * f64::from(*x);
                }
            }
            return;
        }
        let turned = Dense::turned(x.rows, x.cols, &x.data);
        for (p, sums) in self.panels.iter_mut().enumerate() {
            let (start, end) = (p * PANEL, self.n.min((p + 1) * PANEL));
            let products = gram(x.pool(), &turned, start, end);
            sums.par_chunks_mut(end).zip(products.data.par_chunks(end)).enumerate().for_each(
                |(_, (sums, products))| {
                    for (sum, product) in sums.iter_mut().zip(products) {
                        *sum += f64::from(*product);
                    }
                },
            );
        }
    }

    /// Adds what others summed up.
    ///
    /// # Panics
    /// If they are of another number of channels or kind.
    pub fn merge(&mut self, other: &Moments) {
        assert!(self.n == other.n && self.panels.len() == other.panels.len());
        self.tokens += other.tokens;
        let sums = self.panels.iter_mut().chain([&mut self.squares]);
        for (sums, others) in sums.zip(other.panels.iter().chain([&other.squares])) {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum += other;
            }
        }
    }

    /// E[x^2] of every channel.
    pub fn mean_squares(&self) -> Vec<f32> {
        let mean = |sum: f64| (sum / self.tokens.max(1) as f64) as f32;
        if self.panels.is_empty() {
            return self.squares.iter().map(|s| mean(*s)).collect();
        }
        (0..self.n).map(|i| mean(self.panels[i / PANEL][self.place(i, i)])).collect()
    }

    /// E[x x^T], row-major; `None` if only the diagonal was summed.
    pub fn matrix(&self) -> Option<Vec<f32>> {
        if self.panels.is_empty() {
            return None;
        }
        let mut out = vec![0.0; self.n * self.n];
        out.par_chunks_mut(self.n).enumerate().for_each(|(i, row)| {
            for (j, out) in row.iter_mut().enumerate() {
                let (low, high) = (i.min(j), i.max(j));
                // The pair stands in the panel of its later row, or above the diagonal of a common one.
                let sum = self.panels[high / PANEL][self.place(high, low)];
                *out = (sum / self.tokens.max(1) as f64) as f32;
            }
        });
        Some(out)
    }

    /// E[x x^T] row by row, as far as the diagonal; nothing if only the diagonal was summed.
    pub fn rows(&self) -> impl Iterator<Item = Vec<f32>> {
        let rows = if self.panels.is_empty() { 0 } else { self.n };
        let mean = |sum: &f64| (sum / self.tokens.max(1) as f64) as f32;
        (0..rows).map(move |i| {
            let start = self.place(i, 0);
            self.panels[i / PANEL][start..=start + i].iter().map(mean).collect()
        })
    }

    /// The moments of inputs whose channels are `2^exponents` times as large.
    ///
    /// # Panics
    /// If there are not as many exponents as channels.
    #[must_use]
    pub fn rescaled(mut self, exponents: &[i32]) -> Moments {
        assert_eq!(exponents.len(), self.n);
        let power = |e: i32| f64::from(e).exp2();
        self.squares.iter_mut().zip(exponents).for_each(|(sum, e)| *sum *= power(2 * e));
        for (p, sums) in self.panels.iter_mut().enumerate() {
            let end = self.n.min((p + 1) * PANEL);
            for (sums, of_row) in sums.chunks_exact_mut(end).zip(&exponents[p * PANEL..]) {
                sums.iter_mut().zip(exponents).for_each(|(sum, e)| *sum *= power(of_row + e));
            }
        }
        self
    }

    /// Index in the panel of `row` of the sum of channels `row` and `col`.
    fn place(&self, row: usize, col: usize) -> usize {
        let end = self.n.min((row / PANEL + 1) * PANEL);
        row % PANEL * end + col
    }
}

/// Measures errors by what they do to the outputs: `tr(E H E^T)`.
#[derive(Clone, Debug)]
pub struct ErrorMeter {
    matrix: Dense,
    pool: Pool,
}

impl ErrorMeter {
    /// Meter by the moments H, or by their diagonal if only that was summed.
    pub fn new(moments: &Moments) -> ErrorMeter {
        let n = moments.n;
        let matrix = moments.matrix().unwrap_or_else(|| {
            let mut matrix = vec![0.0; n * n];
            for (i, square) in moments.mean_squares().into_iter().enumerate() {
                matrix[i * n + i] = square;
            }
            matrix
        });
        ErrorMeter { matrix: Dense::new(matrix, n), pool: Pool::default() }
    }

    /// `tr(E H E^T)` for some rows of E; of weights in its place, the mean square of the outputs.
    ///
    /// # Panics
    /// If they are no whole rows.
    pub fn power(&self, rows: &[f32]) -> f64 {
        let n = self.matrix.cols();
        assert!(rows.len().is_multiple_of(n));
        let mut x = self.pool.matrix(rows.len() / n, n);
        x.data.copy_from_slice(rows);
        let weight = Weight { values: Values::Dense(&self.matrix), by: By::Exact, key: None, hook: None };
        let y = weight.multiply(&x);
        let row = |i: usize| -> f64 {
            x.row(i).iter().zip(y.row(i)).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        let rows: Vec<f64> = (0..x.rows).into_par_iter().map(row).collect();
        rows.iter().sum()
    }
}

/// Rows `start .. end` of `x x^T`, as far as column `end`.
fn gram(pool: &Pool, x: &Dense, start: usize, end: usize) -> Matrix {
    let cols = x.cols();
    let mut left = pool.matrix(end - start, cols);
    left.data.copy_from_slice(x.rows(start..end));
    let weight = Weight { values: Values::First(x, end), by: By::Exact, key: None, hook: None };
    weight.multiply(&left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_all_pairs() {
        let pool = Pool::default();
        let n = PANEL + 40;
        let value = |t: usize, i: usize| ((t * 31 + i * 17) % 23) as f32 - 11.0;
        let mut full = Moments::new(n, true);
        let mut diagonal = Moments::new(n, false);
        let mut t = 0;
        for tokens in [3, 20] {
            let mut x = pool.matrix(tokens, n);
            for (k, v) in x.data.iter_mut().enumerate() {
                *v = value(t + k / n, k % n);
            }
            full.add(&Inputs(&x));
            diagonal.add(&Inputs(&x));
            t += tokens;
        }
        let matrix = full.matrix().unwrap();
        for (i, j) in [(0, 0), (5, 530), (530, 5), (551, 551), (511, 512)] {
            let sum: f64 = (0..t).map(|t| f64::from(value(t, i)) * f64::from(value(t, j))).sum();
            assert_eq!(matrix[i * n + j], (sum / t as f64) as f32, "{i} {j}");
        }
        assert_eq!(full.mean_squares(), diagonal.mean_squares());
        assert!(diagonal.matrix().is_none());
        let rows: Vec<f32> = full.rows().flatten().collect();
        let again = Moments::from_rows(n, full.tokens(), &rows);
        assert_eq!((again.matrix(), again.mean_squares()), (full.matrix(), full.mean_squares()));
        let exponents: Vec<i32> = (0..n as i32).map(|i| i % 7 - 3).collect();
        let rescaled = full.clone().rescaled(&exponents).matrix().unwrap();
        for (i, j) in [(0, 0), (3, 530), (530, 3), (551, 512)] {
            assert_eq!(rescaled[i * n + j], matrix[i * n + j] * 2f32.powi(exponents[i] + exponents[j]));
        }
        assert_eq!(diagonal.clone().rescaled(&exponents).mean_squares()[2], diagonal.mean_squares()[2] / 4.0);
        let mut twice = full.clone();
        twice.merge(&full);
        assert_eq!((twice.tokens(), twice.matrix()), (46, full.matrix()));
    }
}

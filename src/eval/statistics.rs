//! Means, percentiles, and how sure they are.
//!
//! The tokens of a window depend on each other, so a standard error computed over tokens is too small. Here whole
//! windows are drawn again and again, with replacement (the bootstrap of B. Efron, 1979), and every figure is
//! computed from each draw. All figures use the same draws, so the difference of two models is judged on the same
//! windows (paired).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Draws of the bootstrap.
pub const DRAWS: usize = 1000;

/// A figure and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Estimate {
    /// The figure, from all windows.
    pub value: f64,
    /// Its standard error; absent where there are not windows enough (two) to tell.
    pub error: Option<f64>,
    /// The interval that holds 95 % of the draws.
    pub interval: Option<[f64; 2]>,
}

/// Windows drawn with replacement, as often as there are windows: the same draws every time, made anew for every figure
/// so that nothing need be kept of them.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap {
    windows: usize,
}

impl Bootstrap {
    /// The draws for so many windows.
    pub fn new(windows: usize) -> Bootstrap {
        Bootstrap { windows }
    }

    /// `f` of the sums over windows of `parts` (one row of sums a window).
    pub fn estimate<const N: usize>(
        &self,
        parts: &[[f64; N]],
        f: impl Fn([f64; N]) -> f64 + Sync,
    ) -> Estimate {
        let sums = |counts: &[u32]| {
            let mut total = [0.0; N];
            for (part, n) in parts.iter().zip(counts) {
                for (total, v) in total.iter_mut().zip(part) {
                    *total += f64::from(*n) * v;
                }
            }
            [f(total)]
        };
        let [estimate] = self.estimates(sums);
        estimate
    }

    /// Several figures that `f` computes at once from how often each window counts.
    pub fn estimates<const N: usize>(&self, f: impl Fn(&[u32]) -> [f64; N] + Sync) -> [Estimate; N] {
        let values = f(&vec![1; self.windows]);
        let draws = if self.windows < 2 { 0 } else { DRAWS };
        let drawn: Vec<[f64; N]> = (0..draws).into_par_iter().map(|n| f(&self.draw(n))).collect();
        std::array::from_fn(|k| Estimate::of(values[k], drawn.iter().map(|d| d[k]).collect()))
    }

    /// Number of times that each window is in a draw.
    fn draw(&self, number: usize) -> Vec<u32> {
        let mut random = Random::new(Random::new(number as u64).bits());
        let mut counts = vec![0; self.windows];
        for _ in 0..self.windows {
            counts[random.below(self.windows)] += 1;
        }
        counts
    }
}

impl Estimate {
    /// A figure, from its values in the draws; without an error if there are none, or one of them cannot be computed.
    fn of(value: f64, mut drawn: Vec<f64>) -> Estimate {
        if drawn.is_empty() || drawn.iter().any(|v| !v.is_finite()) {
            return Estimate { value, error: None, interval: None };
        }
        let n = drawn.len() as f64;
        let mean = drawn.iter().sum::<f64>() / n;
        let variance = drawn.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
        drawn.sort_by(f64::total_cmp);
        let interval = [quantile(&drawn, 0.025), quantile(&drawn, 0.975)];
        Estimate { value, error: Some(variance.sqrt()), interval: Some(interval) }
    }
}

/// The value below which the share `q` of sorted values lies, interpolated between neighbours; NaN of none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// [`quantile`] for each of ascending `shares`, of sorted values each of which counts `times` of its index; NaN of none.
pub fn quantiles<const N: usize>(sorted: &[f64], times: impl Fn(usize) -> u32, shares: [f64; N]) -> [f64; N] {
    let total: u64 = (0..sorted.len()).map(|i| u64::from(times(i))).sum();
    let Some(last) = total.checked_sub(1) else { return [f64::NAN; N] };
    // The value at a place of the list in which each stands as often as it counts; places are asked for in order.
    let (mut next, mut end) = (0, 0);
    let mut at = |place: u64| {
        while end <= place {
            end += u64::from(times(next));
            next += 1;
        }
        sorted[next - 1]
    };
    shares.map(|share| {
        let place = share * last as f64;
        let low = at(place.floor() as u64);
        let beyond = place.fract();
        if beyond == 0.0 { low } else { low + (at(place.ceil() as u64) - low) * beyond }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn counted_values_have_the_quantiles_of_their_list() {
        let (values, times) = ([1.0, 2.0, 4.0, 8.0], [0u32, 3, 1, 2]);
        let list = [2.0, 2.0, 2.0, 4.0, 8.0, 8.0];
        let shares = [0.0, 0.3, 0.5, 0.75, 0.9, 1.0];
        let found = quantiles(&values, |i| times[i], shares);
        assert_eq!(found, shares.map(|share| quantile(&list, share)));
        assert!(quantiles(&values, |_| 0, [0.5])[0].is_nan());
    }

    #[test]
    fn the_standard_error_of_a_mean_is_that_of_theory() {
        let mut random = Random::new(1);
        let parts: Vec<[f64; 2]> = (0..400).map(|_| [random.unit(), 1.0]).collect();
        let estimate = Bootstrap::new(parts.len()).estimate(&parts, |[sum, n]| sum / n);
        // The standard deviation of uniform numbers is 1 / sqrt(12).
        let theory = (1.0f64 / 12.0 / 400.0).sqrt();
        let error = estimate.error.unwrap();
        assert!((error / theory - 1.0).abs() < 0.1, "{error} {theory}");
        let [low, high] = estimate.interval.unwrap();
        assert!(low < estimate.value && estimate.value < high);
    }

    #[test]
    fn one_window_has_no_error() {
        let estimate = Bootstrap::new(1).estimate(&[[3.0, 2.0]], |[sum, n]| sum / n);
        assert_eq!(estimate, Estimate { value: 1.5, error: None, interval: None });
    }
}

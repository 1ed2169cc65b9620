//! Codebooks of 16 levels for 4-bit codes, and the best one for given weights.
//!
//! A weight is stored as the number of the level next to `x / absmax`, where `absmax` is the largest magnitude of
//! its block. [`NF4`] and [`SF4`] are fixed; [`Fit`] finds the levels that lose least on one matrix.

/// Levels of a 4-bit code, ascending.
pub type Codebook = [f32; 16];

/// NormalFloat4: quantiles of the normal distribution with an exact zero (QLoRA, arXiv 2305.14314).
#[allow(clippy::excessive_precision)]
pub const NF4: Codebook = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// SF4: quantiles of Student's t distribution with 5 degrees of freedom and an exact zero, as web-rwkv computes them.
pub const SF4: Codebook = [
    -1.0,
    -0.62778056,
    -0.454736,
    -0.33433074,
    -0.23743437,
    -0.15289871,
    -0.074982464,
    0.0,
    0.065513074,
    0.13296473,
    0.20466101,
    0.2838347,
    0.37580484,
    0.49107558,
    0.65678114,
    1.0,
];

/// Bins over `-1..=1`. Levels are cut between bins, so a level is off by at most a bin: 1/1024.
const BINS: usize = 2048;

/// Finds the codebook of least weighted squared error for blocks scaled by their largest magnitude.
///
/// Blocks can be added in any number of calls; the sums are kept in bins, and the levels that split the bins best
/// are found exactly (dynamic programming), not by iterations from a guess.
///
/// ```
/// let mut fit = quant::codebook::Fit::new();
/// fit.add(&[0.5, -1.0, 0.25, 0.5], 4, None);
/// assert_eq!(fit.solve()[0], -1.0);
/// ```
#[derive(Clone)]
pub struct Fit {
    /// For each bin: sum of weights, of weight times value.
    weight: Vec<f64>,
    first: Vec<f64>,
}

impl Default for Fit {
    fn default() -> Self {
        Self::new()
    }
}

impl Fit {
    /// Nothing added yet.
    pub fn new() -> Fit {
        Fit { weight: vec![0.0; BINS], first: vec![0.0; BINS] }
    }

    /// Adds the finite `values` in blocks of `block`; `importance` (one for each value) weighs their errors.
    ///
    /// # Panics
    /// If `importance` is not as long as `values`, or `block` is 0.
    pub fn add(&mut self, values: &[f32], block: usize, importance: Option<&[f32]>) {
        assert!(importance.is_none_or(|q| q.len() == values.len()));
        for (n, x) in values.chunks(block).enumerate() {
            let absmax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            if absmax == 0.0 {
                continue;
            }
            for (i, v) in x.iter().enumerate() {
                let q = importance.map_or(1.0, |q| q[n * block + i]);
                // An error of the scaled value counts with the square of the scale.
                let weight = f64::from(q) * f64::from(absmax) * f64::from(absmax);
                let scaled = f64::from(v / absmax);
                let bin = (((scaled + 1.0) * (BINS as f64 / 2.0)) as usize).min(BINS - 1);
                self.weight[bin] += weight;
                self.first[bin] += weight * scaled;
            }
        }
    }

    /// The best codebook, ascending. Levels that no value needs repeat their neighbour.
    pub fn solve(&self) -> Codebook {
        let (weight, first) = (prefix(&self.weight), prefix(&self.first));
        // What a level saves over the level 0 on bins from..to: (sum w x)^2 / sum w.
        let gain = |from: usize, to: usize| {
            let w = weight[to] - weight[from];
            let x = first[to] - first[from];
            if w > 0.0 { x * x / w } else { 0.0 }
        };
        // best[j]: the most that the levels so far save on bins 0..j; cut[k][j]: where the last of them starts.
        let mut best: Vec<f64> = (0..=BINS).map(|j| gain(0, j)).collect();
        let mut cuts = vec![vec![0; BINS + 1]];
        for _ in 1..16 {
            let mut next = vec![0.0; BINS + 1];
            let mut cut = vec![0; BINS + 1];
            divide(&best, &gain, &mut next, &mut cut, (0, BINS), (0, BINS));
            best = next;
            cuts.push(cut);
        }
        let mut codebook = [0.0; 16];
        let mut to = BINS;
        let mut above = 1.0;
        for k in (0..16).rev() {
            let from = cuts[k][to];
            let w = weight[to] - weight[from];
            above = if w > 0.0 { ((first[to] - first[from]) / w) as f32 } else { above };
            codebook[k] = above;
            to = from;
        }
        codebook.sort_by(f32::total_cmp);
        codebook
    }
}

/// Fills `next[j]` and `cut[j]` for `j` in the range `to`; the best cuts ascend with `j` and lie in `from`.
fn divide(
    best: &[f64],
    gain: &impl Fn(usize, usize) -> f64,
    next: &mut [f64],
    cut: &mut [usize],
    to: (usize, usize),
    from: (usize, usize),
) {
    let j = to.0.midpoint(to.1);
    let (mut most, mut at) = (f64::NEG_INFINITY, from.0.min(j));
    for (i, before) in best.iter().enumerate().take(from.1.min(j) + 1).skip(from.0) {
        let total = before + gain(i, j);
        if total > most {
            (most, at) = (total, i);
        }
    }
    (next[j], cut[j]) = (most, at);
    if j > to.0 {
        divide(best, gain, next, cut, (to.0, j - 1), (from.0, at));
    }
    if j < to.1 {
        divide(best, gain, next, cut, (j + 1, to.1), (at, from.1));
    }
}

fn prefix(values: &[f64]) -> Vec<f64> {
    let mut sum = 0.0;
    let mut out = vec![0.0];
    for v in values {
        sum += v;
        out.push(sum);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(values: &[f32], codebook: &Codebook) -> f64 {
        let error = |v: &f32| codebook.iter().map(|c| f64::from(v - c).powi(2)).fold(f64::MAX, f64::min);
        values.iter().map(error).sum()
    }

    #[test]
    fn sixteen_values_are_kept() {
        let values: Vec<f32> = (0..16).map(|i| (i as f32 - 7.5) / 7.5).collect();
        let mut fit = Fit::new();
        fit.add(&values, 16, None);
        for (level, v) in fit.solve().iter().zip(&values) {
            assert!((level - v).abs() < 1e-6);
        }
    }

    #[test]
    fn the_fit_loses_less_than_fixed_codebooks() {
        // Triangular: neither codebook is made for it.
        let mut state = 1u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        let mut values: Vec<f32> = (0..64 * 500).map(|_| uniform() - uniform()).collect();
        for block in values.chunks_mut(64) {
            let absmax = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            block.iter_mut().for_each(|v| *v /= absmax);
        }
        let mut fit = Fit::new();
        fit.add(&values, 64, None);
        let (best, nf4, sf4) = (loss(&values, &fit.solve()), loss(&values, &NF4), loss(&values, &SF4));
        assert!(best < 0.9 * nf4 && best < 0.9 * sf4, "{best} {nf4} {sf4}");
    }

    #[test]
    fn nothing_added_gives_a_codebook_all_the_same() {
        assert!(Fit::new().solve().iter().all(|v| v.is_finite()));
    }
}

//! An output layer scanned twice: which rows of the full matrix can still be among the best, by proof.
//!
//! First the logits `a` of a small copy `v` of every row `w` are computed. For an input `h`, the logit of the full row
//! is within `|w - v| |h|` of `a` (Cauchy and Schwarz); and as both logits are sums of floats, each is within
//! `n u / (1 - n u)` times `|w| |h|` (`|v| |h|`) of the exact one for any order of summation, with or without fused
//! operations ([`Bounds`] has all of it, rounded up). A row can be among the best `k` only if its upper bound is not
//! below the `k`-th greatest lower bound ([`Bounds::survivors`]); the full logits of these rows alone decide. The best
//! rows so found are exactly those of the full output layer.
//!
//! The copy can be in any [`Codec`]: with 6 bits (Q6_K) few rows survive, with 4 most do.

use crate::codec::Codec;

/// The rounding of one operation on f32.
const ROUNDING: f64 = 1.0 / (1u32 << 24) as f64;

/// Sums of more terms are not bounded: 2^22.
const MOST_TERMS: usize = 1 << 22;

/// Largest distance of the logit of each row from that of its copy, for an input of length 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    rows: Vec<f32>,
}

impl Bounds {
    /// The bounds for rows of `cols` weights whose copy in `codec` is `bytes`.
    ///
    /// # Panics
    /// If the lengths do not fit together, or a row is longer than 2^22.
    pub fn new(codec: &dyn Codec, values: &[f32], cols: usize, bytes: &[u8]) -> Bounds {
        assert!(cols > 0 && cols <= MOST_TERMS && values.len().is_multiple_of(cols));
        let mut copy = vec![0.0; values.len()];
        codec.decode(bytes, &mut copy);
        // One operation more for each term: products are rounded too.
        let terms = (cols + 1) as f64 * ROUNDING;
        let rounding = terms / (1.0 - terms);
        let bound = |(w, v): (&[f32], &[f32])| {
            let off = norm(w.iter().zip(v).map(|(w, v)| f64::from(*w) - f64::from(*v)));
            let size = norm(w.iter().map(|w| f64::from(*w))) + norm(v.iter().map(|v| f64::from(*v)));
            up(off + rounding * size)
        };
        Bounds { rows: values.chunks_exact(cols).zip(copy.chunks_exact(cols)).map(bound).collect() }
    }

    /// The bound of each row, to be stored.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// Bounds as stored.
    pub fn from_rows(rows: Vec<f32>) -> Bounds {
        Bounds { rows }
    }

    /// The rows that can be among the `k` of greatest full logits, ascending, from the logits of the copy for input
    /// `h`. Rows whose full logit equals the `k`-th are among them, so ties are decided as over all rows.
    ///
    /// If a bound or a logit is not finite, the row survives.
    ///
    /// # Panics
    /// If there is not one logit a row.
    pub fn survivors(&self, logits: &[f32], h: &[f32], k: usize) -> Vec<u32> {
        assert_eq!(logits.len(), self.rows.len());
        if k == 0 || logits.is_empty() {
            return Vec::new();
        }
        let length = f64::from(up(norm(h.iter().map(|v| f64::from(*v)))));
        // The smallest subnormal a term is what underflow can lose; the factor is for the rounding of these sums.
        let lost = h.len() as f64 * f64::from(f32::from_bits(1));
        let reach = |bound: &f32| (f64::from(*bound) * length + lost) * (1.0 + 1e-12);
        let mut lower: Vec<f64> = logits
            .iter()
            .zip(&self.rows)
            .map(|(a, b)| f64::from(*a) - reach(b))
            .map(|v| if v.is_nan() { f64::NEG_INFINITY } else { v })
            .collect();
        let at = k.min(lower.len()) - 1;
        let (_, least, _) = lower.select_nth_unstable_by(at, |a, b| b.total_cmp(a));
        let least = *least - least.abs() * 1e-12;
        let survives = |(a, b): (&f32, &f32)| {
            let upper = f64::from(*a) + reach(b);
            upper.is_nan() || upper >= least
        };
        let pairs = logits.iter().zip(&self.rows).enumerate();
        pairs.filter(|(_, pair)| survives(*pair)).map(|(i, _)| i as u32).collect()
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// The next f32 above, past the rounding of the sums in f64 too.
fn up(v: f64) -> f32 {
    let v = v * (1.0 + 1e-9);
    let rounded = v as f32;
    if f64::from(rounded) > v { rounded } else { rounded.next_up() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;
    use crate::{Rows, ggml};

    const COLS: usize = 256;

    /// The sum in f32, from the first term to the last or from the last to the first.
    fn logits(values: &[f32], h: &[f32], backwards: bool) -> Vec<f32> {
        let add = |sum: f32, (w, h): (&f32, &f32)| sum + w * h;
        let logit = |row: &[f32]| {
            let terms = row.iter().zip(h);
            if backwards { terms.rev().fold(0.0, add) } else { terms.fold(0.0, add) }
        };
        values.chunks(COLS).map(logit).collect()
    }

    fn best(logits: &[f32], k: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        order.truncate(k);
        order
    }

    fn copy(codec: &dyn Codec, values: &[f32]) -> (Vec<f32>, Bounds) {
        let e = codec.encoding();
        let mut bytes = vec![0; values.len() / e.block_len() * e.block_bytes()];
        codec.encode_best(Rows::new(values, COLS), &mut bytes).unwrap();
        let mut decoded = vec![0.0; values.len()];
        codec.decode(&bytes, &mut decoded);
        (decoded, Bounds::new(codec, values, COLS, &bytes))
    }

    /// The best rows are among the survivors, and every logit is within its bounds.
    fn check(codec: &dyn Codec, values: &[f32], h: &[f32], k: usize) -> usize {
        let (decoded, bounds) = copy(codec, values);
        let approximate = logits(&decoded, h, false);
        let survivors = bounds.survivors(&approximate, h, k);
        let length = norm(h.iter().map(|v| f64::from(*v)));
        for backwards in [false, true] {
            let full = logits(values, h, backwards);
            for ((full, a), bound) in full.iter().zip(&approximate).zip(bounds.rows()) {
                let off = (f64::from(*full) - f64::from(*a)).abs();
                assert!(off <= f64::from(*bound) * length + 1e-40, "{off} {bound} {length}");
            }
            // As a program does: the full logits of the survivors, nothing for the others.
            let mut rescored = vec![f32::NEG_INFINITY; full.len()];
            for i in &survivors {
                rescored[*i as usize] = full[*i as usize];
            }
            assert_eq!(best(&rescored, k), best(&full, k));
        }
        survivors.len()
    }

    fn normal(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..n).map(|_| random.normal() as f32).collect()
    }

    #[test]
    fn few_rows_survive_six_bits() {
        let values = normal(4000 * COLS, 1);
        let h = normal(COLS, 2);
        let (six, four) = (check(&ggml::Q6K, &values, &h, 1), check(&ggml::Q4_0, &values, &h, 1));
        assert!(six <= 80 && six < four, "{six} {four}");
        assert!(check(&ggml::Q6K, &values, &h, 50) < 1200);
    }

    #[test]
    fn an_input_along_the_residual_is_within_the_bound() {
        // The worst case: what the copy loses is exactly what the input asks for.
        let values = normal(200 * COLS, 3);
        let (decoded, _) = copy(&ggml::Q4_0, &values);
        for row in 0..20 {
            let at = row * COLS..(row + 1) * COLS;
            let h: Vec<f32> =
                values[at.clone()].iter().zip(&decoded[at]).map(|(w, v)| 1e3 * (w - v)).collect();
            check(&ggml::Q4_0, &values, &h, 3);
        }
    }

    #[test]
    fn equal_rows_and_terms_that_cancel_keep_their_order() {
        let mut values = normal(64 * COLS, 4);
        for i in (0..64).step_by(3) {
            values.copy_within(0..COLS, i * COLS);
        }
        let h: Vec<f32> = (0..COLS).map(|i| if i % 2 == 0 { 1e6 } else { -1e6 + i as f32 }).collect();
        for k in [1, 5, 64, 100] {
            check(&ggml::Q6K, &values, &h, k);
        }
        check(&ggml::Q6K, &values, &[0.0; COLS], 2);
    }

    #[test]
    fn what_is_not_finite_survives() {
        let bounds = Bounds::from_rows(vec![0.1; 3]);
        assert_eq!(bounds.survivors(&[f32::NAN, 1.0, -5.0], &[1.0], 1), [0, 1]);
        assert_eq!(bounds.survivors(&[0.0, 1.0, -5.0], &[f32::INFINITY], 1), [0, 1, 2]);
        assert!(bounds.survivors(&[0.0, 1.0, -5.0], &[1.0], 0).is_empty());
    }

    proptest! {
        #[test]
        fn the_best_rows_survive(seed in any::<u64>(), k in 1usize..40, scale in -20i32..20, four in any::<bool>()) {
            let mut values = normal(60 * COLS, seed);
            let mut h = normal(COLS, !seed);
            // Rows that are nearly alike, and inputs of all sizes.
            let (first, rest) = values.split_at_mut(COLS);
            for (i, row) in rest.chunks_mut(COLS).enumerate().take(30) {
                for (v, w) in row.iter_mut().zip(&*first) {
                    *v = w + *v * 10f32.powi(-(i as i32 % 8));
                }
            }
            h.iter_mut().for_each(|v| *v *= 10f32.powi(scale));
            let codec: &dyn Codec = if four { &ggml::Q4_0 } else { &ggml::Q6K };
            check(codec, &values, &h, k);
        }
    }
}

//! Importance of columns, and columns that it says nothing about.
//!
//! An importance of 0 comes from a channel that no token of the calibration text used: a tensor that saw no data, a
//! neuron that never fired. It says nothing about the weights. An encoder that believed it would be free to write
//! anything there, and writes zeros as soon as all columns that share a scale are 0.

use std::borrow::Cow;

use crate::codec::{EncodeError, Rows, check_importance};

/// An importance below this share of the largest is what rounding left of 0. (Products of such numbers with weights
/// would also vanish in f32.)
const NEGLIGIBLE: f32 = 1.0 / (1u64 << 32) as f32;

/// Largest importances between these need no scaling: no product with weights vanishes or overflows in f32.
const SAFE: std::ops::RangeInclusive<f32> = 1.0 / (1u64 << 32) as f32..=(1u64 << 40) as f32;

/// Importance of the columns of a row as encoders use it, where groups of `group` columns share a scale.
///
/// Of a group in which at most half of the columns have an importance, the others get the mean importance of all
/// columns that have one. Everything else stays as it is. `None` if no column has an importance.
///
/// ```
/// use quant::importance::filled;
/// assert_eq!(*filled(&[1.0, 3.0, 2.0, 0.0, 0.0, 0.0], 3).unwrap(), [1.0, 3.0, 2.0, 2.0, 2.0, 2.0]);
/// assert_eq!(*filled(&[1.0, 3.0, 0.0, 2.0, 2.0, 2.0], 3).unwrap(), [1.0, 3.0, 0.0, 2.0, 2.0, 2.0]);
/// assert_eq!(filled(&[0.0; 4], 2), None);
/// ```
pub fn filled(importance: &[f32], group: usize) -> Option<Cow<'_, [f32]>> {
    let largest = largest(importance);
    if largest == 0.0 {
        return None;
    }
    let mut filled = Cow::Borrowed(importance);
    if !SAFE.contains(&largest) {
        // A power of two: no digit changes.
        let exponent = f64::from(largest).log2().floor() as i32;
        let factor = 2f64.powi(-exponent);
        filled.to_mut().iter_mut().for_each(|q| *q = (f64::from(*q) * factor) as f32);
    }
    if unmeasured(importance, group) > 0 {
        let least = NEGLIGIBLE * self::largest(&filled);
        let (mut sum, mut count) = (0.0, 0u32);
        for q in filled.iter().filter(|q| **q > least) {
            sum += f64::from(*q);
            count += 1;
        }
        let mean = (sum / f64::from(count.max(1))) as f32;
        for columns in filled.to_mut().chunks_mut(group.max(1)) {
            if says_nothing(columns, least) {
                columns.iter_mut().filter(|q| **q <= least).for_each(|q| *q = mean);
            }
        }
    }
    Some(filled)
}

/// Number of columns that [`filled`] finds without an importance in groups of which it says nothing.
pub fn unmeasured(importance: &[f32], group: usize) -> usize {
    let least = NEGLIGIBLE * largest(importance);
    let groups = importance.chunks(group.max(1)).filter(|columns| says_nothing(columns, least));
    groups.map(|columns| columns.iter().filter(|q| **q <= least).count()).sum()
}

/// True for each input whose mean square says nothing: see [`filled`].
pub(crate) fn negligible(mean_squares: &[f32]) -> Vec<bool> {
    let least = NEGLIGIBLE * largest(mean_squares);
    mean_squares.iter().map(|q| *q <= least).collect()
}

fn largest(importance: &[f32]) -> f32 {
    importance.iter().copied().fold(0.0, f32::max)
}

/// True if at most half of a group's columns have an importance.
fn says_nothing(columns: &[f32], least: f32) -> bool {
    2 * columns.iter().filter(|q| **q > least).count() <= columns.len()
}

/// Runs `encode` with the importance [`filled`] in.
///
/// # Errors
/// [`EncodeError::Importance`], and those of `encode`.
pub(crate) fn with_filled<'a>(
    rows: Rows<'a>,
    group: usize,
    encode: impl FnOnce(Rows<'_>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    check_importance(rows)?;
    let filled = rows.importance.and_then(|importance| filled(importance, group));
    encode(Rows { importance: filled.as_deref(), ..rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::{CODECS, Codec};

    const COLS: usize = 1024;

    fn encoded(codec: &dyn Codec, rows: Rows<'_>, best: bool) -> Vec<u8> {
        let e = codec.encoding();
        let mut bytes = vec![0; rows.values.len() / e.block_len() * e.block_bytes()];
        if best { codec.encode_best(rows, &mut bytes) } else { codec.encode(rows, &mut bytes) }.unwrap();
        bytes
    }

    /// Error of the columns in `range` relative to their weights.
    fn error(codec: &dyn Codec, values: &[f32], bytes: &[u8], range: std::ops::Range<usize>) -> f64 {
        let mut decoded = vec![0.0; values.len()];
        codec.decode(bytes, &mut decoded);
        let (mut off, mut power) = (0.0, 0.0);
        for (x, y) in values.chunks(COLS).zip(decoded.chunks(COLS)) {
            for i in range.clone() {
                off += f64::from(x[i] - y[i]).powi(2);
                power += f64::from(x[i]).powi(2);
            }
        }
        off / power
    }

    /// Case imatrix-zero (llama.cpp #8661, #11773, #20460): zeros of whole rows, super-blocks and groups, the remains of
    /// zeros, and lone columns left in a group.
    #[test]
    fn columns_without_an_importance_keep_their_weights() {
        let mut random = Random::new(8);
        let values: Vec<f32> = (0..8 * COLS).map(|_| 0.02 * random.normal() as f32).collect();
        let positive: Vec<f32> = (0..COLS).map(|i| 0.1 + (i * 37 % 101) as f32 / 50.0).collect();
        let uses = |c: &&&dyn Codec| c.can_encode() && c.importance_group().is_some();
        for codec in CODECS.iter().filter(uses) {
            for best in [false, true] {
                let plain = encoded(*codec, Rows::new(&values, COLS), best);
                for range in [0..COLS, 256..512, 256..288, 512..529, 32..992] {
                    for (what, rest) in [("zero", 0.0), ("denormal", 1e-41), ("vanishing", 1e-20)] {
                        for lone in [None, Some(range.start + 3)] {
                            let mut importance = positive.clone();
                            importance[range.clone()].fill(rest);
                            lone.iter().for_each(|column| importance[*column] = 1.0);
                            let rows = Rows { importance: Some(&importance), ..Rows::new(&values, COLS) };
                            let bytes = encoded(*codec, rows, best);
                            let error = |bytes: &[u8]| error(*codec, &values, bytes, range.clone());
                            let (found, plain) = (error(&bytes), error(&plain));
                            assert!(
                                found < 1.3 * plain,
                                "{} {best} {what} {range:?} {lone:?}: {found:.2e} for {plain:.2e}",
                                codec.encoding()
                            );
                        }
                    }
                }
                let zeros = [0.0; COLS];
                let rows = Rows { importance: Some(&zeros), ..Rows::new(&values, COLS) };
                assert!(encoded(*codec, rows, best) == plain, "{}", codec.encoding());
            }
        }
    }

    /// Numbers so small, or so large, that their products with weights leave f32 mean what others of the same ratio mean.
    #[test]
    fn the_unit_of_an_importance_does_not_matter() {
        let mut random = Random::new(9);
        let values: Vec<f32> = (0..4 * COLS).map(|_| 0.02 * random.normal() as f32).collect();
        let of_unit = |exponent: i32| -> Vec<f32> {
            (0..COLS).map(|i| ((1 + i * 37 % 101) as f64 * 2f64.powi(exponent)) as f32).collect()
        };
        for codec in CODECS.iter().filter(|c| c.can_encode() && c.importance_group().is_some()) {
            for best in [false, true] {
                let of = |exponent| {
                    let importance = of_unit(exponent);
                    encoded(*codec, Rows { importance: Some(&importance), ..Rows::new(&values, COLS) }, best)
                };
                let usual = of(0);
                for exponent in [-149, -100, -20, 20, 100] {
                    assert!(of(exponent) == usual, "{} {best}: 2^{exponent}", codec.encoding());
                }
            }
        }
    }

    #[test]
    fn single_zeros_and_what_is_positive_stay_as_they_are() {
        for importance in [vec![1.0, 0.0, 3.0, 4.0], vec![1e-9, 1.0, 1e9, 1.0], vec![0.0, 5.0, 5.0, 5.0]] {
            assert_eq!(unmeasured(&importance, 4), 0, "{importance:?}");
            assert!(matches!(filled(&importance, 4), Some(Cow::Borrowed(_))), "{importance:?}");
        }
    }

    #[test]
    fn groups_without_an_importance_get_the_mean() {
        // The rest of rounding, a denormal number, counts as 0; so does a group with a single column left.
        let importance = [2.0, 4.0, 4.0, 2.0, 1e-40, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0];
        let expected = [2.0, 4.0, 4.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0];
        assert_eq!(*filled(&importance, 4).unwrap(), expected);
        assert_eq!(unmeasured(&importance, 4), 7);
    }

    #[test]
    fn numbers_whose_products_would_vanish_are_scaled() {
        let tiny = [f32::from_bits(3), f32::from_bits(12)];
        assert_eq!(*filled(&tiny, 2).unwrap(), [0.375, 1.5]);
        let huge = filled(&[3e38, 1.5e38], 2).unwrap().into_owned();
        assert!(huge[0] == 2.0 * huge[1] && SAFE.contains(&huge[0]));
    }
}

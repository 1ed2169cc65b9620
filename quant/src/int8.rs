//! 8-bit integers with a scale for each row or each block, and the outlier split of LLM.int8.
//!
//! ```text
//! codes  i8 | scale  f32: the largest magnitude of the row (or block)
//! x' = code * scale / 127
//! ```
//!
//! 8 bits a weight and 32 for each row or block; the error is at most `scale / 254`. With an outlier threshold the
//! columns that hold a larger magnitude are kept apart (in f16 or f32, by the caller), and their codes are 0.
//! Codes and scales are those of bitsandbytes 0.50 (`int8_vectorwise_quant`) on a CPU.

use crate::codec::{EncodeError, check_finite};

/// Encodes groups of `group` values (rows, or blocks of a row): `codes[i] = round(127 x / absmax)`, ties to even.
///
/// # Errors
/// [`EncodeError::NonFinite`].
///
/// # Panics
/// If the lengths do not fit together.
pub fn encode(values: &[f32], group: usize, codes: &mut [i8], absmax: &mut [f32]) -> Result<(), EncodeError> {
    check_finite(values)?;
    assert!(values.len() == codes.len() && values.len() == group * absmax.len());
    for ((x, codes), absmax) in values.chunks(group).zip(codes.chunks_mut(group)).zip(absmax) {
        *absmax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        encode_group(x, *absmax, codes);
    }
    Ok(())
}

fn encode_group(x: &[f32], absmax: f32, codes: &mut [i8]) {
    let scale = 127.0 / absmax;
    for (code, v) in codes.iter_mut().zip(x) {
        // NaN (0 / 0 in a row of zeros) becomes 0.
        *code = (v * scale).round_ties_even() as i8;
    }
}

/// Decodes codes of [`encode`] or [`encode_split`].
///
/// # Panics
/// If the lengths do not fit together.
pub fn decode(codes: &[i8], group: usize, absmax: &[f32], out: &mut [f32]) {
    assert!(out.len() == codes.len() && out.len() == group * absmax.len());
    for ((out, codes), absmax) in out.chunks_mut(group).zip(codes.chunks(group)).zip(absmax) {
        for (v, code) in out.iter_mut().zip(codes) {
            *v = f32::from(*code) * absmax * (1.0 / 127.0);
        }
    }
}

/// The columns that hold a magnitude of `threshold` or more: to be kept apart from the codes.
///
/// # Panics
/// If `values` is no whole number of rows.
pub fn outlier_columns(values: &[f32], cols: usize, threshold: f32) -> Vec<usize> {
    assert!(values.len().is_multiple_of(cols));
    let mut outlier = vec![false; cols];
    for row in values.chunks(cols) {
        for (outlier, v) in outlier.iter_mut().zip(row) {
            *outlier |= v.abs() >= threshold;
        }
    }
    (0..cols).filter(|c| outlier[*c]).collect()
}

/// Encodes rows without their outliers (LLM.int8, arXiv 2208.07339): values of `threshold` or more count for no
/// scale, and all codes of the `columns` that hold one are 0. Returns the outlier columns' values, row by row.
///
/// `columns` are those of [`outlier_columns`] for the whole matrix, so that rows can be encoded in chunks. (For a
/// single row bitsandbytes leaves the codes of such a column as they come; that is the same, 0.)
///
/// # Errors
/// [`EncodeError::NonFinite`].
///
/// # Panics
/// If the lengths do not fit together.
pub fn encode_split(
    values: &[f32],
    cols: usize,
    threshold: f32,
    columns: &[usize],
    codes: &mut [i8],
    absmax: &mut [f32],
) -> Result<Vec<f32>, EncodeError> {
    check_finite(values)?;
    assert!(values.len() == codes.len() && values.len() == cols * absmax.len());
    let mut kept = Vec::with_capacity(absmax.len() * columns.len());
    for ((x, codes), absmax) in values.chunks(cols).zip(codes.chunks_mut(cols)).zip(absmax) {
        *absmax = x.iter().filter(|v| v.abs() < threshold).fold(0.0f32, |m, v| m.max(v.abs()));
        encode_group(x, *absmax, codes);
        for c in columns {
            codes[*c] = 0;
            kept.push(x[*c]);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/golden/bitsandbytes/");
        std::fs::read(format!("{folder}{name}")).unwrap()
    }

    fn floats(name: &str) -> Vec<f32> {
        golden(name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn rows_are_those_of_bitsandbytes() {
        let values = floats("rows.f32");
        let (mut codes, mut absmax) = (vec![0; values.len()], vec![0.0; values.len() / 128]);
        encode(&values, 128, &mut codes, &mut absmax).unwrap();
        assert!(codes.iter().map(|c| *c as u8).eq(golden("int8.codes")));
        assert_eq!(absmax, floats("int8.absmax"));
        let mut decoded = vec![0.0; values.len()];
        decode(&codes, 128, &absmax, &mut decoded);
        for ((x, y), i) in values.iter().zip(&decoded).zip(0..) {
            assert!((x - y).abs() <= absmax[i / 128] / 253.9);
        }
    }

    #[test]
    fn outliers_are_split_as_by_bitsandbytes() {
        let values = floats("rows.f32");
        let columns = outlier_columns(&values, 128, 3.0);
        let (mut codes, mut absmax) = (vec![0; values.len()], vec![0.0; values.len() / 128]);
        let kept = encode_split(&values, 128, 3.0, &columns, &mut codes, &mut absmax).unwrap();
        let recorded: Vec<usize> = golden("split.columns")
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| u64::from_le_bytes(*b) as usize)
            .collect();
        assert_eq!(columns, recorded);
        assert!(codes.iter().map(|c| *c as u8).eq(golden("split.codes")));
        assert_eq!(absmax, floats("split.absmax"));
        assert_eq!(kept.len(), columns.len() * absmax.len());
        assert_eq!(kept[columns.len()], values[128 + columns[0]]);
    }
}

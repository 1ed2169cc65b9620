//! 4-bit codes as bitsandbytes has them (QLoRA): blocks of 64 across row ends, and double quantization.
//!
//! ```text
//! codes    4 bits a weight: byte i holds value 2 i (high half) and value 2 i + 1 (low half)
//! absmax   the largest magnitude of each block: f32, or with double quantization
//! nested   u8 codes of `absmax - offset` with the 8-bit dynamic map, one f32 for each 256 of them, and the offset
//! x' = LEVELS[code] * absmax
//! ```
//!
//! 4.5 bits a weight, 4.127 with double quantization. The error is at most half the widest gap of the levels (0.15)
//! times `absmax`. Codes are byte for byte those of bitsandbytes 0.50 on a CPU. [`Blocks`] is the codec of codes and
//! `absmax` without double quantization; [`nested`] makes tiles with it of such blocks.

mod blocks;
pub mod nested;

pub use blocks::{Blocks, NF4};
pub use nested::Nested;

use crate::codebook::Codebook;
use crate::codec::{EncodeError, check_finite};

/// Weights in a block.
pub const BLOCK: usize = 64;
/// Bytes of a scale as f32.
const SCALE_BYTES: usize = 4;

/// Encodes `values` with the levels of `codebook` (the last block may be short).
///
/// # Errors
/// [`EncodeError::NonFinite`].
///
/// # Panics
/// If `codes` is not `values.len().div_ceil(2)` or `absmax` not `values.len().div_ceil(64)` long.
pub fn encode(
    values: &[f32],
    codebook: &Codebook,
    codes: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), EncodeError> {
    check_finite(values)?;
    assert_eq!(codes.len(), values.len().div_ceil(2));
    assert_eq!(absmax.len(), values.len().div_ceil(BLOCK));
    let bounds = bounds(codebook);
    for ((x, codes), absmax) in values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK / 2)).zip(absmax) {
        *absmax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let mut scaled = [0.0; BLOCK];
        if x.len() == BLOCK {
            let inverse = 1.0 / absmax.max(SMALLEST);
            for (scaled, v) in scaled.iter_mut().zip(x) {
                *scaled = (v * inverse).clamp(-1.0, 1.0);
            }
        } else {
            // The short block at the end is divided, and its absmax is never zero.
            *absmax = absmax.max(SMALLEST);
            for (scaled, v) in scaled.iter_mut().zip(x) {
                *scaled = (v / *absmax).clamp(-1.0, 1.0);
            }
        }
        for (byte, pair) in codes.iter_mut().zip(scaled.as_chunks::<2>().0) {
            *byte = level(pair[0], &bounds) << 4 | level(pair[1], &bounds);
        }
    }
    Ok(())
}

/// Below this magnitude a block is scaled as if this were its largest.
const SMALLEST: f32 = 1e-38;

/// Bounds between the levels: a level gives way to the next in the middle.
fn bounds(codebook: &Codebook) -> [f32; 15] {
    std::array::from_fn(|i| (codebook[i] + codebook[i + 1]) / 2.0)
}

/// The number of bounds below `v`: a value on a bound goes to the lower level.
#[inline(always)]
fn level(v: f32, bounds: &[f32; 15]) -> u8 {
    bounds.iter().map(|b| u8::from(*b < v)).sum()
}

/// Decodes codes of [`encode`].
///
/// # Panics
/// If the lengths do not fit together.
pub fn decode(codes: &[u8], absmax: &[f32], codebook: &Codebook, out: &mut [f32]) {
    assert_eq!(codes.len(), out.len().div_ceil(2));
    assert_eq!(absmax.len(), out.len().div_ceil(BLOCK));
    for ((out, codes), absmax) in out.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2)).zip(absmax) {
        for (i, v) in out.iter_mut().enumerate() {
            let byte = codes[i / 2];
            let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
            *v = codebook[usize::from(code)] * absmax;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codebook::NF4;

    pub(super) fn golden(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/golden/bitsandbytes/");
        std::fs::read(format!("{folder}{name}")).unwrap()
    }

    pub(super) fn floats(name: &str) -> Vec<f32> {
        golden(name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn codes_and_absmax_are_those_of_bitsandbytes() {
        let values = floats("values.f32");
        let (mut codes, mut absmax) =
            (vec![0; values.len().div_ceil(2)], vec![0.0; values.len().div_ceil(BLOCK)]);
        encode(&values, &NF4, &mut codes, &mut absmax).unwrap();
        assert_eq!(codes, golden("nf4.codes"));
        assert_eq!(absmax, floats("nf4.absmax"));
        let mut decoded = vec![0.0; values.len()];
        decode(&codes, &absmax, &NF4, &mut decoded);
        assert_eq!(decoded, floats("nf4.decoded"));
    }

    #[test]
    fn zeros_stay_zeros_and_nan_is_an_error() {
        let (mut codes, mut absmax) = ([0; 32], [1.0; 1]);
        encode(&[0.0; 64], &NF4, &mut codes, &mut absmax).unwrap();
        assert_eq!((codes[0], absmax[0]), (0x77, 0.0));
        let mut values = [0.0; 64];
        values[9] = f32::NAN;
        assert!(matches!(
            encode(&values, &NF4, &mut codes, &mut absmax),
            Err(EncodeError::NonFinite { index: 9, .. })
        ));
    }
}

//! The parts that web-rwkv keeps of a quantized matrix (versions 0.8 to 0.10): what its prefab files hold.
//!
//! ```text
//! int8   w: u8 codes | m: f16 pairs (min, max) of each 128 values                       8.25 bits a weight
//!        x' = code / 255 * (max - min) + min
//! fp4    w: 4-bit codes, value 2 i in the low half of byte i | q: 16 f32 levels | m: f16 absmax of each 64 values
//!        x' = q[code] * absmax                                                           4.25 bits a weight
//! ```
//!
//! Blocks run across row ends. The error of int8 is at most `(max - min) / 510`, that of fp4 half the gap of the
//! levels times `absmax`. web-rwkv quantizes f16 weights; weights here are rounded to f16 first, so the parts are
//! those that it would make.

use half::f16;

use crate::codebook::Codebook;
use crate::codec::{EncodeError, check_finite};
use crate::encoding::Encoding;

/// Values of an int8 block.
pub const INT8_BLOCK: usize = 128;

/// Values of a 4-bit block.
pub const FP4_BLOCK: usize = 64;

/// Encodes whole blocks as int8; `minmax` takes the f16 bits of min and max of each block.
///
/// # Errors
/// [`EncodeError`] for a weight that is not finite or does not fit f16.
///
/// # Panics
/// If the lengths do not fit together.
pub fn encode_int8(values: &[f32], codes: &mut [u8], minmax: &mut [[u16; 2]]) -> Result<(), EncodeError> {
    check_f16(values)?;
    assert!(values.len() == codes.len() && values.len() == INT8_BLOCK * minmax.len());
    let (values, _) = values.as_chunks::<INT8_BLOCK>();
    let (codes, _) = codes.as_chunks_mut::<INT8_BLOCK>();
    for ((x, codes), minmax) in values.iter().zip(codes).zip(minmax) {
        let x = x.map(|v| f16::from_f32(v).to_f32());
        let (mut min, mut max) = (x[0], x[0]);
        for v in x {
            (min, max) = (min.min(v), max.max(v));
        }
        *minmax = [f16::from_f32(min).to_bits(), f16::from_f32(max).to_bits()];
        for (code, v) in codes.iter_mut().zip(x) {
            // A block of one value is 0 / 0 on the GPU; 0 stands for the minimum.
            *code = (((v - min) / (max - min)).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        }
    }
    Ok(())
}

/// Decodes parts of [`encode_int8`].
///
/// # Panics
/// If the lengths do not fit together.
pub fn decode_int8(codes: &[u8], minmax: &[[u16; 2]], out: &mut [f32]) {
    assert!(out.len() == codes.len() && out.len() == INT8_BLOCK * minmax.len());
    for ((out, codes), minmax) in out.chunks_mut(INT8_BLOCK).zip(codes.chunks(INT8_BLOCK)).zip(minmax) {
        let [min, max] = minmax.map(|bits| f16::from_bits(bits).to_f32());
        for (v, code) in out.iter_mut().zip(codes) {
            *v = (f32::from(*code) / 255.0).mul_add(max - min, min);
        }
    }
}

/// Encodes whole blocks with the 16 levels of `codebook`; `absmax` takes f16 bits. Of two levels equally near the
/// later is taken.
///
/// # Errors
/// [`EncodeError`] for a weight that is not finite or does not fit f16.
///
/// # Panics
/// If the lengths do not fit together.
pub fn encode_fp4(
    values: &[f32],
    codebook: &Codebook,
    codes: &mut [u8],
    absmax: &mut [u16],
) -> Result<(), EncodeError> {
    check_f16(values)?;
    assert!(values.len() == 2 * codes.len() && values.len() == FP4_BLOCK * absmax.len());
    let (values, _) = values.as_chunks::<FP4_BLOCK>();
    for ((x, codes), absmax) in values.iter().zip(codes.chunks_mut(FP4_BLOCK / 2)).zip(absmax) {
        let x = x.map(|v| f16::from_f32(v).to_f32());
        let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        *absmax = f16::from_f32(largest).to_bits();
        let inverse = 1.0 / largest;
        for (byte, pair) in codes.iter_mut().zip(x.as_chunks::<2>().0) {
            *byte = nearest(pair[0] * inverse, codebook) | nearest(pair[1] * inverse, codebook) << 4;
        }
    }
    Ok(())
}

/// Decodes parts of [`encode_fp4`].
///
/// # Panics
/// If the lengths do not fit together.
pub fn decode_fp4(codes: &[u8], codebook: &Codebook, absmax: &[u16], out: &mut [f32]) {
    assert!(out.len() == 2 * codes.len() && out.len() == FP4_BLOCK * absmax.len());
    for (i, v) in out.iter_mut().enumerate() {
        let code = codes[i / 2] >> (i % 2 * 4) & 15;
        *v = codebook[usize::from(code)] * f16::from_bits(absmax[i / FP4_BLOCK]).to_f32();
    }
}

fn nearest(v: f32, codebook: &Codebook) -> u8 {
    // In a block of zeros `v` is NaN, and the code is 0; the absmax of 0 makes it 0 all the same.
    let (mut least, mut code) = (2.0, 0);
    for (i, level) in codebook.iter().enumerate() {
        let distance = (level - v).abs();
        if distance <= least {
            (least, code) = (distance, i as u8);
        }
    }
    code
}

fn check_f16(values: &[f32]) -> Result<(), EncodeError> {
    check_finite(values)?;
    match values.iter().position(|v| f16::from_f32(*v).is_infinite()) {
        None => Ok(()),
        Some(index) => Err(EncodeError::Overflow {
            index,
            value: values[index],
            encoding: Encoding::F16,
            limit: f16::MAX.to_f32(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codebook::{NF4, SF4};

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1009) as f32 / 500.0 - 1.0).powi(3)).collect()
    }

    #[test]
    fn int8_stays_within_its_bound() {
        let values = values(1280);
        let (mut codes, mut minmax) = (vec![0; 1280], vec![[0; 2]; 10]);
        encode_int8(&values, &mut codes, &mut minmax).unwrap();
        let mut decoded = vec![0.0; 1280];
        decode_int8(&codes, &minmax, &mut decoded);
        for (x, y) in values.iter().zip(&decoded) {
            // 1/510 of the range, and the rounding of the weight to f16.
            assert!((x - y).abs() <= 2.05 / 510.0 + 0.0003, "{x} {y}");
        }
    }

    #[test]
    fn fp4_takes_the_nearest_level_of_any_codebook() {
        let values = values(640);
        for codebook in [NF4, SF4] {
            let (mut codes, mut absmax) = (vec![0; 320], vec![0; 10]);
            encode_fp4(&values, &codebook, &mut codes, &mut absmax).unwrap();
            let mut decoded = vec![0.0; 640];
            decode_fp4(&codes, &codebook, &absmax, &mut decoded);
            for (x, y) in values.iter().zip(&decoded) {
                assert!((x - y).abs() <= 0.2, "{x} {y}");
            }
        }
    }

    #[test]
    fn constant_and_zero_blocks_are_exact() {
        for v in [0.0, 0.25, -3.0] {
            let values = [v; 128];
            let (mut codes, mut minmax, mut decoded) = ([9; 128], [[0; 2]], [9.0; 128]);
            encode_int8(&values, &mut codes, &mut minmax).unwrap();
            decode_int8(&codes, &minmax, &mut decoded);
            assert_eq!(decoded, values);
            let (mut codes, mut absmax) = ([9; 64], [0; 2]);
            encode_fp4(&values, &NF4, &mut codes, &mut absmax).unwrap();
            decode_fp4(&codes, &NF4, &absmax, &mut decoded);
            assert_eq!(decoded, values);
        }
    }

    #[test]
    fn weights_beyond_f16_are_errors() {
        let mut values = [0.0; 128];
        values[100] = 65520.0;
        let result = encode_int8(&values, &mut [0; 128], &mut [[0; 2]]);
        assert!(matches!(result, Err(EncodeError::Overflow { index: 100, .. })));
    }
}

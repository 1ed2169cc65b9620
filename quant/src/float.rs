//! The plain floating point encodings, little endian: f64, f32, f16 and bf16.
//!
//! Values are rounded to nearest, ties to even. A weight that would become infinite in f16 or bf16 is an
//! error instead ([`EncodeError::Overflow`]): a checkpoint in bf16 can hold values that f16 cannot.

use half::slice::HalfFloatSliceExt;

use crate::codec::{Codec, EncodeError, Rows, check_finite};
use crate::encoding::Encoding;

/// IEEE 754 binary64. Decoding rounds to f32.
pub struct F64;
/// IEEE 754 binary32: the weights as they are.
pub struct F32;
/// IEEE 754 binary16: 11 bits of precision, magnitudes up to 65504.
pub struct F16;
/// bfloat16: the upper half of an f32, 8 bits of precision.
pub struct BF16;

/// Values converted at a time where a buffer on the stack stands between the two representations.
const STEP: usize = 512;

impl Codec for F64 {
    fn encoding(&self) -> Encoding {
        Encoding::F64
    }

    fn encode(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        check_finite(rows.values)?;
        assert_eq!(out.len(), rows.values.len() * 8);
        for (bytes, v) in out.chunks_exact_mut(8).zip(rows.values) {
            bytes.copy_from_slice(&f64::from(*v).to_le_bytes());
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * 8);
        for (v, bytes) in out.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut le = [0; 8];
            le.copy_from_slice(bytes);
            *v = f64::from_le_bytes(le) as f32;
        }
    }
}

impl Codec for F32 {
    fn encoding(&self) -> Encoding {
        Encoding::F32
    }

    fn encode(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        check_finite(rows.values)?;
        assert_eq!(out.len(), rows.values.len() * 4);
        for (bytes, v) in out.chunks_exact_mut(4).zip(rows.values) {
            bytes.copy_from_slice(&v.to_le_bytes());
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * 4);
        for (v, bytes) in out.iter_mut().zip(bytes.chunks_exact(4)) {
            *v = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
}

impl Codec for F16 {
    fn encoding(&self) -> Encoding {
        Encoding::F16
    }

    fn encode(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        check_finite(rows.values)?;
        assert_eq!(out.len(), rows.values.len() * 2);
        let mut halves = [half::f16::ZERO; STEP];
        for (n, (bytes, values)) in out.chunks_mut(STEP * 2).zip(rows.values.chunks(STEP)).enumerate() {
            let halves = &mut halves[..values.len()];
            halves.convert_from_f32_slice(values);
            for (i, (bytes, h)) in bytes.chunks_exact_mut(2).zip(halves.iter()).enumerate() {
                if h.is_infinite() {
                    return Err(overflow(n * STEP + i, values[i], Encoding::F16, half::f16::MAX.to_f32()));
                }
                bytes.copy_from_slice(&h.to_le_bytes());
            }
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * 2);
        let mut halves = [half::f16::ZERO; STEP];
        for (values, bytes) in out.chunks_mut(STEP).zip(bytes.chunks(STEP * 2)) {
            let halves = &mut halves[..values.len()];
            for (h, bytes) in halves.iter_mut().zip(bytes.chunks_exact(2)) {
                *h = half::f16::from_le_bytes([bytes[0], bytes[1]]);
            }
            halves.convert_to_f32_slice(values);
        }
    }
}

impl Codec for BF16 {
    fn encoding(&self) -> Encoding {
        Encoding::BF16
    }

    fn encode(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        check_finite(rows.values)?;
        assert_eq!(out.len(), rows.values.len() * 2);
        for (i, (bytes, v)) in out.chunks_exact_mut(2).zip(rows.values).enumerate() {
            let bits = v.to_bits();
            let rounded = bits + 0x7fff + ((bits >> 16) & 1);
            if rounded & 0x7f80_0000 == 0x7f80_0000 {
                return Err(overflow(i, *v, Encoding::BF16, half::bf16::MAX.to_f32()));
            }
            bytes.copy_from_slice(&((rounded >> 16) as u16).to_le_bytes());
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * 2);
        for (v, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *v = f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16);
        }
    }
}

fn overflow(index: usize, value: f32, encoding: Encoding, limit: f32) -> EncodeError {
    EncodeError::Overflow { index, value, encoding, limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(codec: &dyn Codec, values: &[f32]) -> Result<Vec<u8>, EncodeError> {
        let mut out = vec![0; values.len() * codec.encoding().block_bytes()];
        codec.encode(Rows::new(values, values.len()), &mut out)?;
        Ok(out)
    }

    #[test]
    fn every_f16_and_bf16_bit_pattern_that_is_finite_survives() {
        for (codec, max_exponent) in [(&F16 as &dyn Codec, 0x7c00u16), (&BF16, 0x7f80)] {
            let bits: Vec<u16> = (0..=u16::MAX).filter(|b| b & max_exponent != max_exponent).collect();
            let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
            let mut values = vec![0.0; bits.len()];
            codec.decode(&bytes, &mut values);
            assert_eq!(encode(codec, &values).unwrap(), bytes, "{}", codec.encoding());
        }
    }

    #[test]
    fn rounding_matches_the_half_crate() {
        let values: Vec<f32> = (0..200_000u32)
            .map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)))
            .filter(|v| v.abs() < 65504.0)
            .collect();
        let bf: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        let f: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
        assert_eq!(encode(&BF16, &values).unwrap(), bf);
        assert_eq!(encode(&F16, &values).unwrap(), f);
    }

    #[test]
    fn values_that_would_become_infinite_are_errors() {
        let mut values = vec![1.0; 3000];
        values[2900] = 65520.0;
        assert!(matches!(encode(&F16, &values), Err(EncodeError::Overflow { index: 2900, .. })));
        assert!(encode(&BF16, &values).is_ok());
        values[2999] = f32::MAX;
        assert!(matches!(encode(&BF16, &values), Err(EncodeError::Overflow { index: 2999, .. })));
        assert!(encode(&F32, &values).is_ok());
    }

    #[test]
    fn nan_is_named_by_index_everywhere() {
        let mut values = vec![0.5; 9000];
        values[8191] = f32::NAN;
        for codec in [&F64 as &dyn Codec, &F32, &F16, &BF16] {
            assert!(matches!(encode(codec, &values), Err(EncodeError::NonFinite { index: 8191, .. })));
        }
    }
}

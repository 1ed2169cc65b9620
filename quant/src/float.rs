//! The plain floating point encodings, little endian: f64, f32, f16 and bf16.
//!
//! Values are rounded to nearest, ties to even. A weight that would become infinite in f16 or bf16 is an
//! error instead ([`EncodeError::Overflow`]): a checkpoint in bf16 can hold values that f16 cannot.

use half::slice::HalfFloatSliceExt;

use crate::arch::{self, Kernel, Lanes};
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

/// `x` rounded to the nearest value of f16, which may be infinite.
pub fn round_to_f16(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

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
        assert_eq!(out.len(), rows.values.len() * 2);
        check_below(rows.values, F16_INFINITE, Encoding::F16, half::f16::MAX.to_f32())?;
        let mut halves = [half::f16::ZERO; STEP];
        for (bytes, values) in out.chunks_mut(STEP * 2).zip(rows.values.chunks(STEP)) {
            let halves = &mut halves[..values.len()];
            halves.convert_from_f32_slice(values);
            for (bytes, h) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(halves.iter()) {
                *bytes = h.to_le_bytes();
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
        assert_eq!(out.len(), rows.values.len() * 2);
        check_below(rows.values, BF16_INFINITE, Encoding::BF16, half::bf16::MAX.to_f32())?;
        arch::dispatch(RoundToBf16(rows.values, out.as_chunks_mut().0));
        Ok(())
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * 2);
        for (v, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *v = f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16);
        }
    }
}

/// The least bits of a magnitude that rounds to an infinite f16: 65520.
const F16_INFINITE: u32 = 0x477f_f000;
/// The least bits of a magnitude that rounds to an infinite bf16: 3.3961776e38.
const BF16_INFINITE: u32 = 0x7f7f_8000;

/// The first value that is not finite, or whose magnitude has the bits `infinite` or more, as an error.
fn check_below(values: &[f32], infinite: u32, encoding: Encoding, limit: f32) -> Result<(), EncodeError> {
    let magnitude = |v: f32| v.to_bits() & 0x7fff_ffff;
    if arch::dispatch(Largest(values)) < infinite {
        return Ok(());
    }
    check_finite(values)?;
    match values.iter().position(|v| magnitude(*v) >= infinite) {
        None => Ok(()),
        Some(index) => Err(EncodeError::Overflow { index, value: values[index], encoding, limit }),
    }
}

/// The bits of the largest magnitude; those of infinities and NaN are above all others.
struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = u32;

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) -> u32 {
        self.0.iter().fold(0, |largest, v| largest.max(v.to_bits() & 0x7fff_ffff))
    }
}

struct RoundToBf16<'a>(&'a [f32], &'a mut [[u8; 2]]);

impl Kernel for RoundToBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        for (bytes, v) in self.1.iter_mut().zip(self.0) {
            let bits = v.to_bits();
            *bytes = (((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16).to_le_bytes();
        }
    }
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
    fn the_limits_are_where_rounding_becomes_infinite() {
        let (h, b) = (f32::from_bits(F16_INFINITE), f32::from_bits(BF16_INFINITE));
        assert!(half::f16::from_f32(h).is_infinite() && half::f16::from_f32(h.next_down()).is_finite());
        assert!(half::bf16::from_f32(b).is_infinite() && half::bf16::from_f32(b.next_down()).is_finite());
        assert!(encode(&F16, &[h.next_down()]).is_ok() && encode(&BF16, &[-b.next_down()]).is_ok());
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

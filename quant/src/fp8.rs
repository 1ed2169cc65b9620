//! FP8 E4M3 (the "fn" variant of OCP 8-bit floating point): 4 bits of exponent, 3 of mantissa, no infinities.
//!
//! ```text
//! bit 7: sign | bits 6-3: exponent, bias 7 | bits 2-0: mantissa        0x7f and 0xff are NaN
//! ```
//!
//! Magnitudes up to 448, the least normal one 2^-6, denormals in steps of 2^-9. Rounded to nearest, ties to even:
//! the error is at most 1/16 of a normal magnitude. Weights that would round above 448 are errors.

use crate::codec::{Codec, EncodeError, Rows, check_finite};
use crate::encoding::Encoding;

/// FP8 E4M3, one byte a weight.
pub struct F8E4M3;

const LIMIT: f32 = 448.0;

impl Codec for F8E4M3 {
    fn encoding(&self) -> Encoding {
        Encoding::F8E4M3
    }

    fn encode(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        check_finite(rows.values)?;
        assert_eq!(out.len(), rows.values.len());
        for (index, (byte, v)) in out.iter_mut().zip(rows.values).enumerate() {
            *byte = match to_bits(*v) {
                Some(bits) => bits,
                None => {
                    return Err(EncodeError::Overflow {
                        index,
                        value: *v,
                        encoding: Encoding::F8E4M3,
                        limit: LIMIT,
                    });
                }
            };
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len());
        for (v, byte) in out.iter_mut().zip(bytes) {
            *v = from_bits(*byte);
        }
    }
}

/// The byte next to a finite `v`; `None` if that is above 448.
fn to_bits(v: f32) -> Option<u8> {
    let sign = ((v.to_bits() >> 31) as u8) << 7;
    let magnitude = v.abs();
    if magnitude < 2f32.powi(-6) {
        // Steps of 2^-9; eight of them are the least normal magnitude, and its bits.
        return Some(sign | (magnitude * 512.0).round_ties_even() as u8);
    }
    // Round the mantissa of 23 bits to 3, then move the bias from 127 to 7.
    let bits = magnitude.to_bits();
    let rounded = (bits + 0x7_ffff + (bits >> 20 & 1)) >> 20;
    let code = rounded.checked_sub(120 << 3)?;
    (code < 0x7f).then_some(sign | code as u8)
}

fn from_bits(byte: u8) -> f32 {
    let (exponent, mantissa) = (byte >> 3 & 15, byte & 7);
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        (0, _) => f32::from(mantissa) / 512.0,
        _ => f32::from(8 + mantissa) * 2f32.powi(i32::from(exponent) - 10),
    };
    if byte >> 7 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        for byte in (0..=255u8).filter(|b| b & 0x7f != 0x7f) {
            assert_eq!(to_bits(from_bits(byte)), Some(byte));
        }
        assert!(from_bits(0x7f).is_nan() && from_bits(0xff).is_nan());
        assert_eq!((from_bits(0x7e), from_bits(0x08), from_bits(0x01)), (448.0, 0.015625, 0.001953125));
    }

    #[test]
    fn values_round_to_the_nearest_byte_and_ties_to_even() {
        for byte in 0..0x7eu8 {
            let (low, high) = (from_bits(byte), from_bits(byte + 1));
            let middle = (low + high) / 2.0;
            let even = if byte % 2 == 0 { byte } else { byte + 1 };
            assert_eq!(to_bits(middle), Some(even));
            assert_eq!(to_bits(middle.next_down()), Some(byte));
            assert_eq!(to_bits(-middle.next_up()), Some(0x80 | (byte + 1)));
        }
        // Halfway from 448 (even) to the 480 that does not exist.
        assert_eq!(to_bits(464.0_f32.next_down()), Some(0x7e));
        assert_eq!(to_bits(464.0), Some(0x7e));
        assert_eq!(to_bits(464.0_f32.next_up()), None);
    }
}

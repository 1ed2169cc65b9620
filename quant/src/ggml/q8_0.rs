//! Q8_0: 8.5 bits a weight, one scale for 32 values, codes -127 to 127.
//!
//! ```text
//! d: f16 | 32 bytes: the codes as i8
//! x' = d * code
//! ```
//!
//! `d` is the largest magnitude over 127. The error is at most `d / 2` plus the rounding of `d` to f16. An
//! importance is not used.

use super::blocks::{self, Block, EncodeBlock, block_codec, get_f16, inverse, put_f16};
use crate::encoding::Encoding;

/// ggml's Q8_0 (34 bytes for 32 weights).
pub struct Q8_0;

block_codec!(Q8_0, 32, 34, blocks::encode::<Q8_0, 32, 34>);

impl EncodeBlock<32, 34> for Q8_0 {
    const LIMIT: f32 = 65504.0 * 127.0;

    #[inline(always)]
    fn encode(values: &[f32; 32], out: &mut [u8; 34]) -> bool {
        // The bits of magnitudes are ordered like the magnitudes, and an integer maximum vectorises.
        let amax = f32::from_bits(values.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
        let d = amax / 127.0;
        let codes = &mut out[2..];
        match inverse(d) {
            Some(id) => {
                for (code, v) in codes.iter_mut().zip(values) {
                    *code = round_half_away(v * id) as u8;
                }
            }
            None => codes.fill(0),
        }
        put_f16(d, &mut out[..2])
    }
}

impl Block<32, 34> for Q8_0 {
    const ENCODING: Encoding = Encoding::Q8_0;

    #[inline(always)]
    fn decode(bytes: &[u8; 34], out: &mut [f32; 32]) {
        let d = get_f16(bytes);
        for (v, code) in out.iter_mut().zip(&bytes[2..]) {
            *v = f32::from(*code as i8) * d;
        }
    }
}

/// C's `roundf` for `|v| < 2^22`: adds the float before one half towards the sign of `v`, then cuts. (The float
/// before, because 0.49999997 + 0.5 would round to 1.)
#[inline(always)]
fn round_half_away(v: f32) -> i32 {
    (v + 0.499_999_97_f32.copysign(v)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_halves_away_from_zero() {
        for i in -2540..=2540 {
            for v in [i as f32 / 20.0, (i as f32 / 20.0).next_up(), (i as f32 / 20.0).next_down()] {
                assert_eq!(round_half_away(v), v.round() as i32, "{v}");
            }
        }
        assert_eq!(0.499_999_97_f32, 0.5_f32.next_down());
    }
}

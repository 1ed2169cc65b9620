//! Q5_K: 5.5 bits a weight, 8 groups of 32 values with a 6-bit scale and a 6-bit minimum each, codes 0 to 31.
//!
//! ```text
//! d: f16 | dmin: f16
//! 12 bytes: scales and minima (see `scales.rs`)
//! 32 bytes: bit k of byte i is bit 4 of the code of value 32 k + i
//! 128 bytes: for each quarter of 64 values, byte i holds the low 4 bits of value i (low half) and i + 32 (high half)
//! x' = d * scale * code - dmin * minimum
//! ```

use super::blocks::{Block, block_codec, get_f16};
use super::scales::unpack_six_bits;
use crate::encoding::Encoding;

/// ggml's Q5_K (176 bytes for 256 weights).
pub struct Q5K;

block_codec!(Q5K, 256, 176, read only);

impl Block<256, 176> for Q5K {
    const ENCODING: Encoding = Encoding::Q5K;

    #[inline(always)]
    fn decode(bytes: &[u8; 176], out: &mut [f32; 256]) {
        let (d, dmin) = (get_f16(bytes), get_f16(&bytes[2..]));
        let (scales, mins) = unpack_six_bits(&bytes[4..16]);
        for (j, group) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
            let low = &bytes[48 + j / 2 * 32..][..32];
            let high = &bytes[16..48];
            let shift = j % 2 * 4;
            for (v, (low, high)) in group.iter_mut().zip(low.iter().zip(high)) {
                let code = (low >> shift & 15) | ((high >> j & 1) << 4);
                *v = scale * f32::from(code) - min;
            }
        }
    }
}

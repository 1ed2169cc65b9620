//! Q4_K: 4.5 bits a weight, 8 groups of 32 values with a 6-bit scale and a 6-bit minimum each, codes 0 to 15.
//!
//! ```text
//! d: f16 | dmin: f16
//! 12 bytes: scales and minima (see `scales.rs`)
//! 128 bytes: for each quarter of 64 values, byte i holds value i (low half) and value i + 32 (high half)
//! x' = d * scale * code - dmin * minimum
//! ```

use super::blocks::{Block, block_codec, get_f16};
use super::scales::unpack_six_bits;
use crate::encoding::Encoding;

/// ggml's Q4_K (144 bytes for 256 weights).
pub struct Q4K;

block_codec!(Q4K, 256, 144, read only);

impl Block<256, 144> for Q4K {
    const ENCODING: Encoding = Encoding::Q4K;

    #[inline(always)]
    fn decode(bytes: &[u8; 144], out: &mut [f32; 256]) {
        let (d, dmin) = (get_f16(bytes), get_f16(&bytes[2..]));
        let (scales, mins) = unpack_six_bits(&bytes[4..16]);
        for (j, group) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
            let codes = &bytes[16 + j / 2 * 32..][..32];
            let shift = j % 2 * 4;
            for (v, code) in group.iter_mut().zip(codes) {
                *v = scale * f32::from(code >> shift & 15) - min;
            }
        }
    }
}

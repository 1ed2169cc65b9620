//! Q2_K: 2.625 bits a weight, 16 groups of 16 values with a 4-bit scale and a 4-bit minimum each, codes 0 to 3.
//!
//! ```text
//! 16 bytes: group j's scale (low half) and minimum (high half)
//! 64 bytes: for each half of 128 values, byte i holds values i, i + 32, i + 64, i + 96, lowest bits first
//! d: f16 | dmin: f16
//! x' = d * scale * code - dmin * minimum
//! ```

use super::blocks::{Block, block_codec, get_f16};
use crate::encoding::Encoding;

/// ggml's Q2_K (84 bytes for 256 weights).
pub struct Q2K;

block_codec!(Q2K, 256, 84, read only);

impl Block<256, 84> for Q2K {
    const ENCODING: Encoding = Encoding::Q2K;

    #[inline(always)]
    fn decode(bytes: &[u8; 84], out: &mut [f32; 256]) {
        let (d, dmin) = (get_f16(&bytes[80..]), get_f16(&bytes[82..]));
        for (j, group) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(bytes[j] & 15);
            let min = dmin * f32::from(bytes[j] >> 4);
            let codes = &bytes[16 + j / 8 * 32 + j % 2 * 16..][..16];
            let shift = j % 8 / 2 * 2;
            for (v, code) in group.iter_mut().zip(codes) {
                *v = scale * f32::from(code >> shift & 3) - min;
            }
        }
    }
}

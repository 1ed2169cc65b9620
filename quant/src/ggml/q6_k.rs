//! Q6_K: 6.5625 bits a weight, 16 groups of 16 values with a signed 8-bit scale each, codes -32 to 31.
//!
//! ```text
//! 128 bytes: for each half of 128 values 64 bytes: byte i holds the low 4 bits of values i and i + 64 (i < 64)
//! 64 bytes: for each half of 128 values, byte i holds the high 2 bits of values i, i + 32, i + 64, i + 96
//! 16 bytes: scales as i8
//! d: f16
//! x' = d * scale * (code - 32)
//! ```

use super::blocks::{Block, block_codec, get_f16};
use crate::encoding::Encoding;

/// ggml's Q6_K (210 bytes for 256 weights).
pub struct Q6K;

block_codec!(Q6K, 256, 210, read only);

impl Block<256, 210> for Q6K {
    const ENCODING: Encoding = Encoding::Q6K;

    #[inline(always)]
    fn decode(bytes: &[u8; 210], out: &mut [f32; 256]) {
        let d = get_f16(&bytes[208..]);
        for (j, group) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(bytes[192 + j] as i8);
            let low = &bytes[j / 8 * 64 + j % 4 * 16..][..16];
            let high = &bytes[128 + j / 8 * 32 + j % 2 * 16..][..16];
            let (low_shift, high_shift) = (j % 8 / 4 * 4, j % 8 / 2 * 2);
            for (v, (low, high)) in group.iter_mut().zip(low.iter().zip(high)) {
                let code = (low >> low_shift & 15) | ((high >> high_shift & 3) << 4);
                *v = scale * f32::from(code as i8 - 32);
            }
        }
    }
}

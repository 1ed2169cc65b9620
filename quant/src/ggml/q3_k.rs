//! Q3_K: 3.4375 bits a weight, 16 groups of 16 values with a signed 6-bit scale each, codes -4 to 3.
//!
//! ```text
//! 32 bytes: bit k of byte i is bit 2 of the code of value 32 k + i
//! 64 bytes: for each half of 128 values, byte i holds the low 2 bits of values i, i + 32, i + 64, i + 96
//! 12 bytes: scales; byte j holds the low 4 bits of scale j (low half) and of scale j + 8 (high half), j < 8;
//!           byte 8 + j the high 2 bits of scales j, j + 4, j + 8, j + 12
//! d: f16
//! x' = d * (scale - 32) * (code - 4)
//! ```

use super::blocks::{Block, block_codec, get_f16};
use crate::encoding::Encoding;

/// ggml's Q3_K (110 bytes for 256 weights).
pub struct Q3K;

block_codec!(Q3K, 256, 110, read only);

impl Block<256, 110> for Q3K {
    const ENCODING: Encoding = Encoding::Q3K;

    #[inline(always)]
    fn decode(bytes: &[u8; 110], out: &mut [f32; 256]) {
        let d = get_f16(&bytes[108..]);
        let scales = unpack_scales(&bytes[96..108]);
        for (j, group) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(scales[j]);
            let low = &bytes[32 + j / 8 * 32 + j % 2 * 16..][..16];
            let high = &bytes[j % 2 * 16..][..16];
            let shift = j % 8 / 2 * 2;
            let bit = j / 2;
            for (v, (low, high)) in group.iter_mut().zip(low.iter().zip(high)) {
                let code = (low >> shift & 3) | ((high >> bit & 1) << 2);
                *v = scale * f32::from(code as i8 - 4);
            }
        }
    }
}

/// The 16 scales, -32 to 31.
#[inline(always)]
fn unpack_scales(bytes: &[u8]) -> [i8; 16] {
    std::array::from_fn(|j| {
        let low = bytes[j % 8] >> (j / 8 * 4) & 15;
        let high = bytes[8 + j % 4] >> (j / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

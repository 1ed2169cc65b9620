//! Q8_K: 9.125 bits a weight, one f32 scale for 256 values; ggml's intermediate type for activations.
//!
//! ```text
//! d: f32 | 256 bytes: codes as i8 | 16 i16: sums of each 16 codes (not needed to decode)
//! x' = d * code
//! ```
//!
//! Read only: no file has a reason to store it.

use super::blocks::{Block, block_codec};
use crate::arch::Lanes;
use crate::encoding::Encoding;

/// ggml's Q8_K (292 bytes for 256 weights).
pub struct Q8K;

block_codec!(Q8K, 256, 292, read only);

impl Block<256, 292> for Q8K {
    const ENCODING: Encoding = Encoding::Q8K;

    #[inline(always)]
    fn decode<S: Lanes>(_: S, bytes: &[u8; 292], out: &mut [f32; 256]) {
        let d = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        for (v, code) in out.iter_mut().zip(&bytes[4..]) {
            *v = d * f32::from(*code as i8);
        }
    }
}

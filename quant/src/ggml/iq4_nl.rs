//! IQ4_NL: 4.5 bits a weight, one scale for 32 values, 16 levels spaced for a bell-shaped distribution.
//!
//! ```text
//! d: f16 | 16 bytes: byte i holds value i (low half) and value i + 16 (high half)
//! x' = d * LEVELS[code]
//! ```

use super::blocks::{Block, block_codec, get_f16, unpack_nibbles};
use crate::encoding::Encoding;

/// ggml's IQ4_NL (18 bytes for 32 weights).
pub struct IQ4NL;

/// The levels of IQ4_NL and IQ4_XS.
pub(super) const LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

block_codec!(IQ4NL, 32, 18, read only);

impl Block<32, 18> for IQ4NL {
    const ENCODING: Encoding = Encoding::IQ4NL;

    #[inline(always)]
    fn decode(bytes: &[u8; 18], out: &mut [f32; 32]) {
        let d = get_f16(bytes);
        for (v, code) in out.iter_mut().zip(unpack_nibbles(&bytes[2..])) {
            *v = d * f32::from(LEVELS[usize::from(code)]);
        }
    }
}

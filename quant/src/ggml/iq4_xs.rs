//! IQ4_XS: 4.25 bits a weight, 8 groups of 32 values with a signed 6-bit scale each, the levels of IQ4_NL.
//!
//! ```text
//! d: f16
//! u16: bits 2 j and 2 j + 1 are the high bits of scale j
//! 4 bytes: byte j holds the low 4 bits of scale 2 j (low half) and of scale 2 j + 1 (high half)
//! 128 bytes: for each group 16 bytes, byte i holds value i (low half) and value i + 16 (high half)
//! x' = d * (scale - 32) * LEVELS[code]
//! ```

use super::blocks::{Block, block_codec, get_f16, unpack_nibbles};
use super::iq4_nl::LEVELS;
use crate::encoding::Encoding;

/// ggml's IQ4_XS (136 bytes for 256 weights).
pub struct IQ4XS;

block_codec!(IQ4XS, 256, 136, read only);

impl Block<256, 136> for IQ4XS {
    const ENCODING: Encoding = Encoding::IQ4XS;

    #[inline(always)]
    fn decode(bytes: &[u8; 136], out: &mut [f32; 256]) {
        let d = get_f16(bytes);
        let high = u16::from_le_bytes([bytes[2], bytes[3]]);
        for (j, group) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let low = bytes[4 + j / 2] >> (j % 2 * 4) & 15;
            let scale = low as i8 | ((high >> (2 * j) & 3) as i8) << 4;
            let dl = d * f32::from(scale - 32);
            for (v, code) in group.iter_mut().zip(unpack_nibbles(&bytes[8 + 16 * j..])) {
                *v = dl * f32::from(LEVELS[usize::from(code)]);
            }
        }
    }
}

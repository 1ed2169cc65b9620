//! IQ3_XXS and IQ3_S: 3.06 and 3.44 bits a weight; four values at a time come from a table. Read only.
//!
//! ```text
//! IQ3_XXS  d: f16 | 64 bytes: table indices | for each 32 values a u32: 4 x 7 bits of signs and a 4-bit scale
//!          x' = d * (scale + 1/2) / 2 * level * sign
//! IQ3_S    d: f16 | 64 bytes: low table indices | 8 bytes: a high index bit for each 4 values | 32 bytes: signs
//!          | 4 bytes: a 4-bit scale for each 32 values
//!          x' = d * (1 + 2 * scale) * level * sign
//! ```
//!
//! Seven bits of signs stand for eight, as in IQ2.

use super::blocks::{Block, block_codec, get_f16};
use super::grids;
use super::iq2::{even_signs, put};
use crate::arch::Lanes;
use crate::encoding::Encoding;

/// ggml's IQ3_XXS (98 bytes for 256 weights).
pub struct IQ3XXS;
/// ggml's IQ3_S (110 bytes for 256 weights).
pub struct IQ3S;

block_codec!(IQ3XXS, 256, 98, read only);
block_codec!(IQ3S, 256, 110, read only);

impl Block<256, 98> for IQ3XXS {
    const ENCODING: Encoding = Encoding::IQ3XXS;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 98], out: &mut [f32; 256]) {
        let d = get_f16(s, bytes);
        for (j, group) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let signs = &bytes[66 + 4 * j..][..4];
            let signs = u32::from_le_bytes([signs[0], signs[1], signs[2], signs[3]]);
            let scale = d * (0.5 + (signs >> 28) as f32) * 0.5;
            for (k, values) in group.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let entry = grids::IQ3_XXS[usize::from(bytes[2 + 8 * j + k])];
                let signs = even_signs((signs >> (k / 2 * 7)) as u8);
                put(values, scale, &levels(entry, grids::IQ3_XXS_LEVELS), signs >> (k % 2 * 4));
            }
        }
    }
}

impl Block<256, 110> for IQ3S {
    const ENCODING: Encoding = Encoding::IQ3S;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 110], out: &mut [f32; 256]) {
        let d = get_f16(s, bytes);
        for (k, values) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let scale = d * f32::from(1 + 2 * (bytes[106 + k / 16] >> (k / 8 % 2 * 4) & 15));
            let high = u16::from(bytes[66 + k / 8] >> (k % 8) & 1);
            let entry = grids::IQ3_S[usize::from(u16::from(bytes[2 + k]) | high << 8)];
            put(values, scale, &levels(entry, grids::IQ3_S_LEVELS), bytes[74 + k / 2] >> (k % 2 * 4));
        }
    }
}

/// The four levels of a table entry.
#[inline(always)]
fn levels(entry: u16, levels: [u8; 8]) -> [u8; 4] {
    std::array::from_fn(|i| levels[usize::from(entry >> (3 * i) & 7)])
}

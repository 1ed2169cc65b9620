//! IQ2_XXS, IQ2_XS, IQ2_S: 2.06, 2.31 and 2.56 bits a weight; eight values at a time come from a table. Read only.
//!
//! ```text
//! IQ2_XXS  d: f16 | for each 32 values two u32: 4 bytes of table indices; then 4 x 7 bits of signs and a 4-bit scale
//! IQ2_XS   d: f16 | for each 8 values a u16: 9 bits of table index, 7 bits of signs | 8 bytes: 2 scales for each 32
//! IQ2_S    d: f16 | 32 bytes: low table indices | 32 bytes: signs | 8 bytes: 2 high index bits for each 8 values
//!          | 8 bytes: 2 scales for each 32
//! x' = d * (scale + 1/2) / 4 * level * sign
//! ```
//!
//! Seven bits of signs stand for eight: the number of minus signs is even.
//!
//! They can be read, so that any GGUF can be a source; they are not written (ggml itself makes them only with an
//! importance matrix). Q2_K and Q3_K are the smallest types with an encoder.

use super::blocks::{Block, block_codec, get_f16};
use super::grids;
use crate::arch::Lanes;
use crate::encoding::Encoding;

/// ggml's IQ2_XXS (66 bytes for 256 weights).
pub struct IQ2XXS;
/// ggml's IQ2_XS (74 bytes for 256 weights).
pub struct IQ2XS;
/// ggml's IQ2_S (82 bytes for 256 weights).
pub struct IQ2S;

block_codec!(IQ2XXS, 256, 66, read only);
block_codec!(IQ2XS, 256, 74, read only);
block_codec!(IQ2S, 256, 82, read only);

impl Block<256, 66> for IQ2XXS {
    const ENCODING: Encoding = Encoding::IQ2XXS;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 66], out: &mut [f32; 256]) {
        let d = get_f16(s, bytes);
        for (group, bytes) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes[2..].as_chunks::<8>().0) {
            let [i0, i1, i2, i3, signs @ ..] = *bytes;
            let signs = u32::from_le_bytes(signs);
            let scale = scale(d, (signs >> 28) as u8);
            for (k, index) in [i0, i1, i2, i3].into_iter().enumerate() {
                let levels = levels(grids::IQ2_XXS[usize::from(index)], grids::IQ2_XXS_LEVELS);
                put(&mut group[8 * k..], scale, &levels, even_signs((signs >> (7 * k)) as u8));
            }
        }
    }
}

impl Block<256, 74> for IQ2XS {
    const ENCODING: Encoding = Encoding::IQ2XS;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 74], out: &mut [f32; 256]) {
        let d = get_f16(s, bytes);
        for (k, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let scale = scale(d, bytes[66 + k / 4] >> (k / 2 % 2 * 4) & 15);
            let code = u16::from_le_bytes([bytes[2 + 2 * k], bytes[3 + 2 * k]]);
            let levels = levels(grids::IQ2_XS[usize::from(code & 511)], grids::IQ2_XS_LEVELS);
            put(values, scale, &levels, even_signs((code >> 9) as u8));
        }
    }
}

impl Block<256, 82> for IQ2S {
    const ENCODING: Encoding = Encoding::IQ2S;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 82], out: &mut [f32; 256]) {
        let d = get_f16(s, bytes);
        for (k, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let scale = scale(d, bytes[74 + k / 4] >> (k / 2 % 2 * 4) & 15);
            let high = u16::from(bytes[66 + k / 4] >> (k % 4 * 2) & 3);
            let code = usize::from(u16::from(bytes[2 + k]) | high << 8);
            put(values, scale, &levels(grids::IQ2_S[code], grids::IQ2_S_LEVELS), bytes[34 + k]);
        }
    }
}

#[inline(always)]
fn scale(d: f32, code: u8) -> f32 {
    d * (0.5 + f32::from(code)) * 0.25
}

/// The eight levels of a table entry.
#[inline(always)]
fn levels(entry: u16, levels: [u8; 3]) -> [u8; 8] {
    std::array::from_fn(|i| levels[usize::from(entry >> (2 * i) & 3) % 3])
}

/// Seven signs (one a bit) and the eighth that makes the number of minus signs even.
#[inline(always)]
pub(super) fn even_signs(signs: u8) -> u8 {
    let signs = signs & 127;
    signs | ((signs.count_ones() as u8 & 1) << 7)
}

/// Writes `scale * level`, negated where the bit of `signs` is set.
#[inline(always)]
pub(super) fn put<const N: usize>(out: &mut [f32], scale: f32, levels: &[u8; N], signs: u8) {
    for (i, (v, level)) in out.iter_mut().zip(levels).enumerate() {
        let magnitude = scale * f32::from(*level);
        *v = if signs >> i & 1 == 1 { -magnitude } else { magnitude };
    }
}

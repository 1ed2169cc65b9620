//! Q4_K: 4.5 bits a weight, 8 groups of 32 values with a 6-bit scale and a 6-bit minimum each, codes 0 to 15.
//!
//! ```text
//! d: f16 | dmin: f16
//! 12 bytes: scales and minima (see `scales.rs`)
//! 128 bytes: for each quarter of 64 values, byte i holds value i (low half) and value i + 32 (high half)
//! x' = d * scale * code - dmin * minimum
//! ```

use super::affine_k::{self, Parts};
use super::best::{Best, Grid, Levels, Solution};
use super::blocks::{Block, block_codec, get_f16};
use super::scales::unpack_six_bits;
use super::search::affine::Trials;
use super::super_blocks::{self, Batch, EncodeSuperBlock};
use crate::arch::Lanes;
use crate::encoding::Encoding;

/// ggml's Q4_K (144 bytes for 256 weights).
pub struct Q4K;

block_codec!(Q4K, 256, 144, super_blocks::encode::<Q4K, 144>);

impl EncodeSuperBlock<144> for Q4K {
    const LIMIT: f32 = 65504.0 * 63.0 * 15.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, batch: &Batch<'_>, out: &mut [[u8; 144]]) -> Option<usize> {
        let trials =
            Trials { nmax: 15.0, start: -1.0, step: 0.1, steps: 20, absolute: false, cut_first: false };
        affine_k::encode(s, batch, trials, |k, parts| put(parts, &mut out[k]))
    }
}

impl Block<256, 144> for Q4K {
    const ENCODING: Encoding = Encoding::Q4K;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 144], out: &mut [f32; 256]) {
        let (d, dmin) = (get_f16(s, bytes), get_f16(s, &bytes[2..]));
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

/// Packs a super-block.
#[inline(always)]
fn put(parts: &Parts, out: &mut [u8; 144]) {
    out[..4].copy_from_slice(&parts.scales);
    out[4..16].copy_from_slice(&parts.six_bits);
    for (out, codes) in out[16..].chunks_exact_mut(32).zip(parts.codes.chunks_exact(64)) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = codes[i] | codes[i + 32] << 4;
        }
    }
}

impl Best<256, 144> for Q4K {
    const GRID: Grid =
        Grid { group: 32, levels: Levels::Integers(0.0, 15.0), scales: (0, 63), mins: (0, 63) };

    fn pack(solution: &Solution, out: &mut [u8; 144]) {
        put(&Parts::from(solution), out);
    }

    fn unpack(bytes: &[u8; 144]) -> Solution {
        affine_k::unpack(bytes)
    }
}

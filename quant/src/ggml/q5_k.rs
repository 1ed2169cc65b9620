//! Q5_K: 5.5 bits a weight, 8 groups of 32 values with a 6-bit scale and a 6-bit minimum each, codes 0 to 31.
//!
//! ```text
//! d: f16 | dmin: f16
//! 12 bytes: scales and minima (see `scales.rs`)
//! 32 bytes: bit k of byte i is bit 4 of the code of value 32 k + i
//! 128 bytes: for each quarter of 64 values, byte i holds the low 4 bits of value i (low half) and i + 32 (high half)
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

/// ggml's Q5_K (176 bytes for 256 weights).
pub struct Q5K;

block_codec!(Q5K, 256, 176, super_blocks::encode::<Q5K, 176>);

impl EncodeSuperBlock<176> for Q5K {
    const LIMIT: f32 = 65504.0 * 63.0 * 31.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, batch: &Batch<'_>, out: &mut [[u8; 176]]) -> Option<usize> {
        let trials =
            Trials { nmax: 31.0, start: -0.5, step: 0.1, steps: 15, absolute: false, cut_first: false };
        affine_k::encode(s, batch, trials, |k, parts| put(parts, &mut out[k]))
    }
}

impl Block<256, 176> for Q5K {
    const ENCODING: Encoding = Encoding::Q5K;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 176], out: &mut [f32; 256]) {
        let (d, dmin) = (get_f16(s, bytes), get_f16(s, &bytes[2..]));
        let (scales, mins) = unpack_six_bits(&bytes[4..16]);
        for (j, group) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
            let low = &bytes[48 + j / 2 * 32..][..32];
            let high = &bytes[16..48];
            let shift = j % 2 * 4;
            for (v, (low, high)) in group.iter_mut().zip(low.iter().zip(high)) {
                let code = (low >> shift & 15) | ((high >> j & 1) << 4);
                *v = scale * f32::from(code) - min;
            }
        }
    }
}

/// Packs a super-block.
#[inline(always)]
fn put(parts: &Parts, out: &mut [u8; 176]) {
    out[..4].copy_from_slice(&parts.scales);
    out[4..16].copy_from_slice(&parts.six_bits);
    let (high, low) = out[16..].split_at_mut(32);
    for (low, codes) in low.chunks_exact_mut(32).zip(parts.codes.chunks_exact(64)) {
        for (i, byte) in low.iter_mut().enumerate() {
            *byte = (codes[i] & 15) | codes[i + 32] << 4;
        }
    }
    for (i, byte) in high.iter_mut().enumerate() {
        *byte = (0..8).fold(0, |bits, j| bits | (parts.codes[32 * j + i] >> 4) << j);
    }
}

impl Best<256, 176> for Q5K {
    const GRID: Grid =
        Grid { group: 32, levels: Levels::Integers(0.0, 31.0), scales: (0, 63), mins: (0, 63) };

    fn pack(solution: &Solution, out: &mut [u8; 176]) {
        put(&Parts::from(solution), out);
    }

    fn unpack(bytes: &[u8; 176]) -> Solution {
        affine_k::unpack(bytes)
    }
}

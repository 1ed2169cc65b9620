//! Q5_1: 6 bits a weight, one scale and one minimum for 32 values, codes 0 to 31.
//!
//! ```text
//! d: f16 | m: f16 | u32: bit i is bit 4 of code i | 16 bytes: low 4 bits, value i (low half), value i + 16 (high half)
//! x' = d * code + m
//! ```
//!
//! `m` is the least value and `d` a thirty-first of the range. The error is at most `d / 2` plus the rounding of
//! `d` and `m` to f16.

use super::affine_k::importance_trials;
use super::best::{self, Best, Grid, Levels, Solution};
use super::blocks::{
    self, Block, EncodeBlock, block_codec, codes, get_f16, min_max, pack_fifth_bits, pack_nibbles, put_f16,
    unpack_fifth_bits, unpack_nibbles,
};
use super::search::{Transposed, affine};
use super::weighted::{self, EncodeWeighted};
use crate::arch::Lanes;
use crate::encoding::Encoding;

/// ggml's Q5_1 (24 bytes for 32 weights).
pub struct Q5_1;

block_codec!(Q5_1, 32, 24, |rows, out| match rows.importance {
    None => blocks::encode::<Q5_1, 32, 24>(rows, out),
    Some(_) => weighted::encode::<Q5_1, 24>(rows, out),
});

impl EncodeBlock<32, 24> for Q5_1 {
    const LIMIT: f32 = 65504.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, values: &[f32; 32], out: &mut [u8; 24]) -> bool {
        let (min, max) = min_max(s, values);
        let d = (max - min) / 31.0;
        let codes = codes(s, values, min, d, 0.5, 31.0);
        pack(s, d, min, &codes, out)
    }
}

impl Block<32, 24> for Q5_1 {
    const ENCODING: Encoding = Encoding::Q5_1;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 24], out: &mut [f32; 32]) {
        let (d, m) = (get_f16(s, bytes), get_f16(s, &bytes[2..]));
        let mut codes = unpack_nibbles(&bytes[8..]);
        unpack_fifth_bits(&bytes[4..8], &mut codes);
        for (v, code) in out.iter_mut().zip(codes) {
            *v = f32::from(code) * d + m;
        }
    }
}

impl EncodeWeighted<24> for Q5_1 {
    const LIMIT: f32 = 65504.0;
    const SIGMA_OF_ROW: bool = true;

    #[inline(always)]
    fn encode<S: Lanes>(
        s: S,
        values: &[[f32; 32]],
        x: &Transposed<32>,
        w: &Transposed<32>,
        out: &mut [[u8; 24]],
    ) -> Option<usize> {
        let found = affine::search(s, x, w, importance_trials(31.0));
        values.iter().zip(out).enumerate().position(|(k, (values, out))| {
            let mut codes = [0; 32];
            found.codes(k, values, 31, &mut codes);
            !pack(s, found.scale[k], found.min[k], &codes, out)
        })
    }
}

/// Writes a block; false if `d` or `min` is too large for f16.
#[inline(always)]
fn pack<S: Lanes>(s: S, d: f32, min: f32, codes: &[u8; 32], out: &mut [u8; 24]) -> bool {
    out[4..8].copy_from_slice(&pack_fifth_bits(codes));
    pack_nibbles(codes, &mut out[8..]);
    put_f16(s, d, &mut out[..2]) & put_f16(s, min, &mut out[2..4])
}

impl Best<32, 24> for Q5_1 {
    const GRID: Grid = Grid { group: 32, levels: Levels::Integers(0.0, 31.0), scales: (1, 1), mins: (1, 1) };

    fn pack(solution: &Solution, out: &mut [u8; 24]) {
        out[..2].copy_from_slice(&solution.d.to_le_bytes());
        // The block holds the minimum, not its negative.
        out[2..4].copy_from_slice(&(solution.dmin ^ 0x8000).to_le_bytes());
        out[4..8].copy_from_slice(&pack_fifth_bits(&best::codes32(solution)));
        best::pack32(solution, &mut out[8..]);
    }

    fn unpack(bytes: &[u8; 24]) -> Solution {
        Solution { dmin: best::half_at(bytes, 2) ^ 0x8000, mins: [1; 16], ..best::unpack_single(bytes) }
    }
}

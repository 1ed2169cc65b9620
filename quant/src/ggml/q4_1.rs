//! Q4_1: 5 bits a weight, one scale and one minimum for 32 values, codes 0 to 15.
//!
//! ```text
//! d: f16 | m: f16 | 16 bytes: byte i holds value i (low half) and value i + 16 (high half)
//! x' = d * code + m
//! ```
//!
//! `m` is the least value and `d` a fifteenth of the range. The error is at most `d / 2` plus the rounding of `d`
//! and `m` to f16.

use super::affine_k::importance_trials;
use super::best::{self, Best, Grid, Levels, Solution};
use super::blocks::{
    self, Block, EncodeBlock, block_codec, codes, get_f16, min_max, pack_nibbles, put_f16, unpack_nibbles,
};
use super::search::{Transposed, affine};
use super::weighted::{self, EncodeWeighted};
use crate::arch::Lanes;
use crate::encoding::Encoding;

/// ggml's Q4_1 (20 bytes for 32 weights).
pub struct Q4_1;

block_codec!(Q4_1, 32, 20, |rows, out| match rows.importance {
    None => blocks::encode::<Q4_1, 32, 20>(rows, out),
    Some(_) => weighted::encode::<Q4_1, 20>(rows, out),
});

impl EncodeBlock<32, 20> for Q4_1 {
    const LIMIT: f32 = 65504.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, values: &[f32; 32], out: &mut [u8; 20]) -> bool {
        let (min, max) = min_max(s, values);
        let d = (max - min) / 15.0;
        let codes = codes(s, values, min, d, 0.5, 15.0);
        pack(s, d, min, &codes, out)
    }
}

impl Block<32, 20> for Q4_1 {
    const ENCODING: Encoding = Encoding::Q4_1;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 20], out: &mut [f32; 32]) {
        let (d, m) = (get_f16(s, bytes), get_f16(s, &bytes[2..]));
        let codes = unpack_nibbles(&bytes[4..]);
        for (v, code) in out.iter_mut().zip(codes) {
            *v = f32::from(code) * d + m;
        }
    }
}

impl EncodeWeighted<20> for Q4_1 {
    const LIMIT: f32 = 65504.0;
    const SIGMA_OF_ROW: bool = true;

    #[inline(always)]
    fn encode<S: Lanes>(
        s: S,
        values: &[[f32; 32]],
        x: &Transposed<32>,
        w: &Transposed<32>,
        out: &mut [[u8; 20]],
    ) -> Option<usize> {
        let found = affine::search(s, x, w, importance_trials(15.0));
        values.iter().zip(out).enumerate().position(|(k, (values, out))| {
            let mut codes = [0; 32];
            found.codes(k, values, 15, &mut codes);
            !pack(s, found.scale[k], found.min[k], &codes, out)
        })
    }
}

/// Writes a block; false if `d` or `min` is too large for f16.
#[inline(always)]
fn pack<S: Lanes>(s: S, d: f32, min: f32, codes: &[u8; 32], out: &mut [u8; 20]) -> bool {
    pack_nibbles(codes, &mut out[4..]);
    put_f16(s, d, &mut out[..2]) & put_f16(s, min, &mut out[2..4])
}

impl Best<32, 20> for Q4_1 {
    const GRID: Grid = Grid { group: 32, levels: Levels::Integers(0.0, 15.0), scales: (1, 1), mins: (1, 1) };

    fn pack(solution: &Solution, out: &mut [u8; 20]) {
        out[..2].copy_from_slice(&solution.d.to_le_bytes());
        // The block holds the minimum, not its negative.
        out[2..4].copy_from_slice(&(solution.dmin ^ 0x8000).to_le_bytes());
        best::pack32(solution, &mut out[4..]);
    }

    fn unpack(bytes: &[u8; 20]) -> Solution {
        Solution { dmin: best::half_at(bytes, 2) ^ 0x8000, mins: [1; 16], ..best::unpack_single(bytes) }
    }
}

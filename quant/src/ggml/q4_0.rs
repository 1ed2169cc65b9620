//! Q4_0: 4.5 bits a weight, one scale for 32 values, codes -8 to 7.
//!
//! ```text
//! d: f16 | 16 bytes: byte i holds value i (low half) and value i + 16 (high half)
//! x' = d * (code - 8)
//! ```
//!
//! `d` is the value of largest magnitude over -8, so that this value is kept best. The error is at most `|d| / 2`,
//! and `|d|` for values beyond `7.5 d` on the other side, plus the rounding of `d` to f16.

use super::best::{self, Best, Grid, Levels, Solution};
use super::blocks::{
    self, Block, EncodeBlock, block_codec, codes, extreme, get_f16, pack_nibbles, put_f16, unpack_nibbles,
};
use super::search::{Transposed, symmetric};
use super::weighted::{self, EncodeWeighted};
use crate::arch::Lanes;
use crate::encoding::Encoding;

/// ggml's Q4_0 (18 bytes for 32 weights).
pub struct Q4_0;

block_codec!(Q4_0, 32, 18, |rows, out| match rows.importance {
    None => blocks::encode::<Q4_0, 32, 18>(rows, out),
    Some(_) => weighted::encode::<Q4_0, 18>(rows, out),
});

impl EncodeBlock<32, 18> for Q4_0 {
    const LIMIT: f32 = 65504.0 * 8.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, values: &[f32; 32], out: &mut [u8; 18]) -> bool {
        let d = extreme(s, values) / -8.0;
        let codes = codes(s, values, 0.0, d, 8.5, 15.0);
        pack(s, d, &codes, out)
    }
}

impl Block<32, 18> for Q4_0 {
    const ENCODING: Encoding = Encoding::Q4_0;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 18], out: &mut [f32; 32]) {
        let d = get_f16(s, bytes);
        let codes = unpack_nibbles(&bytes[2..]);
        for (v, code) in out.iter_mut().zip(codes) {
            *v = f32::from(code as i8 - 8) * d;
        }
    }
}

impl EncodeWeighted<18> for Q4_0 {
    const LIMIT: f32 = 65504.0 * 8.0;
    const SIGMA_OF_ROW: bool = true;

    #[inline(always)]
    fn encode<S: Lanes>(
        s: S,
        values: &[[f32; 32]],
        x: &Transposed<32>,
        w: &Transposed<32>,
        out: &mut [[u8; 18]],
    ) -> Option<usize> {
        let found = symmetric::search(s, x, w, 8.0);
        values.iter().zip(out).enumerate().position(|(k, (values, out))| {
            let mut codes = [0; 32];
            found.codes(k, values, 8, &mut codes);
            !pack(s, found.scale[k], &codes, out)
        })
    }
}

/// Writes a block; false if `d` is too large for f16.
#[inline(always)]
fn pack<S: Lanes>(s: S, d: f32, codes: &[u8; 32], out: &mut [u8; 18]) -> bool {
    pack_nibbles(codes, &mut out[2..]);
    put_f16(s, d, &mut out[..2])
}

impl Best<32, 18> for Q4_0 {
    const GRID: Grid = best::single(Levels::Integers(-8.0, 7.0));

    fn pack(solution: &Solution, out: &mut [u8; 18]) {
        out[..2].copy_from_slice(&solution.d.to_le_bytes());
        best::pack32(solution, &mut out[2..]);
    }

    fn unpack(bytes: &[u8; 18]) -> Solution {
        best::unpack_single(bytes)
    }
}

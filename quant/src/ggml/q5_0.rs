//! Q5_0: 5.5 bits a weight, one scale for 32 values, codes -16 to 15.
//!
//! ```text
//! d: f16 | u32: bit i is bit 4 of code i | 16 bytes: low 4 bits, value i (low half) and value i + 16 (high half)
//! x' = d * (code - 16)
//! ```
//!
//! `d` is the value of largest magnitude over -16. The error is at most `|d| / 2`, and `|d|` for values beyond
//! `15.5 d` on the other side, plus the rounding of `d` to f16.

use super::best::{self, Best, Grid, Levels, Solution};
use super::blocks::{
    self, Block, EncodeBlock, block_codec, codes, extreme, get_f16, pack_fifth_bits, pack_nibbles, put_f16,
    unpack_fifth_bits, unpack_nibbles,
};
use super::search::{Transposed, symmetric};
use super::weighted::{self, EncodeWeighted};
use crate::arch::Lanes;
use crate::encoding::Encoding;

/// ggml's Q5_0 (22 bytes for 32 weights).
pub struct Q5_0;

block_codec!(Q5_0, 32, 22, |rows, out| match rows.importance {
    None => blocks::encode::<Q5_0, 32, 22>(rows, out),
    Some(_) => weighted::encode::<Q5_0, 22>(rows, out),
});

impl EncodeBlock<32, 22> for Q5_0 {
    const LIMIT: f32 = 65504.0 * 16.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, values: &[f32; 32], out: &mut [u8; 22]) -> bool {
        let d = extreme(s, values) / -16.0;
        let codes = codes(s, values, 0.0, d, 16.5, 31.0);
        pack(s, d, &codes, out)
    }
}

impl Block<32, 22> for Q5_0 {
    const ENCODING: Encoding = Encoding::Q5_0;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 22], out: &mut [f32; 32]) {
        let d = get_f16(s, bytes);
        let mut codes = unpack_nibbles(&bytes[6..]);
        unpack_fifth_bits(&bytes[2..6], &mut codes);
        for (v, code) in out.iter_mut().zip(codes) {
            *v = f32::from(code as i8 - 16) * d;
        }
    }
}

impl EncodeWeighted<22> for Q5_0 {
    const LIMIT: f32 = 65504.0 * 16.0;
    const SIGMA_OF_ROW: bool = true;

    #[inline(always)]
    fn encode<S: Lanes>(
        s: S,
        values: &[[f32; 32]],
        x: &Transposed<32>,
        w: &Transposed<32>,
        out: &mut [[u8; 22]],
    ) -> Option<usize> {
        let found = symmetric::search(s, x, w, 16.0);
        values.iter().zip(out).enumerate().position(|(k, (values, out))| {
            let mut codes = [0; 32];
            found.codes(k, values, 16, &mut codes);
            !pack(s, found.scale[k], &codes, out)
        })
    }
}

/// Writes a block; false if `d` is too large for f16.
#[inline(always)]
fn pack<S: Lanes>(s: S, d: f32, codes: &[u8; 32], out: &mut [u8; 22]) -> bool {
    out[2..6].copy_from_slice(&pack_fifth_bits(codes));
    pack_nibbles(codes, &mut out[6..]);
    put_f16(s, d, &mut out[..2])
}

impl Best<32, 22> for Q5_0 {
    const GRID: Grid = best::single(Levels::Integers(-16.0, 15.0));

    fn pack(solution: &Solution, out: &mut [u8; 22]) {
        out[..2].copy_from_slice(&solution.d.to_le_bytes());
        out[2..6].copy_from_slice(&pack_fifth_bits(&best::codes32(solution)));
        best::pack32(solution, &mut out[6..]);
    }

    fn unpack(bytes: &[u8; 22]) -> Solution {
        best::unpack_single(bytes)
    }
}

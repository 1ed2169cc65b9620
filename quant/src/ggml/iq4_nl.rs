//! IQ4_NL: 4.5 bits a weight, one scale for 32 values, 16 levels spaced for a bell-shaped distribution.
//!
//! ```text
//! d: f16 | 16 bytes: byte i holds value i (low half) and value i + 16 (high half)
//! x' = d * LEVELS[code]
//! ```

use super::best::{self, Best, Grid, Levels, Solution};
use super::blocks::{Block, block_codec, get_f16, pack_nibbles, put_f16, unpack_nibbles};
use super::search::{Transposed, levels};
use super::weighted::{self, EncodeWeighted};
use crate::arch::Lanes;
use crate::encoding::Encoding;

/// ggml's IQ4_NL (18 bytes for 32 weights).
pub struct IQ4NL;

/// The levels of IQ4_NL and IQ4_XS.
pub(super) const LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

block_codec!(IQ4NL, 32, 18, weighted::encode::<IQ4NL, 18>);

impl EncodeWeighted<18> for IQ4NL {
    const LIMIT: f32 = 65504.0 * 127.0;
    const SIGMA_OF_ROW: bool = false;

    #[inline(always)]
    fn encode<S: Lanes>(
        s: S,
        values: &[[f32; 32]],
        x: &Transposed<32>,
        w: &Transposed<32>,
        out: &mut [[u8; 18]],
    ) -> Option<usize> {
        let scales = levels::search(s, x, w);
        values.iter().zip(out).zip(scales).position(|((values, out), d)| {
            let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
            let mut codes = [0; 32];
            levels::codes(s, values, inverse, &mut codes);
            pack_nibbles(&codes, &mut out[2..]);
            !put_f16(s, d, &mut out[..2])
        })
    }
}

impl Block<32, 18> for IQ4NL {
    const ENCODING: Encoding = Encoding::IQ4NL;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 18], out: &mut [f32; 32]) {
        let d = get_f16(s, bytes);
        for (v, code) in out.iter_mut().zip(unpack_nibbles(&bytes[2..])) {
            *v = d * f32::from(LEVELS[usize::from(code)]);
        }
    }
}

impl Best<32, 18> for IQ4NL {
    const GRID: Grid = best::single(Levels::Iq4);

    fn pack(solution: &Solution, out: &mut [u8; 18]) {
        out[..2].copy_from_slice(&solution.d.to_le_bytes());
        best::pack32(solution, &mut out[2..]);
    }

    fn unpack(bytes: &[u8; 18]) -> Solution {
        best::unpack_single(bytes)
    }
}

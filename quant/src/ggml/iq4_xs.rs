//! IQ4_XS: 4.25 bits a weight, 8 groups of 32 values with a signed 6-bit scale each, the levels of IQ4_NL.
//!
//! ```text
//! d: f16
//! u16: bits 2 j and 2 j + 1 are the high bits of scale j
//! 4 bytes: byte j holds the low 4 bits of scale 2 j (low half) and of scale 2 j + 1 (high half)
//! 128 bytes: for each group 16 bytes, byte i holds value i (low half) and value i + 16 (high half)
//! x' = d * (scale - 32) * LEVELS[code]
//! ```

use super::best::{Best, Grid, Levels, Solution, half_at, sixteen};
use super::blocks::{Block, block_codec, get_f16, pack_nibbles, put_f16, unpack_nibbles};
use super::iq4_nl::LEVELS;
use super::search::{levels, square_weights};
use super::super_blocks::{self, Batch, EncodeSuperBlock};
use crate::arch::{Lanes, nearest_int};
use crate::encoding::Encoding;

/// ggml's IQ4_XS (136 bytes for 256 weights).
pub struct IQ4XS;

block_codec!(IQ4XS, 256, 136, super_blocks::encode::<IQ4XS, 136>);

impl EncodeSuperBlock<136> for IQ4XS {
    const LIMIT: f32 = 65504.0 * 32.0 * 127.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, batch: &Batch<'_>, out: &mut [[u8; 136]]) -> Option<usize> {
        for (first, x) in batch.groups::<32>() {
            let w = batch.weights(s, first, &x, 2.0).unwrap_or_else(|| square_weights(s, &x));
            let scales = levels::search(s, &x, &w);
            for (k, values) in batch.values[first..].iter().take(2).enumerate() {
                if !finish(s, values, &scales[8 * k..][..8], &mut out[first + k]) {
                    return Some(first + k);
                }
            }
        }
        None
    }
}

impl Block<256, 136> for IQ4XS {
    const ENCODING: Encoding = Encoding::IQ4XS;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 136], out: &mut [f32; 256]) {
        let d = get_f16(s, bytes);
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

/// Quantizes the scales by the one of largest magnitude, and the values with the result; false if `d` does not fit
/// f16.
#[inline(always)]
fn finish<S: Lanes>(s: S, values: &[f32; 256], scales: &[f32], out: &mut [u8; 136]) -> bool {
    let (mut amax, mut max) = (0.0, 0.0);
    for scale in scales {
        if scale.abs() > amax {
            (amax, max) = (scale.abs(), *scale);
        }
    }
    let d = -max / 32.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut high = 0u16;
    out[4..8].fill(0);
    for j in 0..8 {
        let code = nearest_int(inverse * scales[j]).clamp(-32, 31);
        // Here ggml uses the scale before its rounding to f16.
        let scale = d * code as f32;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let mut codes = [0; 32];
        levels::codes(s, &values[32 * j..][..32], inverse, &mut codes);
        pack_nibbles(&codes, &mut out[8 + 16 * j..][..16]);
        let code = (code + 32) as u8;
        out[4 + j / 2] |= (code & 15) << (j % 2 * 4);
        high |= u16::from(code >> 4) << (2 * j);
    }
    out[2..4].copy_from_slice(&high.to_le_bytes());
    put_f16(s, d, &mut out[..2])
}

impl Best<256, 136> for IQ4XS {
    const GRID: Grid = Grid { group: 32, levels: Levels::Iq4, scales: (-32, 31), mins: (0, 0) };

    fn pack(solution: &Solution, out: &mut [u8; 136]) {
        out[..2].copy_from_slice(&solution.d.to_le_bytes());
        let mut high = 0u16;
        for (j, codes) in solution.codes.as_chunks::<32>().0.iter().enumerate() {
            let scale = (solution.scales[j] + 32) as u8;
            out[4 + j / 2] |= (scale & 15) << (j % 2 * 4);
            high |= u16::from(scale >> 4) << (2 * j);
            pack_nibbles(codes, &mut out[8 + 16 * j..][..16]);
        }
        out[2..4].copy_from_slice(&high.to_le_bytes());
    }

    fn unpack(bytes: &[u8; 136]) -> Solution {
        let high = half_at(bytes, 2);
        let scale = |j: usize| {
            let low = bytes[4 + j / 2] >> (j % 2 * 4) & 15;
            i32::from(low) + (i32::from(high >> (2 * j) & 3) << 4) - 32
        };
        Solution { d: half_at(bytes, 0), scales: sixteen((0..8).map(scale)), ..Solution::EMPTY }
    }
}

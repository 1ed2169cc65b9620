//! Q3_K: 3.4375 bits a weight, 16 groups of 16 values with a signed 6-bit scale each, codes -4 to 3.
//!
//! ```text
//! 32 bytes: bit k of byte i is bit 2 of the code of value 32 k + i
//! 64 bytes: for each half of 128 values, byte i holds the low 2 bits of values i, i + 32, i + 64, i + 96
//! 12 bytes: scales; byte j holds the low 4 bits of scale j (low half) and of scale j + 8 (high half), j < 8;
//!           byte 8 + j the high 2 bits of scales j, j + 4, j + 8, j + 12
//! d: f16
//! x' = d * (scale - 32) * (code - 4)
//! ```

use super::best::{Best, Grid, Levels, Solution, half_at, sixteen};
use super::blocks::{Block, block_codec, get_f16, pack_two_bits, put_f16};
use super::search::{requantize, square_weights, sums, symmetric};
use super::super_blocks::{self, Batch, EncodeSuperBlock};
use crate::arch::{Lanes, nearest_int};
use crate::encoding::Encoding;

/// ggml's Q3_K (110 bytes for 256 weights).
pub struct Q3K;

block_codec!(Q3K, 256, 110, super_blocks::encode::<Q3K, 110>);

impl EncodeSuperBlock<110> for Q3K {
    const LIMIT: f32 = 65504.0 * 32.0 * 4.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, batch: &Batch<'_>, out: &mut [[u8; 110]]) -> Option<usize> {
        if batch.has_importance() {
            return encode_weighted(s, batch, out);
        }
        for (k, x) in batch.groups::<16>() {
            let found = symmetric::descend(s, &x, 4.0);
            let (d, scales) = six_bits(&found.scale);
            let codes = |j: usize, codes: &mut [u8]| {
                for (i, code) in codes.iter_mut().enumerate() {
                    *code = found.codes[i][j] as u8;
                }
            };
            if !finish(s, &batch.values[k], d, &scales, codes, &mut out[k]) {
                return Some(k);
            }
        }
        None
    }
}

impl Block<256, 110> for Q3K {
    const ENCODING: Encoding = Encoding::Q3K;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 110], out: &mut [f32; 256]) {
        let d = get_f16(s, &bytes[108..]);
        let scales = unpack_scales(&bytes[96..108]);
        for (j, group) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(scales[j]);
            let low = &bytes[32 + j / 8 * 32 + j % 2 * 16..][..16];
            let high = &bytes[j % 2 * 16..][..16];
            let shift = j % 8 / 2 * 2;
            let bit = j / 2;
            for (v, (low, high)) in group.iter_mut().zip(low.iter().zip(high)) {
                let code = (low >> shift & 3) | ((high >> bit & 1) << 2);
                *v = scale * f32::from(code as i8 - 4);
            }
        }
    }
}

/// The 16 scales, -32 to 31.
#[inline(always)]
fn unpack_scales(bytes: &[u8]) -> [i8; 16] {
    std::array::from_fn(|j| {
        let low = bytes[j % 8] >> (j / 8 * 4) & 15;
        let high = bytes[8 + j % 4] >> (j / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// The 12 bytes of 16 scales of 0 to 63.
#[inline(always)]
fn pack_scales(scales: &[u8; 16], out: &mut [u8]) {
    out.fill(0);
    for (j, scale) in scales.iter().enumerate() {
        out[j % 8] |= (scale & 15) << (j / 8 * 4);
        out[8 + j % 4] |= (scale >> 4) << (j / 4 * 2);
    }
}

/// Codes of 6 bits by the scale of largest magnitude, counted from -32.
#[inline(always)]
fn six_bits(scales: &[f32; 16]) -> (f32, [u8; 16]) {
    let (mut amax, mut max) = (0.0, 0.0);
    for scale in scales {
        if scale.abs() > amax {
            (amax, max) = (scale.abs(), *scale);
        }
    }
    if max == 0.0 {
        return (0.0, [0; 16]);
    }
    let inverse = -32.0 / max;
    let codes = scales.map(|v| ((nearest_int(inverse * v) as i8).clamp(-32, 31) + 32) as u8);
    (1.0 / inverse, codes)
}

/// Encodes with an importance: the scales are searched like the values.
#[inline(always)]
fn encode_weighted<S: Lanes>(s: S, batch: &Batch<'_>, out: &mut [[u8; 110]]) -> Option<usize> {
    for (k, x) in batch.groups::<16>() {
        let w = batch.weights(s, k, &x, 2.0).unwrap_or_else(|| square_weights(s, &x));
        let found = symmetric::search(s, &x, &w, 4.0);
        let sum_w = sums(s, &w);
        // One group of 16 scales: lane 0 alone counts.
        let scales = symmetric::search(s, &found.scale.map(|v| [v; 16]), &sum_w.map(|w| [w; 16]), 32.0);
        let mut scale_codes = [0; 16];
        scales.codes(0, &found.scale, 32, &mut scale_codes);
        let values = &batch.values[k];
        let codes = |j: usize, codes: &mut [u8]| found.codes(j, &values[16 * j..][..16], 4, codes);
        if !finish(s, values, scales.scale[0], &scale_codes, codes, &mut out[k]) {
            return Some(k);
        }
    }
    None
}

/// Quantizes the values with the scales, or takes the codes of the search where a scale is zero; false if `d` does
/// not fit f16.
#[inline(always)]
fn finish<S: Lanes>(
    s: S,
    values: &[f32; 256],
    d: f32,
    scales: &[u8; 16],
    searched: impl Fn(usize, &mut [u8]),
    out: &mut [u8; 110],
) -> bool {
    pack_scales(scales, &mut out[96..108]);
    if !put_f16(s, d, &mut out[108..]) {
        return false;
    }
    let d = get_f16(s, &out[108..]);
    let scales = unpack_scales(&out[96..108]);
    let mut codes = [0; 256];
    for j in 0..16 {
        let scale = d * f32::from(scales[j]);
        let codes = &mut codes[16 * j..][..16];
        if scale == 0.0 {
            searched(j, codes);
        } else {
            requantize(s, &values[16 * j..][..16], 0.0, scale, -4.0, 3.0, codes);
        }
    }
    pack_codes(&codes, out);
    true
}

/// Packs codes of 3 bits.
#[inline(always)]
fn pack_codes(codes: &[u8; 256], out: &mut [u8; 110]) {
    for i in 0..32 {
        out[i] = (0..8).fold(0, |bits, j| bits | (codes[32 * j + i] >> 2) << j);
    }
    pack_two_bits(&codes.map(|code| code & 3), &mut out[32..96]);
}

impl Best<256, 110> for Q3K {
    const GRID: Grid =
        Grid { group: 16, levels: Levels::Integers(-4.0, 3.0), scales: (-32, 31), mins: (0, 0) };

    fn pack(solution: &Solution, out: &mut [u8; 110]) {
        pack_codes(&solution.codes, out);
        pack_scales(&solution.scales.map(|scale| (scale + 32) as u8), &mut out[96..108]);
        out[108..].copy_from_slice(&solution.d.to_le_bytes());
    }

    fn unpack(bytes: &[u8; 110]) -> Solution {
        let scales = sixteen(unpack_scales(&bytes[96..108]).map(i32::from));
        Solution { d: half_at(bytes, 108), scales, ..Solution::EMPTY }
    }
}

//! Q2_K: 2.625 bits a weight, 16 groups of 16 values with a 4-bit scale and a 4-bit minimum each, codes 0 to 3.
//!
//! ```text
//! 16 bytes: group j's scale (low half) and minimum (high half)
//! 64 bytes: for each half of 128 values, byte i holds values i, i + 32, i + 64, i + 96, lowest bits first
//! d: f16 | dmin: f16
//! x' = d * scale * code - dmin * minimum
//! ```

use super::affine_k::importance_trials;
use super::best::{Best, Grid, Levels, Solution, half_at, sixteen};
use super::blocks::{Block, block_codec, get_f16, pack_two_bits, put_f16};
use super::search::affine::{self, Affine, Trials};
use super::search::{GROUPS, requantize, scales, sums};
use super::super_blocks::{self, Batch, EncodeSuperBlock};
use crate::arch::{Lanes, nearest_int};
use crate::encoding::Encoding;

/// ggml's Q2_K (84 bytes for 256 weights).
pub struct Q2K;

block_codec!(Q2K, 256, 84, super_blocks::encode::<Q2K, 84>);

impl EncodeSuperBlock<84> for Q2K {
    const LIMIT: f32 = 65504.0 * 15.0 * 3.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, batch: &Batch<'_>, out: &mut [[u8; 84]]) -> Option<usize> {
        let trials =
            Trials { nmax: 3.0, start: -0.5, step: 0.1, steps: 15, absolute: true, cut_first: false };
        for (k, x) in batch.groups::<16>() {
            let weights = batch.weights(s, k, &x, 1.0);
            let found = match &weights {
                Some(w) => affine::search(s, &x, w, importance_trials(3.0)),
                None => affine::search(s, &x, &x.map(|x| x.map(f32::abs)), trials),
            };
            let sum_w = weights.map(|w| sums(s, &w));
            if !finish(s, &batch.values[k], &found, sum_w.as_ref(), &mut out[k]) {
                return Some(k);
            }
        }
        None
    }
}

impl Block<256, 84> for Q2K {
    const ENCODING: Encoding = Encoding::Q2K;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 84], out: &mut [f32; 256]) {
        let (d, dmin) = (get_f16(s, &bytes[80..]), get_f16(s, &bytes[82..]));
        for (j, group) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(bytes[j] & 15);
            let min = dmin * f32::from(bytes[j] >> 4);
            let codes = &bytes[16 + j / 8 * 32 + j % 2 * 16..][..16];
            let shift = j % 8 / 2 * 2;
            for (v, code) in group.iter_mut().zip(codes) {
                *v = scale * f32::from(code >> shift & 3) - min;
            }
        }
    }
}

/// Quantizes the scales and minima, and the values with the result; false if `d` or `dmin` does not fit f16.
#[inline(always)]
fn finish<S: Lanes>(
    s: S,
    values: &[f32; 256],
    found: &Affine,
    sum_w: Option<&[f32; GROUPS]>,
    out: &mut [u8; 84],
) -> bool {
    let mins = found.min.map(|m| -m);
    let (d, scale_codes, dmin, min_codes) = match sum_w {
        Some(w) => {
            let (d, scale_codes) = scales::search(&found.scale, w, 15);
            let (dmin, min_codes) = scales::search(&mins, w, 15);
            (d, scale_codes, dmin, min_codes)
        }
        None => {
            let (d, scale_codes) = four_bits(&found.scale);
            let (dmin, min_codes) = four_bits(&mins);
            (d, scale_codes, dmin, min_codes)
        }
    };
    if !(put_f16(s, d, &mut out[80..82]) & put_f16(s, dmin, &mut out[82..])) {
        return false;
    }
    let (d, dmin) = (get_f16(s, &out[80..]), get_f16(s, &out[82..]));
    let mut codes = [0; 256];
    for j in 0..16 {
        out[j] = scale_codes[j] | min_codes[j] << 4;
        let (x, codes) = (&values[16 * j..][..16], &mut codes[16 * j..][..16]);
        let scale = d * f32::from(out[j] & 15);
        if scale == 0.0 {
            found.codes(j, x, 3, codes);
        } else {
            requantize(s, x, dmin * f32::from(out[j] >> 4), scale, 0.0, 3.0, codes);
        }
    }
    pack_two_bits(&codes, &mut out[16..80]);
    true
}

/// Codes of 4 bits by the largest scale. (A negative scale wraps and spills into its neighbour, as in ggml.)
#[inline(always)]
fn four_bits(scales: &[f32; 16]) -> (f32, [u8; 16]) {
    let max = scales.iter().fold(0.0f32, |m, v| if *v > m { *v } else { m });
    if max > 0.0 {
        let inverse = 15.0 / max;
        (max / 15.0, scales.map(|v| nearest_int(inverse * v) as u8))
    } else {
        (0.0, [0; 16])
    }
}

impl Best<256, 84> for Q2K {
    const GRID: Grid = Grid { group: 16, levels: Levels::Integers(0.0, 3.0), scales: (0, 15), mins: (0, 15) };

    fn pack(solution: &Solution, out: &mut [u8; 84]) {
        for j in 0..16 {
            out[j] = (solution.scales[j] | solution.mins[j] << 4) as u8;
        }
        pack_two_bits(&solution.codes, &mut out[16..80]);
        out[80..82].copy_from_slice(&solution.d.to_le_bytes());
        out[82..].copy_from_slice(&solution.dmin.to_le_bytes());
    }

    fn unpack(bytes: &[u8; 84]) -> Solution {
        Solution {
            d: half_at(bytes, 80),
            dmin: half_at(bytes, 82),
            scales: sixteen(bytes[..16].iter().map(|b| i32::from(b & 15))),
            mins: sixteen(bytes[..16].iter().map(|b| i32::from(b >> 4))),
            ..Solution::EMPTY
        }
    }
}

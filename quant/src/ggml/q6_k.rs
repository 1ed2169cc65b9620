//! Q6_K: 6.5625 bits a weight, 16 groups of 16 values with a signed 8-bit scale each, codes -32 to 31.
//!
//! ```text
//! 128 bytes: for each half of 128 values 64 bytes: byte i holds the low 4 bits of values i and i + 64 (i < 64)
//! 64 bytes: for each half of 128 values, byte i holds the high 2 bits of values i, i + 32, i + 64, i + 96
//! 16 bytes: scales as i8
//! d: f16
//! x' = d * scale * (code - 32)
//! ```

use super::best::{Best, Grid, Levels, Solution, half_at, sixteen};
use super::blocks::{Block, block_codec, get_f16, put_f16};
use super::search::symmetric::{self, Symmetric};
use super::search::{ZERO, requantize, square_weights};
use super::super_blocks::{self, Batch, EncodeSuperBlock};
use crate::arch::{Lanes, nearest_int};
use crate::encoding::Encoding;

/// ggml's Q6_K (210 bytes for 256 weights).
pub struct Q6K;

block_codec!(Q6K, 256, 210, super_blocks::encode::<Q6K, 210>);

impl EncodeSuperBlock<210> for Q6K {
    const LIMIT: f32 = 65504.0 * 128.0 * 32.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, batch: &Batch<'_>, out: &mut [[u8; 210]]) -> Option<usize> {
        for (k, x) in batch.groups::<16>() {
            // The importance itself, without the magnitude of the weight.
            let w = batch.columns(k).unwrap_or_else(|| square_weights(s, &x));
            let found = symmetric::search(s, &x, &w, 32.0);
            if !finish(s, &batch.values[k], &found, &mut out[k]) {
                return Some(k);
            }
        }
        None
    }
}

impl Block<256, 210> for Q6K {
    const ENCODING: Encoding = Encoding::Q6K;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 210], out: &mut [f32; 256]) {
        let d = get_f16(s, &bytes[208..]);
        for (j, group) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(bytes[192 + j] as i8);
            let low = &bytes[j / 8 * 64 + j % 4 * 16..][..16];
            let high = &bytes[128 + j / 8 * 32 + j % 2 * 16..][..16];
            let (low_shift, high_shift) = (j % 8 / 4 * 4, j % 8 / 2 * 2);
            for (v, (low, high)) in group.iter_mut().zip(low.iter().zip(high)) {
                let code = (low >> low_shift & 15) | ((high >> high_shift & 3) << 4);
                *v = scale * f32::from(code as i8 - 32);
            }
        }
    }
}

/// Quantizes the scales by the one of largest magnitude, and the values with the result; false if `d` does not fit
/// f16.
#[inline(always)]
fn finish<S: Lanes>(s: S, values: &[f32; 256], found: &Symmetric, out: &mut [u8; 210]) -> bool {
    let (mut amax, mut max) = (0.0, 0.0);
    for scale in found.scale {
        if scale.abs() > amax {
            (amax, max) = (scale.abs(), scale);
        }
    }
    if amax < ZERO {
        out.fill(0);
        return true;
    }
    let inverse = -128.0 / max;
    if !put_f16(s, 1.0 / inverse, &mut out[208..]) {
        return false;
    }
    let d = get_f16(s, &out[208..]);
    let mut codes = [0; 256];
    for j in 0..16 {
        let scale_code = nearest_int(inverse * found.scale[j]).min(127) as i8;
        out[192 + j] = scale_code as u8;
        let scale = d * f32::from(scale_code);
        let (x, codes) = (&values[16 * j..][..16], &mut codes[16 * j..][..16]);
        if scale == 0.0 {
            found.codes(j, x, 32, codes);
        } else {
            requantize(s, x, 0.0, scale, -32.0, 31.0, codes);
        }
    }
    pack_codes(&codes, out);
    true
}

/// Packs codes of 6 bits.
#[inline(always)]
fn pack_codes(codes: &[u8; 256], out: &mut [u8; 210]) {
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for i in 0..64 {
            out[64 * half + i] = (codes[i] & 15) | codes[i + 64] << 4;
        }
        for i in 0..32 {
            out[128 + 32 * half + i] =
                codes[i] >> 4 | codes[i + 32] >> 4 << 2 | codes[i + 64] >> 4 << 4 | codes[i + 96] >> 4 << 6;
        }
    }
}

impl Best<256, 210> for Q6K {
    const GRID: Grid =
        Grid { group: 16, levels: Levels::Integers(-32.0, 31.0), scales: (-128, 127), mins: (0, 0) };

    fn pack(solution: &Solution, out: &mut [u8; 210]) {
        pack_codes(&solution.codes, out);
        for j in 0..16 {
            out[192 + j] = solution.scales[j] as i8 as u8;
        }
        out[208..].copy_from_slice(&solution.d.to_le_bytes());
    }

    fn unpack(bytes: &[u8; 210]) -> Solution {
        let scales = sixteen(bytes[192..208].iter().map(|b| i32::from(*b as i8)));
        Solution { d: half_at(bytes, 208), scales, ..Solution::EMPTY }
    }
}

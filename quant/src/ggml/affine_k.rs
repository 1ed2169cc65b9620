//! The encoder that Q4_K and Q5_K share: 8 groups of 32 values with 6-bit scales and minima.

use super::best::{Solution, half_at, sixteen};
use super::blocks::{get_f16, put_f16};
use super::scales::{pack_six_bits, unpack_six_bits};
use super::search::affine::{self, Affine, Trials};
use super::search::{GROUPS, Transposed, requantize, scales, sums};
use super::super_blocks::{Batch, LEN};
use crate::arch::{Lanes, nearest_int};

/// A super-block before its codes are packed.
pub(super) struct Parts {
    /// `d` and `dmin` as f16.
    pub scales: [u8; 4],
    pub six_bits: [u8; 12],
    pub codes: [u8; LEN],
}

impl From<&Solution> for Parts {
    fn from(solution: &Solution) -> Parts {
        let mut parts = Parts { scales: [0; 4], six_bits: [0; 12], codes: solution.codes };
        parts.scales[..2].copy_from_slice(&solution.d.to_le_bytes());
        parts.scales[2..].copy_from_slice(&solution.dmin.to_le_bytes());
        let eight = |codes: &[i32; GROUPS]| std::array::from_fn(|j| codes[j] as u8);
        parts.six_bits = pack_six_bits(&eight(&solution.scales), &eight(&solution.mins));
        parts
    }
}

/// The scales of a super-block that starts with `d`, `dmin` and the 12 bytes.
pub(super) fn unpack(bytes: &[u8]) -> Solution {
    let (scales, mins) = unpack_six_bits(&bytes[4..16]);
    Solution {
        d: half_at(bytes, 0),
        dmin: half_at(bytes, 2),
        scales: sixteen(scales.map(i32::from)),
        mins: sixteen(mins.map(i32::from)),
        ..Solution::EMPTY
    }
}

/// With an importance all types with minima try the same scales.
pub(super) const fn importance_trials(nmax: f32) -> Trials {
    Trials { nmax, start: -0.9, step: 0.05, steps: 36, absolute: false, cut_first: true }
}

/// Encodes a batch; `pack(k, parts)` takes each super-block. The first that does not fit f16, if there is one.
#[inline(always)]
pub(super) fn encode<S: Lanes>(
    s: S,
    batch: &Batch<'_>,
    trials: Trials,
    mut pack: impl FnMut(usize, &Parts),
) -> Option<usize> {
    for (first, x) in batch.groups::<32>() {
        let weights = batch.weights(s, first, &x, 2.0);
        let (w, trials) = match weights {
            Some(w) => (w, importance_trials(trials.nmax)),
            None => (plain_weights(s, &x), trials),
        };
        let found = affine::search(s, &x, &w, trials);
        let sum_w = weights.map(|w| sums(s, &w));
        for (k, values) in batch.values[first..].iter().take(2).enumerate() {
            let Some(parts) = finish(s, values, &found, 8 * k, sum_w.as_ref(), trials.nmax) else {
                return Some(first + k);
            };
            pack(first + k, &parts);
        }
    }
    None
}

/// The root mean square of the group plus the magnitude.
#[inline(always)]
fn plain_weights<S: Lanes>(s: S, x: &Transposed<32>) -> Transposed<32> {
    let mut out = [[0.0; GROUPS]; 32];
    for at in (0..GROUPS).step_by(S::N) {
        let mut sum_x2 = s.splat(0.0);
        for x in x {
            let x = s.load(&x[at..]);
            sum_x2 = sum_x2 + x * x;
        }
        let rms = s.sqrt(sum_x2 / s.splat(32.0));
        for i in 0..32 {
            s.store(rms + s.abs(s.load(&x[i][at..])), &mut out[i][at..]);
        }
    }
    out
}

/// Quantizes the scales and minima of groups `at..at + 8`, and the values with the result.
#[inline(always)]
fn finish<S: Lanes>(
    s: S,
    values: &[f32; LEN],
    found: &Affine,
    at: usize,
    sum_w: Option<&[f32; GROUPS]>,
    nmax: f32,
) -> Option<Parts> {
    let group_scales: [f32; 8] = std::array::from_fn(|j| found.scale[at + j]);
    let group_mins: [f32; 8] = std::array::from_fn(|j| -found.min[at + j]);
    let (d, scale_codes, dmin, min_codes) = match sum_w {
        Some(sum_w) => {
            let w = std::array::from_fn(|j| sum_w[at + j]);
            let (d, scale_codes) = scales::search(&group_scales, &w, 63);
            let (dmin, min_codes) = scales::search(&group_mins, &w, 63);
            (d, scale_codes, dmin, min_codes)
        }
        None => {
            let (d, scale_codes) = six_bits(&group_scales);
            let (dmin, min_codes) = six_bits(&group_mins);
            (d, scale_codes, dmin, min_codes)
        }
    };
    let mut parts =
        Parts { scales: [0; 4], six_bits: pack_six_bits(&scale_codes, &min_codes), codes: [0; LEN] };
    if !(put_f16(s, d, &mut parts.scales[..2]) & put_f16(s, dmin, &mut parts.scales[2..])) {
        return None;
    }
    let (d, dmin) = (get_f16(s, &parts.scales), get_f16(s, &parts.scales[2..]));
    let (scale_codes, min_codes) = unpack_six_bits(&parts.six_bits);
    for j in 0..8 {
        let (x, codes) = (&values[32 * j..][..32], &mut parts.codes[32 * j..][..32]);
        let scale = d * f32::from(scale_codes[j]);
        if scale == 0.0 {
            found.codes(at + j, x, nmax as i32, codes);
        } else {
            requantize(s, x, dmin * f32::from(min_codes[j]), scale, 0.0, nmax, codes);
        }
    }
    Some(parts)
}

/// Codes of 6 bits by the largest scale.
#[inline(always)]
fn six_bits(scales: &[f32; 8]) -> (f32, [u8; 8]) {
    let max = scales.iter().fold(0.0f32, |m, v| if *v > m { *v } else { m });
    let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
    // A negative scale wraps to a large byte first.
    (max / 63.0, std::array::from_fn(|j| (nearest_int(inverse * scales[j]) as u8).min(63)))
}

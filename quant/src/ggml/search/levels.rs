//! Scales of groups whose codes stand for unevenly spaced levels: `x' = scale * LEVELS[code]`.

use super::{GROUPS, Transposed, ZERO, extreme, load};
use crate::arch::Lanes;
use crate::ggml::iq4_nl::LEVELS;

pub(in crate::ggml) const FLOATS: [f32; 16] = {
    let mut out = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = LEVELS[i] as f32;
        i += 1;
    }
    out
};

/// The middle between level `i` and level `i + 1`; a value there goes to the upper. (ggml compares the distances
/// to both; their roundings agree with the middle, which is exact.)
pub(in crate::ggml) const MIDDLES: [f32; 15] = {
    let mut out = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        out[i] = (FLOATS[i] + FLOATS[i + 1]) / 2.0;
        i += 1;
    }
    out
};

pub(in crate::ggml) const NUMBERS: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// The scale of each group: 16 trials around the one that maps the extreme value to the first level, each corrected
/// by a least-squares fit weighted by `w`.
#[inline(always)]
pub(in crate::ggml) fn search<S: Lanes>(s: S, x: &Transposed<32>, w: &Transposed<32>) -> [f32; GROUPS] {
    let mut scales = [0.0; GROUPS];
    for at in (0..GROUPS).step_by(S::N) {
        let scale = search_lanes(s, &load(s, x, at), &load(s, w, at));
        s.store(scale, &mut scales[at..]);
    }
    scales
}

#[inline(always)]
fn search_lanes<S: Lanes>(s: S, x: &[S::F; 32], w: &[S::F; 32]) -> S::F {
    let zero = s.splat(0.0);
    let (amax, max) = extreme(s, x);
    // -max / LEVELS[0]
    let first = s.splat(1.0) / ((zero - max) / s.splat(FLOATS[0]));
    let (sum_qx, sum_q2) = sums(s, x, w, first);
    let mut scale = s.select(s.lt(zero, sum_q2), sum_qx / sum_q2, zero);
    let mut best = scale * sum_qx;
    for step in -7..=7 {
        let (sum_qx, sum_q2) = sums(s, x, w, s.splat(step as f32 + FLOATS[0]) / max);
        let better = s.and(s.lt(zero, sum_q2), s.lt(best * sum_q2, sum_qx * sum_qx));
        let fit = sum_qx / sum_q2;
        scale = s.select(better, fit, scale);
        best = s.select(better, fit * sum_qx, best);
    }
    s.select(s.lt(amax, s.splat(ZERO)), zero, scale)
}

/// The weighted sums of level times value and of the squares of the levels.
#[inline(always)]
fn sums<S: Lanes>(s: S, x: &[S::F; 32], w: &[S::F; 32], inverse: S::F) -> (S::F, S::F) {
    let (mut sum_qx, mut sum_q2) = (s.splat(0.0), s.splat(0.0));
    for i in 0..32 {
        let q = s.quantize_to_levels(inverse * x[i], &MIDDLES, &FLOATS);
        let wq = w[i] * q;
        sum_qx = sum_qx + wq * x[i];
        sum_q2 = sum_q2 + wq * q;
    }
    (sum_qx, sum_q2)
}

/// The codes of the levels nearest to `inverse * x`.
#[inline(always)]
pub(in crate::ggml) fn codes<S: Lanes>(s: S, x: &[f32], inverse: f32, out: &mut [u8]) {
    let inverse = s.splat(inverse);
    for (x, out) in x.chunks_exact(S::N).zip(out.chunks_exact_mut(S::N)) {
        s.store_u8(s.quantize_to_levels(inverse * s.load(x), &MIDDLES, &NUMBERS), out);
    }
}

/// The levels nearest to `v`.
#[inline(always)]
pub(in crate::ggml) fn nearest<S: Lanes>(s: S, v: S::F) -> S::F {
    s.quantize_to_levels(v, &MIDDLES, &FLOATS)
}

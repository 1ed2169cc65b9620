//! Scales of groups without a minimum: `x' = scale * code`, codes `-nmax` to `nmax - 1`.

use super::{GROUPS, Transposed, ZERO, extreme, load};
use crate::arch::{Lanes, Twice, nearest_int};

/// Result of [`search`] for each group.
pub(in crate::ggml) struct Symmetric {
    pub scale: [f32; GROUPS],
    /// Factor that values are multiplied with to find their codes; 0 for a group of zeros.
    pub inverse: [f32; GROUPS],
}

impl Symmetric {
    /// The codes of group `k`, counted from `-nmax`; for a group of zeros 0, as ggml has it.
    #[inline(always)]
    pub(in crate::ggml) fn codes(&self, k: usize, x: &[f32], nmax: i32, out: &mut [u8]) {
        for (code, v) in out.iter_mut().zip(x) {
            *code = if self.inverse[k] == 0.0 {
                0
            } else {
                (nearest_int(self.inverse[k] * v).clamp(-nmax, nmax - 1) + nmax) as u8
            };
        }
    }
}

/// Tries 19 scales around the one that maps the extreme value to `-nmax`, and keeps that of the least error
/// weighted by `w`, each corrected by a weighted least-squares fit.
#[inline(always)]
pub(in crate::ggml) fn search<S: Lanes, const LEN: usize>(
    s: S,
    x: &Transposed<LEN>,
    w: &Transposed<LEN>,
    nmax: f32,
) -> Symmetric {
    let mut found = Symmetric { scale: [0.0; GROUPS], inverse: [0.0; GROUPS] };
    for at in (0..GROUPS).step_by(S::N) {
        let (x, w) = (load(s, x, at), load(s, w, at));
        let (scale, inverse) = search_lanes(s, &x, &w, nmax);
        s.store(scale, &mut found.scale[at..]);
        s.store(inverse, &mut found.inverse[at..]);
    }
    found
}

#[inline(always)]
fn search_lanes<S: Lanes, const LEN: usize>(
    s: S,
    x: &[S::F; LEN],
    w: &[S::F; LEN],
    nmax: f32,
) -> (S::F, S::F) {
    let zero = s.splat(0.0);
    let (amax, max) = extreme(s, x);
    let mut wx = [zero; LEN];
    for i in 0..LEN {
        wx[i] = w[i] * x[i];
    }
    let mut inverse = s.splat(-nmax) / max;
    let (sum_lx, sum_l2) = sums(s, x, w, &wx, inverse, nmax);
    let mut scale = s.select(s.ne(sum_l2, zero), sum_lx / sum_l2, zero);
    let mut best = scale * sum_lx;
    for step in -9..=9 {
        if step == 0 {
            continue;
        }
        let trial = s.splat(-(nmax + 0.1 * step as f32)) / max;
        let (sum_lx, sum_l2) = sums(s, x, w, &wx, trial, nmax);
        let better = s.and(s.lt(zero, sum_l2), s.lt(best * sum_l2, sum_lx * sum_lx));
        let fit = sum_lx / sum_l2;
        scale = s.select(better, fit, scale);
        best = s.select(better, fit * sum_lx, best);
        inverse = s.select(better, trial, inverse);
    }
    let zeros = s.lt(amax, s.splat(ZERO));
    (s.select(zeros, zero, scale), s.select(zeros, zero, inverse))
}

/// The weighted sums of code times value and of the squares of the codes.
#[inline(always)]
fn sums<S: Lanes, const LEN: usize>(
    s: S,
    x: &[S::F; LEN],
    w: &[S::F; LEN],
    wx: &[S::F; LEN],
    inverse: S::F,
    nmax: f32,
) -> (S::F, S::F) {
    let (mut sum_lx, mut sum_l2) = (s.splat(0.0), s.splat(0.0));
    for i in 0..LEN {
        let l = s.round_clamp(inverse * x[i], -nmax, nmax - 1.0);
        sum_lx = sum_lx + wx[i] * l;
        sum_l2 = sum_l2 + w[i] * l * l;
    }
    (sum_lx, sum_l2)
}

/// Result of [`descend`] for each group.
pub(in crate::ggml) struct Descended<const LEN: usize> {
    pub scale: [f32; GROUPS],
    /// Codes counted from `-nmax`; for a group of zeros 0, as ggml has it.
    pub codes: Transposed<LEN>,
}

/// Starts with the scale that maps the extreme value to `-nmax` and improves one code at a time, in up to five
/// passes; the weights are `x^2`.
#[inline(always)]
pub(in crate::ggml) fn descend<S: Lanes, const LEN: usize>(
    s: S,
    x: &Transposed<LEN>,
    nmax: f32,
) -> Descended<LEN> {
    let mut found = Descended { scale: [0.0; GROUPS], codes: [[0.0; GROUPS]; LEN] };
    // Every operation waits for the one before, so short vectors go two by two.
    if S::N < GROUPS {
        descend_all(Twice(s), x, nmax, &mut found)
    } else {
        descend_all(s, x, nmax, &mut found)
    }
    found
}

#[inline(always)]
fn descend_all<S: Lanes, const LEN: usize>(s: S, x: &Transposed<LEN>, nmax: f32, found: &mut Descended<LEN>) {
    for at in (0..GROUPS).step_by(S::N) {
        let (scale, codes) = descend_lanes(s, &load(s, x, at), nmax);
        s.store(scale, &mut found.scale[at..]);
        for i in 0..LEN {
            s.store(codes[i], &mut found.codes[i][at..]);
        }
    }
}

#[inline(always)]
fn descend_lanes<S: Lanes, const LEN: usize>(s: S, x: &[S::F; LEN], nmax: f32) -> (S::F, [S::F; LEN]) {
    let zero = s.splat(0.0);
    let (amax, max) = extreme(s, x);
    let inverse = s.splat(-nmax) / max;
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    let mut codes = [zero; LEN];
    for i in 0..LEN {
        let l = s.round_clamp(inverse * x[i], -nmax, nmax - 1.0);
        let w = x[i] * x[i];
        codes[i] = l;
        sum_lx = sum_lx + w * x[i] * l;
        sum_l2 = sum_l2 + w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..LEN {
            let w = x[i] * x[i];
            let wx = w * x[i];
            let without_lx = sum_lx - wx * codes[i];
            let without_l2 = sum_l2 - w * codes[i] * codes[i];
            let l = s.round_clamp(x[i] * without_l2 / without_lx, -nmax, nmax - 1.0);
            let new_lx = without_lx + wx * l;
            let new_l2 = without_l2 + w * l * l;
            let moved = s.and(s.lt(zero, without_lx), s.ne(l, codes[i]));
            let better = s.lt(sum_lx * sum_lx * new_l2, new_lx * new_lx * sum_l2);
            let accept = s.and(moved, s.and(s.lt(zero, new_l2), better));
            codes[i] = s.select(accept, l, codes[i]);
            sum_lx = s.select(accept, new_lx, sum_lx);
            sum_l2 = s.select(accept, new_l2, sum_l2);
            changed |= s.any(accept);
        }
        if !changed {
            break;
        }
    }
    let zeros = s.lt(amax, s.splat(ZERO));
    let scale = s.select(s.lt(zero, sum_l2), sum_lx / sum_l2, zero);
    for code in &mut codes {
        *code = s.select(zeros, zero, *code + s.splat(nmax));
    }
    (s.select(zeros, zero, scale), codes)
}

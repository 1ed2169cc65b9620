//! Scales and minima of groups: `x' = scale * code + min`, `min <= 0`, codes 0 to `nmax`.

use super::{GROUPS, Transposed, load};
use crate::arch::{Lanes, nearest_int};

/// Scales that [`search`] tries: `nmax + start + step * i` levels over the range, `i` in `0..=steps`.
#[derive(Clone, Copy)]
pub(in crate::ggml) struct Trials {
    pub nmax: f32,
    pub start: f32,
    pub step: f32,
    pub steps: i32,
    /// Compare absolute errors, not squares.
    pub absolute: bool,
    /// Cut values before they are rounded. (With an importance ggml does; without, a value out of range can wrap.)
    pub cut_first: bool,
}

/// Result of [`search`] for each group.
pub(in crate::ggml) struct Affine {
    pub scale: [f32; GROUPS],
    /// The minimum: 0 or less.
    pub min: [f32; GROUPS],
    /// Codes are `nearest(inverse * (x - base))`.
    inverse: [f32; GROUPS],
    base: [f32; GROUPS],
    /// 1 if the code was not cut before rounding.
    plain: [f32; GROUPS],
}

impl Affine {
    /// The codes of group `k`.
    #[inline(always)]
    pub(in crate::ggml) fn codes(&self, k: usize, x: &[f32], nmax: i32, out: &mut [u8]) {
        for (code, v) in out.iter_mut().zip(x) {
            let level = self.inverse[k] * (v - self.base[k]);
            *code = if self.plain[k] != 0.0 {
                nearest_int(level).clamp(0, nmax) as u8
            } else if level > 0.0 {
                nearest_int(level.min(nmax as f32)) as u8
            } else {
                0
            };
        }
    }
}

/// Tries scales, fits scale and minimum to each trial's codes by least squares weighted by `w`, and keeps the pair of
/// the least error. The range of the next trial starts at the best minimum so far.
#[inline(always)]
pub(in crate::ggml) fn search<S: Lanes, const LEN: usize>(
    s: S,
    x: &Transposed<LEN>,
    w: &Transposed<LEN>,
    trials: Trials,
) -> Affine {
    let zeros = [0.0; GROUPS];
    let mut found = Affine { scale: zeros, min: zeros, inverse: zeros, base: zeros, plain: zeros };
    for at in (0..GROUPS).step_by(S::N) {
        let lanes = search_lanes(s, &load(s, x, at), &load(s, w, at), trials);
        s.store(lanes.scale, &mut found.scale[at..]);
        s.store(lanes.min, &mut found.min[at..]);
        s.store(lanes.inverse, &mut found.inverse[at..]);
        s.store(lanes.base, &mut found.base[at..]);
        s.store(lanes.plain, &mut found.plain[at..]);
    }
    found
}

struct Found<F> {
    scale: F,
    min: F,
    inverse: F,
    base: F,
    plain: F,
}

#[inline(always)]
fn search_lanes<S: Lanes, const LEN: usize>(
    s: S,
    x: &[S::F; LEN],
    w: &[S::F; LEN],
    trials: Trials,
) -> Found<S::F> {
    let nmax = trials.nmax;
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let (mut low, mut high) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
    for i in 1..LEN {
        low = s.min(x[i], low);
        high = s.max(x[i], high);
        sum_w = sum_w + w[i];
        sum_x = sum_x + w[i] * x[i];
    }
    // A minimum of -0 stays.
    let mut min = s.select(s.lt(zero, low), zero, low);
    let spread = s.ne(high, min);

    let mut codes = [zero; LEN];
    let mut inverse = s.splat(nmax) / (high - min);
    let mut scale = one / inverse;
    for i in 0..LEN {
        codes[i] = s.round_clamp(inverse * (x[i] - min), 0.0, nmax);
    }
    let mut best = error(s, x, w, &codes, scale, min, trials.absolute);
    let (mut base, mut plain) = (min, one);

    for i in 0..=trials.steps {
        let trial = s.splat(trials.start + trials.step * i as f32 + nmax) / (high - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for i in 0..LEN {
            let level = trial * (x[i] - min);
            let l = if trials.cut_first {
                // NaN becomes 0: it is not above it.
                s.round_clamp(s.min(s.max(level, zero), s.splat(nmax)), 0.0, nmax)
            } else {
                s.round_clamp(level, 0.0, nmax)
            };
            codes[i] = l;
            let wl = w[i] * l;
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * l;
            sum_xl = sum_xl + wl * x[i];
        }
        let det = sum_w * sum_l2 - sum_l * sum_l;
        let mut fit_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        let mut fit_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        let above = s.lt(zero, fit_min);
        fit_scale = s.select(above, sum_xl / sum_l2, fit_scale);
        fit_min = s.select(above, zero, fit_min);
        let fit_error = error(s, x, w, &codes, fit_scale, fit_min, trials.absolute);
        let better = s.and(s.and(spread, s.lt(zero, det)), s.lt(fit_error, best));
        best = s.select(better, fit_error, best);
        scale = s.select(better, fit_scale, scale);
        base = s.select(better, min, base);
        min = s.select(better, fit_min, min);
        inverse = s.select(better, trial, inverse);
        if trials.cut_first {
            plain = s.select(better, zero, plain);
        }
    }
    Found { scale: s.select(spread, scale, zero), min, inverse: s.select(spread, inverse, zero), base, plain }
}

/// The weighted sum of the errors.
#[inline(always)]
fn error<S: Lanes, const LEN: usize>(
    s: S,
    x: &[S::F; LEN],
    w: &[S::F; LEN],
    codes: &[S::F; LEN],
    scale: S::F,
    min: S::F,
    absolute: bool,
) -> S::F {
    let mut error = s.splat(0.0);
    for i in 0..LEN {
        let diff = scale * codes[i] + min - x[i];
        error = error + w[i] * if absolute { s.abs(diff) } else { diff * diff };
    }
    error
}

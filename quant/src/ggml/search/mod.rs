//! The searches for scales that ggml's encoders make, many groups at a time.
//!
//! A group is a run of 16 or 32 values that share a scale (and a minimum). Groups do not depend on each other, so
//! sixteen of them are searched together, one a lane: lane `k` performs the operations that ggml performs on group
//! `k`, in the same order. Where ggml leaves a loop early or takes a branch, a lane computes on and the result is
//! not selected.

pub(super) mod affine;
pub(super) mod levels;
pub(super) mod scales;
pub(super) mod symmetric;

use crate::arch::Lanes;

/// Groups that are searched together.
pub(super) const GROUPS: usize = 16;

/// Value `i` of group `k` at `[i][k]`.
pub(super) type Transposed<const LEN: usize> = [[f32; GROUPS]; LEN];

/// Transposes the `values.len() / LEN` (1 to 16) groups of `values`; the missing ones repeat the last.
#[inline(always)]
pub(super) fn transpose<const LEN: usize>(values: &[f32]) -> Transposed<LEN> {
    let groups = values.as_chunks::<LEN>().0;
    let mut out = [[0.0; GROUPS]; LEN];
    for k in 0..GROUPS {
        let group = &groups[k.min(groups.len() - 1)];
        for i in 0..LEN {
            out[i][k] = group[i];
        }
    }
    out
}

/// The vectors of lanes `at..at + S::N`.
#[inline(always)]
pub(super) fn load<S: Lanes, const LEN: usize>(s: S, values: &Transposed<LEN>, at: usize) -> [S::F; LEN] {
    let mut out = [s.splat(0.0); LEN];
    for i in 0..LEN {
        out[i] = s.load(&values[i][at..]);
    }
    out
}

/// The largest magnitude of each lane, and the first value that has it.
#[inline(always)]
pub(super) fn extreme<S: Lanes, const LEN: usize>(s: S, x: &[S::F; LEN]) -> (S::F, S::F) {
    let (mut amax, mut max) = (s.splat(0.0), s.splat(0.0));
    for v in x {
        let magnitude = s.abs(*v);
        let larger = s.lt(amax, magnitude);
        amax = s.select(larger, magnitude, amax);
        max = s.select(larger, *v, max);
    }
    (amax, max)
}

/// The weights `importance * sqrt(sigma2 + x^2)`; `sigma2` is one a group.
#[inline(always)]
pub(super) fn importance_weights<S: Lanes, const LEN: usize>(
    s: S,
    x: &Transposed<LEN>,
    importance: &Transposed<LEN>,
    sigma2: &[f32; GROUPS],
) -> Transposed<LEN> {
    let mut out = [[0.0; GROUPS]; LEN];
    for at in (0..GROUPS).step_by(S::N) {
        let sigma2 = s.load(&sigma2[at..]);
        for i in 0..LEN {
            let x = s.load(&x[i][at..]);
            let w = s.load(&importance[i][at..]) * s.sqrt(sigma2 + x * x);
            s.store(w, &mut out[i][at..]);
        }
    }
    out
}

/// The weights `x^2`.
#[inline(always)]
pub(super) fn square_weights<S: Lanes, const LEN: usize>(s: S, x: &Transposed<LEN>) -> Transposed<LEN> {
    let mut out = [[0.0; GROUPS]; LEN];
    for at in (0..GROUPS).step_by(S::N) {
        for i in 0..LEN {
            let x = s.load(&x[i][at..]);
            s.store(x * x, &mut out[i][at..]);
        }
    }
    out
}

/// The sum of each group, in the order of its values.
#[inline(always)]
pub(super) fn sums<S: Lanes, const LEN: usize>(s: S, values: &Transposed<LEN>) -> [f32; GROUPS] {
    let mut out = [0.0; GROUPS];
    for at in (0..GROUPS).step_by(S::N) {
        let mut sum = s.splat(0.0);
        for v in values {
            sum = sum + s.load(&v[at..]);
        }
        s.store(sum, &mut out[at..]);
    }
    out
}

/// Below this magnitude ggml takes a group for zeros.
pub(super) const ZERO: f32 = 1e-15;

/// The codes `nearest((x + add) / d)` of a group, cut to `low..=high` and counted from `low`.
#[inline(always)]
pub(super) fn requantize<S: Lanes>(s: S, x: &[f32], add: f32, d: f32, low: f32, high: f32, out: &mut [u8]) {
    let (add, d, zero) = (s.splat(add), s.splat(d), s.splat(low));
    for (x, out) in x.chunks_exact(S::N).zip(out.chunks_exact_mut(S::N)) {
        let code = s.round_clamp((s.load(x) + add) / d, low, high);
        s.store_u8(code - zero, out);
    }
}

//! Better codes in the same format: a longer search for the scales of a block.
//!
//! The default encoders give ggml's bytes. [`encode`] starts from those, then looks for scales of less error: it
//! finds the best scale (and minimum) of each group alone, tries several `d` for their codes, tests the neighbours
//! of every scale code, corrects `d` and `dmin` by least squares, and tests the neighbouring f16 values. A block is
//! replaced only where the decoded weights are nearer, so the result is never worse than the default.
//!
//! The error is that of the weights: `sum(importance * (x - x')^2)`, with 1 for a missing importance.

use super::blocks::{self, Block};
use super::search::affine::{self, Affine};
use super::search::{GROUPS, levels, transpose};
use super::{affine_k::importance_trials, iq4_nl::LEVELS};
use crate::arch::{self, Kernel, Lanes};
use crate::codec::{Codec, EncodeError, Rows};

/// The values that a block can hold: `d * scale * level - dmin * min`.
pub(super) struct Grid {
    /// Values that share a scale: 16 or 32.
    pub group: usize,
    /// Levels are the integers `low..=high`, or those of IQ4.
    pub levels: Levels,
    /// Least and greatest code of a scale.
    pub scales: (i32, i32),
    /// Least and greatest code of a minimum; (0, 0) for types without.
    pub mins: (i32, i32),
}

/// What codes stand for.
#[derive(Clone, Copy)]
pub(super) enum Levels {
    Integers(f32, f32),
    Iq4,
}

/// A block before it is packed.
#[derive(Clone, Copy)]
pub(super) struct Solution {
    /// f16 bits.
    pub d: u16,
    pub dmin: u16,
    pub scales: [i32; GROUPS],
    pub mins: [i32; GROUPS],
    /// Counted from the lowest level.
    pub codes: [u8; 256],
}

/// A block type with a longer search.
pub(super) trait Best<const LEN: usize, const BYTES: usize>: Block<LEN, BYTES> {
    const GRID: Grid;

    fn pack(solution: &Solution, out: &mut [u8; BYTES]);
}

/// Encodes rows; see the top of this file.
pub(super) fn encode<B: Best<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
    default: &dyn Codec,
    rows: Rows<'_>,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    default.encode(rows, out)?;
    let values = rows.values.as_chunks::<LEN>().0;
    let out = out.as_chunks_mut::<BYTES>().0;
    let importance = rows.importance.map(|q| q.as_chunks::<LEN>().0);
    arch::dispatch(Improve::<B, LEN, BYTES> { values, importance, out, block: std::marker::PhantomData });
    Ok(())
}

struct Improve<'a, B, const LEN: usize, const BYTES: usize> {
    values: &'a [[f32; LEN]],
    importance: Option<&'a [[f32; LEN]]>,
    out: &'a mut [[u8; BYTES]],
    block: std::marker::PhantomData<B>,
}

impl<B: Best<LEN, BYTES>, const LEN: usize, const BYTES: usize> Kernel for Improve<'_, B, LEN, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        for (n, (x, out)) in self.values.iter().zip(self.out).enumerate() {
            let w = self.importance.map_or([1.0; LEN], |columns| columns[n % columns.len()]);
            let before = loss::<S, B, LEN, BYTES>(s, x, &w, out);
            if before == 0.0 {
                continue;
            }
            let mut bytes = [0; BYTES];
            B::pack(&solve(s, &B::GRID, x, &w), &mut bytes);
            if loss::<S, B, LEN, BYTES>(s, x, &w, &bytes) < before {
                *out = bytes;
            }
        }
    }
}

/// The weighted error of a finished block.
#[inline(always)]
fn loss<S: Lanes, B: Block<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
    s: S,
    x: &[f32; LEN],
    w: &[f32; LEN],
    bytes: &[u8; BYTES],
) -> f64 {
    let mut decoded = [0.0; LEN];
    B::decode(s, bytes, &mut decoded);
    let mut loss = 0.0;
    for i in 0..LEN {
        loss += f64::from(w[i]) * (f64::from(x[i]) - f64::from(decoded[i])).powi(2);
    }
    loss
}

/// A choice of codes for all groups, with its error.
#[derive(Clone, Copy)]
struct Choice {
    d: u16,
    dmin: u16,
    scales: [i32; GROUPS],
    mins: [i32; GROUPS],
    error: f32,
}

/// The scales of least error that the search finds, with the codes of all values.
#[inline(always)]
pub(super) fn solve<S: Lanes>(s: S, grid: &Grid, x: &[f32], w: &[f32]) -> Solution {
    let ideal = ideal(s, grid, x, w);
    let groups = x.len() / grid.group;
    let extreme = |v: &[f32]| v.iter().fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let (scale, min) = (extreme(&ideal.0[..groups]), extreme(&ideal.1[..groups]));
    // Signed scales: the extreme one gets the least code. Others: the greatest.
    let scale_code = if grid.scales.0 < 0 { grid.scales.0 } else { grid.scales.1 };
    let min_code = grid.mins.1.max(1);

    let mut best: Option<Choice> = None;
    let keep = |best: &mut Option<Choice>, choice: Choice| {
        let better = best.is_none_or(|b| choice.error < b.error);
        if better {
            *best = Some(choice);
        }
        better
    };
    // With a single scale there is nothing to gain from others than the ideal.
    let tries: &[f32] = if groups == 1 { &[1.0] } else { &[1.0, 0.97, 1.03, 0.94, 1.06, 0.9, 1.12] };
    for factor in tries {
        let mut d = f16_from(s, scale / scale_code as f32 * factor);
        let mut dmin = f16_from(s, min / min_code as f32);
        for _ in 0..3 {
            let choice = choose(s, grid, x, w, &ideal, (d, dmin));
            let (fit_d, fit_dmin) = fit(s, grid, x, w, &choice);
            keep(&mut best, choice);
            if (fit_d, fit_dmin) == (d, dmin) {
                break;
            }
            (d, dmin) = (fit_d, fit_dmin);
        }
    }
    let mut best = best.unwrap_or_else(|| choose(s, grid, x, w, &ideal, (0, 0)));
    for step in [1i16, -1, 2, -2] {
        let near = |h: u16| h.wrapping_add_signed(step);
        for (d, dmin) in
            [(near(best.d), best.dmin), (best.d, near(best.dmin)), (near(best.d), near(best.dmin))]
        {
            if (grid.mins.1 == 0 && dmin != best.dmin) || !is_finite(d) || !is_finite(dmin) {
                continue;
            }
            let choice = choose(s, grid, x, w, &ideal, (d, dmin));
            if choice.error < best.error {
                best = choice;
            }
        }
    }
    let mut solution =
        Solution { d: best.d, dmin: best.dmin, scales: best.scales, mins: best.mins, codes: [0; 256] };
    let mut codes = [0.0; 256];
    quantize(s, grid, x, &best, &mut codes);
    let low = match grid.levels {
        Levels::Integers(low, _) => low,
        Levels::Iq4 => 0.0,
    };
    for (i, code) in codes[..x.len()].iter().enumerate() {
        solution.codes[i] = match grid.levels {
            Levels::Integers(..) => (code - low) as u8,
            Levels::Iq4 => LEVELS.iter().position(|l| f32::from(*l) == *code).unwrap_or(0) as u8,
        };
    }
    solution
}

fn is_finite(h: u16) -> bool {
    h & 0x7c00 != 0x7c00
}

/// The nearest finite f16.
#[inline(always)]
fn f16_from<S: Lanes>(s: S, v: f32) -> u16 {
    let h = s.f16_from(v);
    if is_finite(h) { h } else { (h & 0x8000) | 0x7bff }
}

/// The best scale and (positive) minimum of each group alone.
#[inline(always)]
fn ideal<S: Lanes>(s: S, grid: &Grid, x: &[f32], w: &[f32]) -> ([f32; GROUPS], [f32; GROUPS]) {
    if let (Levels::Integers(_, high), true) = (grid.levels, grid.mins.1 > 0) {
        let trials = importance_trials(high);
        let Affine { scale, min, .. } = if grid.group == 16 {
            affine::search(s, &transpose::<16>(x), &transpose::<16>(w), trials)
        } else {
            affine::search(s, &transpose::<32>(x), &transpose::<32>(w), trials)
        };
        return (scale, min.map(|m| -m));
    }
    let (low, high) = match grid.levels {
        Levels::Integers(low, high) => (low, high),
        Levels::Iq4 => (-127.0, 113.0),
    };
    let mut scales = [0.0; GROUPS];
    for (j, (x, w)) in x.chunks(grid.group).zip(w.chunks(grid.group)).enumerate() {
        let (mut most, mut least) = (0.0f32, 0.0f32);
        for v in x {
            (most, least) = (most.max(*v), least.min(*v));
        }
        // Either end of the levels can take either end of the values.
        let mut best = (f32::INFINITY, 0.0);
        for sign in [1.0f32, -1.0] {
            let reach =
                if sign > 0.0 { (most / high).max(least / low) } else { (most / low).min(least / high) };
            for step in 0..24 {
                let scale = reach * (1.06 - 0.02 * step as f32);
                let error = error(s, grid.levels, x, w, scale, 0.0);
                if error < best.0 {
                    best = (error, scale);
                }
            }
        }
        scales[j] = best.1;
    }
    (scales, [0.0; GROUPS])
}

/// For every group the scale and minimum of least error among the neighbours of the ideal ones.
#[inline(always)]
fn choose<S: Lanes>(
    s: S,
    grid: &Grid,
    x: &[f32],
    w: &[f32],
    ideal: &([f32; GROUPS], [f32; GROUPS]),
    (d, dmin): (u16, u16),
) -> Choice {
    let mut choice = Choice { d, dmin, scales: [0; GROUPS], mins: [0; GROUPS], error: 0.0 };
    let (d, dmin) = (s.f16_to(d), s.f16_to(dmin));
    let near = |v: f32, unit: f32, (low, high): (i32, i32)| {
        let code =
            if unit == 0.0 { low.max(0) } else { ((v / unit).round_ties_even() as i32).clamp(low, high) };
        ((code - 1).max(low), (code + 1).min(high))
    };
    for (j, (x, w)) in x.chunks(grid.group).zip(w.chunks(grid.group)).enumerate() {
        let scales = near(ideal.0[j], d, grid.scales);
        let mins = near(ideal.1[j], dmin, grid.mins);
        let mut least = f32::INFINITY;
        for scale in scales.0..=scales.1 {
            for min in mins.0..=mins.1 {
                let error = error(s, grid.levels, x, w, d * scale as f32, dmin * min as f32);
                if error < least {
                    least = error;
                    (choice.scales[j], choice.mins[j]) = (scale, min);
                }
            }
        }
        choice.error += least;
    }
    choice
}

/// The levels next to `(x + min) / scale`.
#[inline(always)]
fn nearest<S: Lanes>(s: S, levels: Levels, x: S::F, inverse: S::F, min: S::F) -> S::F {
    let v = (x + min) * inverse;
    match levels {
        Levels::Integers(low, high) => s.round_clamp(s.min(s.max(v, s.splat(low)), s.splat(high)), low, high),
        Levels::Iq4 => levels::nearest(s, v),
    }
}

/// The weighted error of a group. Sixteen sums run side by side whatever the length of the vectors, so the result
/// does not depend on it.
#[inline(always)]
fn error<S: Lanes>(s: S, levels: Levels, x: &[f32], w: &[f32], scale: f32, min: f32) -> f32 {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let (scale, inverse, min) = (s.splat(scale), s.splat(inverse), s.splat(min));
    let mut sums = [s.splat(0.0); 4];
    for (x, w) in x.chunks_exact(16).zip(w.chunks_exact(16)) {
        for (k, at) in (0..16).step_by(S::N).enumerate() {
            let x = s.load(&x[at..]);
            let off = x + min - scale * nearest(s, levels, x, inverse, min);
            sums[k] = sums[k] + s.load(&w[at..]) * off * off;
        }
    }
    let mut lanes = [0.0; 16];
    for (k, at) in (0..16).step_by(S::N).enumerate() {
        s.store(sums[k], &mut lanes[at..]);
    }
    lanes.chunks_exact(4).map(|v| (v[0] + v[1]) + (v[2] + v[3])).sum()
}

/// The levels of all values.
#[inline(always)]
fn quantize<S: Lanes>(s: S, grid: &Grid, x: &[f32], choice: &Choice, out: &mut [f32; 256]) {
    let (d, dmin) = (s.f16_to(choice.d), s.f16_to(choice.dmin));
    for (j, (x, out)) in x.chunks(grid.group).zip(out.chunks_mut(grid.group)).enumerate() {
        let scale = d * choice.scales[j] as f32;
        let inverse = s.splat(if scale == 0.0 { 0.0 } else { 1.0 / scale });
        let min = s.splat(dmin * choice.mins[j] as f32);
        for (x, out) in x.chunks_exact(S::N).zip(out.chunks_exact_mut(S::N)) {
            s.store(nearest(s, grid.levels, s.load(x), inverse, min), out);
        }
    }
}

/// `d` and `dmin` of least error for the codes of `choice`.
#[inline(always)]
fn fit<S: Lanes>(s: S, grid: &Grid, x: &[f32], w: &[f32], choice: &Choice) -> (u16, u16) {
    let mut codes = [0.0; 256];
    quantize(s, grid, x, choice, &mut codes);
    let (mut uu, mut uv, mut vv, mut ux, mut vx) = (0.0f64, 0.0, 0.0, 0.0, 0.0);
    for (j, (x, w)) in x.chunks(grid.group).zip(w.chunks(grid.group)).enumerate() {
        let (mut qq, mut q, mut n, mut qx, mut sx) = (0.0f64, 0.0, 0.0, 0.0, 0.0);
        for (i, (x, w)) in x.iter().zip(w).enumerate() {
            let (x, w, code) = (f64::from(*x), f64::from(*w), f64::from(codes[j * grid.group + i]));
            qq += w * code * code;
            q += w * code;
            n += w;
            qx += w * code * x;
            sx += w * x;
        }
        let (scale, min) = (f64::from(choice.scales[j]), -f64::from(choice.mins[j]));
        uu += scale * scale * qq;
        uv += scale * min * q;
        vv += min * min * n;
        ux += scale * qx;
        vx += min * sx;
    }
    let det = uu * vv - uv * uv;
    if grid.mins.1 > 0 && det > 0.0 {
        let (d, dmin) = ((ux * vv - vx * uv) / det, (vx * uu - ux * uv) / det);
        (f16_from(s, d as f32), f16_from(s, dmin as f32))
    } else if uu > 0.0 {
        (f16_from(s, ((ux - uv * f64::from(s.f16_to(choice.dmin))) / uu) as f32), choice.dmin)
    } else {
        (choice.d, choice.dmin)
    }
}

/// The grid of a type with one scale for 32 values.
pub(super) const fn single(levels: Levels) -> Grid {
    Grid { group: 32, levels, scales: (1, 1), mins: (0, 0) }
}

/// The codes of a block of 32.
pub(super) fn codes32(solution: &Solution) -> [u8; 32] {
    std::array::from_fn(|i| solution.codes[i])
}

/// Writes two nibbles a byte; see [`blocks::pack_nibbles`].
pub(super) fn pack32(solution: &Solution, out: &mut [u8]) {
    blocks::pack_nibbles(&codes32(solution), out);
}

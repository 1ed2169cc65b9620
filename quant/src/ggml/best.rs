//! Better codes in the same format: a longer search for the scales of a block.
//!
//! The default encoders give ggml's bytes. [`encode`] starts from those, then looks for scales of less error: it
//! finds the best scale (and minimum) of each group alone, tries several `d` for their codes, tests the neighbours
//! of every scale code, corrects `d` and `dmin` by least squares, and tests the neighbouring f16 values. A block is
//! replaced only where the decoded weights are nearer, so the result is never worse than the default. Sixteen blocks
//! are searched in step, one a lane.
//!
//! The error is that of the weights: `sum(importance * (x - x')^2)`, with 1 for a missing importance.

use super::affine_k::importance_trials;
use super::blocks::{self, Block};
use super::search::affine::{self, Affine};
use super::search::{GROUPS, levels};
use crate::arch::{self, Kernel, Lanes};
use crate::codec::{Codec, EncodeError, Rows};
pub(super) use crate::feedback::Solution;
use crate::importance;

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

/// Levels that codes stand for.
#[derive(Clone, Copy)]
pub(super) enum Levels {
    Integers(f32, f32),
    Iq4,
}

/// A block type with a longer search.
pub(super) trait Best<const LEN: usize, const BYTES: usize>: Block<LEN, BYTES> {
    const GRID: Grid;

    fn pack(solution: &Solution, out: &mut [u8; BYTES]);

    /// Solution that [`pack`](Best::pack) was given, but for the codes.
    fn unpack(bytes: &[u8; BYTES]) -> Solution;
}

/// Encodes rows; see the top of this file.
pub(super) fn encode<B: Best<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
    default: &dyn Codec,
    rows: Rows<'_>,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    importance::with_filled(rows, B::GRID.group, |rows| {
        default.encode(rows, out)?;
        let values = rows.values.as_chunks::<LEN>().0;
        let out = out.as_chunks_mut::<BYTES>().0;
        let importance = rows.importance.map(|q| q.as_chunks::<LEN>().0);
        arch::dispatch(Improve::<B, LEN, BYTES> { values, importance, out, block: std::marker::PhantomData });
        Ok(())
    })
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
        let column = |n: usize| self.importance.map_or([1.0; LEN], |columns| columns[n % columns.len()]);
        let blocks = self.values.chunks(GROUPS).zip(self.out.chunks_mut(GROUPS));
        for (n, (values, out)) in blocks.enumerate() {
            let (mut x, mut w) = ([[0.0; GROUPS]; LEN], [[0.0; GROUPS]; LEN]);
            for k in 0..GROUPS {
                // Lanes without a block repeat the last.
                let k_in = k.min(values.len() - 1);
                let weights = column(n * GROUPS + k_in);
                for i in 0..LEN {
                    (x[i][k], w[i][k]) = (values[k_in][i], weights[i]);
                }
            }
            let solutions = search(&B::GRID, &x, &w);
            for (k, (x, out)) in values.iter().zip(out).enumerate() {
                let w = column(n * GROUPS + k);
                let mut bytes = [0; BYTES];
                B::pack(&solutions[k], &mut bytes);
                if loss::<S, B, LEN, BYTES>(s, x, &w, &bytes) < loss::<S, B, LEN, BYTES>(s, x, &w, out) {
                    *out = bytes;
                }
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

/// Scales of all groups of sixteen blocks, with their errors.
#[derive(Clone, Copy)]
struct Choice {
    d: [u16; GROUPS],
    dmin: [u16; GROUPS],
    /// Codes of scales and minima, `[group][block]`.
    scales: [[f32; GROUPS]; GROUPS],
    mins: [[f32; GROUPS]; GROUPS],
    error: [f32; GROUPS],
}

impl Choice {
    /// Takes over the blocks that `other` finds better.
    fn improve(&mut self, other: &Choice) {
        for k in 0..GROUPS {
            if other.error[k] < self.error[k] {
                (self.d[k], self.dmin[k], self.error[k]) = (other.d[k], other.dmin[k], other.error[k]);
                for j in 0..GROUPS {
                    (self.scales[j][k], self.mins[j][k]) = (other.scales[j][k], other.mins[j][k]);
                }
            }
        }
    }
}

/// Searches the scales of sixteen blocks, given with the weights of their values as `[value][block]`; codes are the
/// nearest.
pub(super) fn search(grid: &Grid, x: &[[f32; GROUPS]], w: &[[f32; GROUPS]]) -> [Solution; GROUPS] {
    arch::dispatch(Search { grid, x, w })
}

/// Compiled apart from the block types, once for each set of instructions.
struct Search<'a> {
    grid: &'a Grid,
    x: &'a [[f32; GROUPS]],
    w: &'a [[f32; GROUPS]],
}

impl Kernel for Search<'_> {
    type Output = [Solution; GROUPS];

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> [Solution; GROUPS] {
        let Search { grid, x, w } = self;
        let ideal = ideal(s, grid, x, w);
        let groups = x.len() / grid.group;
        let (scale, min) = (extremes(&ideal.0[..groups]), extremes(&ideal.1[..groups]));
        // Signed scales: the extreme one gets the least code. Others: the greatest.
        let scale_code = if grid.scales.0 < 0 { grid.scales.0 } else { grid.scales.1 } as f32;
        let min_code = grid.mins.1.max(1) as f32;
        let mut best: Option<Choice> = None;
        for factor in [1.0, 0.97, 1.03, 0.94, 1.06, 0.9, 1.12] {
            let mut d = [0; GROUPS];
            let mut dmin = [0; GROUPS];
            for k in 0..GROUPS {
                d[k] = f16_from(s, scale[k] / scale_code * factor);
                dmin[k] = f16_from(s, min[k] / min_code);
            }
            for _ in 0..3 {
                let choice = choose(s, grid, x, w, &ideal, (&d, &dmin));
                let fitted = fit(s, grid, x, w, &choice);
                match &mut best {
                    None => best = Some(choice),
                    Some(best) => best.improve(&choice),
                }
                if fitted == (d, dmin) {
                    break;
                }
                (d, dmin) = fitted;
            }
        }
        let zeros = [0; GROUPS];
        let mut best = best.unwrap_or_else(|| choose(s, grid, x, w, &ideal, (&zeros, &zeros)));
        for step in [1i16, -1, 2, -2] {
            for (move_d, move_dmin) in [(step, 0), (0, step), (step, step)] {
                if grid.mins.1 == 0 && move_dmin != 0 {
                    continue;
                }
                let (mut d, mut dmin) = (best.d, best.dmin);
                for k in 0..GROUPS {
                    let (near, near_min) =
                        (d[k].wrapping_add_signed(move_d), dmin[k].wrapping_add_signed(move_dmin));
                    if is_finite(near) && is_finite(near_min) {
                        (d[k], dmin[k]) = (near, near_min);
                    }
                }
                best.improve(&choose(s, grid, x, w, &ideal, (&d, &dmin)));
            }
        }
        solutions(s, grid, x, &best)
    }
}

/// The value of largest magnitude of each lane.
#[inline(always)]
fn extremes(values: &[[f32; GROUPS]]) -> [f32; GROUPS] {
    let mut out = [0.0f32; GROUPS];
    for values in values {
        for k in 0..GROUPS {
            if values[k].abs() > out[k].abs() {
                out[k] = values[k];
            }
        }
    }
    out
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

#[inline(always)]
fn floats<S: Lanes>(s: S, halves: &[u16; GROUPS]) -> [f32; GROUPS] {
    let mut out = [0.0; GROUPS];
    for k in 0..GROUPS {
        out[k] = s.f16_to(halves[k]);
    }
    out
}

/// The best scale and (positive) minimum of each group alone.
#[inline(always)]
fn ideal<S: Lanes>(s: S, grid: &Grid, x: &[[f32; GROUPS]], w: &[[f32; GROUPS]]) -> Ideal {
    let mut found = ([[0.0; GROUPS]; GROUPS], [[0.0; GROUPS]; GROUPS]);
    let (low, high) = match grid.levels {
        Levels::Integers(low, high) => (low, high),
        Levels::Iq4 => (-127.0, 113.0),
    };
    if grid.mins.1 > 0 {
        let trials = importance_trials(high);
        for j in 0..x.len() / grid.group {
            let Affine { scale, min, .. } = if grid.group == 16 {
                affine::search(s, &x.as_chunks::<16>().0[j], &w.as_chunks::<16>().0[j], trials)
            } else {
                affine::search(s, &x.as_chunks::<32>().0[j], &w.as_chunks::<32>().0[j], trials)
            };
            (found.0[j], found.1[j]) = (scale, min.map(|m| -m));
        }
        return found;
    }
    let zero = s.splat(0.0);
    for (j, (x, w)) in x.chunks_exact(grid.group).zip(w.chunks_exact(grid.group)).enumerate() {
        for at in (0..GROUPS).step_by(S::N) {
            let (mut most, mut least) = (zero, zero);
            for x in x {
                let x = s.load(&x[at..]);
                (most, least) = (s.max(most, x), s.min(least, x));
            }
            // Either end of the levels can take either end of the values.
            let (mut error, mut best) = (s.splat(f32::INFINITY), zero);
            let (low, high) = (s.splat(low), s.splat(high));
            for reach in [s.max(most / high, least / low), s.min(most / low, least / high)] {
                for step in 0..12 {
                    let factor = 1.06 - 0.04 * step as f32;
                    let tried = [reach * s.splat(factor), reach * s.splat(factor - 0.02)];
                    let errors = errors(s, grid.levels, x, w, at, tried, zero);
                    for k in 0..2 {
                        let better = s.lt(errors[k], error);
                        error = s.select(better, errors[k], error);
                        best = s.select(better, tried[k], best);
                    }
                }
            }
            s.store(best, &mut found.0[j][at..]);
        }
    }
    found
}

/// Scales and minima, `[group][block]`.
type Ideal = ([[f32; GROUPS]; GROUPS], [[f32; GROUPS]; GROUPS]);

/// The code next to `v / unit`, and its neighbours.
#[inline(always)]
fn near<S: Lanes>(s: S, v: S::F, unit: S::F, (low, high): (i32, i32)) -> [S::F; 3] {
    let (low, high) = (low as f32, high as f32);
    let (least, greatest) = (s.splat(low), s.splat(high));
    let code = s.select(s.ne(unit, s.splat(0.0)), v / unit, s.splat(0.0));
    let code = s.round_clamp(s.min(s.max(code, least), greatest), low, high);
    let one = s.splat(1.0);
    [s.max(code - one, least), code, s.min(code + one, greatest)]
}

/// For every group the scale and minimum of least error among the neighbours of the ideal ones.
#[inline(always)]
fn choose<S: Lanes>(
    s: S,
    grid: &Grid,
    x: &[[f32; GROUPS]],
    w: &[[f32; GROUPS]],
    ideal: &Ideal,
    (d, dmin): (&[u16; GROUPS], &[u16; GROUPS]),
) -> Choice {
    let zeros = [[0.0; GROUPS]; GROUPS];
    let mut choice = Choice { d: *d, dmin: *dmin, scales: zeros, mins: zeros, error: [0.0; GROUPS] };
    let (d, dmin) = (floats(s, d), floats(s, dmin));
    for (j, (x, w)) in x.chunks_exact(grid.group).zip(w.chunks_exact(grid.group)).enumerate() {
        for at in (0..GROUPS).step_by(S::N) {
            let (d, dmin) = (s.load(&d[at..]), s.load(&dmin[at..]));
            let scales = near(s, s.load(&ideal.0[j][at..]), d, grid.scales);
            let mins = near(s, s.load(&ideal.1[j][at..]), dmin, grid.mins);
            let (mut least, mut scale, mut min) = (s.splat(f32::INFINITY), scales[1], mins[1]);
            for m in if grid.mins.0 == grid.mins.1 { &mins[1..2] } else { &mins } {
                let mut found = [least; 3];
                if grid.scales.0 == grid.scales.1 {
                    found[1] = errors(s, grid.levels, x, w, at, [d * scale], dmin * *m)[0];
                } else {
                    let scales = [d * scales[0], d * scales[1], d * scales[2]];
                    found = errors(s, grid.levels, x, w, at, scales, dmin * *m);
                }
                for k in 0..3 {
                    let better = s.lt(found[k], least);
                    least = s.select(better, found[k], least);
                    scale = s.select(better, scales[k], scale);
                    min = s.select(better, *m, min);
                }
            }
            s.store(scale, &mut choice.scales[j][at..]);
            s.store(min, &mut choice.mins[j][at..]);
            s.store(s.load(&choice.error[at..]) + least, &mut choice.error[at..]);
        }
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

/// `1 / scale`, and 0 for 0.
#[inline(always)]
fn inverse<S: Lanes>(s: S, scale: S::F) -> S::F {
    s.select(s.ne(scale, s.splat(0.0)), s.splat(1.0) / scale, s.splat(0.0))
}

/// The weighted errors of a group with each of `T` scales.
#[inline(always)]
fn errors<S: Lanes, const T: usize>(
    s: S,
    levels: Levels,
    x: &[[f32; GROUPS]],
    w: &[[f32; GROUPS]],
    at: usize,
    scales: [S::F; T],
    min: S::F,
) -> [S::F; T] {
    let mut inverses = scales;
    for v in &mut inverses {
        *v = inverse(s, *v);
    }
    let mut sums = [s.splat(0.0); T];
    for (x, w) in x.iter().zip(w) {
        let (x, w) = (s.load(&x[at..]), s.load(&w[at..]));
        for t in 0..T {
            let off = x + min - scales[t] * nearest(s, levels, x, inverses[t], min);
            sums[t] = sums[t] + w * off * off;
        }
    }
    sums
}

/// `d` and `dmin` of least error for the codes of `choice`.
#[inline(always)]
fn fit<S: Lanes>(
    s: S,
    grid: &Grid,
    x: &[[f32; GROUPS]],
    w: &[[f32; GROUPS]],
    choice: &Choice,
) -> ([u16; GROUPS], [u16; GROUPS]) {
    let (d, dmin) = (floats(s, &choice.d), floats(s, &choice.dmin));
    // The equations of each block: uu, uv, vv, ux, vx.
    let mut equations = [[0.0f64; 5]; GROUPS];
    for (j, (x, w)) in x.chunks_exact(grid.group).zip(w.chunks_exact(grid.group)).enumerate() {
        let mut sums = [[0.0; GROUPS]; 5];
        for at in (0..GROUPS).step_by(S::N) {
            let scale = s.load(&d[at..]) * s.load(&choice.scales[j][at..]);
            let min = s.load(&dmin[at..]) * s.load(&choice.mins[j][at..]);
            let inverse = inverse(s, scale);
            let (mut qq, mut q, mut n) = (s.splat(0.0), s.splat(0.0), s.splat(0.0));
            let (mut qx, mut sx) = (s.splat(0.0), s.splat(0.0));
            for (x, w) in x.iter().zip(w) {
                let (x, w) = (s.load(&x[at..]), s.load(&w[at..]));
                let code = nearest(s, grid.levels, x, inverse, min);
                let wq = w * code;
                (qq, q, n) = (qq + wq * code, q + wq, n + w);
                (qx, sx) = (qx + wq * x, sx + w * x);
            }
            for (sums, v) in sums.iter_mut().zip([qq, q, n, qx, sx]) {
                s.store(v, &mut sums[at..]);
            }
        }
        for (k, [uu, uv, vv, ux, vx]) in equations.iter_mut().enumerate() {
            let [qq, q, n, qx, sx] = sums.map(|v| f64::from(v[k]));
            let (scale, min) = (f64::from(choice.scales[j][k]), -f64::from(choice.mins[j][k]));
            *uu += scale * scale * qq;
            *uv += scale * min * q;
            *vv += min * min * n;
            *ux += scale * qx;
            *vx += min * sx;
        }
    }
    let mut fitted = (choice.d, choice.dmin);
    for (k, [uu, uv, vv, ux, vx]) in equations.into_iter().enumerate() {
        let det = uu * vv - uv * uv;
        if grid.mins.1 > 0 && det > 0.0 {
            fitted.0[k] = f16_from(s, ((ux * vv - vx * uv) / det) as f32);
            fitted.1[k] = f16_from(s, ((vx * uu - ux * uv) / det) as f32);
        } else if uu > 0.0 {
            fitted.0[k] = f16_from(s, ((ux - uv * f64::from(dmin[k])) / uu) as f32);
        }
    }
    fitted
}

/// The blocks of a choice, with the nearest codes.
#[inline(always)]
fn solutions<S: Lanes>(s: S, grid: &Grid, x: &[[f32; GROUPS]], choice: &Choice) -> [Solution; GROUPS] {
    let (d, dmin) = (floats(s, &choice.d), floats(s, &choice.dmin));
    let mut out = [Solution::EMPTY; GROUPS];
    for (k, out) in out.iter_mut().enumerate() {
        (out.d, out.dmin) = (choice.d[k], choice.dmin[k]);
        for j in 0..x.len() / grid.group {
            (out.scales[j], out.mins[j]) = (choice.scales[j][k] as i32, choice.mins[j][k] as i32);
        }
    }
    for (i, x) in x.iter().enumerate() {
        let j = i / grid.group;
        let mut codes = [0; GROUPS];
        for at in (0..GROUPS).step_by(S::N) {
            let scale = s.load(&d[at..]) * s.load(&choice.scales[j][at..]);
            let min = s.load(&dmin[at..]) * s.load(&choice.mins[j][at..]);
            let (x, inverse) = (s.load(&x[at..]), inverse(s, scale));
            let code = match grid.levels {
                Levels::Integers(low, _) => nearest(s, grid.levels, x, inverse, min) - s.splat(low),
                Levels::Iq4 => s.quantize_to_levels((x + min) * inverse, &levels::MIDDLES, &levels::NUMBERS),
            };
            s.store_u8(code, &mut codes[at..]);
        }
        for (out, code) in out.iter_mut().zip(codes) {
            out.codes[i] = code;
        }
    }
    out
}

/// The grid of a type with one scale for 32 values.
pub(super) const fn single(levels: Levels) -> Grid {
    Grid { group: 32, levels, scales: (1, 1), mins: (0, 0) }
}

/// The block of such a type whose scale stands first.
pub(super) fn unpack_single(bytes: &[u8]) -> Solution {
    Solution { d: half_at(bytes, 0), scales: [1; GROUPS], ..Solution::EMPTY }
}

/// The bits of an f16.
pub(super) fn half_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Codes from the first on, as many as there are.
pub(super) fn sixteen(codes: impl IntoIterator<Item = i32>) -> [i32; GROUPS] {
    let mut out = [0; GROUPS];
    for (out, code) in out.iter_mut().zip(codes) {
        *out = code;
    }
    out
}

/// The codes of a block of 32.
pub(super) fn codes32(solution: &Solution) -> [u8; 32] {
    std::array::from_fn(|i| solution.codes[i])
}

/// Writes two nibbles a byte; see [`blocks::pack_nibbles`].
pub(super) fn pack32(solution: &Solution, out: &mut [u8]) {
    blocks::pack_nibbles(&codes32(solution), out);
}

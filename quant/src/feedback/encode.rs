//! Blocks encoded column by column, sixteen rows in step.

use super::Feedback;
use crate::arch::{self, Kernel, Lanes};
use crate::matrix::{Right, View, subtract_product};

/// Columns after which the later ones are corrected by a product of matrices.
pub(super) const PANEL: usize = 256;

/// Columns that are corrected one after the other.
pub(super) const RUN: usize = 32;

/// Rows encoded in step, one a lane.
pub(crate) const LANES: usize = 16;

/// Rows that share a product.
pub(super) const ROWS: usize = 128;

/// Corrections that are read side by side.
pub(super) const STRIP: usize = 8;

/// Values of up to 256 columns of 16 rows.
pub(super) type Tile = [[f32; LANES]; PANEL];

/// The correction of column `k` for the error of column `j` at `[k / STRIP][j][k % STRIP]`.
pub(super) type Near = [[[f32; STRIP]; PANEL]];

/// Levels that the codes of a block stand for, before scale and minimum.
#[derive(Clone, Copy)]
pub(crate) enum Levels {
    /// The integers `low..=high`; code 0 is `low`.
    Integers(f32, f32),
    /// Ascending levels, and where one gives way to the next.
    Table([f32; 16], [f32; 15]),
}

/// The codes of a [`Levels::Table`].
const NUMBERS: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

impl Levels {
    /// The level nearest to `v`, and its code.
    #[inline(always)]
    pub(super) fn nearest<S: Lanes>(&self, s: S, v: S::F) -> (S::F, S::F) {
        match self {
            Levels::Integers(low, high) => {
                let v = s.min(s.max(v, s.splat(*low)), s.splat(*high));
                let level = s.round_clamp(v, *low, *high);
                (level, level - s.splat(*low))
            }
            Levels::Table(levels, bounds) => {
                (s.quantize_to_levels(v, bounds, levels), s.quantize_to_levels(v, bounds, &NUMBERS))
            }
        }
    }
}

/// A block before it is packed.
#[derive(Clone, Copy)]
pub(crate) struct Solution {
    /// Two f16 as bits: what the codes of scales and of minima are multiplied by.
    pub d: u16,
    pub dmin: u16,
    /// Codes of the scales and minima of the groups.
    pub scales: [i32; LANES],
    pub mins: [i32; LANES],
    /// Counted from the lowest level.
    pub codes: [u8; 256],
}

impl Solution {
    /// All zeros.
    pub(crate) const EMPTY: Solution =
        Solution { d: 0, dmin: 0, scales: [0; LANES], mins: [0; LANES], codes: [0; 256] };

    /// Solution with `d` a few f16 farther from zero, or nearer; `None` if that is no number of the same sign.
    pub(crate) fn with_other_d(mut self, step: i16) -> Option<Solution> {
        self.d = other_half(self.d, step)?;
        Some(self)
    }

    /// Solution with `dmin` a few f16 farther from zero, or nearer; `None` if that is no number of the same sign.
    pub(crate) fn with_other_dmin(mut self, step: i16) -> Option<Solution> {
        self.dmin = other_half(self.dmin, step)?;
        Some(self)
    }
}

/// The f16 `step` farther from zero.
fn other_half(h: u16, step: i16) -> Option<u16> {
    let magnitude = (h & 0x7fff).checked_add_signed(step)?;
    (magnitude < 0x7c00).then_some(h & 0x8000 | magnitude)
}

/// A block format: `x' = scale * level - min` with a scale and a minimum for each group of a block.
pub(crate) trait Format {
    /// Values in a block: a multiple of 32, at most 256.
    fn block_len(&self) -> usize;

    /// Bytes of a block.
    fn block_bytes(&self) -> usize;

    /// Values in a group: 16 at least.
    fn group(&self) -> usize;

    /// Levels that codes stand for.
    fn levels(&self) -> Levels;

    /// The scales of sixteen blocks, given with the weights of their values as `[value][block]`.
    fn search(&self, x: &[[f32; LANES]], w: &[[f32; LANES]]) -> [Solution; LANES];

    /// Scale and minimum of a group, as the decoder computes them.
    fn scale(&self, solution: &Solution, group: usize) -> (f32, f32);

    /// Number of neighbors that the scales of a group have.
    fn moves(&self) -> usize;

    /// The block with the scale or minimum of a group replaced by its neighbour `which`; `None` if there is none.
    fn moved(&self, solution: &Solution, group: usize, which: usize) -> Option<Solution>;

    /// The scales of a block; codes are 0.
    fn unpack(&self, bytes: &[u8]) -> Solution;

    /// Writes a block.
    fn pack(&self, solution: &Solution, out: &mut [u8]);
}

/// Encodes whole rows of `feedback.n()` finite values.
pub(crate) fn encode(format: &dyn Format, values: &[f32], feedback: &Feedback, out: &mut [u8]) {
    let (n, len) = (feedback.n, format.block_len());
    assert!(len.is_multiple_of(RUN) && n.is_multiple_of(len) && values.len().is_multiple_of(n.max(1)));
    assert_eq!(values.len() / len * format.block_bytes(), out.len());
    if !values.is_empty() {
        arch::dispatch(Encode { format, values, feedback, out });
    }
}

struct Encode<'a> {
    format: &'a dyn Format,
    values: &'a [f32],
    feedback: &'a Feedback,
    out: &'a mut [u8],
}

impl Kernel for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Feedback { n, upper, .. } = self.feedback;
        let n = *n;
        let (len, bytes) = (self.format.block_len(), self.format.block_bytes());
        let row_bytes = n / len * bytes;
        let rows = ROWS.min(self.values.len() / n);
        let mut work = vec![0.0; rows * n];
        let mut errors = vec![0.0; rows * PANEL];
        let mut near = vec![[[0.0; STRIP]; PANEL]; PANEL / STRIP];
        let mut weights = [[0.0; LANES]; PANEL];
        for (values, out) in self.values.chunks(ROWS * n).zip(self.out.chunks_mut(ROWS * row_bytes)) {
            let rows = values.len() / n;
            work[..values.len()].copy_from_slice(values);
            for at in (0..n).step_by(PANEL) {
                let width = PANEL.min(n - at);
                gather(upper, n, at, width, &mut near);
                for (lanes, weight) in weights.iter_mut().zip(&self.feedback.weights[at..at + width]) {
                    *lanes = [*weight; LANES];
                }
                let inverse = &self.feedback.inverse[at..at + width];
                let panel = Panel { format: self.format, near: &near, inverse, weights: &weights };
                for first in (0..rows).step_by(LANES) {
                    let lanes = LANES.min(rows - first);
                    let mut x = [[0.0; LANES]; PANEL];
                    for lane in 0..LANES {
                        // Lanes without a row repeat the last.
                        let row = first + lane.min(lanes - 1);
                        for (x, v) in x.iter_mut().zip(&work[row * n + at..][..width]) {
                            x[lane] = *v;
                        }
                    }
                    let mut e = [[0.0; LANES]; PANEL];
                    for block in (0..width).step_by(len) {
                        let solutions = panel.encode(s, &mut x, &mut e, block);
                        let column = at + block;
                        for (lane, solution) in solutions.iter().enumerate().take(lanes) {
                            let start = (first + lane) * row_bytes + column / len * bytes;
                            self.format.pack(solution, &mut out[start..start + bytes]);
                        }
                    }
                    for lane in 0..lanes {
                        let row = &mut errors[(first + lane) * PANEL..][..width];
                        for (v, e) in row.iter_mut().zip(&e) {
                            *v = e[lane];
                        }
                    }
                }
                let after = at + width;
                if after < n {
                    let right = Right::Plain(View::new(&upper[at * n + after..], n));
                    let shape = (rows, width, n - after);
                    subtract_product(&mut work[after..], n, View::new(&errors, PANEL), right, shape);
                }
            }
        }
    }
}

/// The corrections within a panel, in the order in which they are read.
pub(super) fn gather(upper: &[f32], n: usize, at: usize, width: usize, near: &mut Near) {
    for j in 0..width {
        let row = &upper[(at + j) * n + at..][..width];
        for (near, row) in near.iter_mut().zip(row.chunks(STRIP)) {
            near[j][..row.len()].copy_from_slice(row);
        }
    }
}

/// Up to 256 columns.
struct Panel<'a> {
    format: &'a dyn Format,
    near: &'a Near,
    /// `1 / U[j][j]`.
    inverse: &'a [f32],
    weights: &'a Tile,
}

impl Panel<'_> {
    /// Encodes the block at column `block` of sixteen rows with the values `x`, and sets `e` to the errors over
    /// `U[j][j]`.
    #[inline(always)]
    fn encode<S: Lanes>(&self, s: S, x: &mut Tile, e: &mut Tile, block: usize) -> [Solution; LANES] {
        let (len, group_len) = (self.format.block_len(), self.format.group());
        let levels = self.format.levels();
        let end = block + len;
        correct(s, self.near, x, e, (0, block), (block, end));
        let mut solutions = self.format.search(&x[block..end], &self.weights[block..end]);
        let mut groups = [Group::default(); PANEL / 16];
        for (j, group) in groups[..len / group_len].iter_mut().enumerate() {
            for (lane, solution) in solutions.iter().enumerate() {
                let (scale, min) = self.format.scale(solution, j);
                group.scale[lane] = scale;
                group.min[lane] = min;
                group.inverse[lane] = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            }
        }
        for run in (block..end).step_by(RUN) {
            correct(s, self.near, x, e, (block, run), (run, run + RUN));
            for j in run..run + RUN {
                let mut codes = [0; LANES];
                let group = &groups[(j - block) / group_len];
                round(s, &levels, group, self.inverse[j], &x[j], &mut e[j], &mut codes);
                for (solution, code) in solutions.iter_mut().zip(codes) {
                    solution.codes[j - block] = code;
                }
                let (near, e) = (self.near, &e[j]);
                for (x, k) in x[j + 1..run + RUN].iter_mut().zip(j + 1..) {
                    let factor = s.splat(near[k / STRIP][j][k % STRIP]);
                    for lane in (0..LANES).step_by(S::N) {
                        s.store(s.load(&x[lane..]) - factor * s.load(&e[lane..]), &mut x[lane..]);
                    }
                }
            }
        }
        solutions
    }
}

/// Corrects the columns `to` for the errors of the columns `from`.
#[inline(always)]
pub(super) fn correct<S: Lanes>(
    s: S,
    near: &Near,
    x: &mut Tile,
    e: &Tile,
    from: (usize, usize),
    to: (usize, usize),
) {
    if from.0 == from.1 {
        return;
    }
    for k in (to.0..to.1).step_by(STRIP) {
        let near = &near[k / STRIP][from.0..from.1];
        for lane in (0..LANES).step_by(S::N) {
            let mut sums = [s.splat(0.0); STRIP];
            for (e, near) in e[from.0..from.1].iter().zip(near) {
                let e = s.load(&e[lane..]);
                for i in 0..STRIP {
                    sums[i] = sums[i] + s.splat(near[i]) * e;
                }
            }
            for (x, sum) in x[k..k + STRIP].iter_mut().zip(sums) {
                s.store(s.load(&x[lane..]) - sum, &mut x[lane..]);
            }
        }
    }
}

/// Scale, its inverse (0 for 0) and minimum of a group of each row.
#[derive(Clone, Copy, Default)]
struct Group {
    scale: [f32; LANES],
    inverse: [f32; LANES],
    min: [f32; LANES],
}

/// Rounds a column.
#[inline(always)]
fn round<S: Lanes>(
    s: S,
    levels: &Levels,
    group: &Group,
    over: f32,
    x: &[f32; LANES],
    e: &mut [f32; LANES],
    codes: &mut [u8; LANES],
) {
    for lane in (0..LANES).step_by(S::N) {
        let x = s.load(&x[lane..]);
        let min = s.load(&group.min[lane..]);
        let v = (x + min) * s.load(&group.inverse[lane..]);
        let (level, code) = levels.nearest(s, v);
        s.store_u8(code, &mut codes[lane..]);
        let off = x - (s.load(&group.scale[lane..]) * level - min);
        s.store(off * s.splat(over), &mut e[lane..]);
    }
}

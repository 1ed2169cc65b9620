//! Blocks encoded column by column, sixteen rows in step.

use super::Feedback;
use crate::arch::{self, Kernel, Lanes};
use crate::matrix::{Right, View, subtract_product};

/// Columns after which the later ones are corrected by a product of matrices.
const PANEL: usize = 256;

/// Columns that are corrected one after the other.
const RUN: usize = 32;

/// Rows encoded in step, one a lane.
const LANES: usize = 16;

/// Rows that share a product.
const ROWS: usize = 128;

/// Corrections that are read side by side.
const STRIP: usize = 8;

/// Values of up to 256 columns of 16 rows.
type Tile = [[f32; LANES]; PANEL];

/// The correction of column `k` for the error of column `j` at `[k / STRIP][j][k % STRIP]`.
type Near = [[[f32; STRIP]; PANEL]];

/// What the codes of a block stand for, before scale and minimum.
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

/// A block format: `x' = scale * level - min` with a scale and a minimum for each group of a block.
pub(crate) trait Format {
    /// Values in a block: a multiple of 32, at most 256.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Values in a group: 16 at least.
    const GROUP: usize;

    /// All that a block holds but its codes.
    type Scales: Copy;

    /// What codes stand for.
    fn levels(&self) -> Levels;

    /// The scales for `LEN` values with weights.
    fn search<S: Lanes>(&self, s: S, x: &[f32], w: &[f32]) -> Self::Scales;

    /// Scale and minimum of a group.
    fn group<S: Lanes>(&self, s: S, scales: &Self::Scales, group: usize) -> (f32, f32);

    /// Writes a block; of `codes` the first `LEN` count.
    fn pack(&self, scales: &Self::Scales, codes: &[u8; 256], out: &mut [u8]);
}

/// Encodes whole rows of `feedback.n()` finite values.
pub(crate) fn encode<F: Format>(format: &F, values: &[f32], feedback: &Feedback, out: &mut [u8]) {
    let n = feedback.n;
    assert!(F::LEN.is_multiple_of(RUN) && n.is_multiple_of(F::LEN) && values.len().is_multiple_of(n.max(1)));
    assert_eq!(values.len() / F::LEN * F::BYTES, out.len());
    if !values.is_empty() {
        arch::dispatch(Encode { format, values, feedback, out });
    }
}

struct Encode<'a, F> {
    format: &'a F,
    values: &'a [f32],
    feedback: &'a Feedback,
    out: &'a mut [u8],
}

impl<F: Format> Kernel for Encode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Feedback { n, upper, .. } = self.feedback;
        let n = *n;
        let row_bytes = n / F::LEN * F::BYTES;
        let rows = ROWS.min(self.values.len() / n);
        let mut work = vec![0.0; rows * n];
        let mut errors = vec![0.0; rows * PANEL];
        let mut near = vec![[[0.0; STRIP]; PANEL]; PANEL / STRIP];
        for (values, out) in self.values.chunks(ROWS * n).zip(self.out.chunks_mut(ROWS * row_bytes)) {
            let rows = values.len() / n;
            work[..values.len()].copy_from_slice(values);
            for at in (0..n).step_by(PANEL) {
                let width = PANEL.min(n - at);
                gather(upper, n, at, width, &mut near);
                let panel = Panel { format: self.format, feedback: self.feedback, at, width, near: &near };
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
                    let e = panel.encode(s, &mut x, lanes, |lane, block, scales, codes| {
                        let at = (first + lane) * row_bytes + (at + block) / F::LEN * F::BYTES;
                        self.format.pack(scales, codes, &mut out[at..at + F::BYTES]);
                    });
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
fn gather(upper: &[f32], n: usize, at: usize, width: usize, near: &mut Near) {
    for j in 0..width {
        let row = &upper[(at + j) * n + at..][..width];
        for (near, row) in near.iter_mut().zip(row.chunks(STRIP)) {
            near[j][..row.len()].copy_from_slice(row);
        }
    }
}

/// The columns from `at` on.
struct Panel<'a, F> {
    format: &'a F,
    feedback: &'a Feedback,
    at: usize,
    width: usize,
    near: &'a Near,
}

impl<F: Format> Panel<'_, F> {
    /// Encodes sixteen rows, whose values are `x`; `pack` takes the blocks of the first `lanes`. Returns the errors
    /// over `U[j][j]`.
    #[inline(always)]
    fn encode<S: Lanes>(
        &self,
        s: S,
        x: &mut Tile,
        lanes: usize,
        mut pack: impl FnMut(usize, usize, &F::Scales, &[u8; 256]),
    ) -> Tile {
        let levels = self.format.levels();
        let mut e = [[0.0; LANES]; PANEL];
        let mut codes = [[0; LANES]; PANEL];
        for block in (0..self.width).step_by(F::LEN) {
            let end = block + F::LEN;
            self.correct(s, x, &e, (0, block), (block, end));
            let weights = &self.feedback.weights[self.at + block..self.at + end];
            let scales: [F::Scales; LANES] = std::array::from_fn(|lane| {
                let lane = lane.min(lanes - 1);
                let mut row = [0.0; PANEL];
                for (v, x) in row.iter_mut().zip(&x[block..end]) {
                    *v = x[lane];
                }
                self.format.search(s, &row[..F::LEN], weights)
            });
            let mut groups = [Group::default(); PANEL / 16];
            for (j, group) in groups[..F::LEN / F::GROUP].iter_mut().enumerate() {
                for lane in 0..LANES {
                    let (scale, min) = self.format.group(s, &scales[lane], j);
                    group.scale[lane] = scale;
                    group.min[lane] = min;
                    group.inverse[lane] = if scale == 0.0 { 0.0 } else { 1.0 / scale };
                }
            }
            for run in (block..end).step_by(RUN) {
                self.correct(s, x, &e, (block, run), (run, run + RUN));
                for j in run..run + RUN {
                    let group = &groups[(j - block) / F::GROUP];
                    let inverse = self.feedback.inverse[self.at + j];
                    round(s, &levels, group, inverse, &x[j], &mut e[j], &mut codes[j]);
                    for k in j + 1..run + RUN {
                        let factor = s.splat(self.near[k / STRIP][j][k % STRIP]);
                        for lane in (0..LANES).step_by(S::N) {
                            let v = s.load(&x[k][lane..]) - factor * s.load(&e[j][lane..]);
                            s.store(v, &mut x[k][lane..]);
                        }
                    }
                }
            }
            for (lane, scales) in scales.iter().enumerate().take(lanes) {
                let mut row = [0; 256];
                for (code, codes) in row.iter_mut().zip(&codes[block..end]) {
                    *code = codes[lane];
                }
                pack(lane, block, scales, &row);
            }
        }
        e
    }

    /// Corrects the columns `to` for the errors of the columns `from`.
    #[inline(always)]
    fn correct<S: Lanes>(&self, s: S, x: &mut Tile, e: &Tile, from: (usize, usize), to: (usize, usize)) {
        if from.0 == from.1 {
            return;
        }
        for k in (to.0..to.1).step_by(STRIP) {
            let near = &self.near[k / STRIP][from.0..from.1];
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
        let (level, code) = match levels {
            Levels::Integers(low, high) => {
                let v = s.min(s.max(v, s.splat(*low)), s.splat(*high));
                let level = s.round_clamp(v, *low, *high);
                (level, level - s.splat(*low))
            }
            Levels::Table(levels, bounds) => {
                (s.quantize_to_levels(v, bounds, levels), s.quantize_to_levels(v, bounds, &NUMBERS))
            }
        };
        s.store_u8(code, &mut codes[lane..]);
        let off = x - (s.load(&group.scale[lane..]) * level - min);
        s.store(off * s.splat(over), &mut e[lane..]);
    }
}

//! Codes and scales of finished blocks moved one by one, wherever the outputs get nearer.

use super::encode::{Format, LANES, Levels, Near, PANEL, ROWS, RUN, STRIP, Solution, Tile, correct, gather};
use crate::arch::{self, Kernel, Lanes};
use crate::codec::Codec;
use crate::hessian::Hessian;
use crate::matrix::{Right, View, subtract_product};

/// Passes of coordinate descent over all columns.
const PASSES: usize = 2;

/// Changes the codes and scales in `bytes` so that `e H e^T` of each row becomes less: for every group the neighbours
/// of its scales are tried, for every column the level that is best with all others as they are. Rows that do not
/// gain (up to the rounding of sums in f32) keep their bytes.
pub(crate) fn polish(
    format: &dyn Format,
    codec: &dyn Codec,
    values: &[f32],
    hessian: &Hessian,
    bytes: &mut [u8],
) {
    let (n, len) = (hessian.n(), format.block_len());
    assert!(len.is_multiple_of(RUN) && n.is_multiple_of(len) && values.len().is_multiple_of(n.max(1)));
    assert_eq!(values.len() / len * format.block_bytes(), bytes.len());
    if !values.is_empty() {
        arch::dispatch(Polish { format, codec, values, hessian, bytes });
    }
}

struct Polish<'a> {
    format: &'a dyn Format,
    codec: &'a dyn Codec,
    values: &'a [f32],
    hessian: &'a Hessian,
    bytes: &'a mut [u8],
}

/// Decoded rows, and half the derivative of their errors.
struct State {
    decoded: Vec<f32>,
    gradient: Vec<f32>,
}

impl State {
    /// State of rows of `n` values.
    fn new(codec: &dyn Codec, values: &[f32], hessian: &Hessian, bytes: &[u8]) -> State {
        let n = hessian.n();
        let mut decoded = vec![0.0; values.len()];
        codec.decode(bytes, &mut decoded);
        let negative: Vec<f32> = decoded.iter().zip(values).map(|(q, x)| q - x).collect();
        let mut gradient = vec![0.0; values.len()];
        let right = Right::Plain(View::new(hessian.data(), n));
        subtract_product(&mut gradient, n, View::new(&negative, n), right, (values.len() / n, n, n));
        State { decoded, gradient }
    }

    /// `e H e^T` of each row.
    fn errors(&self, values: &[f32], n: usize) -> Vec<f64> {
        let off = values.iter().zip(&self.decoded).map(|(x, q)| f64::from(*x) - f64::from(*q));
        let terms: Vec<f64> = off.zip(&self.gradient).map(|(e, g)| e * f64::from(*g)).collect();
        terms.chunks_exact(n).map(|row| row.iter().sum()).collect()
    }
}

impl Kernel for Polish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Polish { format, codec, values, hessian, bytes } = self;
        let n = hessian.n();
        let row_bytes = n / format.block_len() * format.block_bytes();
        let mut near = vec![[[0.0; STRIP]; PANEL]; PANEL / STRIP];
        let mut moved = vec![0.0; ROWS * PANEL];
        for (values, bytes) in values.chunks(ROWS * n).zip(bytes.chunks_mut(ROWS * row_bytes)) {
            let rows = values.len() / n;
            let before = bytes.to_vec();
            let mut state = State::new(codec, values, hessian, bytes);
            let errors = state.errors(values, n);
            for at in (0..n).step_by(PANEL).cycle().take(PASSES * n.div_ceil(PANEL)) {
                let width = PANEL.min(n - at);
                gather(hessian.data(), n, at, width, &mut near);
                let panel = Panel { format, near: &near, width };
                for first in (0..rows).step_by(LANES) {
                    let lanes = LANES.min(rows - first);
                    let total = panel.visit(s, &mut state, bytes, (first, lanes), (at, n));
                    for lane in 0..lanes {
                        let row = &mut moved[(first + lane) * PANEL..][..width];
                        for (v, total) in row.iter_mut().zip(&total) {
                            *v = total[lane];
                        }
                    }
                }
                for (from, to) in [(0, at), (at + width, n)] {
                    let right = Right::Plain(View::new(&hessian.data()[at * n + from..], n));
                    let shape = (rows, width, to - from);
                    subtract_product(&mut state.gradient[from..], n, View::new(&moved, PANEL), right, shape);
                }
            }
            let after = State::new(codec, values, hessian, bytes).errors(values, n);
            let rows = bytes.chunks_exact_mut(row_bytes).zip(before.chunks_exact(row_bytes));
            for ((bytes, before), (error, after)) in rows.zip(errors.iter().zip(after)) {
                if after.is_nan() || after >= *error {
                    bytes.copy_from_slice(before);
                }
            }
        }
    }
}

/// Up to 256 columns of 16 rows.
struct Panel<'a> {
    format: &'a dyn Format,
    /// `H` of the columns.
    near: &'a Near,
    width: usize,
}

/// The values of a panel while it is visited.
struct Work {
    decoded: Tile,
    level: Tile,
    gradient: Tile,
    /// Rise of the decoded values whose effect is still to be subtracted from the gradients.
    step: Tile,
    /// Rise of the decoded values in all.
    total: Tile,
}

impl Panel<'_> {
    /// Moves codes and scales; returns by how much the decoded values rose.
    #[inline(always)]
    fn visit<S: Lanes>(
        &self,
        s: S,
        state: &mut State,
        bytes: &mut [u8],
        (first, lanes): (usize, usize),
        (at, n): (usize, usize),
    ) -> Tile {
        let zeros = [[0.0; LANES]; PANEL];
        let mut work = Work { decoded: zeros, level: zeros, gradient: zeros, step: zeros, total: zeros };
        for lane in 0..LANES {
            let start = (first + lane.min(lanes - 1)) * n + at;
            for j in 0..self.width {
                work.decoded[j][lane] = state.decoded[start + j];
                work.gradient[j][lane] = state.gradient[start + j];
            }
        }
        let (len, block_bytes) = (self.format.block_len(), self.format.block_bytes());
        for block in (0..self.width).step_by(len) {
            let place = |lane: usize| ((first + lane) * n + at + block) / len * block_bytes;
            let mut solutions = [Solution::EMPTY; LANES];
            for (lane, solution) in solutions.iter_mut().enumerate() {
                *solution = self.format.unpack(&bytes[place(lane.min(lanes - 1))..][..block_bytes]);
            }
            self.visit_block(s, &mut work, &mut solutions, block);
            for (lane, solution) in solutions.iter().enumerate().take(lanes) {
                self.format.pack(solution, &mut bytes[place(lane)..][..block_bytes]);
            }
        }
        for lane in 0..lanes {
            let start = (first + lane) * n + at;
            for j in 0..self.width {
                state.decoded[start + j] = work.decoded[j][lane];
                state.gradient[start + j] = work.gradient[j][lane];
            }
        }
        work.total
    }

    #[inline(always)]
    fn visit_block<S: Lanes>(&self, s: S, work: &mut Work, solutions: &mut [Solution; LANES], block: usize) {
        let (len, group_len) = (self.format.block_len(), self.format.group());
        let levels = self.format.levels();
        for j in 0..len / group_len {
            let from = block + j * group_len;
            let (scale, min) = self.scales(solutions, j);
            for i in from..from + group_len {
                let mut codes = [0; LANES];
                let decoded = work.decoded[i];
                round(s, &levels, &scale, &min, &decoded, &mut work.level[i], &mut codes);
                for (solution, code) in solutions.iter_mut().zip(codes) {
                    solution.codes[i - block] = code;
                }
            }
            for which in 0..self.format.moves() {
                let mut tried = *solutions;
                for solution in &mut tried {
                    if let Some(moved) = self.format.moved(solution, j, which) {
                        *solution = moved;
                    }
                }
                let better = self.try_scales(s, work, &tried, j, (from, from + group_len));
                for k in 0..LANES {
                    if better[k] {
                        (solutions[k].d, solutions[k].dmin) = (tried[k].d, tried[k].dmin);
                        (solutions[k].scales, solutions[k].mins) = (tried[k].scales, tried[k].mins);
                    }
                }
            }
        }
        for run in (block..block + len).step_by(RUN) {
            for j in run..run + RUN {
                let group = (j - block) / group_len;
                let (scale, min) = self.scales(solutions, group);
                self.move_column(s, work, &levels, (&scale, &min), solutions, (j, j - block), run);
            }
            correct(s, self.near, &mut work.gradient, &work.step, (run, run + RUN), (0, run));
            correct(s, self.near, &mut work.gradient, &work.step, (run, run + RUN), (run + RUN, self.width));
        }
    }

    fn scales(&self, solutions: &[Solution; LANES], group: usize) -> ([f32; LANES], [f32; LANES]) {
        let (mut scale, mut min) = ([0.0; LANES], [0.0; LANES]);
        for (k, solution) in solutions.iter().enumerate() {
            (scale[k], min[k]) = self.format.scale(solution, group);
        }
        (scale, min)
    }

    /// Takes the scales of `tried` for the columns of a group where that makes the error less; says where.
    #[inline(always)]
    fn try_scales<S: Lanes>(
        &self,
        s: S,
        work: &mut Work,
        tried: &[Solution; LANES],
        group: usize,
        (from, to): (usize, usize),
    ) -> [bool; LANES] {
        let (scale, min) = self.scales(tried, group);
        let mut gain = [0.0; LANES];
        for lane in (0..LANES).step_by(S::N) {
            let (scale, min) = (s.load(&scale[lane..]), s.load(&min[lane..]));
            for j in from..to {
                let decoded = scale * s.load(&work.level[j][lane..]) - min;
                s.store(decoded - s.load(&work.decoded[j][lane..]), &mut work.step[j][lane..]);
            }
            let mut sum = s.splat(0.0);
            for j in from..to {
                let mut product = s.splat(0.0);
                for k in from..to {
                    let h = s.splat(self.near[k / STRIP][j][k % STRIP]);
                    product = product + h * s.load(&work.step[k][lane..]);
                }
                let gradient = s.load(&work.gradient[j][lane..]);
                sum = sum + s.load(&work.step[j][lane..]) * (gradient + gradient - product);
            }
            s.store(sum, &mut gain[lane..]);
        }
        let better = gain.map(|v| v > 0.0);
        if better.contains(&true) {
            for j in from..to {
                for k in 0..LANES {
                    let step = if better[k] { work.step[j][k] } else { 0.0 };
                    work.step[j][k] = step;
                    work.total[j][k] += step;
                    if better[k] {
                        work.decoded[j][k] = scale[k] * work.level[j][k] - min[k];
                    }
                }
            }
            correct(s, self.near, &mut work.gradient, &work.step, (from, to), (0, self.width));
        }
        better
    }

    /// Moves column `j` to the level nearest to where the error is least, and the gradients of the run with it.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn move_column<S: Lanes>(
        &self,
        s: S,
        work: &mut Work,
        levels: &Levels,
        (scale, min): (&[f32; LANES], &[f32; LANES]),
        solutions: &mut [Solution; LANES],
        (j, in_block): (usize, usize),
        run: usize,
    ) {
        let square = self.near[j / STRIP][j][j % STRIP];
        work.step[j] = [0.0; LANES];
        if square <= 0.0 {
            return;
        }
        let mut aim = [0.0; LANES];
        for (k, aim) in aim.iter_mut().enumerate() {
            *aim = work.decoded[j][k] + work.gradient[j][k] / square;
        }
        let (mut level, mut codes) = ([0.0; LANES], [0; LANES]);
        round(s, levels, scale, min, &aim, &mut level, &mut codes);
        let mut any = false;
        for k in 0..LANES {
            let decoded = scale[k] * level[k] - min[k];
            let step = decoded - work.decoded[j][k];
            if step * (2.0 * work.gradient[j][k] - step * square) > 0.0 {
                any = true;
                work.step[j][k] = step;
                work.total[j][k] += step;
                work.decoded[j][k] = decoded;
                work.level[j][k] = level[k];
                solutions[k].codes[in_block] = codes[k];
            }
        }
        if any {
            for k in run..run + RUN {
                let factor = s.splat(self.near[k / STRIP][j][k % STRIP]);
                for lane in (0..LANES).step_by(S::N) {
                    let v = s.load(&work.gradient[k][lane..]) - factor * s.load(&work.step[j][lane..]);
                    s.store(v, &mut work.gradient[k][lane..]);
                }
            }
        }
    }
}

/// The nearest levels and their codes.
#[inline(always)]
fn round<S: Lanes>(
    s: S,
    levels: &Levels,
    scale: &[f32; LANES],
    min: &[f32; LANES],
    x: &[f32; LANES],
    out: &mut [f32; LANES],
    codes: &mut [u8; LANES],
) {
    for lane in (0..LANES).step_by(S::N) {
        let scale = s.load(&scale[lane..]);
        let inverse = s.select(s.ne(scale, s.splat(0.0)), s.splat(1.0) / scale, s.splat(0.0));
        let v = (s.load(&x[lane..]) + s.load(&min[lane..])) * inverse;
        let (level, code) = levels.nearest(s, v);
        s.store(level, &mut out[lane..]);
        s.store_u8(code, &mut codes[lane..]);
    }
}

//! A pass: a run of tokens of several sequences that goes through the model together, block by block.

use std::ops::Range;

use rayon::prelude::*;

use super::arch::{Columns, kernel, split_columns};
use super::matrix::{Matrix, Pool};
use super::norm::ROWS;
use super::state::{Site, State};

/// Tokens of several sequences, one after the other as rows of one matrix.
pub(super) struct Pass<'a> {
    /// The tokens of all sequences.
    pub tokens: Vec<u32>,
    /// The rows of every sequence.
    pub spans: Vec<Range<usize>>,
    /// The states of the sequences, which the pass advances.
    pub states: &'a mut [State],
    /// Pool that matrices come from.
    pub pool: Pool,
    /// The values of block 0, which later blocks of version 7 mix in.
    pub first_values: Option<Matrix>,
    /// Input of block 0; kept for version 7a only.
    pub entry: Option<Matrix>,
    /// Number of the sequence, for the first row of it.
    starts: Vec<Option<usize>>,
}

/// Formula by which the token shift mixes a row with the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shift {
    /// Versions 4 and 5: `x m + p (1 - m)`.
    Share,
    /// Versions 6 and 7: `x + (p - x) m`.
    Step,
}

impl<'a> Pass<'a> {
    /// A pass of one run of tokens for each state.
    pub fn new(runs: &[&[u32]], states: &'a mut [State], pool: Pool) -> Pass<'a> {
        let mut spans = Vec::new();
        let mut starts = Vec::new();
        let mut tokens = Vec::new();
        for (n, run) in runs.iter().enumerate() {
            spans.push(tokens.len()..tokens.len() + run.len());
            starts.extend((0..run.len()).map(|i| (i == 0).then_some(n)));
            tokens.extend_from_slice(run);
        }
        Pass { tokens, spans, states, pool, first_values: None, entry: None, starts }
    }

    /// The row before row `i` of `x`: of an earlier pass, if the sequence starts here.
    pub fn previous<'b>(&'b self, layer: usize, site: Site, x: &'b Matrix, i: usize) -> &'b [f32] {
        match self.starts[i] {
            Some(sequence) => self.states[sequence].shift(layer, site),
            None => x.row(i - 1),
        }
    }

    /// The token shift of every row of `x` with the factors `mix`.
    pub fn mix(&self, layer: usize, site: Site, x: &Matrix, shift: Shift, mix: &[f32]) -> Matrix {
        let mut out = self.pool.matrix(x.rows, x.cols);
        each_row(&mut out, |i, out| {
            let before = self.previous(layer, site, x, i);
            match shift {
                Shift::Share => share(x.row(i), before, mix, out),
                Shift::Step => step(x.row(i), before, mix, out),
            }
        });
        out
    }

    /// Keeps the last row of every sequence for its next pass.
    pub fn keep(&mut self, layer: usize, site: Site, x: &Matrix) {
        for (span, state) in self.spans.iter().zip(self.states.iter_mut()) {
            if let Some(last) = span.clone().last() {
                state.shift_mut(layer, site).copy_from_slice(x.row(last));
            }
        }
    }

    /// Runs a recurrence: `advance` for every sequence and head, in any order, with the sequence's rows, the
    /// number of the head's first column, the head's state, and where its output goes.
    pub fn recur(
        &mut self,
        layer: usize,
        out: &mut Matrix,
        size: usize,
        advance: impl Fn(Range<usize>, usize, &mut [f32], Columns<'_>) + Sync,
    ) {
        let cols = out.cols;
        let mut tasks = Vec::new();
        let mut rest = out.data.as_mut_slice();
        for (span, state) in self.spans.iter().zip(self.states.iter_mut()) {
            let (rows, later) = rest.split_at_mut(span.len() * cols);
            rest = later;
            let state = state.recurrent_mut(layer);
            let per_head = state.len() * size / cols;
            let heads = split_columns(rows, cols, size).into_iter().zip(state.chunks_mut(per_head));
            tasks.extend(heads.enumerate().map(|(h, (out, state))| (span.clone(), h * size, state, out)));
        }
        tasks.into_par_iter().for_each(|(span, at, state, out)| advance(span, at, state, out));
    }
}

/// Fills the rows of a matrix, in any order.
pub(super) fn each_row(out: &mut Matrix, fill: impl Fn(usize, &mut [f32]) + Sync) {
    let cols = out.cols;
    out.data.par_chunks_mut(ROWS * cols).enumerate().for_each(|(n, rows)| {
        for (i, row) in rows.chunks_mut(cols).enumerate() {
            fill(n * ROWS + i, row);
        }
    });
}

kernel! {
    /// `out = x m + p (1 - m)`.
    fn share(x: &'w [f32], p: &'w [f32], m: &'w [f32], out: &'w mut [f32]) as A {
        for (((out, x), p), m) in out.iter_mut().zip(x).zip(p).zip(m) {
            *out = A::fma(*x, *m, p * (1.0 - m));
        }
    }
}

kernel! {
    /// `out = x + (p - x) m`.
    fn step(x: &'w [f32], p: &'w [f32], m: &'w [f32], out: &'w mut [f32]) as A {
        for (((out, x), p), m) in out.iter_mut().zip(x).zip(p).zip(m) {
            *out = A::fma(p - x, *m, *x);
        }
    }
}

kernel! {
    /// `x += y`.
    pub(super) fn add(x: &'w mut [f32], y: &'w [f32]) as A {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

kernel! {
    /// `x *= sigmoid(gate)`.
    pub(super) fn gate_sigmoid(x: &'w mut [f32], gate: &'w [f32]) as A {
        for (x, g) in x.iter_mut().zip(gate) {
            *x *= super::math::sigmoid::<A>(*g);
        }
    }
}

kernel! {
    /// `x *= gate sigmoid(gate)`.
    pub(super) fn gate_silu(x: &'w mut [f32], gate: &'w [f32]) as A {
        for (x, g) in x.iter_mut().zip(gate) {
            *x *= g * super::math::sigmoid::<A>(*g);
        }
    }
}

kernel! {
    /// `x = max(x, 0)^2`; NaN stays NaN.
    pub(super) fn relu_square(x: &'w mut [f32]) as A {
        for x in x {
            let v = if *x < 0.0 { 0.0 } else { *x };
            *x = v * v;
        }
    }
}

kernel! {
    /// `x = tanh(x)`.
    pub(super) fn tanh(x: &'w mut [f32]) as A {
        for x in x {
            *x = super::math::tanh::<A>(*x);
        }
    }
}

kernel! {
    /// `x = sigmoid(x)`.
    pub(super) fn sigmoid(x: &'w mut [f32]) as A {
        for x in x {
            *x = super::math::sigmoid::<A>(*x);
        }
    }
}

//! The time mix of version 5, and the recurrence that version 6 shares.

use super::arch::{Arithmetic, Columns, kernel};
use super::layer::Layer;
use super::math::{self, exp64};
use super::matrix::Matrix;
use super::pass::{Pass, Shift, each_row, gate_silu};
use super::state::Site;

/// `O (groupnorm(o) [* silu(g)])`.
pub(super) fn time_mix(layer: &Layer<'_>, pass: &mut Pass<'_>, x: &Matrix) -> Matrix {
    let n = layer.index;
    let project = |pass: &Pass<'_>, mix: &str, matrix: &str| {
        layer.matrix(matrix).multiply(&pass.mix(n, Site::Time, x, Shift::Share, layer.vector(mix)))
    };
    let r = project(pass, "att.time_mix_r", "att.receptance.weight");
    let k = project(pass, "att.time_mix_k", "att.key.weight");
    let v = project(pass, "att.time_mix_v", "att.value.weight");
    let gate = layer.has("att.gate.weight").then(|| project(pass, "att.time_mix_g", "att.gate.weight"));
    let size = layer.dims().head_size;
    let decay: Vec<f32> =
        layer.vector("att.time_decay").iter().map(|d| exp64(-exp64(f64::from(*d))) as f32).collect();
    let (w, u) = (per_channel(&decay, k.cols), per_channel(&bonus(layer), k.cols));
    let mut out = pass.pool.matrix(x.rows, k.cols);
    pass.recur(n, &mut out, size, |rows, at, state, out| {
        let w = Decays::Fixed(&w[at..at + size]);
        wkv(rows.start, at, &r, w, &k, &v, &u[at..at + size], state, out);
    });
    pass.keep(n, Site::Time, x);
    drop((r, k, v));
    layer.group_norm().groups(&mut out, size);
    if let Some(gate) = gate {
        each_row(&mut out, |i, out| gate_silu(out, gate.row(i)));
    }
    layer.matrix("att.output.weight").multiply(&out)
}

/// The weight of the present token.
fn bonus(layer: &Layer<'_>) -> Vec<f32> {
    if layer.has("att.time_first") {
        return layer.vector("att.time_first").iter().map(|u| exp64(f64::from(*u)) as f32).collect();
    }
    layer.vector("att.time_faaaa").to_vec()
}

/// A value a head or a channel as a value a channel.
fn per_channel(values: &[f32], channels: usize) -> Vec<f32> {
    let each = channels / values.len().max(1);
    values.iter().flat_map(|v| std::iter::repeat_n(*v, each)).collect()
}

/// Decay of the state after a token: per key channel, always the same or computed for every token.
#[derive(Clone, Copy)]
pub(super) enum Decays<'a> {
    /// The decays of this head's channels.
    Fixed(&'a [f32]),
    /// `ln(-ln(decay))` of all channels, a row a token.
    Computed(&'a Matrix),
}

kernel! {
    /// `o = r . (S + u k v^T)`, then `S = diag(w) S + k v^T`, with S [key][value].
    pub(super) fn wkv(
        start: usize, at: usize, r: &'w Matrix, w: Decays<'w>, k: &'w Matrix, v: &'w Matrix, u: &'w [f32],
        state: &'w mut [f32], out: Columns<'w>,
    ) as A {
        match u.len() {
            n if n.is_multiple_of(32) => heads::<A, 32>(start, at, r, w, k, v, u, state, out),
            n if n.is_multiple_of(8) => heads::<A, 8>(start, at, r, w, k, v, u, state, out),
            _ => heads::<A, 1>(start, at, r, w, k, v, u, state, out),
        }
    }
}

/// The recurrence, for `L` values side by side.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // the operands of an inner loop
fn heads<A: Arithmetic, const L: usize>(
    start: usize,
    at: usize,
    r: &Matrix,
    w: Decays<'_>,
    k: &Matrix,
    v: &Matrix,
    u: &[f32],
    state: &mut [f32],
    mut out: Columns<'_>,
) {
    let size = u.len();
    let mut computed = vec![0.0; size];
    for t in 0..out.rows() {
        let row = |m: &'_ Matrix| -> std::ops::Range<usize> {
            let first = (start + t) * m.cols + at;
            first..first + size
        };
        let (r, k, v) = (&r.data[row(r)], &k.data[row(k)], &v.data[row(v)]);
        let w = match w {
            Decays::Fixed(w) => w,
            Decays::Computed(w) => {
                for (computed, w) in computed.iter_mut().zip(&w.data[row(w)]) {
                    *computed = math::exp64(-math::exp64(f64::from(*w))) as f32;
                }
                &computed
            }
        };
        for j in (0..size).step_by(L) {
            let mut values = [0.0; L];
            values.copy_from_slice(&v[j..j + L]);
            let mut sums = [0.0; L];
            for i in 0..size {
                let state = &mut state[i * size + j..][..L];
                for l in 0..L {
                    let kv = k[i] * values[l];
                    sums[l] = A::fma(r[i], A::fma(u[i], kv, state[l]), sums[l]);
                    state[l] = A::fma(w[i], state[l], kv);
                }
            }
            out.row(t, j, L).copy_from_slice(&sums);
        }
    }
}

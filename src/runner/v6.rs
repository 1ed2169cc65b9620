//! The blocks of version 6.

use super::arch::kernel;
use super::layer::Layer;
use super::matrix::Matrix;
use super::pass::{Pass, Shift, each_row, gate_silu, tanh};
use super::state::Site;
use super::v4::gated_channel_mix;
use super::v5::{Decays, wkv};

/// The inputs of the time mix in the order in which the file keeps their mixes.
const INPUTS: [&str; 5] =
    ["att.time_maa_w", "att.time_maa_k", "att.time_maa_v", "att.time_maa_r", "att.time_maa_g"];

/// `O (groupnorm(o) * silu(g))`.
pub(super) fn time_mix(layer: &Layer<'_>, pass: &mut Pass<'_>, x: &Matrix) -> Matrix {
    let n = layer.index;
    let mut t = {
        let mixed = pass.mix(n, Site::Time, x, Shift::Step, layer.vector("att.time_maa_x"));
        layer.low_rank("att.time_maa_w1").weight().multiply(&mixed)
    };
    each_row(&mut t, |_, row| tanh(row));
    let rank = t.cols / INPUTS.len();
    // The input whose number is `j`, mixed with the row before by a share that depends on the data.
    let input = |pass: &Pass<'_>, j: usize| {
        let mut part = pass.pool.matrix(x.rows, rank);
        each_row(&mut part, |i, row| row.copy_from_slice(&t.row(i)[j * rank..(j + 1) * rank]));
        let mut mixed = layer.low_rank_slice("att.time_maa_w2", j).weight().multiply(&part);
        let mix = layer.vector(INPUTS[j]);
        each_row(&mut mixed, |i, out| {
            step_by(x.row(i), pass.previous(n, Site::Time, x, i), mix, out);
        });
        mixed
    };
    let w = {
        let mut low = layer.low_rank("att.time_decay_w1").weight().multiply(&input(pass, 0));
        each_row(&mut low, |_, row| tanh(row));
        let mut w = layer.low_rank("att.time_decay_w2").weight().multiply(&low);
        let base = layer.vector("att.time_decay");
        each_row(&mut w, |_, row| super::pass::add(row, base));
        w
    };
    let k = layer.matrix("att.key.weight").multiply(&input(pass, 1));
    let v = layer.matrix("att.value.weight").multiply(&input(pass, 2));
    let r = layer.matrix("att.receptance.weight").multiply(&input(pass, 3));
    let gate = layer.matrix("att.gate.weight").multiply(&input(pass, 4));
    let size = layer.dims().head_size;
    let u = layer.vector("att.time_faaaa");
    let mut out = pass.pool.matrix(x.rows, k.cols);
    pass.recur(n, &mut out, size, |rows, at, state, out| {
        wkv(rows.start, at, &r, Decays::Computed(&w), &k, &v, &u[at..at + size], state, out);
    });
    pass.keep(n, Site::Time, x);
    drop((r, k, v, w));
    layer.group_norm().groups(&mut out, size);
    each_row(&mut out, |i, out| gate_silu(out, gate.row(i)));
    layer.matrix("att.output.weight").multiply(&out)
}

/// `sigmoid(r) * Vf relu(k)^2`.
pub(super) fn channel_mix(layer: &Layer<'_>, pass: &mut Pass<'_>, x: &Matrix) -> Matrix {
    let n = layer.index;
    let mix = |name: &str| pass.mix(n, Site::Channel, x, Shift::Step, layer.vector(name));
    let (k, r) = (mix("ffn.time_maa_k"), mix("ffn.time_maa_r"));
    pass.keep(n, Site::Channel, x);
    gated_channel_mix(layer, &k, &r)
}

kernel! {
    /// `out = x + (p - x) (m + out)`.
    fn step_by(x: &'w [f32], p: &'w [f32], m: &'w [f32], out: &'w mut [f32]) as A {
        for (((out, x), p), m) in out.iter_mut().zip(x).zip(p).zip(m) {
            *out = A::fma(p - x, m + *out, *x);
        }
    }
}

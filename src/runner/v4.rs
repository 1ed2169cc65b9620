//! The blocks of version 4, and the channel mix of version 5.

use super::arch::Columns;
use super::arch::kernel;
use super::layer::Layer;
use super::math;
use super::matrix::Matrix;
use super::pass::{Pass, Shift, each_row, gate_sigmoid, relu_square};
use super::state::{Site, channel_block};

/// `O (sigmoid(r) * wkv)`.
pub(super) fn time_mix(layer: &Layer<'_>, pass: &mut Pass<'_>, x: &Matrix) -> Matrix {
    let n = layer.index;
    let project = |pass: &Pass<'_>, mix: &str, matrix: &str| {
        layer.matrix(matrix).multiply(&pass.mix(n, Site::Time, x, Shift::Share, layer.vector(mix)))
    };
    let r = project(pass, "att.time_mix_r", "att.receptance.weight");
    let k = project(pass, "att.time_mix_k", "att.key.weight");
    let v = project(pass, "att.time_mix_v", "att.value.weight");
    let (decay, first) = (layer.vector("att.time_decay"), layer.vector("att.time_first"));
    let mut out = pass.pool.matrix(x.rows, k.cols);
    let size = channel_block(k.cols);
    pass.recur(n, &mut out, size, |rows, at, state, out| {
        let channels = at..at + size;
        wkv(rows.start, at, &k, &v, &decay[channels.clone()], &first[channels], state, out);
    });
    pass.keep(n, Site::Time, x);
    each_row(&mut out, |i, out| gate_sigmoid(out, r.row(i)));
    layer.matrix("att.output.weight").multiply(&out)
}

/// `sigmoid(r) * Vf relu(k)^2`.
pub(super) fn channel_mix(layer: &Layer<'_>, pass: &mut Pass<'_>, x: &Matrix) -> Matrix {
    let n = layer.index;
    let mix = |name: &str| pass.mix(n, Site::Channel, x, Shift::Share, layer.vector(name));
    let (k, r) = (mix("ffn.time_mix_k"), mix("ffn.time_mix_r"));
    pass.keep(n, Site::Channel, x);
    gated_channel_mix(layer, &k, &r)
}

/// The channel mix of versions 4 to 6, after the token shift.
pub(super) fn gated_channel_mix(layer: &Layer<'_>, k: &Matrix, r: &Matrix) -> Matrix {
    let mut hidden = layer.matrix("ffn.key.weight").multiply(k);
    each_row(&mut hidden, |_, row| relu_square(row));
    let mut out = layer.matrix("ffn.value.weight").multiply(&hidden);
    drop(hidden);
    let r = layer.matrix("ffn.receptance.weight").multiply(r);
    each_row(&mut out, |i, out| gate_sigmoid(out, r.row(i)));
    out
}

kernel! {
    /// A weighted mean of all values so far, whose weights fade by `e^-e^decay` a token; the present one has the
    /// weight `e^(first + k)`. Numerators and denominators are kept divided by `e^exponent`, lest they overflow.
    fn wkv(
        start: usize, at: usize, k: &'w Matrix, v: &'w Matrix, decay: &'w [f32], first: &'w [f32],
        state: &'w mut [f32], out: Columns<'w>,
    ) as A {
        let mut out = out;
        let size = decay.len();
        let (sums, exponents) = state.split_at_mut(2 * size);
        let (numerators, denominators) = sums.split_at_mut(size);
        for t in 0..out.rows() {
            let (k, v) = (&k.row(start + t)[at..][..size], &v.row(start + t)[at..][..size]);
            let out = out.row(t, 0, size);
            for c in 0..size {
                let (a, b, e) = (numerators[c], denominators[c], exponents[c]);
                let now = first[c] + k[c];
                let top = if e > now { e } else { now };
                let (past, present) = (math::exp::<A>(e - top), math::exp::<A>(now - top));
                out[c] = A::fma(past, a, present * v[c]) / A::fma(past, b, present);
                let faded = e - math::exp::<A>(decay[c]);
                let top = if faded > k[c] { faded } else { k[c] };
                let (past, present) = (math::exp::<A>(faded - top), math::exp::<A>(k[c] - top));
                numerators[c] = A::fma(past, a, present * v[c]);
                denominators[c] = A::fma(past, b, present);
                exponents[c] = top;
            }
        }
    }
}

//! The blocks of version 7 (and 7a).

use rayon::prelude::*;

use super::arch::{Arithmetic, Columns, kernel};
use super::layer::Layer;
use super::math;
use super::matrix::Matrix;
use super::norm::ROWS;
use super::pass::{Pass, Shift, each_row, relu_square, sigmoid, tanh};
use super::state::Site;

/// Length below which a key is not stretched to 1.
const LEAST_NORM: f32 = 1e-12;

/// `O ((groupnorm(S r) + (r . (k * r_k)) v) * g)`.
pub(super) fn time_mix(layer: &Layer<'_>, pass: &mut Pass<'_>, x: &Matrix) -> Matrix {
    let n = layer.index;
    let size = layer.dims().head_size;
    let mix = |pass: &Pass<'_>, name: &str| pass.mix(n, Site::Time, x, Shift::Step, layer.vector(name));
    // W2 f(W1 x) of a low-rank branch.
    let branch = |x: &Matrix, names: [&str; 2], f: Option<fn(&mut [f32])>| {
        let mut low = layer.low_rank(names[0]).weight().multiply(x);
        if let Some(f) = f {
            each_row(&mut low, |_, row| f(row));
        }
        layer.low_rank(names[1]).weight().multiply(&low)
    };
    let r = layer.matrix("att.receptance.weight").multiply(&mix(pass, "att.x_r"));
    let mut w = branch(&mix(pass, "att.x_w"), ["att.w1", "att.w2"], Some(tanh));
    each_row(&mut w, |_, row| decay(row, layer.vector("att.w0")));
    let mut k = layer.matrix("att.key.weight").multiply(&mix(pass, "att.x_k"));
    let v = {
        let mixed = mix(pass, "att.x_v");
        let mut v = layer.matrix("att.value.weight").multiply(&mixed);
        match &pass.first_values {
            None => {
                let mut kept = pass.pool.matrix(v.rows, v.cols);
                kept.data.copy_from_slice(&v.data);
                pass.first_values = Some(kept);
            }
            Some(first) => {
                let share = branch(&mixed, ["att.v1", "att.v2"], None);
                let bias = layer.vector("att.v0");
                each_row(&mut v, |i, v| residual(v, first.row(i), share.row(i), bias));
            }
        }
        v
    };
    let mut a = branch(&mix(pass, "att.x_a"), ["att.a1", "att.a2"], None);
    let g = branch(&mix(pass, "att.x_g"), ["att.g1", "att.g2"], Some(sigmoid));
    pass.keep(n, Site::Time, x);

    let mut removal = pass.pool.matrix(k.rows, k.cols);
    let cols = k.cols;
    let (k_k, k_a, a0) = (layer.vector("att.k_k"), layer.vector("att.k_a"), layer.vector("att.a0"));
    (removal.data.par_chunks_mut(ROWS * cols))
        .zip(k.data.par_chunks_mut(ROWS * cols))
        .zip(a.data.par_chunks_mut(ROWS * cols))
        .for_each(|((removal, k), a)| {
            let rows = removal.chunks_mut(cols).zip(k.chunks_mut(cols)).zip(a.chunks_mut(cols));
            for ((removal, k), a) in rows {
                keys(removal, k, a, k_k, k_a, a0, size);
            }
        });
    let mut out = pass.pool.matrix(x.rows, cols);
    pass.recur(n, &mut out, size, |rows, at, state, out| {
        let inputs = Inputs { r: &r, w: &w, k: &k, v: &v, removal: &removal, insertion: &a };
        wkv(rows.start, at, size, inputs, state, out);
    });
    layer.group_norm().groups(&mut out, size);
    let r_k = layer.vector("att.r_k");
    each_row(&mut out, |i, out| {
        finish(out, r.row(i), k.row(i), v.row(i), g.row(i), r_k, size);
    });
    drop((r, w, k, v, a, g, removal));
    layer.matrix("att.output.weight").multiply(&out)
}

/// `Vf relu(Kf x)^2`; of version 7a with DeepEmbed's factors.
pub(super) fn channel_mix(layer: &Layer<'_>, pass: &mut Pass<'_>, x: &Matrix) -> Matrix {
    let n = layer.index;
    let mut hidden = {
        let mixed = pass.mix(n, Site::Channel, x, Shift::Step, layer.vector("ffn.x_k"));
        layer.matrix("ffn.key.weight").multiply(&mixed)
    };
    pass.keep(n, Site::Channel, x);
    each_row(&mut hidden, |_, row| relu_square(row));
    if let Some(entry) = pass.entry.as_ref().filter(|_| layer.has("ffn.s_emb.weight")) {
        let factors = deep_embed(layer, &pass.tokens, entry, x);
        let bias = layer.vector("ffn.s0");
        each_row(&mut hidden, |i, row| scale(row, factors.row(i), bias));
    }
    layer.matrix("ffn.value.weight").multiply(&hidden)
}

/// Side of the matrix that DeepEmbed looks up for a token.
const SIDE: usize = 32;

/// `((x s1) M) s2` with the matrix M = s_emb[token] + s_emb_x entry.
fn deep_embed(layer: &Layer<'_>, tokens: &[u32], entry: &Matrix, x: &Matrix) -> Matrix {
    let mut matrices = layer.matrix("ffn.s_emb_x.weight").multiply(entry);
    let low = layer.low_rank("ffn.s1").weight().multiply(x);
    let mut mixed = x.pool().matrix(x.rows, SIDE);
    each_row(&mut matrices, |i, row| {
        let mut looked_up = [0.0; SIDE * SIDE];
        layer.embedding("ffn.s_emb.weight", tokens[i], &mut looked_up);
        super::pass::add(row, &looked_up);
    });
    each_row(&mut mixed, |i, out| {
        out.fill(0.0);
        for (t, row) in low.row(i).iter().zip(matrices.row(i).chunks(SIDE)) {
            for (out, m) in out.iter_mut().zip(row) {
                *out += t * m;
            }
        }
    });
    layer.low_rank("ffn.s2").weight().multiply(&mixed)
}

kernel! {
    /// `w = exp(-0.606531 sigmoid(w0 + w))`: what is left of the state after a token. (The constant is the official
    /// runner's e^-0.5.) In double precision, since an error of the decay is repeated at every token.
    fn decay(w: &'w mut [f32], w0: &'w [f32]) as A {
        for (w, w0) in w.iter_mut().zip(w0) {
            let z = f64::from(w0 + *w);
            *w = math::exp64(-0.606_531 / (1.0 + math::exp64(-z))) as f32;
        }
    }
}

kernel! {
    /// `v += (first - v) sigmoid(v0 + share)`.
    fn residual(v: &'w mut [f32], first: &'w [f32], share: &'w [f32], v0: &'w [f32]) as A {
        for (((v, first), share), v0) in v.iter_mut().zip(first).zip(share).zip(v0) {
            *v = A::fma(first - *v, math::sigmoid::<A>(v0 + share), *v);
        }
    }
}

kernel! {
    /// Computes from k and the in-context learning rate before its sigmoid: the key to remove (k * k_k, of length 1 in
    /// every head), the key to write, and in place of `a` the removal key times the learning rate.
    fn keys(
        removal: &'w mut [f32], k: &'w mut [f32], a: &'w mut [f32], k_k: &'w [f32], k_a: &'w [f32],
        a0: &'w [f32], size: usize,
    ) as A {
        for (h, removal) in removal.chunks_exact_mut(size).enumerate() {
            let head = h * size..(h + 1) * size;
            let (k, a) = (&mut k[head.clone()], &mut a[head.clone()]);
            let (k_k, k_a, a0) = (&k_k[head.clone()], &k_a[head.clone()], &a0[head]);
            let mut square = 0.0;
            for i in 0..size {
                removal[i] = k[i] * k_k[i];
                square += removal[i] * removal[i];
            }
            let norm = square.sqrt();
            let norm = if norm < LEAST_NORM { LEAST_NORM } else { norm };
            for i in 0..size {
                removal[i] /= norm;
                let rate = math::sigmoid::<A>(a0[i] + a[i]);
                k[i] *= A::fma(rate - 1.0, k_a[i], 1.0);
                a[i] = removal[i] * rate;
            }
        }
    }
}

kernel! {
    /// `out = (out + (r . (k * r_k)) v) g`, head by head.
    fn finish(
        out: &'w mut [f32], r: &'w [f32], k: &'w [f32], v: &'w [f32], g: &'w [f32], r_k: &'w [f32], size: usize,
    ) as A {
        for (h, out) in out.chunks_exact_mut(size).enumerate() {
            let head = h * size..(h + 1) * size;
            let (r, k, v) = (&r[head.clone()], &k[head.clone()], &v[head.clone()]);
            let (g, r_k) = (&g[head.clone()], &r_k[head]);
            let bonus = (0..size).fold(0.0, |sum, i| A::fma(r[i] * k[i], r_k[i], sum));
            for i in 0..size {
                out[i] = A::fma(bonus, v[i], out[i]) * g[i];
            }
        }
    }
}

kernel! {
    /// `x *= factor + bias`.
    fn scale(x: &'w mut [f32], factor: &'w [f32], bias: &'w [f32]) as A {
        for ((x, f), b) in x.iter_mut().zip(factor).zip(bias) {
            *x *= f + b;
        }
    }
}

/// Inputs of the recurrence, a row a token.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    r: &'a Matrix,
    w: &'a Matrix,
    k: &'a Matrix,
    v: &'a Matrix,
    removal: &'a Matrix,
    insertion: &'a Matrix,
}

kernel! {
    /// `S = S diag(w) - (S removal) insertion^T + v k^T`, then `o = S r`; S is kept as [key][value].
    fn wkv(
        start: usize, at: usize, size: usize, inputs: Inputs<'w>, state: &'w mut [f32], out: Columns<'w>,
    ) as A {
        match size {
            n if n.is_multiple_of(32) => heads::<A, 32>(start, at, size, inputs, state, out),
            n if n.is_multiple_of(8) => heads::<A, 8>(start, at, size, inputs, state, out),
            _ => heads::<A, 1>(start, at, size, inputs, state, out),
        }
    }
}

/// The recurrence, for `L` values side by side. The state is read and written once a token: while it is updated,
/// what the next token removes from it is summed up as well.
#[inline(always)]
fn heads<A: Arithmetic, const L: usize>(
    start: usize,
    at: usize,
    size: usize,
    inputs: Inputs<'_>,
    state: &mut [f32],
    mut out: Columns<'_>,
) {
    let rows = out.rows();
    for j in (0..size).step_by(L) {
        let mut removed = [0.0; L];
        if rows > 0 {
            let key = &inputs.removal.row(start)[at..][..size];
            for (i, key) in key.iter().enumerate() {
                let state = &state[i * size + j..][..L];
                for l in 0..L {
                    removed[l] = A::fma(state[l], *key, removed[l]);
                }
            }
        }
        for t in 0..rows {
            let head = |m: &'_ Matrix, t: usize| -> std::ops::Range<usize> {
                let first = (start + t) * m.cols + at;
                first..first + size
            };
            let r = &inputs.r.data[head(inputs.r, t)];
            let w = &inputs.w.data[head(inputs.w, t)];
            let k = &inputs.k.data[head(inputs.k, t)];
            let insertion = &inputs.insertion.data[head(inputs.insertion, t)];
            // The last token's sums are never used.
            let next = &inputs.removal.data[head(inputs.removal, (t + 1).min(rows - 1))];
            let mut v = [0.0; L];
            v.copy_from_slice(&inputs.v.row(start + t)[at + j..][..L]);
            let (mut sums, mut next_removed) = ([0.0; L], [0.0; L]);
            for i in 0..size {
                let state = &mut state[i * size + j..][..L];
                for l in 0..L {
                    let kept = A::fma(state[l], w[i], v[l] * k[i]);
                    let s = A::fma(-removed[l], insertion[i], kept);
                    state[l] = s;
                    sums[l] = A::fma(s, r[i], sums[l]);
                    next_removed[l] = A::fma(s, next[i], next_removed[l]);
                }
            }
            removed = next_removed;
            out.row(t, j, L).copy_from_slice(&sums);
        }
    }
}

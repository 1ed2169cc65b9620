#!/usr/bin/env python3
"""Trains a small byte-level RWKV model (version 4, 5.2, 6 or 7) and saves it in the layout of BlinkDL's own .pth files.

usage: train.py --version 7 --train train.txt --heldout heldout.txt --out rwkv7-bytes.pth --steps 5000
       train.py --check-ops          compares the C++ operators with plain PyTorch, values and gradients

A token is a byte. Parameters carry BlinkDL's names and shapes, so a model's state dict, rounded to bf16, is the file.
On a CPU the recurrences run in C++ (OPS below, compiled on first use); on any other device, or with --plain-ops, in
plain PyTorch, one step of time after the other, which is slow but needs nothing.
"""
import argparse, math, time
import torch
import torch.nn as nn
import torch.nn.functional as F

N = 64  # head size
VOCAB = 256

# ---------------------------------------------------------------------------------------------------- recurrences
# Every operator keeps its state in f32. The two with a matrix state store it once every CHUNK steps on the way forward; the way
# backward recomputes a chunk's states from there. w is the decay itself, in (0,1), except in wkv4, where it is its logarithm.
OPS = r"""
#include <torch/extension.h>
#include <ATen/Parallel.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>
using at::Tensor;
using Tensors = std::vector<Tensor>;
constexpr int N = 64, CHUNK = 16;
constexpr int64_t NN = N * N;
// The data of a tensor. Taken once, outside the loops: the call is not free. No output overlaps another tensor.
using In = const float* __restrict;
using Out = float* __restrict;
static float* p(const Tensor& t) { return t.data_ptr<float>(); }

// Calls f(first, stride, head, slot) for every (batch row, head): tokens of the head start at first, stride floats apart.
template <class F> static void each_head(const Tensor& x, F f) {
  const int64_t B = x.size(0), T = x.size(1), H = x.size(2);
  at::parallel_for(0, B * H, 1, [&](int64_t s, int64_t e) {
    for (int64_t bh = s; bh < e; bh++) f((bh / H) * T * H * N + (bh % H) * N, H * N, bh % H, bh);
  });
}
static int64_t chunks(int64_t T) { return (T + CHUNK - 1) / CHUNK; }
static Tensor saved_states(const Tensor& x) {
  return at::empty({x.size(0) * x.size(2), chunks(x.size(1)), N, N}, x.options());
}

// ---- v5.2 and v6: y = (S + diag(u k) v) r, S = S diag(w) + v k^T; S[i][j]: i value, j key.
Tensors wkv6_forward(Tensor r, Tensor k, Tensor v, Tensor w, Tensor u) {
  const int64_t T = r.size(1);
  Tensor y = at::empty_like(r), states = saved_states(r);
  Out y_ = p(y), states_ = p(states);
  In r_ = p(r), k_ = p(k), v_ = p(v), w_ = p(w), u_ = p(u);
  each_head(r, [&](int64_t first, int64_t stride, int64_t h, int64_t slot) {
    alignas(64) float S[N][N] = {};
    const float* U = u_ + h * N;
    for (int64_t t = 0; t < T; t++) {
      if (t % CHUNK == 0) memcpy(states_ + (slot * chunks(T) + t / CHUNK) * NN, S, sizeof S);
      const int64_t o = first + t * stride;
      const float *R = r_ + o, *K = k_ + o, *V = v_ + o, *W = w_ + o;
      float bonus = 0;
      for (int j = 0; j < N; j++) bonus += R[j] * U[j] * K[j];
      for (int i = 0; i < N; i++) {
        float sum = 0;
        for (int j = 0; j < N; j++) { sum += S[i][j] * R[j]; S[i][j] = S[i][j] * W[j] + V[i] * K[j]; }
        y_[o + i] = sum + bonus * V[i];
      }
    }
  });
  return {y, states};
}
Tensors wkv6_backward(Tensor r, Tensor k, Tensor v, Tensor w, Tensor u, Tensor states, Tensor dy) {
  const int64_t T = r.size(1), H = r.size(2);
  Tensor dr = at::empty_like(r), dk = at::empty_like(r), dv = at::empty_like(r), dw = at::empty_like(r);
  Tensor du = at::zeros({r.size(0), H, N}, r.options());
  Out dr_ = p(dr), dk_ = p(dk), dv_ = p(dv), dw_ = p(dw), du_ = p(du);
  In r_ = p(r), k_ = p(k), v_ = p(v), w_ = p(w), u_ = p(u), states_ = p(states), dy_ = p(dy);
  each_head(r, [&](int64_t first, int64_t stride, int64_t h, int64_t slot) {
    alignas(64) float D[N][N] = {};  // gradient of the state
    std::vector<float> before(CHUNK * NN);  // the state before each step of the chunk
    const float* U = u_ + h * N;
    float* DU = du_ + slot * N;
    for (int64_t c = chunks(T) - 1; c >= 0; c--) {
      const int64_t t0 = c * CHUNK, t1 = std::min<int64_t>(T, t0 + CHUNK);
      memcpy(before.data(), states_ + (slot * chunks(T) + c) * NN, NN * sizeof(float));
      for (int64_t t = t0; t + 1 < t1; t++) {
        const int64_t o = first + t * stride;
        const float *K = k_ + o, *V = v_ + o, *W = w_ + o, *P = &before[(t - t0) * NN];
        float* Q = &before[(t - t0 + 1) * NN];
        for (int i = 0; i < N; i++) for (int j = 0; j < N; j++) Q[i * N + j] = P[i * N + j] * W[j] + V[i] * K[j];
      }
      for (int64_t t = t1 - 1; t >= t0; t--) {
        const int64_t o = first + t * stride;
        const float *R = r_ + o, *K = k_ + o, *V = v_ + o, *W = w_ + o, *DY = dy_ + o, *P = &before[(t - t0) * NN];
        float gr[N] = {}, gk[N] = {}, gw[N] = {}, bonus = 0, dbonus = 0;
        for (int j = 0; j < N; j++) { bonus += R[j] * U[j] * K[j]; dbonus += DY[j] * V[j]; }
        for (int i = 0; i < N; i++) {
          float gv = 0;
          for (int j = 0; j < N; j++) {
            gr[j] += DY[i] * P[i * N + j];
            gk[j] += D[i][j] * V[i];
            gw[j] += D[i][j] * P[i * N + j];
            gv += D[i][j] * K[j];
            D[i][j] = D[i][j] * W[j] + DY[i] * R[j];
          }
          dv_[o + i] = gv + bonus * DY[i];
        }
        for (int j = 0; j < N; j++) {
          dr_[o + j] = gr[j] + dbonus * U[j] * K[j];
          dk_[o + j] = gk[j] + dbonus * U[j] * R[j];
          dw_[o + j] = gw[j];
          DU[j] += dbonus * R[j] * K[j];
        }
      }
    }
  });
  return {dr, dk, dv, dw, du.sum(0)};
}

// ---- v7: S = S diag(w) + (S a) b^T + v k^T, y = S r (after the update); S[i][j]: i value, j key.
Tensors wkv7_forward(Tensor r, Tensor k, Tensor v, Tensor w, Tensor a, Tensor b) {
  const int64_t T = r.size(1);
  Tensor y = at::empty_like(r), sa = at::empty_like(r), states = saved_states(r);
  Out y_ = p(y), sa_ = p(sa), states_ = p(states);
  In r_ = p(r), k_ = p(k), v_ = p(v), w_ = p(w), a_ = p(a), b_ = p(b);
  each_head(r, [&](int64_t first, int64_t stride, int64_t, int64_t slot) {
    alignas(64) float S[N][N] = {};
    for (int64_t t = 0; t < T; t++) {
      if (t % CHUNK == 0) memcpy(states_ + (slot * chunks(T) + t / CHUNK) * NN, S, sizeof S);
      const int64_t o = first + t * stride;
      const float *R = r_ + o, *K = k_ + o, *V = v_ + o, *W = w_ + o, *A = a_ + o, *B = b_ + o;
      for (int i = 0; i < N; i++) {
        float s = 0, sum = 0;
        for (int j = 0; j < N; j++) s += S[i][j] * A[j];
        for (int j = 0; j < N; j++) { S[i][j] = S[i][j] * W[j] + s * B[j] + V[i] * K[j]; sum += S[i][j] * R[j]; }
        sa_[o + i] = s;
        y_[o + i] = sum;
      }
    }
  });
  return {y, sa, states};
}
Tensors wkv7_backward(Tensor r, Tensor k, Tensor v, Tensor w, Tensor a, Tensor b, Tensor sa, Tensor states, Tensor dy) {
  const int64_t T = r.size(1);
  Tensor dr = at::empty_like(r), dk = at::empty_like(r), dv = at::empty_like(r), dw = at::empty_like(r),
         da = at::empty_like(r), db = at::empty_like(r);
  Out dr_ = p(dr), dk_ = p(dk), dv_ = p(dv), dw_ = p(dw), da_ = p(da), db_ = p(db);
  In r_ = p(r), k_ = p(k), v_ = p(v), w_ = p(w), a_ = p(a), b_ = p(b), sa_ = p(sa), states_ = p(states), dy_ = p(dy);
  each_head(r, [&](int64_t first, int64_t stride, int64_t, int64_t slot) {
    alignas(64) float D[N][N] = {};  // gradient of the state
    std::vector<float> chain((CHUNK + 1) * NN);  // the chunk's states: before its first step, after each step
    for (int64_t c = chunks(T) - 1; c >= 0; c--) {
      const int64_t t0 = c * CHUNK, t1 = std::min<int64_t>(T, t0 + CHUNK);
      memcpy(chain.data(), states_ + (slot * chunks(T) + c) * NN, NN * sizeof(float));
      for (int64_t t = t0; t < t1; t++) {
        const int64_t o = first + t * stride;
        const float *K = k_ + o, *V = v_ + o, *W = w_ + o, *B = b_ + o, *SA = sa_ + o, *P = &chain[(t - t0) * NN];
        float* Q = &chain[(t - t0 + 1) * NN];
        for (int i = 0; i < N; i++)
          for (int j = 0; j < N; j++) Q[i * N + j] = P[i * N + j] * W[j] + SA[i] * B[j] + V[i] * K[j];
      }
      for (int64_t t = t1 - 1; t >= t0; t--) {
        const int64_t o = first + t * stride;
        const float *R = r_ + o, *K = k_ + o, *V = v_ + o, *W = w_ + o, *A = a_ + o, *B = b_ + o, *SA = sa_ + o,
                    *DY = dy_ + o, *P = &chain[(t - t0) * NN], *Q = P + NN;
        float gr[N] = {}, gk[N] = {}, gw[N] = {}, ga[N] = {}, gb[N] = {};
        for (int i = 0; i < N; i++) {
          float gv = 0, gs = 0;  // gs: gradient of (S a)_i
          for (int j = 0; j < N; j++) {
            gr[j] += Q[i * N + j] * DY[i];
            const float d = D[i][j] += DY[i] * R[j];
            gw[j] += d * P[i * N + j];
            gk[j] += d * V[i];
            gb[j] += d * SA[i];
            gv += d * K[j];
            gs += d * B[j];
          }
          for (int j = 0; j < N; j++) { ga[j] += gs * P[i * N + j]; D[i][j] = D[i][j] * W[j] + gs * A[j]; }
          dv_[o + i] = gv;
        }
        for (int j = 0; j < N; j++) {
          dr_[o + j] = gr[j]; dk_[o + j] = gk[j]; dw_[o + j] = gw[j]; da_[o + j] = ga[j]; db_[o + j] = gb[j];
        }
      }
    }
  });
  return {dr, dk, dv, dw, da, db};
}

// ---- v4: a running weighted mean per channel, num/den, both stored divided by exp(top) so that nothing overflows.
// y = (num + e^(u+k) v) / (den + e^(u+k)); num = e^w num + e^k v; den = e^w den + e^k.
Tensors wkv4_forward(Tensor k, Tensor v, Tensor w, Tensor u) {
  const int64_t B = k.size(0), T = k.size(1), C = k.size(2);
  Tensor y = at::empty_like(k), num = at::empty_like(k), den = at::empty_like(k), top = at::empty_like(k);  // before each step
  Out y_ = p(y), num_ = p(num), den_ = p(den), top_ = p(top);
  In k_ = p(k), v_ = p(v), w_ = p(w), u_ = p(u);
  at::parallel_for(0, B * (C / N), 1, [&](int64_t s, int64_t e) {
    for (int64_t job = s; job < e; job++) {
      const int64_t c0 = job % (C / N) * N;
      const float *U = u_ + c0, *W = w_ + c0;
      float a[N] = {}, d[N] = {}, m[N];
      std::fill(m, m + N, -1e30f);
      for (int64_t t = 0; t < T; t++) {
        const int64_t o = (job / (C / N) * T + t) * C + c0;
        const float *K = k_ + o, *V = v_ + o;
        float *Y = y_ + o, *NUM = num_ + o, *DEN = den_ + o, *TOP = top_ + o;
        for (int j = 0; j < N; j++) {
          NUM[j] = a[j]; DEN[j] = d[j]; TOP[j] = m[j];
          float q = std::max(m[j], U[j] + K[j]), old = std::exp(m[j] - q), now = std::exp(U[j] + K[j] - q);
          Y[j] = (old * a[j] + now * V[j]) / (old * d[j] + now);
          q = std::max(m[j] + W[j], K[j]); old = std::exp(m[j] + W[j] - q); now = std::exp(K[j] - q);
          a[j] = old * a[j] + now * V[j]; d[j] = old * d[j] + now; m[j] = q;
        }
      }
    }
  });
  return {y, num, den, top};
}
Tensors wkv4_backward(Tensor k, Tensor v, Tensor w, Tensor u, Tensor y, Tensor num, Tensor den, Tensor top, Tensor dy) {
  const int64_t B = k.size(0), T = k.size(1), C = k.size(2);
  Tensor dk = at::empty_like(k), dv = at::empty_like(k), dw = at::zeros({B, C}, k.options()), du = at::zeros({B, C}, k.options());
  Out dk_ = p(dk), dv_ = p(dv), dw_ = p(dw), du_ = p(du);
  In k_ = p(k), v_ = p(v), w_ = p(w), u_ = p(u), y_ = p(y), num_ = p(num), den_ = p(den), top_ = p(top), dy_ = p(dy);
  at::parallel_for(0, B * (C / N), 1, [&](int64_t s, int64_t e) {
    for (int64_t job = s; job < e; job++) {
      const int64_t b = job / (C / N), c0 = job % (C / N) * N;
      const float *U = u_ + c0, *W = w_ + c0;
      float *DW = dw_ + b * C + c0, *DU = du_ + b * C + c0;
      float ga[N] = {}, gd[N] = {}, gm[N];  // gradients of num and den after the step, both divided by exp(gm)
      std::fill(gm, gm + N, -1e30f);
      for (int64_t t = T - 1; t >= 0; t--) {
        const int64_t o = (b * T + t) * C + c0;
        const float *K = k_ + o, *V = v_ + o, *Y = y_ + o, *NUM = num_ + o, *DEN = den_ + o, *TOP = top_ + o, *DY = dy_ + o;
        float *DK = dk_ + o, *DV = dv_ + o;
        for (int j = 0; j < N; j++) {
          // the mean of this step
          const float q = std::max(TOP[j], U[j] + K[j]), now = std::exp(U[j] + K[j] - q);
          const float g = DY[j] / (std::exp(TOP[j] - q) * DEN[j] + now);  // times exp(-q)
          const float dbonus = g * now * (V[j] - Y[j]);
          // the update of this step
          const float into = std::exp(K[j] + gm[j]), kept = std::exp(W[j] + TOP[j] + gm[j]);
          DK[j] = dbonus + into * (V[j] * ga[j] + gd[j]);
          DV[j] = g * now + into * ga[j];
          DU[j] += dbonus;
          DW[j] += kept * (ga[j] * NUM[j] + gd[j] * DEN[j]);
          const float m = std::max(gm[j] + W[j], -q), old = std::exp(gm[j] + W[j] - m), fresh = g * std::exp(-q - m);
          ga[j] = old * ga[j] + fresh; gd[j] = old * gd[j] - fresh * Y[j]; gm[j] = m;
        }
      }
    }
  });
  return {dk, dv, dw.sum(0), du.sum(0)};
}
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("wkv4_forward", &wkv4_forward); m.def("wkv4_backward", &wkv4_backward);
  m.def("wkv6_forward", &wkv6_forward); m.def("wkv6_backward", &wkv6_backward);
  m.def("wkv7_forward", &wkv7_forward); m.def("wkv7_backward", &wkv7_backward);
}
"""
_compiled = None


def compiled():
    global _compiled
    if _compiled is None:
        from torch.utils.cpp_extension import load_inline
        flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-fopenmp"]
        _compiled = load_inline("rwkv_bytes_ops", cpp_sources=OPS, extra_cflags=flags)
    return _compiled


def operator(name):
    """An autograd function of the compiled operator `name`: results beyond the first are kept for the way back."""

    class Op(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *xs):
            xs = [x.contiguous() for x in xs]
            y, *kept = getattr(compiled(), name + "_forward")(*xs)
            ctx.save_for_backward(*xs, *([y] if name == "wkv4" else []), *kept)
            return y

        @staticmethod
        def backward(ctx, dy):
            return tuple(getattr(compiled(), name + "_backward")(*ctx.saved_tensors, dy.contiguous()))

    return Op.apply


def wkv4_plain(k, v, w, u):
    a, d, m, ys = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0]), torch.full_like(k[:, 0], -1e30), []
    for t in range(k.shape[1]):
        kt, vt = k[:, t], v[:, t]
        q = torch.maximum(m, u + kt)
        old, now = torch.exp(m - q), torch.exp(u + kt - q)
        ys.append((old * a + now * vt) / (old * d + now))
        q = torch.maximum(m + w, kt)
        old, now = torch.exp(m + w - q), torch.exp(kt - q)
        a, d, m = old * a + now * vt, old * d + now, q
    return torch.stack(ys, 1)


def wkv6_plain(r, k, v, w, u):
    B, T, H, _ = r.shape
    S, ys = r.new_zeros(B, H, N, N), []
    for t in range(T):
        kv = v[:, t, :, :, None] * k[:, t, :, None, :]
        ys.append(((S + u[:, None, :] * kv) @ r[:, t, :, :, None])[..., 0])
        S = S * w[:, t, :, None, :] + kv
    return torch.stack(ys, 1)


def wkv7_plain(r, k, v, w, a, b):
    B, T, H, _ = r.shape
    S, ys = r.new_zeros(B, H, N, N), []
    for t in range(T):
        col, row = lambda x: x[:, t, :, :, None], lambda x: x[:, t, :, None, :]
        S = S * row(w) + (S @ col(a)) * row(b) + col(v) * row(k)
        ys.append((S @ col(r))[..., 0])
    return torch.stack(ys, 1)


PLAIN = dict(wkv4=wkv4_plain, wkv6=wkv6_plain, wkv7=wkv7_plain)
FAST = {name: operator(name) for name in PLAIN}
plain_ops = False


@torch.compiler.disable
def wkv(name, *xs):
    fast = xs[0].device.type == "cpu" and not plain_ops
    return (FAST if fast else PLAIN)[name](*xs)


def check_ops():
    torch.manual_seed(0)
    B, T, H = 2, 37, 2
    x = lambda *s: torch.randn(*s) if s else torch.randn(B, T, H, N)
    unit = lambda t: F.normalize(t, dim=-1)
    kk = unit(x())
    cases = dict(
        wkv4=[4 * x(B, T, N * H), x(B, T, N * H), -torch.exp(x(N * H)), x(N * H)],
        wkv6=[x(), x(), x(), torch.sigmoid(2 * x()), x(H, N)],
        wkv7=[x(), x(), x(), torch.exp(-0.606531 * torch.sigmoid(x())), -kk, kk * torch.sigmoid(x())],
    )
    for name, inputs in cases.items():
        grads = []
        for f, dtype in (PLAIN[name], torch.float64), (FAST[name], torch.float32):
            xs = [t.to(dtype).requires_grad_() for t in inputs]
            y = f(*xs)
            weights = torch.sin(torch.arange(y.numel(), dtype=dtype)).view_as(y)
            grads.append([y, *torch.autograd.grad((y * weights).sum(), xs)])
        worst = [f"{((a - b).abs().max() / a.abs().max()).item():.1e}" for a, b in zip(*grads)]
        print(name, "relative difference of y and of each gradient:", " ".join(worst))
        assert max(map(float, worst)) < 1e-4


# -------------------------------------------------------------------------------------------------------- the models
bf16_matmul = False


def linear(x, weight):
    """x @ weight^T; --bf16 multiplies in bf16 (the sums stay f32 inside the kernel), everything else stays f32."""
    return F.linear(x.bfloat16(), weight.bfloat16()).float() if bf16_matmul else F.linear(x, weight)


def matrix(rows, cols, scale):
    """A Linear without bias, [rows, cols]: orthogonal, or zero where scale is 0."""
    m = nn.Linear(cols, rows, bias=False)
    nn.init.orthogonal_(m.weight, gain=scale * math.sqrt(max(1, rows / cols))) if scale else nn.init.zeros_(m.weight)
    return m


def low_rank(C, rank):
    """A pair of factors whose product starts at zero."""
    return nn.Parameter(torch.zeros(C, rank)), nn.Parameter(nn.init.orthogonal_(torch.empty(rank, C), gain=0.1))


def vector(x):
    return nn.Parameter(x.reshape(1, 1, -1).clone())


def shifted(x):
    """The previous token's x, zero at the start."""
    return F.pad(x, (0, 0, 1, -1))


class Shape:
    """What the initial values depend on: the channel's place (0..1) and the layer's."""

    def __init__(self, C, L, ffn, ranks):
        self.C, self.L, self.H, self.ffn, self.ranks = C, L, C // N, ffn, ranks
        self.place = torch.arange(C) / C
        self.line = torch.arange(C) / (C - 1)

    def depth(self, layer):
        """(0 .. 1, 1 .. 1/L) from the first layer to the last."""
        return layer / max(1, self.L - 1), 1 - layer / self.L


class TimeMix4(nn.Module):
    def __init__(self, s, layer):
        super().__init__()
        up, down = s.depth(layer)
        self.time_decay = nn.Parameter(-5 + 8 * s.line ** (0.7 + 1.3 * up))
        self.time_first = nn.Parameter(math.log(0.3) + 0.5 * ((torch.arange(s.C) + 1) % 3 - 1.0) * 0.5)
        self.time_mix_k = vector(s.place**down)
        self.time_mix_v = vector(s.place**down + 0.3 * up)
        self.time_mix_r = vector(s.place ** (0.5 * down))
        self.key, self.value, self.receptance = matrix(s.C, s.C, 0.1), matrix(s.C, s.C, 1), matrix(s.C, s.C, 0.1)
        self.output = matrix(s.C, s.C, 0)

    def forward(self, x, first):
        xx = shifted(x)
        k = linear(torch.lerp(xx, x, self.time_mix_k), self.key.weight)
        v = linear(torch.lerp(xx, x, self.time_mix_v), self.value.weight)
        r = torch.sigmoid(linear(torch.lerp(xx, x, self.time_mix_r), self.receptance.weight))
        y = wkv("wkv4", k, v, -torch.exp(self.time_decay), self.time_first)
        return linear(r * y, self.output.weight), first


class ChannelMix4(nn.Module):
    """Also version 5's. Version 6 has the same under other names."""

    names = "time_mix_k", "time_mix_r"
    share_of_previous = False  # whether the mix is the share of the previous token (v6) or of this one (v4, v5)

    def __init__(self, s, layer):
        super().__init__()
        for name in self.names:
            mix = s.place ** s.depth(layer)[1]
            setattr(self, name, vector(1 - mix if self.share_of_previous else mix))
        self.key, self.receptance, self.value = matrix(s.ffn, s.C, 1), matrix(s.C, s.C, 0), matrix(s.C, s.ffn, 0)

    def forward(self, x):
        xx = shifted(x)
        old, new = (x, xx) if self.share_of_previous else (xx, x)
        k = linear(torch.lerp(old, new, getattr(self, self.names[0])), self.key.weight)
        r = linear(torch.lerp(old, new, getattr(self, self.names[1])), self.receptance.weight)
        return torch.sigmoid(r) * linear(torch.relu(k) ** 2, self.value.weight)


class ChannelMix6(ChannelMix4):
    names = "time_maa_k", "time_maa_r"
    share_of_previous = True


class TimeMix5(nn.Module):
    def __init__(self, s, layer):
        super().__init__()
        up, down = s.depth(layer)
        self.s = s
        self.time_mix_k = vector(s.place**down)
        self.time_mix_v = vector(s.place**down + 0.3 * up)
        self.time_mix_r = vector(s.place ** (0.5 * down))
        self.time_mix_g = vector(s.place ** (0.5 * down))
        self.time_decay = nn.Parameter((-6 + 5 * s.line ** (0.7 + 1.3 * up)).view(s.H, N))
        self.time_faaaa = nn.Parameter((up * (1 - s.line) + 0.1 * ((torch.arange(s.C) + 1) % 3 - 1.0)).view(s.H, N))
        self.projections(s, layer)

    def projections(self, s, layer):
        self.receptance, self.key, self.value = matrix(s.C, s.C, 1), matrix(s.C, s.C, 0.1), matrix(s.C, s.C, 1)
        self.output, self.gate = matrix(s.C, s.C, 0), matrix(s.C, s.C, 0.1)
        self.ln_x = nn.GroupNorm(s.H, s.C, eps=64e-5)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / s.L) ** 0.7)

    def attend(self, xr, xk, xv, xg, decay):
        B, T, C = xr.shape
        heads = lambda t: t.view(B, T, self.s.H, N)
        r, k, v = (heads(linear(x, m.weight)) for x, m in ((xr, self.receptance), (xk, self.key), (xv, self.value)))
        y = wkv("wkv6", r, k, v, heads(decay), self.time_faaaa)
        y = self.ln_x(y.reshape(B * T, C)).view(B, T, C)
        return linear(y * F.silu(linear(xg, self.gate.weight)), self.output.weight)

    def forward(self, x, first):
        xx = shifted(x)
        xr, xk, xv, xg = (torch.lerp(xx, x, getattr(self, "time_mix_" + n)) for n in "rkvg")
        decay = torch.exp(-torch.exp(self.time_decay)).reshape(-1).expand_as(x)
        return self.attend(xr, xk, xv, xg, decay.contiguous()), first


class TimeMix6(TimeMix5):
    def __init__(self, s, layer):
        nn.Module.__init__(self)
        up, down = s.depth(layer)
        rank, decay_rank = s.ranks
        self.s = s
        self.time_maa_x = vector(1 - s.place**down)
        self.time_maa_w = vector(1 - s.place**down)
        self.time_maa_k = vector(1 - s.place**down)
        self.time_maa_v = vector(1 - (s.place**down + 0.3 * up))
        self.time_maa_r = vector(1 - s.place ** (0.5 * down))
        self.time_maa_g = vector(1 - s.place ** (0.5 * down))
        self.time_maa_w1 = nn.Parameter(torch.zeros(s.C, 5 * rank))
        self.time_maa_w2 = nn.Parameter(torch.empty(5, rank, s.C).uniform_(-0.01, 0.01))
        self.time_decay = vector(-6 + 5 * s.line ** (0.7 + 1.3 * up))
        self.time_decay_w1 = nn.Parameter(torch.zeros(s.C, decay_rank))
        self.time_decay_w2 = nn.Parameter(torch.empty(decay_rank, s.C).uniform_(-0.01, 0.01))
        self.time_faaaa = nn.Parameter((up * (1 - s.line) + 0.1 * ((torch.arange(s.C) + 1) % 3 - 1.0)).view(s.H, N))
        self.projections(s, layer)

    def forward(self, x, first):
        dx = shifted(x) - x
        t = torch.tanh(linear(x + dx * self.time_maa_x, self.time_maa_w1.T)).chunk(5, dim=-1)
        xw, xk, xv, xr, xg = (
            x + dx * (getattr(self, "time_maa_" + n) + linear(t[i], self.time_maa_w2[i].T)) for i, n in enumerate("wkvrg")
        )
        w = self.time_decay + linear(torch.tanh(linear(xw, self.time_decay_w1.T)), self.time_decay_w2.T)
        return self.attend(xr, xk, xv, xg, torch.exp(-torch.exp(w))), first


class TimeMix7(nn.Module):
    def __init__(self, s, layer):
        super().__init__()
        C, H = s.C, s.H
        up, down = s.depth(layer)
        self.s, self.layer = s, layer
        for name, power in dict(r=0.2, w=0.9, k=0.7, v=0.7, a=0.9, g=0.2).items():
            setattr(self, "x_" + name, vector(1 - s.place ** (power * down)))
        zigzag = (torch.arange(C) % N - (N - 1) / 2) / ((N - 1) / 2)
        zigzag = zigzag * zigzag.abs()
        rank_w, rank_a, rank_v, rank_g = s.ranks
        self.w0 = vector(-5.5 + 6 * s.line ** (1 + up**0.3) + 2.5 * zigzag)
        self.w1, self.w2 = low_rank(C, rank_w)
        self.a0 = vector(-0.19 + 0.3 * zigzag + 0.4 * (s.line - 0.5))
        self.a1, self.a2 = low_rank(C, rank_a)
        self.v0 = vector(0.73 - 0.4 * (s.line - 0.5))  # block 0 has v0, v1, v2 too, as in BlinkDL's files; nothing uses them
        self.v1, self.v2 = low_rank(C, rank_v)
        self.g1, self.g2 = low_rank(C, rank_g)
        self.k_k = vector(0.71 - 0.1 * (s.line - 0.5))
        self.k_a = vector(torch.full((C,), 1.02))
        self.r_k = nn.Parameter(torch.full((H, N), -0.04))
        self.receptance, self.key, self.value = matrix(C, C, 0.5), matrix(C, C, 0.1), matrix(C, C, 0.5)
        self.output = matrix(C, C, 0)
        self.ln_x = nn.GroupNorm(H, C, eps=64e-5)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / s.L) ** 0.7)

    def forward(self, x, first):
        B, T, C = x.shape
        heads = lambda t: t.view(B, T, self.s.H, N)
        low = lambda x, a, b, f: linear(f(linear(x, a.T)), b.T)
        dx = shifted(x) - x
        xr, xw, xk, xv, xa, xg = (x + dx * getattr(self, "x_" + n) for n in "rwkvag")
        r, k, v = linear(xr, self.receptance.weight), linear(xk, self.key.weight), linear(xv, self.value.weight)
        w = torch.exp(-0.606531 * torch.sigmoid(self.w0 + low(xw, self.w1, self.w2, torch.tanh)))
        a = torch.sigmoid(self.a0 + low(xa, self.a1, self.a2, lambda t: t))
        g = low(xg, self.g1, self.g2, torch.sigmoid)
        if self.layer == 0:
            first = v
        else:
            v = v + (first - v) * torch.sigmoid(self.v0 + low(xv, self.v1, self.v2, lambda t: t))
        kk = F.normalize(heads(k * self.k_k), dim=-1)
        k = k * (1 + (a - 1) * self.k_a)
        r, k, v = heads(r), heads(k), heads(v)
        y = wkv("wkv7", r, k, v, heads(w), -kk, kk * heads(a))
        y = self.ln_x(y.reshape(B * T, C)).view(B, T, C)
        y = y + ((r * k * self.r_k).sum(-1, keepdim=True) * v).view(B, T, C)
        return linear(y * g, self.output.weight), first


class ChannelMix7(nn.Module):
    def __init__(self, s, layer):
        super().__init__()
        self.x_k = vector(1 - s.place ** (s.depth(layer)[1] ** 4))
        self.key, self.value = matrix(s.ffn, s.C, 1), matrix(s.C, s.ffn, 0)

    def forward(self, x):
        return linear(torch.relu(linear(x + (shifted(x) - x) * self.x_k, self.key.weight)) ** 2, self.value.weight)


class Block(nn.Module):
    def __init__(self, s, layer, time_mix, channel_mix):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(s.C), nn.LayerNorm(s.C)
        if layer == 0:
            self.ln0 = nn.LayerNorm(s.C)
        self.att, self.ffn = time_mix(s, layer), channel_mix(s, layer)

    def forward(self, x, first):
        if hasattr(self, "ln0"):
            x = self.ln0(x)
        y, first = self.att(self.ln1(x), first)
        x = x + y
        return x + self.ffn(self.ln2(x)), first


# version: time mix, channel mix, FFN width, ranks
VERSIONS = {
    "4": (TimeMix4, ChannelMix4, 1024, ()),
    "5.2": (TimeMix5, ChannelMix4, 896, ()),
    "6": (TimeMix6, ChannelMix6, 768, (32, 64)),  # (mix, decay)
    "7": (TimeMix7, ChannelMix7, 1024, (32, 32, 32, 64)),  # (w, a, v, g)
}


class Model(nn.Module):
    def __init__(self, version, C, L):
        super().__init__()
        time_mix, channel_mix, ffn, ranks = VERSIONS[version]
        s = Shape(C, L, ffn, ranks)
        self.emb = nn.Embedding(VOCAB, C)
        nn.init.uniform_(self.emb.weight, -0.01, 0.01)
        self.blocks = nn.ModuleList(Block(s, i, time_mix, channel_mix) for i in range(L))
        self.ln_out = nn.LayerNorm(C)
        self.head = matrix(VOCAB, C, 0.5)

    def forward(self, tokens):
        x, first = self.emb(tokens), None
        for block in self.blocks:
            x, first = block(x, first)
        return linear(self.ln_out(x), self.head.weight)


# ------------------------------------------------------------------------------------------------------------ training
def bytes_of(path):
    return torch.frombuffer(bytearray(open(path, "rb").read()), dtype=torch.uint8)


@torch.no_grad()
def bits_per_byte(model, text, window=512):
    """Windows side by side, each from a zero state; bytes 2..window of each are scored; a last, short window is left out."""
    rows = text[: len(text) // window * window].view(-1, window).long()
    total = 0.0
    for part in rows.split(16):
        logits = model(part[:, :-1].to(model.emb.weight.device)).double().flatten(0, 1)
        total += F.cross_entropy(logits, part[:, 1:].reshape(-1).to(logits.device), reduction="sum").item()
    return total / (rows.shape[0] * (window - 1)) / math.log(2)


def rounded(model):
    return {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in model.state_dict().items()}


def main():
    global plain_ops, bf16_matmul
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--version", choices=VERSIONS)
    ap.add_argument("--train")
    ap.add_argument("--heldout")
    ap.add_argument("--out")
    ap.add_argument("--steps", type=int, default=5000)
    ap.add_argument("--layers", type=int, default=2)
    ap.add_argument("--dim", type=int, default=256)
    ap.add_argument("--ctx", type=int, default=512)
    ap.add_argument("--batch", type=int, default=4)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--bf16", action="store_true", help="matrix products in bf16 (fast on CPUs with AMX)")
    ap.add_argument("--compile", action="store_true", help="fuse the elementwise work with torch.compile")
    ap.add_argument("--plain-ops", action="store_true", help="recurrences in plain PyTorch on the CPU too")
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--eval", metavar="PTH", help="only measure this file on --heldout")
    ap.add_argument("--check-ops", action="store_true")
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    plain_ops = args.plain_ops
    if args.check_ops:
        return check_ops()
    held = bytes_of(args.heldout)
    model = Model(args.version, args.dim, args.layers).to(args.device)
    if args.eval:
        model.load_state_dict({k: v.float() for k, v in torch.load(args.eval, weights_only=True).items()})
        return print(f"{args.eval}: held-out {bits_per_byte(model, held):.4f} bits per byte")
    data = bytes_of(args.train)
    print(f"version {args.version}: {sum(p.numel() for p in model.parameters())} parameters, {len(data)} bytes of text", flush=True)

    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and n.endswith(".weight") and not n.startswith("emb")]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    groups = [dict(params=matrices, weight_decay=0.1), dict(params=others, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99), eps=1e-10, fused=True)
    if args.compile:
        for block in model.blocks:
            block.compile(dynamic=False)
    start, mean = time.time(), None
    for step in range(1, args.steps + 1):
        bf16_matmul = args.bf16
        at = torch.randint(len(data) - args.ctx - 1, (args.batch,))
        text = torch.stack([data[i : i + args.ctx + 1] for i in at]).long().to(args.device)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, step / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bits = loss.item() / math.log(2)
        mean = bits if mean is None else 0.98 * mean + 0.02 * bits
        if step % 100 == 0:
            speed = step * args.batch * args.ctx / (time.time() - start)
            print(f"step {step} {(time.time() - start) / 60:.1f} min, {speed:.0f} bytes/s, loss {mean:.3f} bits per byte", flush=True)
        if step % 1000 == 0 or step == args.steps:
            torch.save(rounded(model), args.out)
    bf16_matmul = False
    final = Model(args.version, args.dim, args.layers)
    final.load_state_dict({k: v.float() for k, v in rounded(model).items()})
    print(f"held-out {bits_per_byte(final, held):.4f} bits per byte (weights rounded to bf16, arithmetic in f32)")


if __name__ == "__main__":
    main()

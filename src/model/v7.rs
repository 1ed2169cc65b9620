//! RWKV-7 "Goose": the state is updated by a generalised delta rule.
//!
//! ```text
//! x_j = x + dx * x_j                                          for j in r, w, k, v, a, g
//! w = exp(-0.606531 sigmoid(w0 + tanh(x_w w1) w2)),  a = sigmoid(a0 + x_a a1 a2),  g = sigmoid(x_g g1) g2
//! kk = normalised k * k_k,  k = k * (1 + (a - 1) * k_a),  v += (v of block 0 - v) * sigmoid(v0 + x_v v1 v2)
//! S = S diag(w) - (S kk)(kk * a)^T + v k^T;  o = groupnorm(S r) + (r . (k * r_k)) v;  x += O (o * g)
//! x += Vf relu(Kf (x + dx * x_k))^2
//! ```
//! 7a (DeepEmbed) multiplies the hidden layer of the channel mix by a matrix looked up per token.
//! Source: BlinkDL/RWKV-LM, RWKV-v7 (x070).

use super::Version;
use super::spec::Dim::{C, F, H, Is, N, One, Rank, V};
use super::spec::Rank::{Decay, Gate, Iclr, Value};
use super::spec::Role::{Embedding, LowRank, Matrix, Vector};
use super::spec::TensorSpec;
use super::v4::{ENTRY, EXIT, NORMS};

#[rustfmt::skip] // a table: one spec, then its names elsewhere
pub(super) const TIME_MIX: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.att.x_r", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").fla("model.layers.{}.attn.x_r").stack(0),
    TensorSpec::block("blocks.{}.att.x_w", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").fla("model.layers.{}.attn.x_w").stack(1),
    TensorSpec::block("blocks.{}.att.x_k", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").fla("model.layers.{}.attn.x_k").stack(2),
    TensorSpec::block("blocks.{}.att.x_v", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").fla("model.layers.{}.attn.x_v").stack(3),
    TensorSpec::block("blocks.{}.att.x_a", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").fla("model.layers.{}.attn.x_a").stack(4),
    TensorSpec::block("blocks.{}.att.x_g", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").fla("model.layers.{}.attn.x_g").stack(5).part("gate"),
    TensorSpec::block("blocks.{}.att.w0", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_w0.weight").fla("model.layers.{}.attn.w_lora.lora.2.bias"),
    TensorSpec::block("blocks.{}.att.w1", LowRank, &[C, Rank(Decay)])
        .gguf("blk.{}.time_mix_w1.weight").fla("model.layers.{}.attn.w_lora.lora.0.weight"),
    TensorSpec::block("blocks.{}.att.w2", LowRank, &[Rank(Decay), C])
        .gguf("blk.{}.time_mix_w2.weight").fla("model.layers.{}.attn.w_lora.lora.2.weight"),
    TensorSpec::block("blocks.{}.att.a0", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_a0.weight").fla("model.layers.{}.attn.a_lora.lora.2.bias"),
    TensorSpec::block("blocks.{}.att.a1", LowRank, &[C, Rank(Iclr)])
        .gguf("blk.{}.time_mix_a1.weight").fla("model.layers.{}.attn.a_lora.lora.0.weight"),
    TensorSpec::block("blocks.{}.att.a2", LowRank, &[Rank(Iclr), C])
        .gguf("blk.{}.time_mix_a2.weight").fla("model.layers.{}.attn.a_lora.lora.2.weight"),
    TensorSpec::later("blocks.{}.att.v0", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_v0.weight").fla("model.layers.{}.attn.v_lora.lora.2.bias"),
    TensorSpec::later("blocks.{}.att.v1", LowRank, &[C, Rank(Value)])
        .gguf("blk.{}.time_mix_v1.weight").fla("model.layers.{}.attn.v_lora.lora.0.weight"),
    TensorSpec::later("blocks.{}.att.v2", LowRank, &[Rank(Value), C])
        .gguf("blk.{}.time_mix_v2.weight").fla("model.layers.{}.attn.v_lora.lora.2.weight"),
    TensorSpec::block("blocks.{}.att.g1", LowRank, &[C, Rank(Gate)])
        .gguf("blk.{}.time_mix_g1.weight").fla("model.layers.{}.attn.g_lora.lora.0.weight").part("gate"),
    TensorSpec::block("blocks.{}.att.g2", LowRank, &[Rank(Gate), C])
        .gguf("blk.{}.time_mix_g2.weight").fla("model.layers.{}.attn.g_lora.lora.2.weight").part("gate"),
    TensorSpec::block("blocks.{}.att.k_k", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_k_k.weight").fla("model.layers.{}.attn.k_k"),
    TensorSpec::block("blocks.{}.att.k_a", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_k_a.weight").fla("model.layers.{}.attn.k_a"),
    TensorSpec::block("blocks.{}.att.r_k", Vector, &[H, N])
        .gguf("blk.{}.time_mix_r_k.weight").fla("model.layers.{}.attn.r_k"),
    TensorSpec::block("blocks.{}.att.receptance.weight", Matrix, &[C, C])
        .gguf("blk.{}.time_mix_receptance.weight").fla("model.layers.{}.attn.r_proj.weight"),
    TensorSpec::block("blocks.{}.att.key.weight", Matrix, &[C, C])
        .gguf("blk.{}.time_mix_key.weight").fla("model.layers.{}.attn.k_proj.weight"),
    TensorSpec::block("blocks.{}.att.value.weight", Matrix, &[C, C])
        .gguf("blk.{}.time_mix_value.weight").fla("model.layers.{}.attn.v_proj.weight"),
    TensorSpec::block("blocks.{}.att.output.weight", Matrix, &[C, C])
        .gguf("blk.{}.time_mix_output.weight").fla("model.layers.{}.attn.o_proj.weight"),
    TensorSpec::block("blocks.{}.att.ln_x.weight", Vector, &[C])
        .gguf("blk.{}.time_mix_ln.weight").fla("model.layers.{}.attn.g_norm.weight").part("group norm"),
    TensorSpec::block("blocks.{}.att.ln_x.bias", Vector, &[C])
        .gguf("blk.{}.time_mix_ln.bias").fla("model.layers.{}.attn.g_norm.bias").part("group norm"),
];

#[rustfmt::skip]
const CHANNEL_MIX: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.ffn.x_k", Vector, &[One, One, C])
        .gguf("blk.{}.channel_mix_lerp_k.weight").fla("model.layers.{}.ffn.x_k"),
    TensorSpec::block("blocks.{}.ffn.key.weight", Matrix, &[F, C])
        .gguf("blk.{}.channel_mix_key.weight").fla("model.layers.{}.ffn.key.weight"),
    TensorSpec::block("blocks.{}.ffn.value.weight", Matrix, &[C, F])
        .gguf("blk.{}.channel_mix_value.weight").fla("model.layers.{}.ffn.value.weight"),
];

/// DeepEmbed: hidden *= ((y s1) s_emb[token]) s2 + s0, with s_emb[token] a 32 x 32 matrix.
const DEEP_EMBED: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.ffn.s_emb.weight", Embedding, &[V, Is(1024)]),
    TensorSpec::block("blocks.{}.ffn.s_emb_x.weight", Matrix, &[Is(1024), C]),
    TensorSpec::block("blocks.{}.ffn.s0", Vector, &[One, One, F]),
    TensorSpec::block("blocks.{}.ffn.s1", LowRank, &[C, Is(32)]),
    TensorSpec::block("blocks.{}.ffn.s2", LowRank, &[Is(32), F]),
];

const MARKERS: &[&str] = &["blocks.{}.att.r_k", "blocks.{}.att.k_k", "blocks.{}.att.w1", "blocks.{}.att.x_r"];

/// RWKV-7.
pub static V7: Version = Version {
    name: "7.0",
    about: "RWKV-7 (Goose)",
    specs: &[ENTRY, NORMS, TIME_MIX, CHANNEL_MIX, EXIT],
    markers: MARKERS,
    ..Version::PLAIN
};

/// RWKV-7a: with DeepEmbed.
pub static V7A: Version = Version {
    name: "7a",
    about: "RWKV-7a (Goose with DeepEmbed)",
    specs: &[ENTRY, NORMS, TIME_MIX, CHANNEL_MIX, DEEP_EMBED, EXIT],
    markers: &["blocks.{}.att.r_k", "blocks.{}.att.k_k", "blocks.{}.ffn.s_emb.weight", "blocks.{}.att.x_r"],
    ..Version::PLAIN
};

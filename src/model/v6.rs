//! RWKV-6 "Finch": token shift and decay depend on the data, through low-rank branches.
//!
//! ```text
//! t = tanh((x + dx * maa_x) w1), m_j = t_j w2_j;  x_j = x + dx * (maa_j + m_j)   for j in w, k, v, r, g
//! w = exp(-exp(time_decay + tanh(x_w decay_w1) decay_w2));  the rest as version 5.2
//! ```
//! Source: BlinkDL/RWKV-LM, RWKV-v6 (x060).

use super::Version;
use super::spec::Dim::{A, C, F, FiveRanks, H, Is, N, One, Rank};
use super::spec::Rank::{Decay, Mix};
use super::spec::Role::{LowRank, Matrix, Vector};
use super::spec::TensorSpec;
use super::v4::{ENTRY, EXIT, NORMS};

#[rustfmt::skip] // a table: one spec, then its names elsewhere
const TIME_MIX: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.att.time_maa_x", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_x.weight"),
    TensorSpec::block("blocks.{}.att.time_maa_w", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").stack(0),
    TensorSpec::block("blocks.{}.att.time_maa_k", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").stack(1),
    TensorSpec::block("blocks.{}.att.time_maa_v", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").stack(2),
    TensorSpec::block("blocks.{}.att.time_maa_r", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").stack(3),
    TensorSpec::block("blocks.{}.att.time_maa_g", Vector, &[One, One, C])
        .gguf("blk.{}.time_mix_lerp_fused.weight").stack(4),
    TensorSpec::block("blocks.{}.att.time_maa_w1", LowRank, &[C, FiveRanks(Mix)])
        .gguf("blk.{}.time_mix_w1.weight"),
    TensorSpec::block("blocks.{}.att.time_maa_w2", LowRank, &[Is(5), Rank(Mix), C])
        .gguf("blk.{}.time_mix_w2.weight"),
    TensorSpec::block("blocks.{}.att.time_decay", Vector, &[One, One, A])
        .gguf("blk.{}.time_mix_decay.weight"),
    TensorSpec::block("blocks.{}.att.time_decay_w1", LowRank, &[C, Rank(Decay)])
        .gguf("blk.{}.time_mix_decay_w1.weight"),
    TensorSpec::block("blocks.{}.att.time_decay_w2", LowRank, &[Rank(Decay), A])
        .gguf("blk.{}.time_mix_decay_w2.weight"),
    TensorSpec::block("blocks.{}.att.time_faaaa", Vector, &[H, N])
        .gguf("blk.{}.time_mix_first.weight"),
    TensorSpec::block("blocks.{}.att.receptance.weight", Matrix, &[A, C])
        .gguf("blk.{}.time_mix_receptance.weight"),
    TensorSpec::block("blocks.{}.att.key.weight", Matrix, &[A, C])
        .gguf("blk.{}.time_mix_key.weight"),
    TensorSpec::block("blocks.{}.att.value.weight", Matrix, &[A, C])
        .gguf("blk.{}.time_mix_value.weight"),
    TensorSpec::block("blocks.{}.att.output.weight", Matrix, &[C, A])
        .gguf("blk.{}.time_mix_output.weight"),
    TensorSpec::block("blocks.{}.att.gate.weight", Matrix, &[A, C])
        .gguf("blk.{}.time_mix_gate.weight"),
    TensorSpec::block("blocks.{}.att.ln_x.weight", Vector, &[A])
        .gguf("blk.{}.time_mix_ln.weight"),
    TensorSpec::block("blocks.{}.att.ln_x.bias", Vector, &[A])
        .gguf("blk.{}.time_mix_ln.bias"),
];

#[rustfmt::skip]
const CHANNEL_MIX: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.ffn.time_maa_k", Vector, &[One, One, C])
        .gguf("blk.{}.channel_mix_lerp_k.weight"),
    TensorSpec::block("blocks.{}.ffn.time_maa_r", Vector, &[One, One, C])
        .gguf("blk.{}.channel_mix_lerp_r.weight"),
    TensorSpec::block("blocks.{}.ffn.key.weight", Matrix, &[F, C])
        .gguf("blk.{}.channel_mix_key.weight"),
    TensorSpec::block("blocks.{}.ffn.receptance.weight", Matrix, &[C, C])
        .gguf("blk.{}.channel_mix_receptance.weight"),
    TensorSpec::block("blocks.{}.ffn.value.weight", Matrix, &[C, F])
        .gguf("blk.{}.channel_mix_value.weight"),
];

/// RWKV-6.
pub static V6: Version = Version {
    name: "6.0",
    about: "RWKV-6 (Finch)",
    specs: &[ENTRY, NORMS, TIME_MIX, CHANNEL_MIX, EXIT],
    markers: &["blocks.{}.att.time_maa_x", "blocks.{}.att.time_maa_w1", "blocks.{}.att.gate.weight"],
    ..Version::PLAIN
};

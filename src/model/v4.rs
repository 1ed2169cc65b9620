//! RWKV-4 "Dove": a token shift, a per-channel exponential decay and a bonus for the current token.
//!
//! ```text
//! r = sigmoid(R mix_r), k = K mix_k, v = V mix_v       mix(m) = m * x + (1 - m) * previous x
//! wkv = sum over the past of e^(k_i - (t - i) * e^decay) v_i + e^(first + k) v, normalised
//! x += O (r * wkv);  x += sigmoid(Rf mix_r) * Vf relu(Kf mix_k)^2
//! ```
//! Source: BlinkDL/RWKV-LM, RWKV-v4neo.

use super::Version;
use super::spec::Dim::{A, C, F, One, V};
use super::spec::Role::{Embedding, Head, Matrix, Vector};
use super::spec::TensorSpec;

/// Embedding and first norms: the same in every version.
pub(super) const ENTRY: &[TensorSpec] = &[
    TensorSpec::model("emb.weight", Embedding, &[V, C])
        .gguf("token_embd.weight")
        .fla("model.embeddings.weight"),
    TensorSpec::model("blocks.0.ln0.weight", Vector, &[C])
        .gguf("token_embd_norm.weight")
        .fla("model.layers.0.pre_norm.weight"),
    TensorSpec::model("blocks.0.ln0.bias", Vector, &[C])
        .gguf("token_embd_norm.bias")
        .fla("model.layers.0.pre_norm.bias"),
];

/// The norms of a block: the same in every version.
pub(super) const NORMS: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.ln1.weight", Vector, &[C])
        .gguf("blk.{}.attn_norm.weight")
        .fla("model.layers.{}.attn_norm.weight"),
    TensorSpec::block("blocks.{}.ln1.bias", Vector, &[C])
        .gguf("blk.{}.attn_norm.bias")
        .fla("model.layers.{}.attn_norm.bias"),
    TensorSpec::block("blocks.{}.ln2.weight", Vector, &[C])
        .gguf("blk.{}.attn_norm_2.weight")
        .fla("model.layers.{}.ffn_norm.weight"),
    TensorSpec::block("blocks.{}.ln2.bias", Vector, &[C])
        .gguf("blk.{}.attn_norm_2.bias")
        .fla("model.layers.{}.ffn_norm.bias"),
];

/// Last norm and output layer: the same in every version.
pub(super) const EXIT: &[TensorSpec] = &[
    TensorSpec::model("ln_out.weight", Vector, &[C]).gguf("output_norm.weight").fla("model.norm.weight"),
    TensorSpec::model("ln_out.bias", Vector, &[C]).gguf("output_norm.bias").fla("model.norm.bias"),
    TensorSpec::model("head.weight", Head, &[V, C]).gguf("output.weight").fla("lm_head.weight"),
];

/// The token shift and the matrices of the time mix of versions 4 and 5.
pub(super) const TIME_MIX: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.att.time_mix_k", Vector, &[One, One, C]),
    TensorSpec::block("blocks.{}.att.time_mix_v", Vector, &[One, One, C]),
    TensorSpec::block("blocks.{}.att.time_mix_r", Vector, &[One, One, C]),
    TensorSpec::block("blocks.{}.att.key.weight", Matrix, &[A, C]),
    TensorSpec::block("blocks.{}.att.value.weight", Matrix, &[A, C]),
    TensorSpec::block("blocks.{}.att.receptance.weight", Matrix, &[A, C]),
    TensorSpec::block("blocks.{}.att.output.weight", Matrix, &[C, A]),
];

/// The channel mix of versions 4 and 5.
pub(super) const CHANNEL_MIX: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.ffn.time_mix_k", Vector, &[One, One, C]),
    TensorSpec::block("blocks.{}.ffn.time_mix_r", Vector, &[One, One, C]),
    TensorSpec::block("blocks.{}.ffn.key.weight", Matrix, &[F, C]),
    TensorSpec::block("blocks.{}.ffn.receptance.weight", Matrix, &[C, C]),
    TensorSpec::block("blocks.{}.ffn.value.weight", Matrix, &[C, F]),
];

const DECAY: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.att.time_decay", Vector, &[A]),
    TensorSpec::block("blocks.{}.att.time_first", Vector, &[A]),
];

/// RWKV-4.
pub static V4: Version = Version {
    name: "4.0",
    about: "RWKV-4 (Dove)",
    specs: &[ENTRY, NORMS, DECAY, TIME_MIX, CHANNEL_MIX, EXIT],
    markers: &["blocks.{}.att.time_decay", "blocks.{}.att.time_first", "blocks.{}.att.time_mix_k"],
    ..Version::PLAIN
};

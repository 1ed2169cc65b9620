//! Hybrids: RWKV's time mix in the place of a Qwen2 model's attention. llama.cpp runs two of them.
//!
//! ```text
//! x += time mix of rmsnorm(x);  x += D (silu(G y) * (U y)), y = rmsnorm(x)      no token shift in the MLP
//! ```
//! - ARWKV-7: version 7's time mix, often without its gate and its group norm;
//! - RWKV6-Qwen2 (QRWKV6): version 6's time mix without bonus and group norm, `k *= 1 - w`, a sigmoid as the gate,
//!   biases on r, k and v, and keys and values that several heads share, as in Qwen2's attention. Its token shift
//!   is stored in the order r, k, v, w, g; here it is w, k, v, r, g, as in every other RWKV-6.
//!
//! The norms are RMS norms (no bias) and nothing follows the embedding. Sources: the model code in
//! RWKV-Red-Team/ARWKV-7B-Preview-0.1 and recursal/QRWKV6-32B-Instruct-Preview-v0.1; llama.cpp's arwkv7 and
//! rwkv6qwen2.

use formats::Container;
use serde_json::Value;

use super::spec::Dim::{A, C, F, FiveRanks, G, Is, One, Rank, V};
use super::spec::Rank::{Decay, Mix};
use super::spec::Role::{Embedding, Head, LowRank, Matrix, Vector};
use super::spec::TensorSpec;
use super::{Body, Version, v7};
use crate::error::{Error, Result};

/// Parts that the makers of a model may have left out.
const GATE: &str = "gate";
const GROUP_NORM: &str = "group norm";
const BIASES: &str = "biases";

const ENTRY: &[TensorSpec] = &[TensorSpec::model("emb.weight", Embedding, &[V, C]).gguf("token_embd.weight")];

const NORMS: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.ln1.weight", Vector, &[C]).gguf("blk.{}.attn_norm.weight"),
    TensorSpec::block("blocks.{}.ln2.weight", Vector, &[C]).gguf("blk.{}.ffn_norm.weight"),
];

/// RWKV6-Qwen2's; ARWKV-7 has version 7's own.
#[rustfmt::skip] // a table: one spec, then its name elsewhere
const TIME_MIX_6: &[TensorSpec] = &[
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
    TensorSpec::block("blocks.{}.att.receptance.weight", Matrix, &[A, C])
        .gguf("blk.{}.time_mix_receptance.weight"),
    TensorSpec::block("blocks.{}.att.receptance.bias", Vector, &[A])
        .gguf("blk.{}.time_mix_receptance.bias").part(BIASES),
    TensorSpec::block("blocks.{}.att.key.weight", Matrix, &[G, C])
        .gguf("blk.{}.time_mix_key.weight"),
    TensorSpec::block("blocks.{}.att.key.bias", Vector, &[G])
        .gguf("blk.{}.time_mix_key.bias").part(BIASES),
    TensorSpec::block("blocks.{}.att.value.weight", Matrix, &[G, C])
        .gguf("blk.{}.time_mix_value.weight"),
    TensorSpec::block("blocks.{}.att.value.bias", Vector, &[G])
        .gguf("blk.{}.time_mix_value.bias").part(BIASES),
    TensorSpec::block("blocks.{}.att.output.weight", Matrix, &[C, A])
        .gguf("blk.{}.time_mix_output.weight"),
    TensorSpec::block("blocks.{}.att.gate.weight", Matrix, &[A, C])
        .gguf("blk.{}.time_mix_gate.weight"),
];

const MLP: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.ffn.gate.weight", Matrix, &[F, C]).gguf("blk.{}.ffn_gate.weight"),
    TensorSpec::block("blocks.{}.ffn.up.weight", Matrix, &[F, C]).gguf("blk.{}.ffn_up.weight"),
    TensorSpec::block("blocks.{}.ffn.down.weight", Matrix, &[C, F]).gguf("blk.{}.ffn_down.weight"),
];

const EXIT: &[TensorSpec] = &[
    TensorSpec::model("ln_out.weight", Vector, &[C]).gguf("output_norm.weight"),
    TensorSpec::model("head.weight", Head, &[V, C]).gguf("output.weight"),
];

/// ARWKV-7 (`RwkvHybridForCausalLM`).
pub static ARWKV7: Version = Version {
    name: "arwkv7",
    about: "ARWKV-7 (RWKV-7 in a Qwen2 model)",
    specs: &[ENTRY, NORMS, v7::TIME_MIX, MLP, EXIT],
    markers: &["blocks.{}.att.r_k", "blocks.{}.att.k_k", "blocks.{}.ffn.gate.weight"],
    optional: &[GATE, GROUP_NORM],
    body: Body::Qwen2,
};

/// RWKV6-Qwen2 (`RWKV6Qwen2ForCausalLM`).
pub static RWKV6_QWEN2: Version = Version {
    name: "rwkv6qwen2",
    about: "RWKV6-Qwen2 (RWKV-6 in a Qwen2 model)",
    specs: &[ENTRY, NORMS, TIME_MIX_6, MLP, EXIT],
    markers: &["blocks.{}.att.time_maa_x", "blocks.{}.att.time_maa_w1", "blocks.{}.ffn.gate.weight"],
    optional: &[BIASES],
    body: Body::Qwen2,
};

/// Refuses what the tensors do not tell but `config.json` does.
pub(super) fn check(container: &Container) -> Result<()> {
    let Some(config) = container.config() else { return Ok(()) };
    match config.get("wkv_version").and_then(Value::as_u64) {
        None | Some(7) => Ok(()),
        Some(other) => Err(Error::Model {
            path: container.path().to_owned(),
            what: format!(
                "is an RWKV hybrid of wkv_version {other} by its config.json, and llama.cpp runs 7"
            ),
            help: "use an ARWKV-7 or RWKV6-Qwen2 model".to_owned(),
        }),
    }
}

/// Refuses a model that has a part which `config.json` says it has not, or the reverse: the code beside it would read
/// another model from the same tensors.
pub(super) fn check_part(container: &Container, part: &str, has: bool) -> Result<()> {
    let key = match part {
        GATE => "wkv_has_gate",
        GROUP_NORM => "wkv_has_group_norm",
        _ => return Ok(()),
    };
    let stated = container.config().and_then(|config| config.get(key)).and_then(Value::as_bool);
    if stated.is_none_or(|stated| stated == has) {
        return Ok(());
    }
    let (has, said) = if has { ("has a", "has none") } else { ("has no", "has one") };
    Err(Error::Model {
        path: container.path().to_owned(),
        what: format!("{has} {part}, but its config.json says that it {said}"),
        help: format!("see which of the two is right, and correct {key} in config.json"),
    })
}

/// The size of a head that `config.json` states. (ARWKV-7 counts other heads than those of its time mix in
/// `num_attention_heads`.)
pub(super) fn head_size(version: &Version, container: &Container) -> Option<usize> {
    let number = |key: &str| -> Option<usize> { container.config()?.get(key)?.as_u64()?.try_into().ok() };
    if version.major() == 7 {
        return number("head_size").filter(|n| *n > 0);
    }
    let (width, heads) = (number("hidden_size")?, number("num_attention_heads")?);
    (heads > 0 && width.is_multiple_of(heads)).then(|| width / heads)
}

/// Error for RWKV6-Qwen2 without a known head size: no tensor of it tells the size, and nothing else did.
pub(super) fn unknown_heads(container: &Container) -> Error {
    Error::Model {
        path: container.path().to_owned(),
        what: "does not tell how many heads it has: that stands in the config.json of its folder, as \
               num_attention_heads"
            .to_owned(),
        help: "give the whole folder, with its config.json".to_owned(),
    }
}

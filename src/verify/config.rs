//! `config.json` against the tensors beside it. transformers believes the settings.

use serde_json::{Map, Value};

use super::findings::Findings;
use super::keys::{epsilon, token};
use crate::model::{Body, Model, Rank};
use crate::targets::hf::config::architecture;

/// Settings of norms.
const EPSILONS: &[&str] = &["layer_norm_epsilon", "norm_eps", "rms_norm_eps"];
/// Settings that name a token.
const TOKENS: &[&str] = &["bos_token_id", "eos_token_id", "pad_token_id"];
/// Ranks, and their names in flash-linear-attention and in the code of the hybrids.
const RANKS: &[(Rank, &[&str])] = &[
    (Rank::Decay, &["decay_low_rank_dim", "lora_rank_decay"]),
    (Rank::Iclr, &["a_low_rank_dim", "lora_rank_iclr"]),
    (Rank::Value, &["v_low_rank_dim", "lora_rank_value_residual_mix"]),
    (Rank::Gate, &["gate_low_rank_dim", "lora_rank_gate"]),
    (Rank::Mix, &["lora_rank_tokenshift"]),
];
/// Settings of flash-linear-attention, and the tensors that are there only if they are true.
const NORMS: &[(&str, &str)] = &[("norm_bias", "norm.bias"), ("norm_first", "pre_norm.weight")];
/// `hidden_ratio` is rounded to as many wide a channel mix.
const RATIO_ROUNDING: f64 = 32.0;

/// Compares the settings beside a model with what its tensors say. Settings that are null say nothing.
pub(super) fn compare(model: &Model, findings: &mut Findings) {
    let Some(config) = model.container.config() else { return };
    for (key, allowed) in sizes(model) {
        if let Some(value) = stated(config, key) {
            findings.compare(&named(key), value, whole(value), &allowed);
        }
    }
    for (key, kinds) in [("model_type", 0), ("architectures", 1)] {
        architecture_is(key, kinds, config, model, findings);
    }
    for (rank, keys) in RANKS {
        let mut found: Vec<u64> =
            model.ranks.iter().filter_map(|ranks| ranks.get(rank)).map(|n| *n as u64).collect();
        found.sort_unstable();
        found.dedup();
        for key in *keys {
            if let Some(value) = stated(config, key) {
                findings.compare(&named(key), value, whole(value), &found);
            }
        }
    }
    for key in EPSILONS {
        if let Some(value) = stated(config, key) {
            epsilon(&named(key), value.as_f64(), findings);
        }
    }
    for key in TOKENS {
        let Some(value) = stated(config, key) else { continue };
        let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        ids.iter().for_each(|id| token(&named(key), id.as_u64(), id, model.dims.vocab as u64, findings));
    }
    for (key, tensor) in NORMS {
        let is_there = model.container.tensors().iter().any(|t| t.name.ends_with(tensor));
        if is_there && stated(config, key).and_then(Value::as_bool) == Some(false) {
            findings.contradict(format!("{} is false, and there are tensors {tensor:?}", named(key)));
        }
    }
    value_dim(config, model, findings);
    hidden_ratio(config, model, findings);
    tied(config, model, findings);
}

/// Settings of sizes, and which numbers they may be.
fn sizes(model: &Model) -> Vec<(&'static str, Vec<u64>)> {
    let dims = &model.dims;
    let one = |n: usize| vec![n as u64];
    let mut all = vec![
        ("vocab_size", one(dims.vocab)),
        ("hidden_size", one(dims.embd)),
        ("num_hidden_layers", one(dims.layers)),
        ("intermediate_size", one(dims.ffn)),
        ("attention_hidden_size", one(dims.att)),
    ];
    if dims.head_size > 0 {
        all.extend([
            ("head_size", one(dims.head_size)),
            ("head_dim", one(dims.head_size)),
            ("num_heads", one(dims.heads)),
            ("num_wkv_heads", one(dims.heads)),
        ]);
    }
    match (model.version.body, model.version.major()) {
        // The code of versions 5 and 6 takes it for the size of a head.
        (Body::Rwkv, 5 | 6) => {
            all.push(("num_attention_heads", vec![dims.heads as u64, dims.head_size as u64]));
        }
        (Body::Qwen2, 6) => {
            all.push(("num_attention_heads", one(dims.heads)));
            all.push(("num_key_value_heads", one(dims.kv.checked_div(dims.head_size).unwrap_or(0))));
        }
        _ => {}
    }
    all
}

/// The name of the architecture, where the tensors have one there.
fn architecture_is(
    key: &str,
    kind: usize,
    config: &Map<String, Value>,
    model: &Model,
    findings: &mut Findings,
) {
    let (Some(value), Some((model_type, class))) = (stated(config, key), architecture(model.version)) else {
        return;
    };
    if model.version.body != Body::Rwkv {
        return;
    }
    let wanted = [model_type, class][kind];
    let found = value.as_array().and_then(|list| list.first()).unwrap_or(value).as_str();
    if found != Some(wanted) {
        findings.contradict(format!("{} is {value}, and the tensors say {wanted:?}", named(key)));
    }
}

/// The widths of all blocks.
fn value_dim(config: &Map<String, Value>, model: &Model, findings: &mut Findings) {
    let Some(value) = stated(config, "value_dim") else { return };
    let (key, width) = (named("value_dim"), model.dims.att as u64);
    let Some(list) = value.as_array() else {
        return findings.compare(&key, value, whole(value), &[width]);
    };
    let (len, layers) = (list.len() as u64, model.dims.layers as u64);
    findings.compare(&format!("the number of entries of {key}"), &len, Some(len), &[layers]);
    if let Some(other) = list.iter().find(|v| whole(v) != Some(width)) {
        findings.compare(&key, other, whole(other), &[width]);
    }
}

/// The width of the channel mix as a multiple of the model's.
fn hidden_ratio(config: &Map<String, Value>, model: &Model, findings: &mut Findings) {
    let Some(value) = stated(config, "hidden_ratio") else { return };
    let (embd, ffn) = (model.dims.embd as f64, model.dims.ffn as f64);
    if value.as_f64().is_none_or(|ratio| (ratio * embd - ffn).abs() > RATIO_ROUNDING) {
        let ratio = ffn / embd;
        findings.contradict(format!("{} is {value}, and the tensors say {ratio}", named("hidden_ratio")));
    }
}

/// A model whose head is said to be its embedding has no other.
fn tied(config: &Map<String, Value>, model: &Model, findings: &mut Findings) {
    let tied = stated(config, "tie_word_embeddings").and_then(Value::as_bool) == Some(true);
    let source = |name: &str| model.tensor(name, 0).and_then(|held| held.values.sources().next());
    if tied && source("head.weight") != source("emb.weight") {
        findings.contradict(format!(
            "{} is true, and there is a head besides the embedding",
            named("tie_word_embeddings")
        ));
    }
}

/// The value of a setting that says something.
fn stated<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    config.get(key).filter(|value| !value.is_null())
}

/// A whole number, however it is written.
fn whole(value: &Value) -> Option<u64> {
    let float = value.as_f64().filter(|v| v.fract() == 0.0 && (0.0..1e15).contains(v));
    value.as_u64().or(float.map(|v| v as u64))
}

fn named(key: &str) -> String {
    format!("{key} in config.json")
}

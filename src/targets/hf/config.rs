//! `config.json`: sizes and settings, under the names that each architecture's code reads.

use formats::Planned;
use quant::Encoding;
use serde_json::{Map, Value, json};

use super::bitsandbytes;
use crate::error::Result;
use crate::model::{Model, Rank, Version};
use crate::targets::LayoutInput;
use crate::targets::gguf::norm_epsilon;

/// The longest text that one call takes, where nothing states one: what World models were trained on.
const CONTEXT_LENGTH: u64 = 4096;
/// Number of blocks after which versions 4 to 6 are halved in f16: the released models' number.
const RESCALE_EVERY: u64 = 6;

/// Names of a version there: `model_type` and class.
pub(crate) fn architecture(version: &Version) -> Option<(&'static str, &'static str)> {
    match version.name {
        "4.0" => Some(("rwkv", "RwkvForCausalLM")),
        "5.2" => Some(("rwkv5", "Rwkv5ForCausalLM")),
        "6.0" => Some(("rwkv6", "Rwkv6ForCausalLM")),
        "7.0" => Some(("rwkv7", "RWKV7ForCausalLM")),
        _ => None,
    }
}

/// The settings of the model. What the config of a source of the same architecture says besides is kept.
pub(super) fn config(order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Value> {
    let model = order.model;
    let (model_type, class) =
        architecture(model.version).ok_or_else(|| crate::targets::refused(&super::HuggingFace, model))?;
    let stated = model.container.config().filter(|c| c.get("model_type") == Some(&json!(model_type)));
    let mut config = stated.cloned().unwrap_or_else(defaults);
    for key in ["dtype", "quantization_config"] {
        config.remove(key); // of the source's weights
    }
    let quantized = bitsandbytes::is_wanted(order.scheme.file_type);
    let dims = &model.dims;
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("model_type", json!(model_type));
    set("architectures", json!([class]));
    if quantized {
        let dtype = bitsandbytes::dtype(model, groups);
        set("torch_dtype", json!(dtype));
        set("quantization_config", bitsandbytes::quantization(model, dtype));
    } else {
        set("torch_dtype", json!(dtype(groups)));
    }
    set("vocab_size", json!(dims.vocab));
    set("hidden_size", json!(dims.embd));
    set("num_hidden_layers", json!(dims.layers));
    set("intermediate_size", json!(dims.ffn));
    set("tie_word_embeddings", json!(false));
    // The digits of an f32 are not those of the same number as an f64.
    let epsilon = norm_epsilon(model)?.to_string().parse::<f64>().unwrap_or_default();
    if model.version.major() == 7 {
        seven(model, epsilon, &mut config);
    } else {
        set("attention_hidden_size", json!(dims.att));
        set("layer_norm_epsilon", json!(epsilon));
        if model.version.major() > 4 {
            set("head_size", json!(dims.head_size));
            set("num_attention_heads", json!(dims.heads));
            config.entry("head_size_divisor").or_insert(json!(8));
        }
        config.entry("context_length").or_insert(json!(CONTEXT_LENGTH));
        let rescale = config.entry("rescale_every").or_insert(json!(RESCALE_EVERY));
        if quantized {
            *rescale = json!(0);
        }
    }
    Ok(Value::Object(config))
}

fn defaults() -> Map<String, Value> {
    [("bos_token_id", json!(0)), ("eos_token_id", json!(0)), ("use_cache", json!(true))]
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

/// Adds the keys that flash-linear-attention reads.
fn seven(model: &Model, epsilon: f64, config: &mut Map<String, Value>) {
    let dims = &model.dims;
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("attention_hidden_size", json!(dims.embd));
    set("head_dim", json!(dims.head_size));
    set("num_heads", json!(dims.heads));
    set("hidden_ratio", json!(dims.ffn as f64 / dims.embd as f64));
    set("value_dim", json!(vec![dims.embd; dims.layers]));
    set("norm_eps", json!(epsilon));
    set("norm_first", json!(true));
    set("norm_bias", json!(true));
    for (rank, key) in [
        (Rank::Decay, "decay_low_rank_dim"),
        (Rank::Iclr, "a_low_rank_dim"),
        (Rank::Value, "v_low_rank_dim"),
        (Rank::Gate, "gate_low_rank_dim"),
    ] {
        // A model of one block has no value residual, but the number must be there.
        let size = model.uniform_rank(rank).or_else(|| model.uniform_rank(Rank::Iclr));
        set(key, json!(size));
    }
    config.entry("attn_mode").or_insert(json!("chunk"));
    config.entry("hidden_act").or_insert(json!("sqrelu"));
    config.entry("fuse_norm").or_insert(json!(false));
}

/// torch's name of the type that most of the weights have.
pub(super) fn dtype(groups: &[&[Planned]]) -> &'static str {
    let weights = |encoding| {
        let all = groups.iter().flat_map(|g| g.iter()).filter(|t| t.encoding == encoding);
        all.filter_map(Planned::bytes).sum::<u64>() / encoding.block_bytes() as u64
    };
    [(Encoding::F32, "float32"), (Encoding::F16, "float16"), (Encoding::BF16, "bfloat16")]
        .into_iter()
        .max_by_key(|(encoding, _)| weights(*encoding))
        .map_or("float32", |(_, name)| name)
}

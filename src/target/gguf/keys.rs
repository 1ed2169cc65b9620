//! The keys of a GGUF file of RWKV.

use formats::{Metadata, Value};

use super::super::About;
use super::tokenizer;
use crate::error::{Error, Result};
use crate::model::{Model, Rank};
use crate::recipe::FileType;

/// RWKV has no limit; this is the number that llama.cpp's own converter writes.
const CONTEXT_LENGTH: u32 = 1 << 20;
/// Version of ggml's block formats.
const QUANTIZATION_VERSION: u32 = 2;
/// The epsilon of every LayerNorm of BlinkDL's models.
const NORM_EPSILON: f32 = 1e-5;

/// All keys, in the order of llama.cpp's converter.
pub(super) fn metadata(model: &Model, about: &About, file_type: &FileType, weights: u64) -> Result<Metadata> {
    let arch = format!("rwkv{}", model.version.major());
    let mut keys = Metadata::new();
    let mut put = |key: &str, value: Value| keys.push((key.replace("{}", &arch), value));

    put("general.architecture", Value::from(arch.as_str()));
    put("general.type", Value::from("model"));
    put("general.name", Value::from(about.name.as_str()));
    for (key, value) in [
        ("general.author", &about.author),
        ("general.version", &about.version),
        ("general.organization", &about.organization),
        ("general.description", &about.description),
    ] {
        if let Some(text) = value {
            put(key, Value::from(text.as_str()));
        }
    }
    put("general.size_label", Value::from(size_label(weights)));
    if let Some(license) = &about.license {
        put("general.license", Value::from(license.as_str()));
    }
    if let Some(url) = &about.url {
        put("general.url", Value::from(url.as_str()));
    }
    if let Some(base) = &about.base_model {
        put("general.base_model.count", Value::U32(1));
        let (organization, name) = match base.split_once('/') {
            Some((organization, name)) => (Some(organization), name),
            None => (None, base.as_str()),
        };
        put("general.base_model.0.name", Value::from(name));
        if let Some(organization) = organization {
            put("general.base_model.0.organization", Value::from(organization));
        }
    }

    put("{}.context_length", Value::U32(CONTEXT_LENGTH));
    put("{}.embedding_length", number(model.dims.embd));
    put("{}.block_count", number(model.dims.layers));
    put("{}.attention.layer_norm_epsilon", Value::F32(norm_epsilon(model)?));
    if model.version.major() == 6 {
        put("{}.rescale_every_n_layers", Value::U32(0));
    }
    put("{}.wkv.head_size", number(model.dims.head_size));
    for (rank, key) in [
        (Rank::Mix, "{}.time_mix_extra_dim"),
        (
            Rank::Decay,
            if model.version.major() == 6 {
                "{}.time_decay_extra_dim"
            } else {
                "{}.attention.decay_lora_rank"
            },
        ),
        (Rank::Iclr, "{}.attention.iclr_lora_rank"),
        (Rank::Value, "{}.attention.value_residual_mix_lora_rank"),
        (Rank::Gate, "{}.attention.gate_lora_rank"),
    ] {
        if let Some(size) = model.uniform_rank(rank) {
            put(key, number(size));
        }
    }
    put("{}.feed_forward_length", number(model.dims.ffn));
    put("general.file_type", Value::U32(file_type.gguf_number));
    put("{}.attention.head_count", Value::U32(0));
    put("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    keys.extend(tokenizer::keys(model, about)?);
    Ok(keys)
}

fn number(size: usize) -> Value {
    Value::U32(size as u32) // far below 2^32: every dimension was fitted to a tensor in the file
}

/// The epsilon that a Hugging Face folder or a GGUF file states, else BlinkDL's.
pub(crate) fn norm_epsilon(model: &Model) -> Result<f32> {
    let stated = model.container.config().and_then(|config| {
        ["layer_norm_epsilon", "norm_eps"].iter().find_map(|key| config.get(*key)).and_then(|v| v.as_f64())
    });
    let carried = model
        .container
        .metadata()
        .iter()
        .find(|(key, _)| key.ends_with(".attention.layer_norm_epsilon"))
        .and_then(|(_, v)| if let Value::F32(e) = v { Some(*e) } else { None });
    let epsilon = stated.map(|e| e as f32).or(carried).unwrap_or(NORM_EPSILON);
    if epsilon.is_finite() && epsilon > 0.0 {
        return Ok(epsilon);
    }
    Err(Error::Model {
        path: model.container.path().to_owned(),
        what: format!("states {epsilon} as the epsilon of its norms"),
        help: "correct layer_norm_epsilon in config.json (1e-05 for every released model)".to_owned(),
    })
}

/// Number of weights in words, as llama.cpp writes it: `1.5B`, `191M`, at least two digits.
fn size_label(weights: u64) -> String {
    let (scaled, unit) = match weights as f64 {
        n if n > 1e12 => (n * 1e-12, 'T'),
        n if n > 1e9 => (n * 1e-9, 'B'),
        n if n > 1e6 => (n * 1e-6, 'M'),
        n => (n * 1e-3, 'K'),
    };
    let whole = scaled.round_ties_even();
    let digits = if whole == 0.0 { 0 } else { whole.to_string().len() };
    format!("{scaled:.*}{unit}", 2usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::size_label;

    #[test]
    fn size_labels_are_those_of_llama_cpp() {
        for (weights, label) in [
            (450_931_712, "451M"),
            (35_700_000, "36M"),
            (2_200_000, "2.2M"),
            (1_527_404_544, "1.5B"),
            (13_000_000_000, "13B"),
            (54_000, "54K"),
            (999, "1.0K"),
        ] {
            assert_eq!(size_label(weights), label);
        }
    }
}

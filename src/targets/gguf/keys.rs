//! The keys of a GGUF file of RWKV.

use std::collections::HashMap;

use formats::{Container, Metadata, Value, ValueKind};

use super::architecture::Architecture;
use crate::error::{Error, Result};
use crate::metadata::SetKey;
use crate::metadata::gguf_tokenizer;
use crate::recipe::FileType;
use crate::targets::LayoutInput;

/// Version of ggml's block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// All keys, in the order of llama.cpp's converter, of a file that is `called` so.
pub(super) fn metadata(
    order: &LayoutInput<'_>,
    architecture: &Architecture,
    called: &FileType,
) -> Result<Metadata> {
    let LayoutInput { model, about, weights, .. } = *order;
    let mut keys = Metadata::new();
    let mut put = |key: &str, value: Value| keys.push((key.to_owned(), value));

    put("general.architecture", Value::from(architecture.name));
    put("general.type", Value::from("model"));
    keys.extend(about.general_with("general.size_label", Value::from(size_label(weights))));

    let mut put = |key: &str, value: Value| keys.push((key.to_owned(), value));
    for (key, holds) in architecture.keys {
        if let Some(value) = holds.value(model, called)? {
            put(key, value);
        }
    }
    put("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    keys.extend(gguf_tokenizer::keys(model, about)?);
    keep_stated(&mut keys, &model.container);
    Ok(keys)
}

/// Keys that tell how a file was made, and not of the model in it.
const OF_THE_FILE: [&str; 3] = ["split.", "quantize.", "rwkv-quant."];

/// True if the source may state the key otherwise: nothing in the tensors tells it.
fn is_free(key: &str) -> bool {
    key.ends_with(".context_length")
}

/// Lets the keys of a GGUF source stand that are not made anew: people set them for a reason (ollama#10759,
/// llama.cpp#4000). `general.*` and `tokenizer.*` have their own rules, in [`crate::metadata`] and [`tokenizer`].
fn keep_stated(keys: &mut Metadata, source: &Container) {
    if source.format().name() != "GGUF" {
        return;
    }
    let places: HashMap<String, usize> =
        keys.iter().enumerate().map(|(i, (key, _))| (key.clone(), i)).collect();
    for (key, value) in source.metadata() {
        if ["general.", "tokenizer."].iter().chain(&OF_THE_FILE).any(|start| key.starts_with(start)) {
            continue;
        }
        match places.get(key) {
            Some(i) if is_free(key) => {
                if let Some(number) = value.as_u64().and_then(|n| u32::try_from(n).ok()) {
                    keys[*i].1 = Value::U32(number);
                }
            }
            Some(_) => {}
            None => keys.push((key.clone(), value.clone())),
        }
    }
}

/// Sets the keys that the user gives.
///
/// # Errors
/// [`Error::Usage`] for a key that says what the file holds, a value of another type than programs read, and a token
/// that there is not.
pub(super) fn set(keys: &mut Metadata, order: &LayoutInput<'_>, architecture: &Architecture) -> Result<()> {
    for set in &order.about.set_keys {
        let SetKey { key, value, .. } = set;
        let wrong = |what: &str, help: &str| Error::Usage {
            what: format!("--set-key {set}: {what}"),
            help: help.to_owned(),
        };
        if says_what_is_there(key, architecture) {
            return Err(wrong("this key tells what is in the file, and is made from that", "leave it out"));
        }
        let old = keys.iter_mut().find(|(k, _)| k == key);
        let is_token = key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id");
        let kind = old.as_ref().map(|(_, old)| old.kind()).or(is_token.then_some(ValueKind::U32));
        if let Some(kind) = kind.filter(|kind| *kind != value.kind()) {
            return Err(wrong(&format!("programs read this key as {kind:?}"), "give a value of that type"));
        }
        let vocab = order.model.dims.vocab as u64;
        if is_token && value.as_u64().is_none_or(|id| id >= vocab) {
            return Err(wrong(&format!("the model has {vocab} tokens"), "give the number of one of them"));
        }
        let is_usable = |epsilon: f32| epsilon.is_finite() && epsilon > 0.0;
        if is_epsilon(key) && !matches!(value, Value::F32(epsilon) if is_usable(*epsilon)) {
            return Err(wrong("an epsilon is a number above 0", "give what the model was trained with"));
        }
        match old {
            Some((_, old)) => *old = value.clone(),
            None => keys.push((key.clone(), value.clone())),
        }
    }
    Ok(())
}

/// True for keys that describe the tensors, the vocabulary or the file.
fn says_what_is_there(key: &str, architecture: &Architecture) -> bool {
    let named = ["architecture", "type", "file_type", "quantization_version", "alignment"];
    key.strip_prefix("general.").is_some_and(|key| named.contains(&key))
        || OF_THE_FILE.iter().any(|start| key.starts_with(start))
        || gguf_tokenizer::LISTS.contains(&key)
        || (architecture.keys.iter().any(|(k, _)| *k == key) && !is_free(key) && !is_epsilon(key))
}

/// True for the keys that hold the epsilon of a norm.
fn is_epsilon(key: &str) -> bool {
    key.ends_with("_epsilon")
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

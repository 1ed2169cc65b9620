//! The keys of a GGUF file of RWKV.

use formats::{Metadata, Value};

use super::architecture::Architecture;
use super::tokenizer;
use crate::error::Result;
use crate::targets::Order;

/// Version of ggml's block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// All keys, in the order of llama.cpp's converter.
pub(super) fn metadata(order: &Order<'_>, architecture: &Architecture) -> Result<Metadata> {
    let Order { model, about, recipe, weights, .. } = *order;
    let mut keys = Metadata::new();
    let mut put = |key: &str, value: Value| keys.push((key.to_owned(), value));

    put("general.architecture", Value::from(architecture.name));
    put("general.type", Value::from("model"));
    keys.extend(about.general_with("general.size_label", Value::from(size_label(weights))));

    let mut put = |key: &str, value: Value| keys.push((key.to_owned(), value));
    for (key, holds) in architecture.keys {
        if let Some(value) = holds.value(model, recipe.file_type)? {
            put(key, value);
        }
    }
    put("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    keys.extend(tokenizer::keys(model, about)?);
    Ok(keys)
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

//! Keys of GGUF files against the tensors. llama.cpp believes the keys.

use formats::Value;
use quant::Encoding;

use super::findings::Findings;
use crate::model::{Body, Model, Role};
use crate::recipe::FILE_TYPES;
use crate::targets::gguf::allowed_keys;

/// Size of a head of every released model of BlinkDL's since version 5.
const HEAD_SIZE: usize = 64;
/// Epsilons of norms that have been used: 1e-12 to 1e-3.
const EPSILON: std::ops::RangeInclusive<f64> = 1e-12..=1e-3;
/// The version of ggml's block formats that is read.
const QUANTIZATION_VERSION: u64 = 2;
/// Lists that have an entry for every token.
const TOKEN_LISTS: &[&str] = &["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"];

/// Compares the keys of a GGUF file with what its tensors say.
pub(super) fn compare(model: &Model, findings: &mut Findings) {
    if model.container.format().name() != formats::gguf::NAME {
        return;
    }
    let Some((architecture, keys)) = allowed_keys(model) else { return };
    let container = &model.container;
    if let Some(stated) = container.value("general.architecture")
        && stated.as_str() != Some(architecture)
    {
        let stated = stated.as_str().unwrap_or("no text");
        findings
            .contradict(format!("general.architecture is {stated:?}, and the tensors say {architecture:?}"));
    }
    for (key, allowed) in keys {
        if let Some(value) = container.value(key) {
            findings.compare(key, &shown(value), value.as_u64(), &allowed);
        }
    }
    let vocab = model.dims.vocab as u64;
    if let Some(value) = container.value(&format!("{architecture}.vocab_size")) {
        findings.compare(&format!("{architecture}.vocab_size"), &shown(value), value.as_u64(), &[vocab]);
    }
    for key in TOKEN_LISTS {
        if let Some(len) = container.value(key).and_then(len) {
            findings.compare(&format!("the number of entries of {key}"), &len, Some(len), &[vocab]);
        }
    }
    for (key, value) in container.metadata() {
        let of_arch = key.strip_prefix(architecture).is_some_and(|rest| rest.starts_with(".attention."));
        if key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id") {
            token(key, value.as_u64(), &shown(value), vocab, findings);
        } else if of_arch && key.ends_with("_epsilon") {
            epsilon(key, number(value), findings);
        }
    }
    let version = container.value("general.quantization_version").and_then(Value::as_u64);
    findings.suspect(
        version.filter(|v| *v != QUANTIZATION_VERSION).map(|v| {
            format!("general.quantization_version is {v}, and only {QUANTIZATION_VERSION} is known")
        }),
    );
    let odd_heads = model.version.body == Body::Rwkv && model.dims.head_size != HEAD_SIZE;
    findings.suspect(odd_heads.then(|| {
        let size = model.dims.head_size;
        format!("{architecture}.wkv.head_size is {size}, and every released model has {HEAD_SIZE}")
    }));
    file_type(model, findings);
}

/// The id of a token must be that of one.
pub(super) fn token(
    key: &str,
    id: Option<u64>,
    stated: &dyn std::fmt::Display,
    vocab: u64,
    findings: &mut Findings,
) {
    if id.is_none_or(|id| id >= vocab) {
        findings.contradict(format!("{key} is {stated}, and the tensors say that there are {vocab} tokens"));
    }
}

/// An epsilon must be positive, and should be small.
pub(super) fn epsilon(key: &str, stated: Option<f64>, findings: &mut Findings) {
    match stated {
        Some(e) if EPSILON.contains(&e) => {}
        Some(e) if e.is_finite() && e > 0.0 => {
            findings
                .suspect(Some(format!("{key} is {e}, and usual are 1e-5 (released RWKV) and 1e-6 (Qwen2)")));
        }
        Some(e) => findings.contradict(format!("{key} is {e}, which no norm can have")),
        None => findings.contradict(format!("{key} is no number")),
    }
}

/// Checks that some matrix is stored as the file type says.
fn file_type(model: &Model, findings: &mut Findings) {
    let Some(stated) = model.container.value("general.file_type").and_then(Value::as_u64) else { return };
    let named = FILE_TYPES.iter().find(|t| t.gguf_number.is_some_and(|n| u64::from(n) == stated));
    let matrices = || model.tensors.iter().filter(|held| held.spec.role == Role::Matrix);
    let stored = || matrices().filter_map(|held| held.values.encoding());
    findings.suspect(match named {
        None => Some(format!("general.file_type is {stated}, which is not known")),
        Some(t) if stored().any(|e| e == t.matrix) => None,
        Some(t) => Some(format!(
            "general.file_type is {stated} ({}), and no matrix is stored as {}",
            t.name,
            Encoding::name(t.matrix)
        )),
    });
}

/// A value in a message.
fn shown(value: &Value) -> String {
    match value.as_u64() {
        Some(n) => n.to_string(),
        None => match value.as_str() {
            Some(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
            None => number(value).map_or_else(|| "no number".to_owned(), |n| n.to_string()),
        },
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::F32(v) => Some(f64::from(*v)),
        Value::F64(v) => Some(*v),
        Value::I8(v) => Some(f64::from(*v)),
        Value::I16(v) => Some(f64::from(*v)),
        Value::I32(v) => Some(f64::from(*v)),
        Value::I64(v) => Some(*v as f64),
        _ => value.as_u64().map(|v| v as f64),
    }
}

/// Number of elements of an array.
fn len(value: &Value) -> Option<u64> {
    match value {
        Value::Array(items) => Some(items.len() as u64),
        _ => None,
    }
}

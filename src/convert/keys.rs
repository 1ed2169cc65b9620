//! Fate of the keys of a GGUF source in the file that is made of it.

use std::collections::HashMap;

use formats::Value;

use crate::model::Model;
use crate::plan::Plan;
use crate::shard;
use crate::targets::{Target, gguf::Gguf};

/// Starts of keys that tell how a file is stored: of every file its own.
const OF_THE_FILE: [&str; 4] =
    ["split.", "general.file_type", "general.quantization_version", "general.alignment"];

/// Keys of what other formats hold in their own way: the architecture and the vocabulary.
const ELSEWHERE: [&str; 7] = [
    "general.architecture",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.scores",
];

/// Keys that the file does not have as the source has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ChangedKeys {
    /// Keys that the file lacks.
    pub dropped: Vec<String>,
    /// Keys with another value, with both values where they are short.
    pub changed: Vec<String>,
}

impl ChangedKeys {
    /// Changed keys of a conversion from GGUF. (A shard holds none; what is merged has them.)
    pub fn of(model: &Model, plan: &Plan) -> ChangedKeys {
        let source = &model.container;
        let is_shard = plan.metadata.iter().any(|(key, _)| key == shard::KEY);
        if source.format().name() != "GGUF" || is_shard {
            return ChangedKeys::default();
        }
        let to_gguf = plan.target.id() == Gguf.id();
        let own = |key: &str| {
            let of_file = OF_THE_FILE.iter().any(|start| key.starts_with(start));
            of_file || (!to_gguf && ELSEWHERE.contains(&key))
        };
        let now: HashMap<&str, &Value> = plan.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let mut keys = ChangedKeys::default();
        for (key, old) in source.metadata().iter().filter(|(key, _)| !own(key)) {
            match now.get(key.as_str()) {
                None => keys.dropped.push(key.clone()),
                Some(new) if !is_same(old, new) => keys.changed.push(changed(key, old, new)),
                Some(_) => {}
            }
        }
        keys
    }

    /// Changed keys as sentences.
    pub fn warnings(&self) -> Vec<String> {
        let told = |what: &str, keys: &[String]| {
            (!keys.is_empty()).then(|| format!("keys of the source {what}: {}", keys.join(", ")))
        };
        told("dropped", &self.dropped).into_iter().chain(told("changed", &self.changed)).collect()
    }
}

/// True for one value, whatever the width of a number.
fn is_same(old: &Value, new: &Value) -> bool {
    old.is_same(new) || (old.as_u64().is_some() && old.as_u64() == new.as_u64())
}

/// A key with its values, if both are short.
fn changed(key: &str, old: &Value, new: &Value) -> String {
    match (short(old), short(new)) {
        (Some(old), Some(new)) => format!("{key} ({old} -> {new})"),
        _ => key.to_owned(),
    }
}

fn short(value: &Value) -> Option<String> {
    const MAX_CHARS: usize = 32;
    match value {
        Value::Array(..) => None,
        Value::String(text) => (text.chars().count() <= MAX_CHARS).then(|| format!("{text:?}")),
        Value::Bool(b) => Some(b.to_string()),
        Value::F32(v) => Some(v.to_string()),
        Value::F64(v) => Some(v.to_string()),
        Value::I64(v) => Some(v.to_string()),
        Value::I32(v) => Some(v.to_string()),
        Value::I16(v) => Some(v.to_string()),
        Value::I8(v) => Some(v.to_string()),
        unsigned => unsigned.as_u64().map(|v| v.to_string()),
    }
}

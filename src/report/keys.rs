//! What became of the keys of a GGUF source in the GGUF file that is made of it.

use std::collections::HashMap;

use formats::Value;

use crate::model::Model;
use crate::plan::Plan;
use crate::targets::{Target, gguf::Gguf};

/// Starts of keys that tell how a file is stored: of every file its own.
const OF_THE_FILE: [&str; 4] =
    ["split.", "general.file_type", "general.quantization_version", "general.alignment"];

/// Keys that the file does not have as the source has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ChangedKeys {
    /// Those that it lacks.
    pub dropped: Vec<String>,
    /// Those with another value, with both values where they are short.
    pub changed: Vec<String>,
}

impl ChangedKeys {
    /// Those of a conversion from GGUF to GGUF; none for others.
    pub fn of(model: &Model, plan: &Plan) -> ChangedKeys {
        let source = &model.container;
        if source.format().name() != "GGUF" || plan.target.id() != Gguf.id() {
            return ChangedKeys::default();
        }
        let now: HashMap<&str, &Value> = plan.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let mut keys = ChangedKeys::default();
        for (key, old) in source.metadata() {
            if OF_THE_FILE.iter().any(|start| key.starts_with(start)) {
                continue;
            }
            match now.get(key.as_str()) {
                None => keys.dropped.push(key.clone()),
                Some(new) if *new != old => keys.changed.push(changed(key, old, new)),
                Some(_) => {}
            }
        }
        keys
    }
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

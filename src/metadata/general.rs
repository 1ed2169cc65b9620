//! GGUF's keys `general.*`: which of them go with the model, and in which order llama.cpp's converter writes them.

use formats::{Metadata, Value};

/// Keys that tell of a file and not of the model: a target writes those of its own.
const OF_THE_FILE: [&str; 6] =
    ["architecture", "type", "size_label", "file_type", "quantization_version", "alignment"];

/// The order of the keys, or of the first word of keys that belong together.
const ORDER: [&str; 22] = [
    "sampling",
    "name",
    "author",
    "version",
    "organization",
    "finetune",
    "basename",
    "description",
    "quantized_by",
    "size_label",
    "license",
    "license.name",
    "license.link",
    "url",
    "doi",
    "uuid",
    "repo_url",
    "source",
    "base_model",
    "dataset",
    "tags",
    "languages",
];

/// Fields of a base model or data set, in order.
const FIELDS: [&str; 9] =
    ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];

/// Description of one base model or data set: fields of [`FIELDS`], and their texts.
pub(super) type Entry = Vec<(&'static str, String)>;

/// True if a key of a GGUF source holds for what is made of it.
pub(super) fn is_carried(key: &str) -> bool {
    // `tensor_extra` lists tensors by name, with hints for the types that they have.
    key.strip_prefix("general.").is_some_and(|k| !OF_THE_FILE.contains(&k) && !k.starts_with("tensor_extra."))
}

/// Puts the keys in the order of llama.cpp's converter; those that it does not know come last.
pub(super) fn sort(keys: &mut Metadata) {
    keys.sort_by_key(|(key, _)| rank(key));
}

fn rank(key: &str) -> (usize, u64, usize) {
    let key = key.strip_prefix("general.").unwrap_or(key);
    let place = |list: &[&str], name: &str| list.iter().position(|n| *n == name).unwrap_or(list.len());
    match key.split_once('.') {
        Some((group @ ("base_model" | "dataset"), rest)) => match rest.split_once('.') {
            Some((number, field)) => {
                let number = number.parse().unwrap_or(u64::MAX).saturating_add(1);
                (place(&ORDER, group), number, place(&FIELDS, field))
            }
            None => (place(&ORDER, group), 0, 0), // the count
        },
        Some(("source", field)) => (place(&ORDER, "source"), 0, place(&FIELDS, field)),
        Some(("sampling", _)) => (place(&ORDER, "sampling"), 0, 0),
        _ => (place(&ORDER, key), 0, 0),
    }
}

/// The keys of a list of base models (`base_model`) or data sets (`dataset`).
pub(super) fn entries(group: &str, list: &[Entry]) -> Metadata {
    let mut keys = Metadata::new();
    if list.is_empty() {
        return keys;
    }
    let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
    keys.push((format!("general.{group}.count"), Value::U32(count)));
    for (n, entry) in list.iter().enumerate() {
        let fields = entry.iter().map(|(field, text)| (format!("general.{group}.{n}.{field}"), text));
        keys.extend(fields.map(|(key, text)| (key, Value::from(text.as_str()))));
    }
    keys
}

/// Description that an id gives: `organization/name` at Hugging Face, an address, or a name.
pub(super) fn entry(id: &str) -> Entry {
    const HOME: &str = "https://huggingface.co/";
    let own = |text: &str| text.to_owned();
    // Organization and name, if it is these two and nothing else.
    let parts = |id: &str| {
        let (organization, name) = id.split_once('/')?;
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['/', ' ']);
        (plain(organization) && plain(name)).then(|| (own(organization), own(name)))
    };
    let address = ["https://", "http://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
    let path = if address { id.strip_prefix(HOME).unwrap_or_default() } else { id };
    match parts(path) {
        Some((organization, name)) => {
            let repo_url = if address { own(id) } else { format!("{HOME}{organization}/{name}") };
            vec![("name", name), ("organization", organization), ("repo_url", repo_url)]
        }
        None if address => vec![("repo_url", own(id))],
        None => vec![("name", own(id))],
    }
}

/// Description of a base model or data set that a mapping gives.
pub(super) fn entry_of(fields: &serde_json::Map<String, serde_json::Value>) -> Entry {
    let text = |field: &'static str| Some((field, fields.get(field)?.as_str()?.to_owned()));
    FIELDS.into_iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_apart_and_never_reworded() {
        let said = |id: &str| entry(id).into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        assert_eq!(
            said("BlinkDL/rwkv7-g1"),
            ["name=rwkv7-g1", "organization=BlinkDL", "repo_url=https://huggingface.co/BlinkDL/rwkv7-g1"]
        );
        assert_eq!(said("https://huggingface.co/a/b"), said("a/b"));
        assert_eq!(said("https://example.org/a/b"), ["repo_url=https://example.org/a/b"]);
        for name in ["rwkv7", "./local", "RWKV 7 by me/us", "a/b/c"] {
            assert_eq!(said(name), [format!("name={name}")]);
        }
    }

    #[test]
    fn keys_come_in_llama_cpps_order() {
        let order = [
            "general.sampling.top_k",
            "general.name",
            "general.basename",
            "general.size_label",
            "general.license",
            "general.license.link",
            "general.source.url",
            "general.source.repo_url",
            "general.base_model.count",
            "general.base_model.2.repo_url",
            "general.base_model.10.name",
            "general.dataset.count",
            "general.dataset.0.name",
            "general.tags",
            "general.languages",
            "general.of_the_future",
        ];
        let mut keys: Metadata = order.iter().rev().map(|k| ((*k).to_owned(), Value::U32(0))).collect();
        sort(&mut keys);
        assert!(keys.iter().map(|(k, _)| k).eq(order));
    }
}

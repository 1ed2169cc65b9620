//! The tensors and keys of our GGUF files are, byte for byte, those that llama.cpp's own converter writes.
//!
//! The records are made by `tests/clients/record_llama_cpp.py`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::run::{json, ok, sha256, testdata};

/// Name, GGUF dimensions, type and hash of every tensor.
type Tensors = BTreeMap<String, (Vec<u64>, String, String)>;

fn recorded(model: &str, outtype: &str) -> Value {
    let path = testdata(&format!("golden/llama_cpp/{model}.{outtype}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn tensors_of(record: &Value) -> Tensors {
    let list = record["tensors"].as_array().unwrap();
    let text = |t: &Value, key: &str| t[key].as_str().unwrap().to_owned();
    let dims = |t: &Value| t["dims"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
    list.iter()
        .map(|t| (text(t, "name"), (dims(t), text(t, "type").to_lowercase(), text(t, "sha256"))))
        .collect()
}

fn same_as_llama_cpp(model: &str, outtype: &str) {
    let record = recorded(model, outtype);
    let source = testdata(&format!("{model}.pth"));
    let made_from = sha256(&std::fs::read(&source).unwrap());
    assert_eq!(record["source_sha256"], made_from.as_str(), "the record is of another model: make it again");

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    ok(["convert".as_ref(), source.as_os_str(), out.as_os_str(), "--type".as_ref(), outtype.as_ref()]);
    let bytes = std::fs::read(&out).unwrap();
    let inspected = json(["--format".as_ref(), "json".as_ref(), "inspect".as_ref(), out.as_os_str()]);

    let mut ours = Tensors::new();
    for t in inspected["tensors"].as_array().unwrap() {
        let number = |key: &str| t[key].as_u64().unwrap() as usize;
        let data = &bytes[number("offset")..number("offset") + number("bytes")];
        let mut dims: Vec<u64> = t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
        dims.reverse();
        let encoding = t["encoding"].as_str().unwrap().to_owned();
        ours.insert(t["name"].as_str().unwrap().to_owned(), (dims, encoding, sha256(data)));
    }
    assert_eq!(ours, tensors_of(&record));

    // The tokenizer of a byte-level model differs by design: llama.cpp's converter knows the World vocabulary only.
    let theirs = record["kv"].as_object().unwrap().iter().filter(|(key, _)| !key.starts_with("tokenizer."));
    let expected: Vec<(&String, &Value)> = theirs.map(|(key, typed)| (key, &typed[1])).collect();
    let keys = inspected["metadata"].as_object().unwrap();
    let found: Vec<(&String, &Value)> = keys.iter().filter(|(k, _)| !k.starts_with("tokenizer.")).collect();
    assert_eq!(found, expected, "keys, in order");
}

#[test]
fn rwkv6_f32() {
    same_as_llama_cpp("rwkv6-bytes", "f32");
}

#[test]
fn rwkv6_f16() {
    same_as_llama_cpp("rwkv6-bytes", "f16");
}

#[test]
fn rwkv6_bf16() {
    same_as_llama_cpp("rwkv6-bytes", "bf16");
}

#[test]
fn rwkv7_f32() {
    same_as_llama_cpp("rwkv7-bytes", "f32");
}

#[test]
fn rwkv7_f16() {
    same_as_llama_cpp("rwkv7-bytes", "f16");
}

#[test]
fn rwkv7_bf16() {
    same_as_llama_cpp("rwkv7-bytes", "bf16");
}

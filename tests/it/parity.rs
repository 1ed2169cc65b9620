//! The tensors and keys of our GGUF files are, byte for byte, those that llama.cpp's own converter writes, and with
//! `--mix llama.cpp` those of llama-quantize.
//!
//! The records are made by `tests/clients/record_llama_cpp.py`.

use std::collections::BTreeMap;
use std::path::Path;

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

/// The tensors of a GGUF file, and what `inspect` says of it.
fn tensors_in(path: &Path) -> (Tensors, Value) {
    let bytes = std::fs::read(path).unwrap();
    let inspected = json(["--format", "json", "inspect", path.to_str().unwrap()]);
    let mut tensors = Tensors::new();
    for t in inspected["tensors"].as_array().unwrap() {
        let number = |key: &str| t[key].as_u64().unwrap() as usize;
        let data = &bytes[number("offset")..number("offset") + number("bytes")];
        let mut dims: Vec<u64> = t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
        dims.reverse();
        let encoding = t["encoding"].as_str().unwrap().to_owned();
        tensors.insert(t["name"].as_str().unwrap().to_owned(), (dims, encoding, sha256(data)));
    }
    (tensors, inspected)
}

/// The record of a model and file type, which must be of the model as it is now.
fn current_record(model: &str, kind: &str) -> Value {
    let record = recorded(model, kind);
    let made_from = sha256(&std::fs::read(testdata(&format!("{model}.pth"))).unwrap());
    assert_eq!(record["source_sha256"], made_from.as_str(), "the record is of another model: make it again");
    record
}

fn same_as_the_converter(model: &str, outtype: &str) {
    let record = current_record(model, outtype);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let source = testdata(&format!("{model}.pth"));
    ok(["convert", source.to_str().unwrap(), out.to_str().unwrap(), "--type", outtype]);
    let (tensors, inspected) = tensors_in(&out);
    assert_eq!(tensors, tensors_of(&record));

    // The tokenizer of a byte-level model differs by design: llama.cpp's converter knows the World vocabulary only.
    let theirs = record["kv"].as_object().unwrap().iter().filter(|(key, _)| !key.starts_with("tokenizer."));
    let expected: Vec<(&String, &Value)> = theirs.map(|(key, typed)| (key, &typed[1])).collect();
    let keys = inspected["metadata"].as_object().unwrap();
    let found: Vec<(&String, &Value)> = keys.iter().filter(|(k, _)| !k.starts_with("tokenizer.")).collect();
    assert_eq!(found, expected, "keys, in order");
}

/// Every file type that llama-quantize's records are of.
const QUANTIZED: [&str; 12] = [
    "q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1", "q4_0", "q3_k_m", "q2_k", "iq4_nl", "iq4_xs",
];

fn same_as_llama_quantize(model: &str, records: &str, flags: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let full = dir.path().join("f32.gguf");
    let source = testdata(&format!("{model}.pth"));
    ok(["convert", source.to_str().unwrap(), full.to_str().unwrap(), "--type", "f32"]);
    for kind in QUANTIZED {
        let record = current_record(model, &format!("{records}.{kind}"));
        let out = dir.path().join(format!("{kind}.gguf"));
        let (full, path) = (full.to_str().unwrap(), out.to_str().unwrap());
        ok(["convert", full, path, "--type", kind, "--mix", "llama.cpp"].iter().chain(flags));
        let (tensors, inspected) = tensors_in(&out);
        assert_eq!(tensors, tensors_of(&record), "{kind}");
        let keys = inspected["metadata"].as_object().unwrap();
        let of_quantization = |key: &str| key == "general.file_type" || key.starts_with("quantize.");
        for (key, typed) in record["kv"].as_object().unwrap().iter().filter(|(key, _)| of_quantization(key)) {
            assert_eq!(keys[key], typed[1], "{kind} {key}");
        }
    }
}

fn same_with_an_importance_matrix(model: &str) {
    let imatrix = testdata(&format!("golden/llama_cpp/{model}.imatrix.gguf"));
    same_as_llama_quantize(model, "imatrix", &["--imatrix", imatrix.to_str().unwrap()]);
}

#[test]
fn rwkv6_with_an_importance_matrix() {
    same_with_an_importance_matrix("rwkv6-bytes");
}

#[test]
fn rwkv7_with_an_importance_matrix() {
    same_with_an_importance_matrix("rwkv7-bytes");
}

#[test]
fn rwkv6_q8_0() {
    same_as_the_converter("rwkv6-bytes", "q8_0");
}

#[test]
fn rwkv7_q8_0() {
    same_as_the_converter("rwkv7-bytes", "q8_0");
}

#[test]
fn rwkv6_quantized() {
    same_as_llama_quantize("rwkv6-bytes", "llama-quantize", &[]);
}

#[test]
fn rwkv7_quantized() {
    same_as_llama_quantize("rwkv7-bytes", "llama-quantize", &[]);
}

#[test]
fn rwkv6_f32() {
    same_as_the_converter("rwkv6-bytes", "f32");
}

#[test]
fn rwkv6_f16() {
    same_as_the_converter("rwkv6-bytes", "f16");
}

#[test]
fn rwkv6_bf16() {
    same_as_the_converter("rwkv6-bytes", "bf16");
}

#[test]
fn rwkv7_f32() {
    same_as_the_converter("rwkv7-bytes", "f32");
}

#[test]
fn rwkv7_f16() {
    same_as_the_converter("rwkv7-bytes", "f16");
}

#[test]
fn rwkv7_bf16() {
    same_as_the_converter("rwkv7-bytes", "bf16");
}

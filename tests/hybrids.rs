//! The hybrids with Qwen2 become the files that llama.cpp's own converter makes of them: every tensor, every key.
//!
//! The folders are made by `tests/hybrids/make_folder.py`, the records by `tests/clients/record_hybrids.py`.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use formats::{Container, Limits, Value};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const FOLDERS: [&str; 3] = ["arwkv7", "arwkv7-gated", "rwkv6qwen2"];

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Status and messages of `rwkv-quant convert FROM TO --type TYPE MORE...`.
fn try_convert(from: &Path, to: &Path, file_type: &str, more: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rwkv-quant"));
    command.env("NO_COLOR", "1").arg("convert").args([from, to]).args(["--type", file_type]).args(more);
    let output = command.output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

fn convert(from: &Path, file_type: &str, more: &[&str]) -> (TempDir, Container) {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out.gguf");
    let (status, errors) = try_convert(from, &to, file_type, more);
    assert_eq!(status, 0, "{errors}");
    let container = formats::open(&to, &Limits::default()).unwrap();
    (dir, container)
}

/// Messages of a conversion that must fail with this status.
fn refused(from: &Path, status: i32, more: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out.gguf");
    let (found, errors) = try_convert(from, &to, "f16", more);
    assert_eq!(found, status, "{errors}");
    assert!(!to.exists());
    errors.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A copy of a folder of `testdata/hybrids` that may be changed.
fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(testdata("hybrids").join(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// Changes a JSON file of a folder.
fn edit(dir: &TempDir, file: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.path().join(file);
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(&path, value.to_string()).unwrap();
}

/// Dimensions (fastest first), type and hash of every tensor.
type Tensors = BTreeMap<String, (Vec<u64>, String, String)>;

fn tensors(container: &Container) -> Tensors {
    let described = |t: &formats::Tensor| {
        let dims = t.shape.iter().rev().map(|d| *d as u64).collect();
        (t.name.clone(), (dims, t.encoding.name().to_lowercase(), sha256(container.bytes(t))))
    };
    container.tensors().iter().map(described).collect()
}

/// A value as the records have it: the name of its type, and the value.
fn typed(value: &Value) -> serde_json::Value {
    match value {
        Value::U32(n) => json!(["uint32", n]),
        Value::I32(n) => json!(["int32", n]),
        Value::F32(x) => json!(["float32", f64::from(*x)]),
        Value::Bool(b) => json!(["bool", b]),
        Value::String(s) => json!(["string", s]),
        Value::Array(items) => {
            json!(["array", items.iter().map(|i| typed(&i)[1].clone()).collect::<Vec<_>>()])
        }
        other => panic!("no key of ours is {other:?}"),
    }
}

fn keys(container: &Container) -> Vec<(String, serde_json::Value)> {
    container.metadata().iter().map(|(key, value)| (key.clone(), typed(value))).collect()
}

fn u32_of(container: &Container, key: &str) -> Option<u64> {
    container.value(key).and_then(Value::as_u64)
}

fn same_as_llama_cpp(outtype: &str) {
    for name in FOLDERS {
        let path = testdata(&format!("golden/llama_cpp/{name}.{outtype}.json"));
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let folder = testdata("hybrids").join(name);
        let made_from = sha256(&std::fs::read(folder.join("model.safetensors")).unwrap());
        assert_eq!(
            record["source_sha256"],
            made_from.as_str(),
            "the record is of other weights: make it again"
        );

        let (_dir, ours) = convert(&folder, outtype, &[]);
        let text = |t: &serde_json::Value, key: &str| t[key].as_str().unwrap().to_owned();
        let expected: Tensors = record["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| {
                let dims = t["dims"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
                (text(t, "name"), (dims, text(t, "type").to_lowercase(), text(t, "sha256")))
            })
            .collect();
        assert_eq!(tensors(&ours), expected, "{name}");
        let theirs = record["kv"].as_object().unwrap();
        let theirs: Vec<_> = theirs.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(keys(&ours), theirs, "{name}: keys, in order");
    }
}

#[test]
fn f32_is_that_of_llama_cpp() {
    same_as_llama_cpp("f32");
}

#[test]
fn f16_is_that_of_llama_cpp() {
    same_as_llama_cpp("f16");
}

#[test]
fn bf16_is_that_of_llama_cpp() {
    same_as_llama_cpp("bf16");
}

#[test]
fn q8_0_is_that_of_llama_cpp() {
    same_as_llama_cpp("q8_0");
}

/// The small vectors of these models must not lose a bit: llama.cpp computes with nothing else.
#[test]
fn vectors_stay_f32_in_quantized_files() {
    for name in FOLDERS {
        let (_dir, ours) = convert(&testdata("hybrids").join(name), "q4_0", &[]);
        for t in ours.tensors() {
            let vector = t.shape.len() == 1 || t.name.ends_with("lerp_fused.weight");
            assert!(!vector || t.encoding.name() == "f32", "{name}: {} is {}", t.name, t.encoding);
        }
        let down = ours.tensor("blk.1.ffn_down.weight").unwrap();
        assert_eq!(down.encoding.name(), "q4_0", "{name}");
    }
}

#[test]
fn a_gguf_file_becomes_the_same_file_again() {
    for name in FOLDERS {
        let (dir, first) = convert(&testdata("hybrids").join(name), "f32", &["--name", name]);
        let (again_dir, _again) = convert(&dir.path().join("out.gguf"), "f32", &[]);
        let again = std::fs::read(again_dir.path().join("out.gguf")).unwrap();
        assert!(again == first.files()[0].bytes(), "{name}");
    }
}

#[test]
fn tied_embeddings_are_written_as_the_output_layer() {
    let dir = copy("arwkv7");
    edit(&dir, "config.json", |c| c["tie_word_embeddings"] = json!(true));
    // lm_head.weight is the last tensor: take it from the header and cut the file.
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let head_len = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + head_len]).unwrap();
    let head = header.as_object_mut().unwrap().remove("lm_head.weight").unwrap();
    let start = usize::try_from(head["data_offsets"][0].as_u64().unwrap()).unwrap();
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut cut = (text.len() as u64).to_le_bytes().to_vec();
    cut.extend_from_slice(&text);
    cut.extend_from_slice(&bytes[8 + head_len..8 + head_len + start]);
    std::fs::write(&path, cut).unwrap();

    let (_out, ours) = convert(dir.path(), "f16", &[]);
    let hash = |name: &str| sha256(ours.bytes(ours.tensor(name).unwrap()));
    assert_eq!(hash("output.weight"), hash("token_embd.weight"));

    edit(&dir, "config.json", |c| c["tie_word_embeddings"] = json!(false));
    assert!(refused(dir.path(), 1, &[]).contains("\"lm_head.weight\" is missing"));
}

#[test]
fn a_gate_is_there_as_a_whole_or_not_at_all() {
    let gated = testdata("hybrids/arwkv7-gated");
    let message = refused(&gated, 1, &["--drop", "*.1.*.g2"]);
    assert!(message.contains("layers.1.self_attn.time_mixer.g2\" is missing"), "{message}");
    assert!(message.contains("although the model has other tensors of its gate"), "{message}");

    let no_gate = ["--drop", "*.g1", "--drop", "*.g2"];
    let message = refused(&gated, 1, &no_gate);
    assert!(message.contains("has no gate, but its config.json says that it has one"), "{message}");

    let dir = copy("arwkv7-gated");
    edit(&dir, "config.json", |c| c["wkv_has_gate"] = json!(false));
    let message = refused(dir.path(), 1, &[]);
    assert!(message.contains("has a gate, but its config.json says that it has none"), "{message}");
    // The token shift of the gate goes with the gate.
    let (_dir, ours) = convert(dir.path(), "f32", &no_gate);
    assert_eq!(u32_of(&ours, "arwkv7.attention.gate_lora_rank"), Some(0));
    assert_eq!(ours.tensor("blk.0.time_mix_lerp_fused.weight").unwrap().shape, [5, 1, 1, 64]);
    assert!(ours.tensor("blk.0.time_mix_g1.weight").is_none());
}

#[test]
fn other_targets_refuse_hybrids_and_name_the_one_that_does_not() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["out.safetensors", "out.pth"] {
        let out = dir.path().join(name);
        let ran = Command::new(env!("CARGO_BIN_EXE_rwkv-quant"))
            .arg("convert")
            .args([&testdata("hybrids/arwkv7"), &out])
            .output()
            .unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(said.contains("is ARWKV-7 (RWKV-7 in a Qwen2 model), and"), "{said}");
        assert!(said.contains("these can hold it: .gguf (llama.cpp"), "{said}");
    }
}

#[test]
fn another_epsilon_of_the_group_norm_is_an_objection() {
    let dir = copy("arwkv7-gated");
    edit(&dir, "config.json", |c| c["head_size_divisor"] = json!(1));
    let message = refused(dir.path(), 1, &[]);
    assert!(message.contains("has the head_size_divisor 1, and llama.cpp computes with 8"), "{message}");
    convert(dir.path(), "f32", &["--force-target"]);
}

#[test]
fn what_only_config_json_tells_must_be_told() {
    let dir = copy("rwkv6qwen2");
    edit(&dir, "config.json", |c| {
        c.as_object_mut().unwrap().remove("num_attention_heads");
    });
    assert!(refused(dir.path(), 1, &[]).contains("does not tell how many heads it has"));

    let dir = copy("arwkv7");
    edit(&dir, "config.json", |c| {
        c.as_object_mut().unwrap().remove("rms_norm_eps");
    });
    assert!(refused(dir.path(), 1, &[]).contains("as rms_norm_eps"));

    let dir = copy("arwkv7");
    edit(&dir, "config.json", |c| c["wkv_version"] = json!(6));
    assert!(refused(dir.path(), 1, &[]).contains("wkv_version 6"));

    let dir = copy("rwkv6qwen2");
    edit(&dir, "config.json", |c| c["num_attention_heads"] = json!(1));
    assert!(refused(dir.path(), 1, &[]).contains("cannot share"));
}

#[test]
fn tokenizers_that_are_not_qwen2s_are_refused_by_name() {
    let dir = copy("arwkv7-gated");
    edit(&dir, "tokenizer.json", |t| {
        t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\p{N}{1,3}|\s+|\S+");
    });
    let message = refused(dir.path(), 1, &[]);
    assert!(message.contains("cuts text into words by another rule than Qwen2's"), "{message}");
    assert!(message.contains("--vocab FOLDER"), "{message}");
    // The tokenizer of another folder may stand in.
    let other = testdata("hybrids/rwkv6qwen2");
    let (_out, ours) = convert(dir.path(), "f16", &["--vocab", other.to_str().unwrap()]);
    assert_eq!(ours.value("tokenizer.ggml.add_bos_token"), Some(&Value::Bool(true)));

    let dir = copy("rwkv6qwen2");
    std::fs::write(dir.path().join("tokenizer.model"), b"sentencepiece").unwrap();
    assert!(refused(dir.path(), 1, &[]).contains("is a sentencepiece tokenizer"));

    let dir = copy("arwkv7");
    std::fs::remove_file(dir.path().join("vocab.json")).unwrap();
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    assert!(refused(dir.path(), 1, &[]).contains("holds no tokenizer"));
}

#[test]
fn damaged_tokenizers_are_refused() {
    let dir = copy("arwkv7");
    edit(&dir, "vocab.json", |v| v["zebra"] = json!(288));
    assert!(
        refused(dir.path(), 2, &[]).contains("has the id 288, but the model has rows for 288 tokens only")
    );

    let dir = copy("arwkv7");
    edit(&dir, "vocab.json", |v| v["zebra"] = json!(7));
    assert!(refused(dir.path(), 1, &[]).contains("two tokens of the id 7"));

    let dir = copy("rwkv6qwen2");
    let path = dir.path().join("tokenizer.json");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert!(refused(dir.path(), 1, &[]).contains("is not what a file of this name holds"));
}

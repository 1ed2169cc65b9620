//! What a file says of its model: the model card, the keys of a GGUF source, the flags, the vocabulary.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::messages::{parts, safetensors};
use crate::run::{json as report, ok, run, testdata};

const CARD: &str = "\u{feff}---
license: other
license_name: my-license
license_link: LICENSE
base_model: [BlinkDL/rwkv7-g1, https://example.org/model]
language:
- en
- no
tags:
\t- rwkv
pipeline_tag: text-generation
datasets: [a/texts, more]
model_name: From the card
---
# A model
";

/// The folder `tiny` of a model and what else it holds.
fn folder(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
    let folder = dir.join("tiny");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("model.safetensors"), safetensors(&parts("rwkv7-bytes.pth"))).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
    folder
}

/// Converts `input` into `output`, and gives the keys `general.*` of that.
fn general(input: &Path, output: &Path, flags: &[&str]) -> Vec<(String, Value)> {
    ok(["convert", input.to_str().unwrap(), output.to_str().unwrap(), "-t", "q8_0", "-f"]
        .iter()
        .chain(flags));
    let found = report(["--format", "json", "inspect", output.to_str().unwrap()]);
    let keys = found["metadata"].as_object().unwrap().iter();
    keys.filter(|(key, _)| key.starts_with("general.")).map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[test]
fn the_model_card_is_kept_and_passes_through() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), &[("README.md", CARD)]);
    let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    let keys = general(&source, &a, &[]);
    let expected = json!({
        "general.architecture": "rwkv7",
        "general.type": "model",
        "general.name": "From the card",
        "general.size_label": "1.9M",
        "general.license": "other",
        "general.license.name": "my-license",
        "general.license.link": "LICENSE",
        "general.base_model.count": 2,
        "general.base_model.0.name": "rwkv7-g1",
        "general.base_model.0.organization": "BlinkDL",
        "general.base_model.0.repo_url": "https://huggingface.co/BlinkDL/rwkv7-g1",
        "general.base_model.1.repo_url": "https://example.org/model",
        "general.dataset.count": 2,
        "general.dataset.0.name": "texts",
        "general.dataset.0.organization": "a",
        "general.dataset.0.repo_url": "https://huggingface.co/a/texts",
        "general.dataset.1.name": "more",
        "general.tags": ["rwkv", "text-generation"],
        "general.languages": ["en", "no"],
        "general.file_type": 7,
        "general.quantization_version": 2,
    });
    let expected: Vec<(String, Value)> =
        expected.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(keys, expected);
    assert_eq!(general(&a, &b, &[]), expected, "GGUF to GGUF");

    // Flags go before both, and take with them what belongs to what they replace.
    let flags = ["--license", "mit", "--base-model", "me/mine", "--name", "Flag"];
    for input in [&source, &a] {
        let keys = general(input, &b, &flags);
        let value = |key: &str| keys.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        assert_eq!(value("general.name"), Some(json!("Flag")));
        assert_eq!(value("general.license"), Some(json!("mit")));
        assert_eq!(value("general.license.name"), None);
        assert_eq!(value("general.base_model.count"), Some(json!(1)));
        assert_eq!(value("general.base_model.0.name"), Some(json!("mine")));
        assert_eq!(value("general.base_model.1.repo_url"), None);
        assert_eq!(value("general.tags"), Some(json!(["rwkv", "text-generation"])));
    }

    let keys = general(&source, &b, &["--no-card"]);
    assert_eq!(keys[2], ("general.name".to_owned(), json!("tiny")));
    assert!(keys.iter().all(|(key, _)| !key.starts_with("general.license")));
}

#[test]
fn a_model_is_named_after_its_folder_or_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), &[]);
    let out = dir.path().join("out.gguf");
    let name = |input: &Path| {
        let keys = general(input, &out, &[]);
        keys.into_iter().find(|(key, _)| key == "general.name").unwrap().1
    };
    assert_eq!(name(&folder), "tiny");
    assert_eq!(name(&folder.join("model.safetensors")), "tiny");
    assert_eq!(name(&folder.join("..").join("tiny").join(".")), "tiny");
    assert_eq!(name(&testdata("rwkv7-bytes.pth")), "rwkv7-bytes");
    // A link has a name of its own: caches keep files under their hashes.
    let link = dir.path().join("rwkv7-link.safetensors");
    std::os::unix::fs::symlink(folder.join("model.safetensors"), &link).unwrap();
    assert_eq!(name(&link), "rwkv7-link");

    // Two parts, opened by either or by the folder.
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let all = parts("rwkv7-bytes.pth");
    let (first, second) = all.split_at(all.len() / 2);
    for (n, half) in [(1, first), (2, second)] {
        fs::write(folder.join(format!("weights-0000{n}-of-00002.safetensors")), safetensors(half)).unwrap();
    }
    let input = out.with_file_name("tiny");
    for input in [
        input.clone(),
        input.join("weights-00001-of-00002.safetensors"),
        input.join("weights-00002-of-00002.safetensors"),
    ] {
        assert_eq!(name(&input), "tiny", "{}", input.display());
    }
}

#[test]
fn the_vocabulary_beside_a_model_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), &[("vocab.txt", "[PAD]\n[UNK]\n")]);
    let convert = |name: &str| {
        let out = dir.path().join(name);
        let input = folder.join("model.safetensors");
        let ran = ok(["convert", input.to_str().unwrap(), out.to_str().unwrap(), "-t", "q8_0"]);
        (ran.stdout, fs::read(out).unwrap())
    };
    let (said, usual) = convert("usual.gguf");
    assert!(said.contains("bytes (256 tokens)"), "a vocab.txt of another kind is none: {said}");

    let bytes: String = (0..=255).map(|b| format!("{b} b'\\x{b:02x}' 1\n")).collect();
    fs::write(folder.join("rwkv_vocab_bytes.txt"), bytes).unwrap();
    assert!(convert("same.gguf").1 == usual, "a copy of the usual vocabulary changes nothing");

    fs::write(folder.join("rwkv_vocab_v20230424.txt"), "1 'a' 1\n").unwrap();
    let (said, other) = convert("other.gguf");
    assert!(said.contains("rwkv_vocab_v20230424.txt"), "{said}");
    assert!(other != usual);
}

#[test]
fn an_empty_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let source = testdata("rwkv7-bytes.pth");
    for flag in ["--name", "--author", "--license", "--base-model", "--model-version"] {
        let args = ["convert", source.to_str().unwrap(), out.to_str().unwrap(), "-t", "q8_0", flag, ""];
        assert_eq!(run(args).status, 2, "{flag}");
    }
}

/// A snapshot in a cache of the Hub is named by its commit, and is nothing but links.
#[test]
fn a_snapshot_of_the_hub_has_its_repositorys_name_and_its_files() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("models--BlinkDL--rwkv-7--tiny");
    let snapshot = cache.join("snapshots/0123456789abcdef0123456789abcdef01234567");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(cache.join("blobs")).unwrap();
    fs::write(dir.path().join("secret"), "the user's key").unwrap();
    let blob = |name: &str, bytes: &[u8]| {
        fs::write(cache.join("blobs").join(name), bytes).unwrap();
        symlink(format!("../../blobs/{name}"), snapshot.join(name)).unwrap();
    };
    let plain = dir.path().join("plain");
    ok(["convert", testdata("rwkv7-bytes.pth").to_str().unwrap(), plain.to_str().unwrap(), "--to", "hf"]);
    for entry in fs::read_dir(&plain).unwrap().map(|e| e.unwrap().path()) {
        blob(entry.file_name().unwrap().to_str().unwrap(), &fs::read(&entry).unwrap());
    }
    blob("generation_config.json", b"{\"top_p\": 0.5}");
    symlink("../../../secret", snapshot.join("special_tokens_map.json")).unwrap();
    let (out, folder) = (dir.path().join("out.gguf"), dir.path().join("out"));
    let name = |input: &Path| {
        let keys = general(input, &out, &[]);
        keys.into_iter().find(|(key, _)| key == "general.name").unwrap().1
    };
    assert_eq!(name(&snapshot), "rwkv-7--tiny");
    assert_eq!(name(&snapshot.join("model.safetensors")), "rwkv-7--tiny");
    let said = ok(["convert", snapshot.to_str().unwrap(), folder.to_str().unwrap(), "--to", "hf"]).stdout;
    assert!(
        said.contains("special_tokens_map.json is a link out of the model's folder, and is left out"),
        "{said}"
    );
    let carried = folder.join("generation_config.json");
    assert_eq!(fs::read(&carried).unwrap(), b"{\"top_p\": 0.5}");
    for entry in fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
        assert!(!entry.is_symlink(), "{}", entry.display());
        assert!(fs::read(&entry).unwrap() != b"the user's key");
    }
    assert!(!folder.join("special_tokens_map.json").exists());

    // A vocabulary of somebody else's stays out of every format.
    fs::remove_file(snapshot.join("special_tokens_map.json")).unwrap();
    let words: String = (0..256).map(|id| format!("{} b'\\x{:02x}' 1\n", id, 255 - id)).collect();
    fs::write(dir.path().join("words"), words).unwrap();
    fs::remove_file(snapshot.join("rwkv_vocab_v20230424.txt")).ok();
    symlink("../../../words", snapshot.join("rwkv_vocab_v20230424.txt")).unwrap();
    let said = ok(["convert", snapshot.to_str().unwrap(), out.to_str().unwrap(), "-f", "-t", "q8_0"]).stdout;
    assert!(said.contains("rwkv_vocab_v20230424.txt is a link out of the model's folder"), "{said}");
    let tokens = formats::open(&out, &formats::Limits::default()).unwrap();
    let tokens = tokens.value("tokenizer.ggml.tokens").unwrap().as_array().unwrap();
    assert_eq!(tokens.texts().next().unwrap(), "\\x00");

    // The configuration, too, is in the output.
    fs::remove_file(snapshot.join("config.json")).unwrap();
    fs::write(dir.path().join("secret"), fs::read(plain.join("config.json")).unwrap()).unwrap();
    symlink("../../../secret", snapshot.join("config.json")).unwrap();
    let ran = run(["convert", snapshot.to_str().unwrap(), folder.to_str().unwrap(), "--to", "hf", "-f"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("config.json is a link out of the model's folder"), "{}", ran.stderr);
}

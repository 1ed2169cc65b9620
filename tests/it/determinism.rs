//! The same bytes for any number of threads, size of chunks and instruction set; and what depends on the last
//! (`docs/determinism.md`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::run::{json, program, sha256, testdata};

/// Values of `RWKV_QUANT_ISA`, with threads and memory (which sets the size of chunks) beside them.
const WAYS: [(&str, &[&str]); 4] = [
    ("portable", &["--threads", "1"]),
    ("sse2", &["--threads", "3", "--max-memory", "80MiB"]),
    ("avx2", &["--threads", "8", "--max-memory", "128MiB"]),
    ("avx512", &["--threads", "2"]),
];

fn at_isa(isa: &str, args: &[&str]) {
    let ran = program().env("RWKV_QUANT_ISA", isa).args(["--format", "quiet"]).args(args).output().unwrap();
    assert!(ran.status.success(), "{isa} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// SHA-256 of every file in a folder and those in it.
fn files_in(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let (name, path) = entry.map(|e| (PathBuf::from(e.file_name()), e.path())).unwrap();
        match path.is_dir() {
            true => found.extend(files_in(&path).into_iter().map(|(file, sum)| (name.join(file), sum))),
            false => _ = found.insert(name, sha256(&std::fs::read(&path).unwrap())),
        }
    }
    found
}

/// Converts `model` in every way, and wants the same files.
fn same_in_every_way(model: &str, name: &str, flags: &[&str]) {
    let mut first: Option<BTreeMap<PathBuf, String>> = None;
    for (isa, how) in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (model, out) = (testdata(model), dir.path().join(name));
        let args = [&["convert", model.to_str().unwrap(), out.to_str().unwrap()], flags, how].concat();
        at_isa(isa, &args);
        let found = files_in(dir.path());
        assert!(!found.is_empty());
        match &first {
            None => first = Some(found),
            Some(first) => assert_eq!(&found, first, "{name} {flags:?}: {isa} {how:?}"),
        }
    }
}

/// The targets that hold whole models of version 7, with a name for each to write and its types.
fn targets() -> Vec<(String, String, Vec<String>)> {
    let listed = json(["--format", "json", "targets"]);
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let rows = listed["targets"].as_array().unwrap().iter();
    rows.filter(|t| t["content"] == "model" && texts(&t["versions"]).iter().any(|v| v == "7.0"))
        .map(|t| {
            let extension = texts(&t["extensions"]).first().cloned();
            let name = extension.map_or("out".to_owned(), |e| format!("out.{e}"));
            (t["id"].as_str().unwrap().to_owned(), name, texts(&t["types"]))
        })
        .collect()
}

#[test]
fn every_type_of_every_target_is_the_same_in_every_way() {
    let targets = targets();
    assert!(targets.len() > 4, "{targets:?}");
    for (id, name, types) in &targets {
        for kind in types.iter().filter(|kind| *kind != "coded") {
            same_in_every_way("rwkv7-bytes.pth", name, &["--to", id, "--type", kind]);
        }
    }
}

#[test]
fn longer_searches_importance_rates_and_branches_are_the_same_in_every_way() {
    let imatrix = testdata("golden/llama_cpp/rwkv7-bytes.imatrix.gguf");
    let imatrix = imatrix.to_str().unwrap();
    for kind in ["q2_k", "q3_k_m", "q4_k_m", "q5_1", "iq4_xs"] {
        same_in_every_way(
            "rwkv7-bytes.pth",
            "a.gguf",
            &["-t", kind, "--search", "best", "--imatrix", imatrix],
        );
    }
    same_in_every_way("rwkv7-bytes.pth", "a.prefab", &["-t", "nf4", "--search", "best"]);
    same_in_every_way("rwkv7-bytes.pth", "a.gguf", &["-t", "q4_k_m", "--low-rank", "4"]);
    same_in_every_way("rwkv7-bytes.pth", "a.rwkvz", &["--target-bpw", "4.5"]);
    same_in_every_way("rwkv7-bytes.pth", "a.rwkvz", &["--target-bpw", "4.5", "--low-rank", "2"]);
}

/// The SHA-256 of a calibrated file, made at an instruction set with so many threads.
fn calibrated(name: &str, isa: &str, threads: &str, flags: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (model, text, out) = (testdata("rwkv7-bytes.pth"), testdata("heldout.txt"), dir.path().join(name));
    let [model, text, path] = [&model, &text, &out].map(|p| p.to_str().unwrap());
    let usual = ["convert", model, path, "--calib", text, "--calib-tokens", "512", "--threads", threads];
    at_isa(isa, &[&usual, flags].concat());
    sha256(&std::fs::read(&out).unwrap())
}

/// Activations are the same at all instruction sets with fused multiply-add, and at all without; portable ones at all.
#[test]
fn calibrated_files_depend_on_fused_multiply_add_unless_they_are_portable() {
    let (name, flags) = ("a.gguf", ["-t", "q4_0", "--portable"]);
    let plain = calibrated(name, "portable", "1", &flags[..2]);
    assert_eq!(calibrated(name, "sse2", "4", &flags[..2]), plain);
    assert_eq!(calibrated(name, "avx2", "1", &flags[..2]), calibrated(name, "avx512", "4", &flags[..2]));
    assert_eq!(calibrated(name, "avx512", "3", &flags), plain);
    // Rates and types that are chosen by measurement too.
    let (name, flags) = ("a.rwkvz", ["--target-bpw", "4.5", "--portable"]);
    assert_eq!(calibrated(name, "avx2", "3", &flags), calibrated(name, "portable", "1", &flags));
}

#[test]
fn an_unknown_instruction_set_is_a_usage_error() {
    let ran = program().env("RWKV_QUANT_ISA", "avx1024").arg("targets").output().unwrap();
    let message = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(2));
    assert!(message.contains("RWKV_QUANT_ISA") && message.contains("portable, sse2"), "{message}");
}

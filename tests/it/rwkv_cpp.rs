//! Our files of rwkv.cpp are, byte for byte, those of its own converter and quantizer.
//!
//! The records are made by `tests/clients/record_rwkv_cpp.py`, which tells with what; the files in the shared data are
//! rwkv.cpp's own.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::run::{json, ok, run, sha256, shared_data, testdata};

/// Converts `source`, and gives the bytes of the file.
fn converted(source: &Path, kind: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.bin");
    ok(["convert", source.to_str().unwrap(), out.to_str().unwrap(), "--type", kind]);
    std::fs::read(out).unwrap()
}

/// Where the data of every tensor of a file lies that ends in one of `ends`.
fn data_of(file: &[u8], ends: &[&str]) -> BTreeMap<String, std::ops::Range<usize>> {
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut found) = (24, BTreeMap::new());
    while at < file.len() {
        let (dims, length, kind) = (number(at), number(at + 4), number(at + 8));
        let elements: usize = (0..dims).map(|i| number(at + 12 + 4 * i)).product();
        at += 12 + 4 * dims;
        let name = std::str::from_utf8(&file[at..at + length]).unwrap().to_owned();
        at += length;
        let bytes = match kind {
            0 => 4 * elements,
            1 => 2 * elements,
            _ => elements / 32 * [0, 0, 18, 20, 0, 0, 0, 22, 24, 34][kind],
        };
        if ends.iter().any(|e| name.ends_with(e)) {
            found.insert(name, at..at + bytes);
        }
        at += bytes;
    }
    found
}

/// The values of a little-endian run of f32, as numbers that differ by one between neighbours.
fn steps(bytes: &[u8]) -> Vec<i64> {
    let ordered = |bits: u32| if bits >> 31 == 0 { i64::from(bits) } else { -i64::from(bits & !(1 << 31)) };
    bytes.chunks(4).map(|b| ordered(u32::from_le_bytes(b.try_into().unwrap()))).collect()
}

/// torch rounds its exponentials nearly right, so decays may be a step off; two where one is taken of another.
#[track_caller]
fn near(ours: &[u8], theirs: &[u8], what: &str) {
    let (ours, theirs) = (steps(ours), steps(theirs));
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let far = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(far <= 2, "{what}: {far} steps apart");
}

fn same_as_recorded(source: &Path) {
    let stem = source.file_stem().unwrap().to_str().unwrap();
    let record = std::fs::read(testdata(&format!("golden/rwkv_cpp/{stem}.json"))).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let made_from = sha256(&std::fs::read(source).unwrap());
    assert_eq!(record["source_sha256"], made_from.as_str(), "the record is of another model: make it again");
    let files = record["files"].as_object().unwrap();
    assert_eq!(files.len(), 7, "{stem}");
    for (kind, expected) in files {
        let mut file = converted(source, kind);
        let decays = data_of(&file, &["time_decay", "time_first"]);
        assert_eq!(decays.len(), record["decays"].as_object().unwrap().len());
        for (name, range) in decays {
            let hex = record["decays"][&name].as_str().unwrap();
            let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
            let theirs: Vec<u8> = (0..hex.len() / 2).map(byte).collect();
            near(&file[range.clone()], &theirs, &format!("{stem} {kind} {name}"));
            file[range].fill(0);
        }
        assert_eq!(expected["bytes"], file.len(), "{stem} {kind}");
        assert_eq!(expected["sha256"], sha256(&file).as_str(), "{stem} {kind}");
    }
}

#[test]
fn rwkv_cpps_converter_and_quantizer_write_the_same() {
    for name in ["rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes"] {
        same_as_recorded(&testdata(&format!("{name}.pth")));
    }
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn rwkv_cpps_converter_and_quantizer_write_the_same_of_other_models() {
    let data = shared_data();
    for name in ["tiny-rwkv4-660K.fp32", "tiny-rwkv5.0-730K.fp32", "tiny-rwkv6-1m.fp32"] {
        same_as_recorded(&data.join("models").join(format!("{name}.pth")));
    }
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn rwkv_cpps_own_files_come_out_again() {
    let data = shared_data();
    let (models, own) = (data.join("models"), data.join("rwkv_cpp"));
    for (checkpoint, name) in [
        ("tiny-rwkv5.2-730K.fp32.pth", "tiny-rwkv-5v2-730K"),
        ("tiny-rwkv7-834K.bf16.pth", "tiny-rwkv-7v0-834K"),
    ] {
        let full = own.join(format!("{name}-FP32.bin"));
        let theirs = std::fs::read(&full).unwrap();
        let ours = converted(&models.join(checkpoint), "f32");
        let decays = data_of(&theirs, &["time_decay"]);
        let (mut left, mut right) = (ours.clone(), theirs.clone());
        for (tensor, range) in decays {
            near(&ours[range.clone()], &theirs[range.clone()], &tensor);
            left[range.clone()].fill(0);
            right[range].fill(0);
        }
        assert!(left == right, "{name}");
        // Its quantizer keeps what it does not quantize: the decays too.
        assert!(converted(&full, "f32") == theirs, "{name}");
        for (kind, suffix) in [("q5_0", "Q5_0"), ("q5_1", "Q5_1")] {
            let theirs = std::fs::read(own.join(format!("{name}-{suffix}.bin"))).unwrap();
            assert!(converted(&full, kind) == theirs, "{name} {kind}");
        }
    }
}

#[test]
fn what_rwkv_cpp_cannot_hold_is_refused() {
    let source = testdata("rwkv7-bytes.pth");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.bin");
    let refused = |source: &Path, flags: &[&str]| {
        let ran = run(["convert", source.to_str().unwrap(), out.to_str().unwrap()].iter().chain(flags));
        assert_ne!(ran.status, 0);
        ran.stderr
    };
    let stderr = refused(&source, &["-t", "q4_k_m"]);
    assert!(stderr.contains("there are no rwkv.cpp files of the type q4_k_m"), "{stderr}");
    assert!(stderr.contains("f32, f16, q8_0, q5_1, q5_0, q4_1, q4_0"), "{stderr}");
    let hybrid = testdata("hybrids/arwkv7");
    let stderr = refused(&hybrid, &["-t", "f16"]);
    assert!(stderr.contains("holds only versions 7.0, 6.0, 5.2, 5.0, 4.0"), "{stderr}");
    assert!(stderr.contains(".gguf"), "{stderr}");
}

/// What our runner makes of the files is what the checkpoint says, within the rounding of the type.
#[test]
fn files_of_rwkv_cpp_say_what_the_checkpoint_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let text = path("text.txt");
    std::fs::write(&text, &std::fs::read(testdata("heldout.txt")).unwrap()[..2048]).unwrap();
    for name in ["rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes"] {
        let source = testdata(&format!("{name}.pth"));
        let source = source.to_str().unwrap();
        for (kind, limit) in [("f32", 1e-9), ("f16", 1e-6), ("q8_0", 1e-3), ("q5_1", 1e-2), ("q4_0", 0.1)] {
            let out = path(&format!("{name}.{kind}.bin"));
            ok(["convert", source, &out, "--type", kind]);
            ok(["verify", &out]);
            let found = json(["--format", "json", "eval-ppl", &out, &text, "--against", source]);
            let kl = found.pointer("/candidates/0/against/kl/value").and_then(Value::as_f64).unwrap();
            println!("{name} {kind}: {kl:.1e}");
            assert!(kl <= limit, "{name} {kind}: {kl}");
        }
    }
}

//! Keys of a GGUF source in the GGUF file that is made of it (case gguf-requant-keys; ollama#10759, llama.cpp#6321, #4000).

use std::fs;
use std::path::Path;

use formats::{Limits, Metadata, Planned, Value, ValueKind};

use crate::run::{ok, run, testdata};

/// Rewrites the GGUF file `from` as `to`, with other keys.
fn edit(from: &Path, to: &Path, edits: &[(&str, Value)], gone: &[&str]) {
    let container = formats::open(from, &Limits::default()).unwrap();
    let mut metadata: Metadata = container.metadata().clone();
    metadata.retain(|(key, _)| !gone.contains(&key.as_str()));
    for (key, value) in edits {
        match metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value.clone(),
            None => metadata.push(((*key).to_owned(), value.clone())),
        }
    }
    rewrite(from, to, &metadata, |_| true);
}

/// Writes the tensors of the GGUF file `from` that are `kept` into the file `to`, with these keys.
pub fn rewrite(from: &Path, to: &Path, metadata: &Metadata, kept: impl Fn(&str) -> bool) {
    let container = formats::open(from, &Limits::default()).unwrap();
    let tensors: Vec<_> = container.tensors().iter().filter(|t| kept(&t.name)).collect();
    let plan =
        |t: &&formats::Tensor| Planned { name: t.name.clone(), encoding: t.encoding, shape: t.shape.clone() };
    let planned: Vec<Planned> = tensors.iter().map(plan).collect();
    let placement = formats::gguf::place(metadata, &planned).unwrap();
    let (bytes, mut out) = (fs::read(from).unwrap(), placement.head.clone());
    for (offset, t) in placement.offsets.iter().zip(tensors) {
        out.resize(*offset as usize, 0);
        out.extend(&bytes[t.offset as usize..][..t.stored_bytes() as usize]);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    fs::write(to, out).unwrap();
}

fn keys(path: &Path) -> Metadata {
    formats::open(path, &Limits::default()).unwrap().metadata().clone()
}

fn value(keys: &Metadata, key: &str) -> Option<Value> {
    keys.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone())
}

/// Keys as people set them, of every type.
fn edits(arch: &str) -> Vec<(String, Value)> {
    let array = |kind, items: Vec<Value>| Value::Array(formats::Array::of(kind, items).unwrap());
    [
        (format!("{arch}.context_length"), Value::U32(4096)),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(7)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(24)),
        ("tokenizer.ggml.eot_token_id".to_owned(), Value::U32(33)),
        ("tokenizer.ggml.eom_token_id".to_owned(), Value::U32(5)),
        ("tokenizer.ggml.padding_token_id".to_owned(), Value::U32(1)),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(true)),
        ("tokenizer.chat_template".to_owned(), Value::from("{{ messages[0].content }}")),
        ("tokenizer.chat_template.tool_use".to_owned(), Value::from("{{ tool }}")),
        ("general.description".to_owned(), Value::from("Edited by hand")),
        (format!("{arch}.of_the_future"), Value::F32(0.5)),
        ("example.build".to_owned(), Value::from("42")),
        ("example.u8".to_owned(), Value::U8(1)),
        ("example.i8".to_owned(), Value::I8(-1)),
        ("example.u16".to_owned(), Value::U16(2)),
        ("example.i16".to_owned(), Value::I16(-2)),
        ("example.i32".to_owned(), Value::I32(-3)),
        ("example.u64".to_owned(), Value::U64(1 << 40)),
        ("example.i64".to_owned(), Value::I64(-(1 << 40))),
        ("example.f64".to_owned(), Value::F64(0.1)),
        ("example.strings".to_owned(), Value::strings(["a".to_owned(), "\n".to_owned()])),
        ("example.numbers".to_owned(), array(ValueKind::U8, vec![Value::U8(1), Value::U8(2)])),
        ("example.empty".to_owned(), array(ValueKind::F32, vec![])),
    ]
    .to_vec()
}

#[test]
fn keys_stay_from_gguf_to_gguf() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (model, arch) in [("rwkv7-bytes.pth", "rwkv7"), ("rwkv6-bytes.pth", "rwkv6")] {
        let (made, edited) = (path("made.gguf"), path("edited.gguf"));
        let convert = |from: &Path, to: &Path, flags: &[&str]| {
            let args = ["convert", from.to_str().unwrap(), to.to_str().unwrap(), "-f"];
            ok(args.iter().chain(flags)).stdout
        };
        convert(&testdata(model), &made, &["-t", "f16"]);
        let edits = edits(arch);
        let borrowed: Vec<(&str, Value)> = edits.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        let made_with = [("quantize.imatrix.file", Value::from("a.dat"))];
        edit(&made, &edited, &[borrowed.as_slice(), &made_with].concat(), &[]);
        for flags in [&["-t", "q8_0"][..], &["-t", "q4_k_m"], &["-t", "f32", "--split-max-size", "4MB"]] {
            let out = path("out.gguf");
            let said = convert(&edited, &out, flags);
            let is_first = |name: &str| name == "out.gguf" || name.starts_with("out-00001-of-");
            let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
            let first =
                names.into_iter().find(|p| is_first(p.file_name().unwrap().to_str().unwrap())).unwrap();
            let (before, after) = (keys(&edited), keys(&first));
            for (key, stated) in &before {
                match key.as_str() {
                    "general.file_type" => assert_ne!(value(&after, key), Some(stated.clone())),
                    "quantize.imatrix.file" => assert_eq!(value(&after, key), None, "{key}"),
                    "rwkv-quant.sha256" => {} // of the tensors, which are others now
                    _ => assert_eq!(value(&after, key), Some(stated.clone()), "{model} {flags:?} {key}"),
                }
            }
            assert!(said.contains("keys      dropped: quantize.imatrix.file\n"), "{said}");
            assert!(!said.contains("keys      changed"), "{said}");
            // A split source says the same.
            if first != out {
                convert(&first, &path("joined.gguf"), &["-t", "q8_0"]);
                convert(&edited, &path("direct.gguf"), &["-t", "q8_0"]);
                assert!(fs::read(path("joined.gguf")).unwrap() == fs::read(path("direct.gguf")).unwrap());
            }
            for file in fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()) {
                if file.file_name().unwrap().to_str().unwrap().starts_with("out") {
                    fs::remove_file(file).unwrap();
                }
            }
        }
        // What describes the tensors is always theirs, and said.
        edit(&made, &edited, &[(&format!("{arch}.block_count"), Value::U32(9))], &[]);
        let ran = run(["convert", edited.to_str().unwrap(), path("o.gguf").to_str().unwrap(), "-t", "q8_0"]);
        if ran.status == 0 {
            assert!(
                ran.stdout.contains(&format!("keys      changed: {arch}.block_count (9 -> 2)")),
                "{}",
                ran.stdout
            );
            fs::remove_file(path("o.gguf")).unwrap();
        }
    }
}

#[test]
fn flags_go_before_the_keys_of_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (made, edited, out) = (path("made.gguf"), path("edited.gguf"), path("out.gguf"));
    let convert = |from: &Path, to: &Path, flags: &[&str]| {
        let args = ["convert", from.to_str().unwrap(), to.to_str().unwrap(), "-f", "-t", "q8_0"];
        run(args.iter().chain(flags))
    };
    let after = |flags: &[&str]| {
        let ran = convert(&edited, &out, flags);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        keys(&out)
    };
    assert_eq!(convert(&testdata("rwkv7-bytes.pth"), &made, &[]).status, 0);
    let edits = edits("rwkv7");
    let borrowed: Vec<(&str, Value)> = edits.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    edit(&made, &edited, &borrowed, &[]);

    let new = after(&["--vocab", "bytes"]);
    assert_eq!(value(&new, "tokenizer.ggml.eos_token_id"), None);
    assert_eq!(value(&new, "tokenizer.ggml.eom_token_id"), None);
    assert_eq!(value(&new, "tokenizer.chat_template.tool_use"), Some(Value::from("{{ tool }}")));
    assert_eq!(value(&new, "rwkv7.context_length"), Some(Value::U32(4096)));

    let none = after(&["--chat-template", "none", "--name", "Other"]);
    assert!(none.iter().all(|(key, _)| !key.contains("chat_template")));
    assert_eq!(value(&none, "general.name"), Some(Value::from("Other")));
    assert_eq!(value(&none, "tokenizer.ggml.eot_token_id"), Some(Value::U32(33)));

    let set = after(&[
        "--set-key",
        "tokenizer.ggml.eos_token_id=u32:10",
        "--set-key",
        "rwkv7.context_length=u32:8192",
        "--set-key",
        "my.tags=str[]:[\"a\", \"b\"]",
        "--set-key",
        "example.build=str:43",
    ]);
    assert_eq!(value(&set, "tokenizer.ggml.eos_token_id"), Some(Value::U32(10)));
    assert_eq!(value(&set, "rwkv7.context_length"), Some(Value::U32(8192)));
    assert_eq!(value(&set, "my.tags"), Some(Value::strings(["a".to_owned(), "b".to_owned()])));
    assert_eq!(value(&set, "example.build"), Some(Value::from("43")));

    for (key, status, why) in [
        ("rwkv7.block_count=u32:3", 2, "this key tells what is in the file"),
        ("general.architecture=str:rwkv6", 2, "this key tells what is in the file"),
        ("split.count=u16:3", 2, "this key tells what is in the file"),
        ("rwkv7.context_length=u64:3", 2, "programs read this key as U32"),
        ("tokenizer.ggml.eos_token_id=u32:256", 2, "the model has 256 tokens"),
        ("tokenizer.ggml.eom_token_id=i32:1", 2, "programs read this key as U32"),
        ("rwkv7.attention.layer_norm_epsilon=f32:nan", 2, "an epsilon is a number above 0"),
        ("rwkv7.attention.layer_norm_epsilon=f32:0", 2, "an epsilon is a number above 0"),
        ("a=b", 2, "give the type before the value"),
    ] {
        let ran = convert(&edited, &out, &["--set-key", key]);
        assert_eq!(ran.status, status, "{key}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{key}: {}", ran.stderr);
    }
    let ran = convert(&edited, &path("out.bin"), &["--set-key", "a=u8:1"]);
    assert!(ran.stderr.contains("--set-key changes nothing in rwkv.cpp files"), "{}", ran.stderr);
}

/// NaN is unequal to itself, and so every conversion was "found wrong".
#[test]
fn keys_that_are_no_number_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["a.gguf", "b.gguf"].map(|name| dir.path().join(name));
    let set = ["--set-key", "x=f32:nan", "--set-key", "y=f64:nan"];
    let convert = |from: &Path, to: &Path, flags: &[&str]| {
        ok(["convert".as_ref(), from.as_os_str(), to.as_os_str(), "-t".as_ref(), "q8_0".as_ref()]
            .into_iter()
            .chain(flags.iter().map(std::ffi::OsStr::new)))
    };
    convert(&testdata("rwkv7-bytes.pth"), &first, &set);
    convert(&first, &second, &[]);
    assert!(matches!(value(&keys(&second), "x"), Some(Value::F32(v)) if v.is_nan()));
    assert!(matches!(value(&keys(&second), "y"), Some(Value::F64(v)) if v.is_nan()));
    ok(["verify".as_ref(), second.as_os_str()]);
}

/// A width is no value; what other formats cannot hold is named; and a shard says nothing of the whole.
#[test]
fn keys_that_are_lost_are_named_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let [plain, edited] = ["plain.gguf", "edited.gguf"].map(|name| dir.path().join(name));
    ok(["convert".as_ref(), testdata("rwkv7-bytes.pth").as_os_str(), plain.as_os_str(), "-tf16".as_ref()]);
    let edits = [("rwkv7.context_length", Value::U64(1 << 20)), ("my.key", Value::U8(1))];
    edit(&plain, &edited, &edits, &["rwkv-quant.sha256"]);
    let said = |out: &str, flags: &[&str]| {
        let out = dir.path().join(out);
        let args = ["convert".as_ref(), edited.as_os_str(), out.as_os_str()];
        ok(args.into_iter().chain(flags.iter().map(std::ffi::OsStr::new))).stdout
    };
    assert!(!said("same.gguf", &["-t", "q8_0"]).contains("\nkeys "));
    assert!(!said("shards.gguf", &["-t", "q8_0", "--shard", "1/2"]).contains("\nkeys "));
    let safetensors = said("other.safetensors", &[]);
    let line = safetensors.lines().find(|line| line.starts_with("keys ")).unwrap();
    assert!(line.contains("my.key") && line.contains("rwkv7.context_length"), "{line}");
    assert!(!line.contains("tokenizer.ggml.tokens"), "{line}");
}

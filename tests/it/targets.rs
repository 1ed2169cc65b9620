//! Files for other runtimes than llama.cpp: the same weights in all of them, in one file, several, or a folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use formats::{Container, Limits, Tensor, open};

use crate::messages::{parts, safetensors};
use crate::run::{json, ok, run, sha256, shared_data, testdata};

const MODELS: [&str; 4] = ["rwkv4-bytes.pth", "rwkv5.2-bytes.pth", "rwkv6-bytes.pth", "rwkv7-bytes.pth"];

/// Block 0's value residual, which nothing reads: some targets leave it out, others want some value.
const UNREAD: &str = "blocks.0.att.v";

fn convert(source: &Path, out: &Path, more: &[&str]) {
    let args = ["--format", "quiet", "convert", source.to_str().unwrap(), out.to_str().unwrap()];
    ok(args.iter().chain(more));
}

fn read(path: &Path) -> Container {
    open(path, &Limits::default()).unwrap()
}

/// Every tensor that is read: its type, shape and bytes.
fn tensors(path: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let container = read(path);
    let row =
        |t: &Tensor| (t.name.clone(), (t.encoding.to_string(), t.shape.clone(), container.bytes(t).to_vec()));
    container.tensors().iter().filter(|t| !t.name.starts_with(UNREAD)).map(row).collect()
}

#[test]
fn weights_come_back_bit_by_bit_from_every_target() {
    // What is asked for, and a type that holds the models' bf16 exactly.
    let targets = [
        ("a.gguf", &["-t", "f32"][..]),
        ("b.gguf", &["-t", "bf16"]),
        ("c.gguf", &["-t", "bf16", "--split-max-size", "700kB"]),
        ("a.safetensors", &[]),
        ("b.safetensors", &["-t", "f32"]),
        ("c.safetensors", &["--split-max-size", "700kB"]),
        ("a.pth", &[]),
        ("b.pth", &["-t", "f32"]),
        ("a", &["--to", "hf"]),
        ("b", &["--to", "hf", "-t", "f32", "--split-max-size", "700kB"]),
    ];
    for model in MODELS {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let source = testdata(model);
        convert(&source, &at("direct.safetensors"), &[]);
        let wanted = tensors(&at("direct.safetensors"));
        assert_eq!(wanted, tensors(&source), "{model}");
        for (n, (name, more)) in targets.iter().enumerate() {
            if name.ends_with("gguf") && !(model.starts_with("rwkv6") || model.starts_with("rwkv7")) {
                continue;
            }
            convert(&source, &at(name), more);
            // Any part opens the whole.
            let set = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
            let stem = format!("{}-00002-of-", Path::new(name).file_stem().unwrap().display());
            let extension = Path::new(name).extension();
            let part = set
                .filter(|p| p.extension() == extension && p.is_file())
                .find(|p| p.file_name().unwrap().to_str().unwrap().starts_with(&stem));
            let split = more.contains(&"--split-max-size") && extension.is_some();
            assert_eq!(part.is_some(), split, "{model} {name}");
            let back = at(&format!("back{n}.safetensors"));
            convert(&part.unwrap_or_else(|| at(name)), &back, &["-t", "bf16"]);
            assert!(tensors(&back) == wanted, "{model} by way of {name}");
        }
        let left: Vec<PathBuf> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.iter().all(|p| !p.to_str().unwrap().ends_with(".partial")), "{left:?}");
    }
}

#[test]
fn blinkdls_shapes_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (gguf, out) = (dir.path().join("a.gguf"), dir.path().join("a.safetensors"));
    convert(&testdata("rwkv7-bytes.pth"), &gguf, &["-t", "f16"]);
    convert(&gguf, &out, &["-t", "f16"]);
    let read = read(&out);
    let shape = |name: &str| read.tensor(name).unwrap().shape.clone();
    assert_eq!(shape("blocks.1.att.x_r"), [1, 1, 256]);
    assert_eq!(shape("blocks.1.att.w1"), [256, 32]);
    assert_eq!(shape("blocks.1.att.r_k"), [4, 64]);
    // candle reads the rank of the value residual in block 0, where llama.cpp's file has none.
    for name in ["v0", "v1", "v2"] {
        let bytes =
            |block: usize| read.bytes(read.tensor(&format!("blocks.{block}.att.{name}")).unwrap()).to_vec();
        assert_eq!(bytes(0), bytes(1));
    }
    assert!(read.tensors().iter().all(|t| t.encoding == quant::Encoding::F16), "vectors too");
    let names: Vec<&String> = read.tensors().iter().map(|t| &t.name).collect();
    assert!(names.is_sorted());
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn folders_are_those_of_the_real_models() {
    let data = shared_data();
    for (model, folder) in [
        ("tiny-rwkv5.2-730K.fp32.pth", "tiny-rwkv5.2-730K-hf"),
        ("tiny-rwkv6-1m.fp32.pth", "tiny-rwkv6-1m-hf"),
        ("tiny-rwkv7-834K.bf16.pth", "tiny-rwkv7-834K-hf"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (out, real) = (dir.path().join("out"), data.join("hf").join(folder));
        convert(&data.join("models").join(model), &out, &["--to", "hf", "-t", "f32"]);
        assert!(tensors(&out) == tensors(&real), "{folder}");
        // The sizes are those of the real config; what else it says is kept when the folder itself is the source.
        let (ours, theirs) = (read(&out).config().unwrap().clone(), read(&real).config().unwrap().clone());
        for (key, value) in &ours {
            let same = theirs.get(key).is_none_or(|v| v == value);
            assert!(same || ["bos_token_id", "torch_dtype"].contains(&key.as_str()), "{folder}: {key}");
        }
        let again = dir.path().join("again");
        convert(&real, &again, &["--to", "hf", "-t", "f16"]);
        let kept = read(&again).config().unwrap().clone();
        for (key, value) in theirs.iter().filter(|(key, _)| *key != "dtype" && *key != "torch_dtype") {
            assert_eq!(kept.get(key), Some(value), "{folder}: {key}");
        }
        assert_eq!(kept["torch_dtype"], "float16");
        let small = |name: &str| fs::read(real.join(name)).ok();
        for name in ["tokenizer_config.json", "generation_config.json", "special_tokens_map.json"] {
            assert_eq!(fs::read(again.join(name)).ok(), small(name), "{folder}: {name}");
        }
    }
}

#[test]
fn parts_are_those_of_llama_gguf_split() {
    let golden = fs::read(testdata("golden/llama_cpp/rwkv7-bytes.split.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("part.gguf");
    convert(&testdata("rwkv7-bytes.pth"), &out, &["-t", "q8_0", "--split-max-size", "1MB", "--no-checksums"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count() as u64, golden["count"].as_u64().unwrap());
    for (name, hash) in golden["sha256"].as_object().unwrap() {
        let bytes = fs::read(dir.path().join(format!("part-{name}"))).unwrap();
        assert_eq!(sha256(&bytes), hash.as_str().unwrap(), "{name}");
    }
    // One file suffices: it has the name asked for.
    convert(&testdata("rwkv7-bytes.pth"), &out, &["-f", "-t", "q8_0", "--split-max-size", "1GB"]);
    assert!(out.is_file());
}

#[test]
fn bytes_do_not_depend_on_threads_or_names() {
    for (extension, more) in
        [("pth", &[][..]), ("safetensors", &["--split-max-size", "1MB"]), ("hf", &["--to", "hf"])]
    {
        let all = |threads: &str, memory: &str| {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out").with_extension(extension);
            let flags = ["-t", "f16", "--threads", threads, "--max-memory", memory];
            convert(&testdata("rwkv6-bytes.pth"), &out, &[more, &flags].concat());
            let folder = if out.is_dir() { &out } else { dir.path() };
            let list = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
            list.map(|p| (p.file_name().unwrap().to_owned(), fs::read(p).unwrap()))
                .collect::<BTreeMap<_, _>>()
        };
        assert!(all("1", "256MiB") == all("4", "50MiB"), "{extension}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.pth"), dir.path().join("другое.pth"));
    for out in [&a, &b] {
        convert(&testdata("rwkv4-bytes.pth"), out, &[]);
        ok(["verify", out.to_str().unwrap()]);
    }
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap());
}

#[test]
fn folders_and_sets_replace_nothing_but_their_like() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let source = testdata("rwkv7-bytes.pth");
    let args = ["convert", source.to_str().unwrap(), out.to_str().unwrap(), "--to", "hf"];
    let with = |more: &[&'static str]| run(args.iter().chain(more));
    fs::create_dir(&out).unwrap();
    assert_eq!(with(&[]).status, 0, "an empty folder is none");
    assert_eq!(with(&[]).status, 1);
    assert_eq!(with(&["--force", "--split-max-size", "1MB"]).status, 0);
    assert_eq!(with(&["--force"]).status, 0);
    assert!(out.join("model.safetensors").exists() && !out.join("model.safetensors.index.json").exists());
    fs::write(out.join("notes.md"), "precious").unwrap();
    let refused = with(&["--force"]);
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("holds notes.md, which would be lost"), "{}", refused.stderr);
    assert!(out.join("model.safetensors").exists() && out.join("notes.md").exists());
    // The input may be no part of the output.
    let same = ["convert", out.to_str().unwrap(), out.to_str().unwrap(), "--to", "hf", "--force"];
    assert_eq!(run(same).status, 2);
    // A folder that no run of this program left is not taken away.
    fs::remove_file(out.join("notes.md")).unwrap();
    let partial = dir.path().join("model.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("letter.txt"), "precious").unwrap();
    assert_eq!(with(&["--force"]).status, 2);
    assert_eq!(fs::read(partial.join("letter.txt")).unwrap(), b"precious");
    // A set: none of its files.
    let out = dir.path().join("set.safetensors");
    let set = ["convert", source.to_str().unwrap(), out.to_str().unwrap(), "--split-max-size", "1MB"];
    assert_eq!(run(set).status, 0);
    let index = dir.path().join("set.safetensors.index.json");
    fs::write(&index, "precious").unwrap();
    assert_eq!(run(set).status, 1);
    assert_eq!(fs::read(&index).unwrap(), b"precious");
    assert_eq!(run(set.iter().chain(&["--force"])).status, 0);
    assert!(fs::read(&index).unwrap().starts_with(b"{"));
}

#[test]
fn the_list_of_targets_has_every_type_and_version() {
    let list = json(["--format", "json", "targets"]);
    let listed = |key: &str| -> Vec<String> {
        let all = list["targets"].as_array().unwrap().iter();
        all.flat_map(|t| t[key].as_array().unwrap()).map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let (types, versions) = (listed("types"), listed("versions"));
    for file_type in rwkv_quant::recipe::FILE_TYPES {
        assert!(types.iter().any(|t| t == file_type.name), "{}", file_type.name);
    }
    for version in rwkv_quant::model::VERSIONS {
        assert!(versions.iter().any(|v| v == version.name), "{}", version.name);
    }
    let text = ok(["targets"]).stdout;
    assert!(text.contains("gguf") && text.contains("a folder"), "{text}");
}

#[test]
fn what_f16_cannot_hold_is_found_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut model = parts("rwkv7-bytes.pth");
    model.iter_mut().find(|p| p.0 == "blocks.1.ffn.key.weight").unwrap().2[777] = -70_000.0;
    let big = path("big.safetensors");
    std::fs::write(&big, safetensors(&model)).unwrap();
    for (out, kind) in [("a.st", "f16"), ("a.prefab", "f16"), ("a.gguf", "f16"), ("a.pth", "f16")] {
        for dry in [&["--dry-run"][..], &[]] {
            let ran = run(["convert", &big, &path(out), "-t", kind].iter().chain(dry));
            let said = "in the tensor \"blocks.1.ffn.key.weight\", the weight -70000 at index 777 does not fit in f16";
            assert_eq!(ran.status, 1, "{}", ran.stdout);
            assert!(ran.stderr.contains(said), "{}", ran.stderr);
            assert!(ran.stderr.contains("(largest: 65504)"), "{}", ran.stderr);
            assert!(ran.stderr.contains(".safetensors --type f32 or bf16"), "{}", ran.stderr);
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    ok(["convert", &big, &path("a.safetensors"), "-t", "bf16"]);
}

#[test]
fn an_output_that_was_split_otherwise_is_replaced_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.safetensors").to_str().unwrap().to_owned();
    let source = testdata("rwkv7-bytes.pth");
    let base = ["convert", source.to_str().unwrap(), &out];
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    ok(base.iter().chain(&["--split-max-size", "1MB"]));
    let many = files();
    assert!(many > 3, "{many}");
    let refused = run(base);
    assert!(refused.stderr.contains("exists already"), "{}", refused.stderr);
    assert_eq!(files(), many);
    ok(base.iter().chain(&["-f"]));
    assert_eq!(files(), 1);
    ok(base.iter().chain(&["-f", "--split-max-size", "2MB"]));
    assert!((3..many).contains(&files()), "{} and {many}", files());
    ok(["verify", folder.path().to_str().unwrap()]);
    // An input is never removed.
    let (index, sets) = (format!("{out}.index.json"), files());
    ok(["convert", &index, &out, "-f"]);
    assert_eq!(files(), sets + 1);
}

#[test]
fn flags_that_change_nothing_and_wrong_extensions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let source = testdata("rwkv7-bytes.pth");
    let source = source.to_str().unwrap();
    for (out, flags, said) in [
        (
            "a.gguf",
            &["-t", "f16", "--search", "best"][..],
            "--search best changes nothing in GGUF files of the type f16",
        ),
        ("a.prefab", &["-t", "nf4", "--imatrix", "x"], "--imatrix changes nothing in web-rwkv .prefab files"),
        ("a.prefab", &["-t", "f16", "--layers", "1"], "--layers changes nothing"),
        ("a.prefab", &["-t", "nf4", "--layers", "99"], "no 99 blocks to quantize: the model has 2"),
        ("a.st", &["--to", "gguf-lora", "--lora", "x"], "programs take .st for something else"),
        ("a.gguf", &["--to", "gguf-lora", "--lora", "x", "--state", "y"], "--state changes nothing"),
        ("a.st", &["--to", "st-state", "--lora", "x", "--state", "y"], "--lora changes nothing"),
        (
            "a.gguf",
            &["--to", "st"],
            "a.gguf would be a web-rwkv .st, and programs take .gguf for something else",
        ),
        ("a.gguf", &["--to", "hf"], "give it a name without that extension"),
    ] {
        let ran = run(["convert", source, &path(out)].iter().chain(flags));
        assert_eq!(ran.status, 2, "{flags:?} {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{flags:?}: {}", ran.stderr);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_is_never_read_makes_no_difference_and_stray_bytes_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut model = parts("rwkv7-bytes.pth");
    let a = path("a.safetensors");
    std::fs::write(&a, safetensors(&model)).unwrap();
    for (_, _, values) in
        model.iter_mut().filter(|p| ["v0", "v1", "v2"].iter().any(|v| p.0 == format!("blocks.0.att.{v}")))
    {
        values.iter_mut().for_each(|v| *v += 1.0);
    }
    let b = path("b.safetensors");
    std::fs::write(&b, safetensors(&model)).unwrap();
    assert!(ok(["diff", &a, &b]).stdout.contains("hold the same values"));

    let gguf = path("m.gguf");
    ok(["convert", &a, &gguf, "-t", "q8_0"]);
    ok(["verify", &gguf]);
    let bytes = [std::fs::read(&gguf).unwrap(), vec![0; 3]].concat();
    std::fs::write(&gguf, bytes).unwrap();
    let ran = run(["verify", &gguf]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("goes on for 3 bytes behind its last tensor"), "{}", ran.stderr);
}

/// The index of a sharded source is input as much as its shards are.
#[test]
fn the_index_of_the_input_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (set, index) = (place("m.safetensors"), place("m.safetensors.index.json"));
    let source = testdata("rwkv7-bytes.pth");
    ok(["convert", source.to_str().unwrap(), &set, "--split-max-size", "1MB"]);
    let before = std::fs::read(&index).unwrap();
    let again = ["convert", &index, &set, "--split-max-size", "300KB", "--type", "f16", "--force"];
    let refused = run(again);
    assert!(
        refused.status == 2 && refused.stderr.contains("is the input, which is never changed"),
        "{}",
        refused.stderr
    );
    assert_eq!(std::fs::read(&index).unwrap(), before);
}

//! What people are told when something is wrong: every message, with its exit code, in one snapshot a topic.

use std::fs;
use std::path::{Path, PathBuf};

use formats::{Limits, Metadata, Planned};
use quant::Encoding;

use crate::run::{run, testdata};

/// A folder for one topic's files; messages are collected with its path replaced by `DIR`.
struct Topic {
    dir: tempfile::TempDir,
    text: String,
}

impl Topic {
    fn new() -> Topic {
        Topic { dir: tempfile::tempdir().unwrap(), text: String::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// Runs the program, notes what it said, and checks that it failed and left no file.
    fn fails(&mut self, what: &str, args: &[&str]) {
        let before = self.listing();
        let ran = run(args);
        assert_ne!(ran.status, 0, "{what}: {}", ran.stdout);
        assert_eq!(ran.stdout, "", "{what}");
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        assert_eq!(self.listing(), before, "{what} left or changed a file");
        let place = self.dir.path().to_str().unwrap();
        let said = ran.stderr.replace(place, "DIR").replace(testdata("").to_str().unwrap(), "testdata/");
        self.text += &format!("# {what} (exit code {})\n{said}\n", ran.status);
    }

    /// A conversion of `input` to q8_0 that fails.
    fn cannot_convert(&mut self, what: &str, input: &Path, more: &[&str]) {
        let out = self.path("out.gguf");
        let mut args = vec!["convert", input.to_str().unwrap(), out.to_str().unwrap()];
        if !more.contains(&"-t") {
            args.extend(["-t", "q8_0"]);
        }
        args.extend(more);
        self.fails(what, &args);
    }

    fn listing(&self) -> Vec<(PathBuf, u64)> {
        let entries = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap());
        let mut list: Vec<_> = entries.map(|e| (e.path(), e.metadata().unwrap().len())).collect();
        list.sort();
        list
    }
}

/// A tensor to be put into a test file: name, shape, f32 values.
pub type Part = (String, Vec<usize>, Vec<f32>);

/// The tensors of a small model of the project.
pub fn parts(model: &str) -> Vec<Part> {
    let container = formats::open(&testdata(model), &Limits::default()).unwrap();
    let values = |t: &formats::Tensor| {
        let mut out = vec![0.0; t.elements() as usize];
        quant::codec(t.encoding).unwrap().decode(container.bytes(t), &mut out);
        out
    };
    container.tensors().iter().map(|t| (t.name.clone(), t.shape.clone(), values(t))).collect()
}

/// A safetensors file of f32 tensors.
pub fn safetensors(parts: &[Part]) -> Vec<u8> {
    let planned: Vec<Planned> = parts
        .iter()
        .map(|(name, shape, _)| Planned { name: name.clone(), encoding: Encoding::F32, shape: shape.clone() })
        .collect();
    let placement = formats::safetensors::place(&Metadata::new(), &planned).unwrap();
    let mut bytes = placement.head;
    bytes.resize(placement.total_bytes as usize, 0);
    for ((_, _, values), offset) in parts.iter().zip(placement.offsets) {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
    }
    bytes
}

fn part<'a>(parts: &'a mut [Part], name: &str) -> &'a mut Part {
    parts.iter_mut().find(|(n, ..)| n == name).unwrap()
}

#[test]
fn files_that_are_no_models() {
    let mut t = Topic::new();
    let missing = t.path("no-such.pth");
    t.cannot_convert("a file that does not exist", &missing, &[]);
    let lost = t.path("no-such-folder/model.pth");
    t.cannot_convert("a folder that does not exist", &lost, &[]);
    fs::create_dir(t.path("empty")).unwrap();
    let empty = t.path("empty");
    t.cannot_convert("a folder without a model", &empty, &[]);
    for (what, name, content) in [
        ("zero length", "zero.pth", &b""[..]),
        ("a web page", "page.pth", b"<!DOCTYPE html><html><body>404</body></html>"),
        (
            "a Git LFS pointer",
            "lfs.pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        ),
        ("a file of zeros", "zeros.safetensors", &[0; 5000]),
        ("noise", "noise.gguf", b"\x12\x34\x56\x78 this is nothing at all"),
        ("a JSON file", "some.json", b"{\"a\": 1}"),
    ] {
        let file = t.file(name, content);
        t.cannot_convert(what, &file, &[]);
    }
    insta::assert_snapshot!(t.text);
}

#[test]
fn damaged_files() {
    let mut t = Topic::new();
    let pth = fs::read(testdata("rwkv7-bytes.pth")).unwrap();
    let file = t.file("cut.pth", &pth[..pth.len() / 2]);
    t.cannot_convert("a torch file cut in half", &file, &[]);

    let mut flipped = pth.clone();
    let at = flipped.windows(12).position(|w| w == b"torch._utils").unwrap();
    flipped[at..at + 12].copy_from_slice(b"os.system...");
    let file = t.file("evil.pth", &flipped);
    t.cannot_convert("a pickle that calls something else", &file, &[]);
    let file = t.file("evil.pkl", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.");
    t.cannot_convert("a pickle that is no torch file", &file, &[]);

    let tensors = safetensors(&parts("rwkv7-bytes.pth"));
    let file = t.file("cut.safetensors", &tensors[..tensors.len() - 10]);
    t.cannot_convert("a safetensors file without its end", &file, &[]);
    let mut long = tensors.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let file = t.file("long.safetensors", &long);
    t.cannot_convert("a header of absurd length", &file, &[]);
    let file = t.file("header.safetensors", [&20u64.to_le_bytes()[..], b"{\"a\": 1, \"b\": [[[[[["].concat());
    t.cannot_convert("a header that is no JSON", &file, &[]);
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let bytes = [&(twice.len() as u64).to_le_bytes()[..], twice.as_bytes(), &[0; 4]].concat();
    let file = t.file("twice.safetensors", bytes);
    t.cannot_convert("a name that stands twice", &file, &[]);

    let whole = t.path("whole.gguf");
    let model = testdata("rwkv7-bytes.pth");
    assert_eq!(run(["convert", model.to_str().unwrap(), whole.to_str().unwrap(), "-t", "f16"]).status, 0);
    let gguf = fs::read(&whole).unwrap();
    let file = t.file("cut.gguf", &gguf[..gguf.len() / 2]);
    t.cannot_convert("a GGUF file cut in half", &file, &[]);
    let file = t.file("head.gguf", &gguf[..100]);
    t.cannot_convert("a GGUF file cut in its header", &file, &[]);
    let mut many = gguf.clone();
    many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let file = t.file("many.gguf", &many);
    t.cannot_convert("an absurd number of tensors", &file, &[]);
    let mut version = gguf;
    version[4] = 9;
    let file = t.file("version.gguf", &version);
    t.cannot_convert("a GGUF version of the future", &file, &[]);

    let mut data = pth;
    let middle = data.len() / 2;
    data[middle] ^= 1;
    let file = t.file("bit.pth", &data);
    t.fails("a flipped bit, found by verify", &["verify", file.to_str().unwrap()]);
    t.cannot_convert("a flipped bit, found while converting", &file, &[]);
    let file = t.file("model-00001-of-00002.safetensors", &tensors);
    t.cannot_convert("a missing part of a set", &file, &[]);
    insta::assert_snapshot!(t.text);
}

#[test]
fn models_that_are_not_whole_or_not_right() {
    let mut t = Topic::new();
    let model = parts("rwkv7-bytes.pth");

    let less: Vec<Part> = model.iter().filter(|p| p.0 != "blocks.1.att.g2").cloned().collect();
    let file = t.file("less.safetensors", safetensors(&less));
    t.cannot_convert("a missing tensor", &file, &[]);

    let gap: Vec<Part> = model.iter().filter(|p| !p.0.starts_with("blocks.0.ln1")).cloned().collect();
    let file = t.file("gap.safetensors", safetensors(&gap));
    t.cannot_convert("a missing block", &file, &[]);

    let mut more = model.clone();
    more.push(("blocks.0.att.mystery".into(), vec![2], vec![0.0; 2]));
    let file = t.file("more.safetensors", safetensors(&more));
    t.cannot_convert("an unknown tensor", &file, &[]);
    assert_eq!(
        run([
            "convert",
            file.to_str().unwrap(),
            t.path("dropped.gguf").to_str().unwrap(),
            "-t",
            "q8_0",
            "--drop",
            "*.mystery"
        ])
        .status,
        0
    );

    t.cannot_convert("a drop that matches nothing", &file, &["--drop", "*.mystery", "--drop", "no.such*"]);
    t.cannot_convert("a drop of what is needed", &file, &["--drop", "*.mystery", "--drop", "head.weight"]);

    let mut empty = model.clone();
    for (name, shape, values) in &mut empty {
        if name.ends_with("att.g1") || name.ends_with("att.g2") {
            *shape = if name.ends_with("g1") { vec![256, 0] } else { vec![0, 256] };
            values.clear();
        }
    }
    let file = t.file("rank0.safetensors", safetensors(&empty));
    t.cannot_convert("an empty tensor", &file, &[]);

    let mut state = model.clone();
    state.push(("blocks.0.att.time_state".into(), vec![4, 64, 64], vec![0.0; 4 * 64 * 64]));
    let file = t.file("state.safetensors", safetensors(&state));
    t.cannot_convert("a tuned state within", &file, &[]);

    let mut shape = model.clone();
    let value = part(&mut shape, "blocks.1.ffn.value.weight");
    *value = (value.0.clone(), vec![256, 512], vec![0.0; 256 * 512]);
    let file = t.file("shape.safetensors", safetensors(&shape));
    t.cannot_convert("a shape that disagrees with the others", &file, &[]);

    let mut nan = model.clone();
    part(&mut nan, "blocks.1.ffn.key.weight").2[70_000] = f32::NAN;
    let file = t.file("nan.safetensors", safetensors(&nan));
    t.cannot_convert("a weight that is NaN", &file, &["-t", "f32"]);

    let mut big = model.clone();
    part(&mut big, "head.weight").2[300] = -70_000.0;
    let file = t.file("big.safetensors", safetensors(&big));
    t.cannot_convert("a weight too large for f16", &file, &["-t", "f16"]);

    let lora = vec![("blocks.0.att.key.lora_A".to_owned(), vec![2, 2], vec![0.0; 4])];
    let file = t.file("lora.safetensors", safetensors(&lora));
    t.cannot_convert("a LoRA adapter", &file, &[]);

    let mut enn = model.clone();
    enn.push(("blocks.0.ffn.enn.weight".into(), vec![2, 2], vec![0.0; 4]));
    let file = t.file("rwkv8.safetensors", safetensors(&enn));
    t.cannot_convert("a version of the future", &file, &[]);

    let other = vec![("model.layers.0.self_attn.q_proj.weight".to_owned(), vec![2, 2], vec![0.0; 4])];
    let file = t.file("llama.safetensors", safetensors(&other));
    t.cannot_convert("another architecture", &file, &[]);

    let file = testdata("rwkv4-bytes.pth");
    t.cannot_convert("a version that llama.cpp does not run", &file, &[]);

    let mut heads = model;
    for (name, shape, _) in &mut heads {
        if name.ends_with("r_k") {
            *shape = vec![16, 16];
        }
    }
    let file = t.file("heads.safetensors", safetensors(&heads));
    t.cannot_convert("heads that llama.cpp computes wrong", &file, &[]);
    insta::assert_snapshot!(t.text);
}

#[test]
fn command_lines_that_make_no_sense() {
    let mut t = Topic::new();
    let model = testdata("rwkv7-bytes.pth");
    let source = model.to_str().unwrap();
    let at = |t: &Topic, name: &str| t.path(name).to_str().unwrap().to_owned();

    let out = at(&t, "out.xyz");
    t.fails("an unknown extension", &["convert", source, &out, "-t", "q8_0"]);
    let out = at(&t, "out");
    t.fails("no extension", &["convert", source, &out, "-t", "q8_0"]);
    let out = at(&t, "no-such-folder/out.gguf");
    t.fails("a folder that does not exist", &["convert", source, &out, "-t", "q8_0"]);
    let out = at(&t, "out.gguf");
    t.fails("no type", &["convert", source, &out]);
    t.fails("an unknown type", &["convert", source, &out, "-t", "q8"]);
    t.fails("too little memory", &["convert", source, &out, "-t", "q8_0", "--max-memory", "1MB"]);
    t.fails("a size that is none", &["convert", source, &out, "-t", "q8_0", "--max-memory", "lots"]);
    t.fails("no threads", &["convert", source, &out, "-t", "q8_0", "--threads", "0"]);
    t.fails("an unknown verb", &["transmogrify"]);
    fs::create_dir(t.path("folder.gguf")).unwrap();
    let out = at(&t, "folder.gguf");
    t.fails("a folder as output", &["convert", source, &out, "-t", "q8_0"]);

    t.file("there.gguf", "precious");
    let out = at(&t, "there.gguf");
    t.fails("an output that exists", &["convert", source, &out, "-t", "q8_0"]);

    let vocab = t.file("vocab.txt", "1 'a' 1\n2 'b' 7\n");
    t.cannot_convert("a broken vocabulary", &model, &["--vocab", vocab.to_str().unwrap()]);
    let vocab = t.file("twice.txt", "1 'a' 1\n2 'a' 1\n");
    t.cannot_convert("a token that stands twice", &model, &["--vocab", vocab.to_str().unwrap()]);
    t.cannot_convert("a vocabulary that is too large", &model, &["--vocab", "world"]);
    let missing = at(&t, "missing");
    for flag in ["--vocab", "--chat-template", "--imatrix"] {
        t.cannot_convert(&format!("{flag} of a missing file"), &model, &[flag, &missing]);
        t.cannot_convert(&format!("{flag} of a device"), &model, &[flag, "/dev/zero"]);
    }
    t.cannot_convert("an empty name", &model, &["--name", ""]);
    fs::create_dir(t.path("carded")).unwrap();
    t.file("carded/model.safetensors", safetensors(&parts("rwkv7-bytes.pth")));
    t.file("carded/README.md", "---\nlicense: mit\ntags: [a, b\n---\n# A model\n");
    let carded = t.path("carded");
    t.cannot_convert("a broken model card", &carded, &[]);
    let mut small = parts("rwkv7-bytes.pth");
    for (name, shape, values) in &mut small {
        if name == "emb.weight" || name == "head.weight" {
            *shape = vec![100, 256];
            values.truncate(100 * 256);
        }
    }
    let file = t.file("vocab.safetensors", safetensors(&small));
    t.cannot_convert("a vocabulary of unknown size", &file, &[]);

    // An importance matrix of one entry, in the old layout.
    let importance = |name: &str, values: &[f32]| {
        let int = |n: usize| (n as u32).to_le_bytes();
        let mut bytes =
            [&int(1)[..], &int(name.len()), name.as_bytes(), &int(1), &int(values.len())].concat();
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        bytes
    };
    let first = "blk.0.time_mix_receptance.weight";
    for (what, file, content) in [
        ("an importance that is NaN", "nan.dat", importance(first, &[1.0, f32::NAN])),
        ("an importance of the wrong length", "short.dat", importance(first, &[1.0; 255])),
        ("an importance that is missing", "other.dat", importance("blk.7.some.weight", &[1.0])),
        ("an importance matrix cut short", "cut.dat", importance(first, &[1.0; 8])[..50].to_vec()),
    ] {
        let file = t.file(file, content);
        t.cannot_convert(what, &model, &["-t", "q4_k_m", "--imatrix", file.to_str().unwrap()]);
    }
    let mut odd = parts("rwkv7-bytes.pth");
    for (name, shape, values) in &mut odd {
        if name.ends_with("att.g1") || name.ends_with("att.g2") {
            let rank = if name.ends_with("g1") { [256, 30] } else { [30, 256] };
            (*shape, *values) = (rank.to_vec(), vec![0.5; 256 * 30]);
        }
    }
    let file = t.file("odd.safetensors", safetensors(&odd));
    t.cannot_convert("rows that fit no block", &file, &["--fallback", "error"]);
    t.fails("JSON errors", &["--format", "json", "convert", source, &out, "-t", "q8_0"]);
    let hash = "0".repeat(64);
    t.fails("another SHA-256", &["verify", source, "--sha256", &hash]);
    insta::assert_snapshot!(t.text);
}

#[test]
fn what_targets_cannot_hold() {
    let mut t = Topic::new();
    let at = |t: &Topic, name: &str| t.path(name).to_str().unwrap().to_owned();
    let source = testdata("rwkv7-bytes.pth");
    let source = source.to_str().unwrap();
    let old = testdata("rwkv4-bytes.pth");
    let old = old.to_str().unwrap();
    let (gguf, st, pth) = (at(&t, "a.gguf"), at(&t, "a.safetensors"), at(&t, "a.pth"));
    let folder = at(&t, "folder");
    t.fails("a version that a target has no place for", &["convert", old, &gguf, "-t", "q8_0"]);
    t.fails("a type that a target does not have", &["convert", source, &st, "-t", "q4_k_m"]);
    t.fails("no conversion for GGUF", &["convert", source, &gguf, "-t", "source"]);
    t.fails("an unknown target", &["convert", source, &folder, "--to", "onnx"]);
    t.fails("parts of a torch file", &["convert", source, &pth, "--split-max-size", "1MB"]);
    crate::run::ok(["convert", source, &gguf, "-t", "q8_0"]);
    t.fails("what is quantized, as it is", &["convert", &gguf, &st]);
    insta::assert_snapshot!(t.text);
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn heads_that_a_hugging_face_folder_would_change() {
    let data = crate::run::shared_data();
    let t = Topic::new();
    let folder = t.path("folder");
    let folder = folder.to_str().unwrap();
    let reverser = data.join("models/rwkv7-reverse-54K.fp32.pth");
    let ran = run(["convert", reverser.to_str().unwrap(), folder, "--to", "hf"]);
    assert!(ran.stderr.contains("group norm has another epsilon (right: 64)"), "{}", ran.stderr);
    crate::run::ok(["convert", reverser.to_str().unwrap(), folder, "--to", "hf", "--force-target"]);
}

//! Adapters, tuned states and Modelfiles, from file to file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::messages::safetensors;
use crate::run::{json, ok, run, testdata};

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// A folder of files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// A safetensors file with these tensors as f32.
    fn write(&self, name: &str, tensors: &Tensors) -> String {
        fs::write(self.0.path().join(name), safetensors(tensors)).unwrap();
        self.path(name)
    }

    /// A LoRA of rank 4 for some matrices of an n_embd of 256, exact in F16, with or without whole vectors.
    fn lora(&self, whole: bool) -> String {
        let mut tensors = Tensors::new();
        for (i, matrix) in ["blocks.0.att.key", "blocks.1.att.output", "head"].iter().enumerate() {
            let wave =
                |n: usize, k: usize| (0..n).map(|j| ((j * k + i) % 17) as f32 / 128.0 - 0.0625).collect();
            tensors.push((format!("{matrix}.lora_A"), vec![4, 256], wave(1024, 7)));
            tensors.push((format!("{matrix}.lora_B"), vec![256, 4], wave(1024, 5)));
        }
        if whole {
            tensors.push(("blocks.0.ln1.weight".to_owned(), vec![256], vec![0.75; 256]));
        }
        self.write(if whole { "whole.safetensors" } else { "lora.safetensors" }, &tensors)
    }

    /// A state for 2 blocks of 4 heads of 64, exact in F16.
    fn state(&self) -> String {
        let values =
            |seed: usize| (0..4 * 64 * 64).map(|i| ((i * 31 + seed) % 13) as f32 / 32.0 - 0.1875).collect();
        let one = |i: usize| (format!("blocks.{i}.att.time_state"), vec![4, 64, 64], values(i));
        self.write("state.safetensors", &vec![one(0), one(1)])
    }

    /// Natural logarithms of a short text's likelihood, exactly as printed.
    fn nats(&self, args: &[&str]) -> f64 {
        let text = self.0.path().join("text.txt");
        fs::write(&text, &fs::read(testdata("heldout.txt")).unwrap()[..1500]).unwrap();
        let text = text.to_str().unwrap();
        let found = json(["--format", "json", "eval-ppl", args[0], text].iter().chain(&args[1..]));
        found.pointer("/model/nats_per_byte/value").and_then(Value::as_f64).unwrap()
    }
}

fn model(name: &str) -> String {
    testdata(name).to_str().unwrap().to_owned()
}

#[test]
fn a_merged_model_is_the_model_with_the_lora() {
    let files = Files::new();
    let (base, lora) = (model("rwkv7-bytes.pth"), files.lora(true));
    let plain = files.nats(&[&base]);
    let adapted = files.nats(&[&base, "--lora", &lora, "--lora-alpha", "16"]);
    assert!((plain - adapted).abs() > 0.01, "{plain} {adapted}");
    for out in ["merged.gguf", "merged.safetensors", "merged.bin", "merged.pth"] {
        let out = files.path(out);
        let ran = ok(["convert", &base, &out, "-t", "f32", "--lora", &lora, "--lora-alpha", "16"]);
        assert!(ran.stdout.contains("LoRA of rank 4 for 3 matrices, alpha "), "{}", ran.stdout);
        assert_eq!(files.nats(&[&out]), adapted, "{out}");
    }
    // Any number of threads and any memory give the same bytes.
    let (one, other) = (files.path("one.gguf"), files.path("other.gguf"));
    let merge = ["-t", "q4_0", "--lora", &lora, "--lora-alpha", "16", "--name", "x"];
    ok(["convert", &base, &one, "--threads", "1", "--max-memory", "52MiB"].iter().chain(&merge));
    ok(["convert", &base, &other, "--threads", "3"].iter().chain(&merge));
    assert!(fs::read(one).unwrap() == fs::read(other).unwrap());
}

#[test]
fn a_lora_becomes_an_adapter_for_llama_cpp() {
    let files = Files::new();
    let (base, lora, out) = (model("rwkv7-bytes.pth"), files.lora(false), files.path("lora.gguf"));
    ok(["convert", &base, &out, "--to", "gguf-lora", "--lora", &lora, "--lora-alpha", "16"]);
    let found = json(["--format", "json", "inspect", &out]);
    let expected = serde_json::json!({
        "general.architecture": "rwkv7", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 16.0
    });
    assert_eq!(found["metadata"], expected);
    let tensors = found["tensors"].as_array().unwrap().iter();
    let tensors: Vec<(&str, &Value)> = tensors.map(|t| (t["name"].as_str().unwrap(), &t["shape"])).collect();
    let (a, b) = (serde_json::json!([4, 256]), serde_json::json!([256, 4]));
    let expected = [
        ("blk.0.time_mix_key.weight.lora_a", &a),
        ("blk.0.time_mix_key.weight.lora_b", &b),
        ("blk.1.time_mix_output.weight.lora_a", &a),
        ("blk.1.time_mix_output.weight.lora_b", &b),
        ("output.weight.lora_a", &a),
        ("output.weight.lora_b", &b),
    ];
    assert_eq!(tensors, expected);
    // It is read back, with the alpha that it holds, and is sound.
    let adapted = |flags: &[&str]| files.nats(&[&[base.as_str(), "--lora"], flags].concat());
    assert_eq!(adapted(&[&out]), adapted(&[&lora, "--lora-alpha", "16"]));
    assert!(ok(["verify", &out]).stdout.contains("holds     a LoRA adapter, to be used beside its model"));
    let stderr = run(["diff", &out, &base]).stderr;
    assert!(stderr.contains("is a LoRA adapter, not a model"), "{stderr}");
    let bare = ["convert", &base, &files.path("y.gguf"), "--to", "gguf-lora", "--lora", &lora];
    assert!(run(bare).stderr.contains("is a LoRA, whose scale its file does not hold"));
    // Half of it is none (case lora-b-without-a).
    let keys = formats::open(out.as_ref(), &formats::Limits::default()).unwrap().metadata().clone();
    for (lost, other) in [("a", "b"), ("b", "a")] {
        let half = files.path("half.gguf");
        let lost = format!("blk.0.time_mix_key.weight.lora_{lost}");
        crate::keys::rewrite(out.as_ref(), half.as_ref(), &keys, |name| name != lost);
        let ran = run(["convert", &base, &files.path("y.gguf"), "-t", "q8_0", "--lora", &half]);
        assert!(
            ran.stderr.contains(&format!("lora_{other}\" has no counterpart \"{lost}\"")),
            "{}",
            ran.stderr
        );
    }
    // What it cannot hold is refused.
    let whole = files.lora(true);
    let args = ["convert", &base, &out, "-f", "--to", "gguf-lora", "--lora", &whole, "--lora-alpha", "16"];
    let stderr = run(args).stderr;
    assert!(stderr.contains("\"blocks.0.ln1.weight\" is replaced as a whole"), "{stderr}");
    assert!(stderr.contains("merge the adapter"), "{stderr}");
    let stderr = run(["convert", &base, &files.path("x.gguf"), "--to", "gguf-lora"]).stderr;
    assert!(stderr.contains("hold an adapter alone, and none was given"), "{stderr}");
}

#[test]
fn a_lora_for_web_rwkv_says_the_same() {
    let files = Files::new();
    let (base, lora, out) = (model("rwkv7-bytes.pth"), files.lora(true), files.path("lora.st"));
    let alone = ["convert", &base, &out, "--to", "st-lora", "--lora", &lora];
    ok(alone);
    let stderr = run(alone.iter().chain(&["-f", "--lora-alpha", "16"])).stderr;
    assert!(stderr.contains("--lora-alpha changes nothing in web-rwkv LoRA files"), "{stderr}");
    let found = json(["--format", "json", "inspect", &out]);
    let tensors = found["tensors"].as_array().unwrap();
    assert!(tensors.iter().all(|t| t["encoding"] == "f16"));
    let shape = |name: &str| &tensors.iter().find(|t| t["name"] == name).unwrap()["shape"];
    assert_eq!(*shape("blocks.0.att.key.lora.0"), serde_json::json!([256, 4]));
    assert_eq!(*shape("blocks.0.att.key.lora.1"), serde_json::json!([256, 4]));
    let adapted = |lora: &str| files.nats(&[&base, "--lora", lora, "--lora-alpha", "16"]);
    assert_eq!(adapted(&out), adapted(&lora));
}

#[test]
fn states_go_both_ways_and_into_the_model() {
    let files = Files::new();
    for name in ["rwkv5.2-bytes.pth", "rwkv6-bytes.pth", "rwkv7-bytes.pth"] {
        let (base, state) = (model(name), files.state());
        let tuned = files.nats(&[&base, "--state", &state]);
        assert_ne!(tuned, files.nats(&[&base]));
        let (st, pth) = (files.path("state.st"), files.path("state.pth"));
        ok(["convert", &base, &st, "-f", "--to", "st-state", "--state", &state]);
        assert_eq!(files.nats(&[&base, "--state", &st]), tuned);
        assert_eq!(files.nats(&[&base, "--state", &st, "--state-layout", "key-value"]), tuned);
        assert!(ok(["verify", &st]).stdout.contains("holds     an initial state"));
        ok(["convert", &base, &pth, "-f", "--to", "pth-state", "-t", "f32", "--state", &st]);
        assert_eq!(files.nats(&[&base, "--state", &pth]), tuned);
        for out in ["tuned.pth", "tuned.safetensors"] {
            let out = files.path(out);
            ok(["convert", &base, &out, "-f", "-t", "f32", "--state", &state]);
            assert_eq!(files.nats(&[&out]), tuned, "{out}");
        }
        let gguf = files.path("tuned.gguf");
        let ran = run(["convert", &base, &gguf, "-t", "f16", "--state", &state]);
        let why = if name.starts_with("rwkv5") { "holds only versions" } else { "cannot hold a tuned state" };
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
}

/// The official runner, with the same state in the checkpoint, finds the text as likely.
#[test]
fn states_are_those_of_the_official_runner() {
    let files = Files::new();
    let golden = fs::read(testdata("golden/tuned_states.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let text = files.path("text.txt");
    fs::write(&text, &fs::read(testdata("heldout.txt")).unwrap()[..512]).unwrap();
    for name in ["rwkv5.2-bytes", "rwkv6-bytes"] {
        let base = model(&format!("{name}.pth"));
        let found = json(["--format", "json", "eval-ppl", &base, &text, "--state", &files.state()]);
        let found = found.pointer("/model/nats_per_byte/value").and_then(Value::as_f64).unwrap();
        let (tuned, plain) =
            (golden[name]["tuned"].as_f64().unwrap(), golden[name]["plain"].as_f64().unwrap());
        assert!((found - tuned).abs() < 1e-6 && (tuned - plain).abs() > 1e-4, "{name}: {found}, not {tuned}");
    }
}

/// The Modelfile that stands beside a GGUF file.
fn modelfile(chat: &str) -> String {
    let files = Files::new();
    let out = files.path("model.gguf");
    ok(["convert", &model("rwkv7-bytes.pth"), &out, "-t", "q8_0", "--modelfile", chat]);
    assert!(Path::new(&out).is_file());
    fs::read_to_string(PathBuf::from(out).with_extension("Modelfile")).unwrap()
}

#[test]
fn modelfiles_tell_ollama_how_to_chat() {
    insta::assert_snapshot!("modelfile_world", modelfile("world"));
    insta::assert_snapshot!("modelfile_g1", modelfile("g1"));
    let files = Files::new();
    let out = files.path("model.bin");
    let ran = run(["convert", &model("rwkv7-bytes.pth"), &out, "-t", "q8_0", "--modelfile", "world"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("and rwkv.cpp is another format"), "{}", ran.stderr);
}

#[test]
fn an_adapter_is_blamed_for_its_own_weights() {
    let files = Files::new();
    let mut values = vec![0.0; 4 * 256];
    values[5] = f32::NAN;
    let bad = vec![
        ("head.lora_A".to_owned(), vec![4, 256], values),
        ("head.lora_B".to_owned(), vec![256, 4], vec![0.5; 4 * 256]),
    ];
    let (lora, out) = (files.write("bad.safetensors", &bad), files.path("out.gguf"));
    let base = model("rwkv7-bytes.pth");
    let ran = run(["convert", &base, &out, "-t", "q8_0", "--lora", &lora, "--lora-alpha", "4"]);
    let said = "bad.safetensors: in the tensor \"head.lora_A\", the weight at index 5 is NaN";
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
}

#[test]
fn results_say_which_model_was_run_with_what() {
    let files = Files::new();
    let (base, lora) = (model("rwkv7-bytes.pth"), files.lora(false));
    let text = files.path("text.txt");
    fs::write(&text, &fs::read(testdata("heldout.txt")).unwrap()[..1500]).unwrap();
    let merged = files.path("merged.gguf");
    ok(["convert", &base, &merged, "-t", "f32", "--lora", &lora, "--lora-alpha", "16"]);
    let found = |model: &str, more: &[&str]| {
        let args = ["--format", "json", "eval-ppl", model, &text, "--against", &base, "--lora", &lora];
        let found = json(args.iter().chain(&["--lora-alpha", "16"]).chain(more));
        let kl = found.pointer("/candidates/0/against/kl/value").and_then(Value::as_f64).unwrap();
        let adapters = |row: &Value| row["adapters"].as_array().unwrap().len();
        (kl, adapters(&found["model"]), adapters(&found["candidates"][0]))
    };
    assert_eq!(found(&base, &[]), (0.0, 1, 1));
    assert_eq!(found(&merged, &["--adapt", "reference"]), (0.0, 1, 0));
    let (kl, reference, compared) = found(&base, &["--adapt", "compared"]);
    assert!(kl > 1e-3 && (reference, compared) == (0, 1), "{kl} {reference} {compared}");
    let human = ok(["eval-ppl", &base, &text, "--lora", &lora, "--lora-alpha", "16"]).stdout;
    assert!(
        human.contains("rwkv7-bytes.pth with ") && human.contains("LoRA of rank 4 for 3 matrices"),
        "{human}"
    );
}

/// Case lora-b-without-a: every command refuses it, and writes nothing.
#[test]
fn half_an_adapter_is_refused_by_every_command() {
    let files = Files::new();
    let (base, wave) = (model("rwkv7-bytes.pth"), vec![0.5; 1024]);
    let key =
        |name: &str, shape: [usize; 2]| (format!("blocks.0.att.key.{name}"), shape.to_vec(), wave.clone());
    let whole = |name: &str, shape: [usize; 2]| (format!("head.{name}"), shape.to_vec(), wave.clone());
    let ours = vec![whole("lora_A", [4, 256]), whole("lora_B", [256, 4]), key("lora_B", [256, 4])];
    let theirs = vec![whole("lora.0", [256, 4]), whole("lora.1", [256, 4]), key("lora.1", [256, 4])];
    let text = files.path("text.txt");
    fs::write(&text, "some text, and a little more of it").unwrap();
    for (lora, lost) in [
        (files.write("ours.safetensors", &ours), "blocks.0.att.key.lora_A"),
        (files.write("theirs.st", &theirs), "blocks.0.att.key.lora.0"),
    ] {
        let flags = ["--lora", &lora, "--lora-alpha", "8"];
        let outs = ["o.gguf", "o.lora.gguf", "o.st", "o.safetensors"].map(|name| files.path(name));
        for (args, flags) in [
            (vec!["convert", &base, &outs[0], "-t", "q8_0"], &flags[..]),
            (vec!["convert", &base, &outs[1], "--to", "gguf-lora"], &flags[..]),
            (vec!["convert", &base, &outs[2], "--to", "st-lora"], &flags[..2]),
            (vec!["convert", &base, &outs[3]], &flags[..]),
            (vec!["eval-ppl", &base, &text], &flags[..]),
            (vec!["generate", &base, "--prompt", "a"], &flags[..]),
        ] {
            let ran = run(args.iter().chain(flags));
            assert_eq!(ran.status, 1, "{args:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(&format!("has no counterpart \"{lost}\"")), "{}", ran.stderr);
        }
        assert!(outs.iter().all(|out| !Path::new(out).exists()));
    }
}

/// llama.cpp multiplies by alpha over the rank, and rsLoRA by alpha over its root.
#[test]
fn an_rslora_of_peft_is_the_same_in_a_gguf_file() {
    let files = Files::new();
    let base = model("rwkv7-bytes.pth");
    let folder = files.path("peft");
    fs::create_dir(&folder).unwrap();
    let wave = |k: usize| (0..1024).map(|j| ((j * k) % 17) as f32 / 128.0 - 0.0625).collect();
    files.write(
        "peft/adapter_model.safetensors",
        &vec![
            ("base_model.model.head.lora_A.weight".to_owned(), vec![4, 256], wave(7)),
            ("base_model.model.head.lora_B.weight".to_owned(), vec![256, 4], wave(5)),
        ],
    );
    let config = |text: &str| fs::write(format!("{folder}/adapter_config.json"), text).unwrap();
    config(r#"{"r": 4, "lora_alpha": 8, "use_rslora": true}"#);
    let out = files.path("out.lora.gguf");
    ok(["convert", &base, &out, "--to", "gguf-lora", "--lora", &folder]);
    let found = json(["--format", "json", "inspect", &out]);
    assert_eq!(found["metadata"]["adapter.lora.alpha"], 16.0);
    let adapted = |lora: &str| files.nats(&[&base, "--lora", lora]);
    assert_eq!(adapted(&folder), adapted(&out));
}

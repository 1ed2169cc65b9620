//! `verify` finds what is wrong with a file, says nothing of what is right, and warns of what is odd.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::messages::{parts, safetensors};
use crate::run::{Ran, json as json_of, ok, run, sha256, testdata};

const KEY: &str = "rwkv-quant.sha256";

/// A folder of files made from the small RWKV-7 model.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn convert(&self, name: &str, flags: &[&str]) -> String {
        self.convert_of("rwkv7-bytes.pth", name, flags)
    }

    fn convert_of(&self, source: &str, name: &str, flags: &[&str]) -> String {
        let (source, out) = (testdata(source), self.path(name));
        ok([&["convert", source.to_str().unwrap(), &out], flags].concat());
        out
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

fn fails(path: &str, status: i32, parts: &[&str]) -> Ran {
    let ran = run(["verify", path]);
    assert_eq!(ran.status, status, "{}{}", ran.stdout, ran.stderr);
    for part in parts {
        assert!(ran.stderr.contains(part), "{part} is not in: {}", ran.stderr);
    }
    ran
}

/// All files beneath a folder.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() { all.extend(tree(&entry)) } else { all.push(entry) }
    }
    all.sort();
    all
}

#[test]
fn flipped_bits_of_files_with_checksums_are_found() {
    for (name, flags) in [
        ("m.gguf", &["--type", "q4_0"][..]),
        ("m.safetensors", &[]),
        ("m.st", &[]),
        ("set.gguf", &["--type", "q8_0", "--split-max-size", "1MB"]),
        ("set.safetensors", &["--split-max-size", "1500kB"]),
        ("folder", &["--to", "hf", "--split-max-size", "2MB"]),
    ] {
        let files = Files::new();
        files.convert(name, flags);
        let weights = |path: &PathBuf| {
            let extension = path.extension().unwrap().to_str().unwrap();
            ["gguf", "safetensors", "st"].contains(&extension)
        };
        let parts: Vec<PathBuf> = tree(files.0.path()).into_iter().filter(weights).collect();
        let open = if name == "folder" { files.path(name) } else { parts[0].to_str().unwrap().to_owned() };
        let found = json_of(["--format", "json", "verify", &open]);
        let tensors = found["tensors"].as_u64().unwrap();
        assert!(found["checksums"].as_u64().unwrap() > tensors, "{name}: {found}");
        assert_eq!(found["warnings"], json!([]), "{name}");
        for (n, part) in parts.iter().enumerate() {
            let bytes = fs::read(part).unwrap();
            for at in (0..12).map(|i| (bytes.len() - 1) * i / 11 + n).filter(|at| *at < bytes.len()) {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                fs::write(part, &flipped).unwrap();
                let ran = run(["verify", &open]);
                assert_eq!(ran.status, 1, "{name}: byte {at} of {}: {}", part.display(), ran.stdout);
            }
            fs::write(part, &bytes).unwrap();
        }
        ok(["verify", &open]);
    }
}

#[test]
fn checksums_are_left_out_where_they_are_not_wanted() {
    let files = Files::new();
    let holds = |path: &str| fs::read(path).unwrap().windows(KEY.len()).any(|w| w == KEY.as_bytes());
    for (name, flags, expected) in [
        ("a.gguf", &["--type", "q8_0"][..], true),
        ("b.gguf", &["--type", "q8_0", "--no-checksums"], false),
        ("c.gguf", &["--type", "q8_0", "--mix", "llama.cpp"], false),
        ("d.safetensors", &["--no-checksums"], false),
    ] {
        let path = files.convert(name, flags);
        assert_eq!(holds(&path), expected, "{name}");
        let said = ok(["verify", &path]).stdout;
        assert_eq!(said.contains("no checksum in the file"), !expected, "{said}");
    }
    // The key is of one file, and no conversion carries it on.
    let again = files.path("again.gguf");
    ok(["convert", &files.path("a.gguf"), &again, "--type", "q8_0", "--no-checksums"]);
    assert!(!holds(&again));
    assert!(!ok(["inspect", &files.path("a.gguf")]).stdout.contains(KEY));
    // Where a format holds none, the flag says so.
    let (source, out) = (testdata("rwkv7-bytes.pth"), files.path("e.pth"));
    let ran = run(["convert", source.to_str().unwrap(), &out, "--no-checksums"]);
    assert_eq!(
        (ran.status, ran.stderr.contains("--no-checksums changes nothing")),
        (2, true),
        "{}",
        ran.stderr
    );
}

#[test]
fn what_another_program_changed_is_told_and_still_converted() {
    let files = Files::new();
    let path = files.convert("a.gguf", &["--type", "f16"]);
    let mut bytes = fs::read(&path).unwrap();
    patch(&mut bytes, "rwkv7.context_length", &4096u32.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    fails(&path, 1, &["the header of", KEY, "convert it once more"]);
    let out = files.path("b.gguf");
    let said = ok(["convert", &path, &out, "--type", "q8_0"]).stdout;
    assert!(said.contains("warning   the header of"), "{said}");
    ok(["verify", &out]);
}

/// Overwrites the value of a key of a GGUF file, a number or the text behind its length.
fn patch(bytes: &mut [u8], key: &str, value: &[u8]) {
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len();
    let text = bytes[at..at + 4] == 8u32.to_le_bytes();
    let start = at + if text { 12 } else { 4 };
    bytes[start..start + value.len()].copy_from_slice(value);
}

#[test]
fn keys_of_gguf_that_contradict_the_tensors_are_named() {
    let files = Files::new();
    let flags = ["--type", "q8_0", "--no-checksums", "--set-key", "tokenizer.ggml.eos_token_id=u32:24"];
    let path = files.convert("a.gguf", &flags);
    let good = fs::read(&path).unwrap();
    ok(["verify", "--strict", &path]);
    let number = |n: u32| n.to_le_bytes().to_vec();
    for (key, value, says) in [
        ("rwkv7.block_count", number(3), "2"),
        ("rwkv7.block_count", number(1), "2"),
        ("rwkv7.embedding_length", number(512), "256"),
        ("rwkv7.feed_forward_length", number(896), "1024"),
        ("rwkv7.attention.decay_lora_rank", number(64), "32"),
        ("rwkv7.attention.iclr_lora_rank", number(64), "32"),
        ("rwkv7.attention.value_residual_mix_lora_rank", number(16), "32"),
        ("rwkv7.attention.gate_lora_rank", number(128), "64"),
        ("rwkv7.attention.head_count", number(7), "0 or 4"),
        ("rwkv7.attention.layer_norm_epsilon", f32::NAN.to_le_bytes().to_vec(), "no norm"),
        ("rwkv7.attention.layer_norm_epsilon", (-1e-5f32).to_le_bytes().to_vec(), "no norm"),
        ("tokenizer.ggml.eos_token_id", number(256), "256 tokens"),
    ] {
        let mut bytes = good.clone();
        patch(&mut bytes, key, &value);
        files.write("a.gguf", &bytes);
        fails(&path, 1, &[key, says]);
    }
    // Not all can be told from the tensors: these are odd.
    for (key, value) in [
        ("rwkv7.attention.layer_norm_epsilon", 0.5f32.to_le_bytes()),
        ("rwkv7.wkv.head_size", 32u32.to_le_bytes()),
        ("general.file_type", 1u32.to_le_bytes()),
        ("general.file_type", 999u32.to_le_bytes()),
        ("general.quantization_version", 1u32.to_le_bytes()),
    ] {
        let mut bytes = good.clone();
        patch(&mut bytes, key, &value);
        files.write("a.gguf", &bytes);
        let said = ok(["verify", &path]).stdout;
        assert!(said.contains(&format!("warning   {key} is")), "{said}");
        let strict = run(["verify", "--strict", &path]);
        assert_eq!((strict.status, strict.stderr.contains(key)), (3, true), "{}", strict.stderr);
    }
    // Two at once are both told.
    let mut bytes = good.clone();
    patch(&mut bytes, "rwkv7.block_count", &number(3));
    patch(&mut bytes, "rwkv7.embedding_length", &number(512));
    files.write("a.gguf", &bytes);
    fails(&path, 1, &["rwkv7.block_count", "rwkv7.embedding_length"]);
}

#[test]
fn bytes_that_belong_to_no_tensor_are_found() {
    let files = Files::new();
    let path = files.convert("a.gguf", &["--type", "f16", "--no-checksums"]);
    let good = fs::read(&path).unwrap();
    let inspected = json_of(["--format", "json", "inspect", &path]);
    let tensors = inspected["tensors"].as_array().unwrap();
    let last = tensors.last().unwrap();
    let (name, offset) = (last["name"].as_str().unwrap(), last["offset"].as_u64().unwrap() as usize);
    // The last tensor 64 bytes later.
    let mut bytes = good.clone();
    let entry = bytes.windows(name.len()).rposition(|w| w == name.as_bytes()).unwrap() + name.len();
    let dims = u32::from_le_bytes(bytes[entry..entry + 4].try_into().unwrap()) as usize;
    let at = entry + 4 + 8 * dims + 4;
    let stored = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    bytes[at..at + 8].copy_from_slice(&(stored + 64).to_le_bytes());
    bytes.splice(offset..offset, [0u8; 64]);
    files.write("a.gguf", &bytes);
    fails(&path, 1, &["64 bytes between the data of", name]);
    let mut bytes = good;
    bytes.extend([7; 64]);
    files.write("a.gguf", &bytes);
    fails(&path, 1, &["goes on for 64 bytes"]);
}

#[test]
fn matrices_stored_as_vectors_are_found() {
    let files = Files::new();
    let mut model = parts("rwkv7-bytes.pth");
    let flat = model.iter_mut().find(|(name, ..)| name == "blocks.1.ffn.key.weight").unwrap();
    flat.1 = vec![flat.1.iter().product()];
    let path = files.write("a.safetensors", &safetensors(&model));
    fails(&path, 1, &["blocks.1.ffn.key.weight", "[1024, 256]"]);
}

#[test]
fn settings_that_contradict_the_tensors_are_named() {
    for (source, wrong) in [
        (
            "rwkv7-bytes.pth",
            vec![
                ("vocab_size", json!(257)),
                ("hidden_size", json!(512)),
                ("num_hidden_layers", json!(3)),
                ("intermediate_size", json!(896)),
                ("attention_hidden_size", json!(128)),
                ("head_dim", json!(32)),
                ("num_heads", json!(8)),
                ("hidden_ratio", json!(3.5)),
                ("value_dim", json!([256, 128])),
                ("value_dim", json!([256])),
                ("decay_low_rank_dim", json!(64)),
                ("a_low_rank_dim", json!(64)),
                ("v_low_rank_dim", json!(16)),
                ("gate_low_rank_dim", json!(32)),
                ("norm_eps", json!(-1.0)),
                ("norm_eps", json!("small")),
                ("eos_token_id", json!(256)),
                ("model_type", json!("rwkv6")),
                ("architectures", json!(["Rwkv6ForCausalLM"])),
                ("tie_word_embeddings", json!(true)),
            ],
        ),
        (
            "rwkv6-bytes.pth",
            vec![
                ("vocab_size", json!(65536)),
                ("hidden_size", json!(128)),
                ("num_hidden_layers", json!(1)),
                ("intermediate_size", json!(1024)),
                ("attention_hidden_size", json!(512)),
                ("head_size", json!(32)),
                ("num_attention_heads", json!(7)),
                ("layer_norm_epsilon", json!(0)),
                ("model_type", json!("rwkv7")),
            ],
        ),
    ] {
        let files = Files::new();
        let folder = files.convert_of(source, "folder", &["--to", "hf"]);
        ok(["verify", "--strict", &folder]);
        let config = Path::new(&folder).join("config.json");
        let good: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        for (key, value) in wrong {
            let mut bad = good.clone();
            assert!(bad.get(key).is_some(), "{source} states {key}");
            bad[key] = value;
            fs::write(&config, bad.to_string()).unwrap();
            fails(&folder, 1, &[key, "in config.json"]);
        }
        // Settings that flash-linear-attention has for version 7.
        for key in ["norm_bias", "norm_first"] {
            if good.get(key).is_some() {
                let mut bad = good.clone();
                bad[key] = false.into();
                fs::write(&config, bad.to_string()).unwrap();
                fails(&folder, 1, &[key, "is false, and there are tensors"]);
            }
        }
        // What is not stated contradicts nothing.
        let mut bare = good.clone();
        bare.as_object_mut().unwrap().values_mut().for_each(|value| *value = Value::Null);
        fs::write(&config, bare.to_string()).unwrap();
        ok(["verify", &folder]);
    }
}

/// Case zero-weights (BitNet#608, aprender#2337).
#[test]
fn zeros_where_weights_should_be_are_warned_of() {
    let files = Files::new();
    let lost = ["blocks.0.ffn.value.weight", "blocks.1.att.value.weight"];
    let mut model = parts("rwkv7-bytes.pth");
    model.iter_mut().filter(|(name, ..)| lost.contains(&name.as_str())).for_each(|(.., v)| v.fill(0.0));
    let path = files.write("matrices.safetensors", &safetensors(&model));
    let warned = |said: &str| -> Vec<String> {
        said.lines().filter_map(|line| line.strip_prefix("warning   ")).map(str::to_owned).collect()
    };
    let expected: Vec<String> = lost.iter().map(|name| format!("{name} is all zeros")).collect();
    let mut found = warned(&ok(["verify", &path]).stdout);
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(warned(&ok(["inspect", &path]).stdout).len(), 2);
    let strict = run(["verify", "--strict", &path]);
    assert_eq!((strict.status, strict.stderr.contains("all zeros")), (3, true));
    for (out, flags) in
        [("a.gguf", &["-t", "q4_k_m"][..]), ("b.pth", &["-t", "f16"]), ("c.rwkvz", &["-t", "f16"])]
    {
        let converted = ok([&["convert", &path, &files.path(out)], flags].concat()).stdout;
        assert_eq!(warned(&converted).iter().filter(|w| w.contains("zeros")).count(), 2, "{converted}");
    }

    // Norms that let nothing through.
    let mut model = parts("rwkv7-bytes.pth");
    let norms = ["blocks.0.att.ln_x.weight", "ln_out.weight"];
    model.iter_mut().filter(|(name, ..)| norms.contains(&name.as_str())).for_each(|(.., v)| v.fill(0.0));
    let path = files.write("norms.safetensors", &safetensors(&model));
    let mut found = warned(&ok(["verify", &path]).stdout);
    found.sort();
    assert_eq!(found, norms.map(|name| format!("{name} is all zeros")));

    // Rows, a constant, a hole; unused tokens are one count, and what starts at zero is nothing.
    let mut model = parts("rwkv7-bytes.pth");
    for (name, shape, values) in &mut model {
        let cols = *shape.last().unwrap();
        match name.as_str() {
            "blocks.0.att.key.weight" => values[3 * cols..5 * cols].fill(0.0),
            "blocks.1.ffn.key.weight" => values.fill(0.25),
            "blocks.1.ffn.value.weight" => {
                let half = values.len() / 2;
                values[half..].fill(0.0);
            }
            "emb.weight" => values[..7 * cols].fill(0.0),
            "blocks.0.att.w2" | "blocks.0.att.a2" | "blocks.1.att.v0" => values.fill(0.0),
            _ => {}
        }
    }
    let path = files.write("parts.safetensors", &safetensors(&model));
    let report = json_of(["--format", "json", "verify", &path]);
    let mut found: Vec<&str> =
        report["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "blocks.0.att.key.weight: 2 of 256 rows are zeros",
            "blocks.1.ffn.key.weight holds nothing but the value 0.25",
            "blocks.1.ffn.value.weight: 128 of 256 rows are zeros, 128 of them (524288 bytes) one after the other",
        ]
    );
    assert_eq!(report["unused_rows"], 7);
}

#[test]
fn small_models_of_every_version_are_above_suspicion() {
    let files = Files::new();
    for source in ["rwkv4-bytes.pth", "rwkv5.2-bytes.pth", "rwkv6-bytes.pth", "rwkv7-bytes.pth"] {
        ok(["verify", "--strict", testdata(source).to_str().unwrap()]);
        for out in ["a.safetensors", "a.rwkvz", "a.bin"] {
            let path = files.convert_of(source, &format!("{source}.{out}"), &["-t", "f16"]);
            ok(["verify", "--strict", &path]);
        }
    }
    for kind in ["q8_0", "q4_k_m", "f32"] {
        for source in ["rwkv6-bytes.pth", "rwkv7-bytes.pth"] {
            let path = files.convert_of(source, &format!("{source}.{kind}.gguf"), &["-t", kind]);
            ok(["verify", "--strict", &path]);
        }
    }
}

#[test]
fn checksums_stand_beside_files_that_hold_none() {
    for (name, flags) in [
        ("m.prefab", &["--type", "int8"][..]),
        ("m.bin", &["--type", "q8_0"]),
        ("set.safetensors", &["--split-max-size", "2MB", "--no-checksums"]),
        ("folder", &["--to", "hf"]),
    ] {
        let files = Files::new();
        let flags = [flags, &["--checksum-file"]].concat();
        files.convert(name, &flags);
        let beside = files.path(&format!("{name}.sha256"));
        let listed = fs::read_to_string(&beside).unwrap();
        let mut written: Vec<PathBuf> = tree(files.0.path());
        written.retain(|path| path.to_str() != Some(&beside));
        assert_eq!(listed.lines().count(), written.len(), "{listed}");
        for path in &written {
            let name = path.strip_prefix(files.0.path()).unwrap().to_str().unwrap();
            let line = format!("{}  {name}", sha256(&fs::read(path).unwrap()));
            assert!(listed.lines().any(|l| l == line), "{line} is not in {listed}");
        }
        let is_part = |path: &&PathBuf| !path.to_str().unwrap().ends_with(".json");
        let part = written.iter().find(is_part).unwrap();
        let open = if name == "folder" { files.path(name) } else { part.to_str().unwrap().to_owned() };
        assert!(ok(["verify", &open]).stdout.contains("checksums "), "{name}");

        let good = fs::read(part).unwrap();
        let mut bad = good.clone();
        let at = good.len() - 100;
        bad[at] ^= 1;
        fs::write(part, &bad).unwrap();
        let ran = run(["verify", &open]);
        assert_eq!(ran.status, 1, "{name}: {}", ran.stdout);
        fs::write(part, &good).unwrap();
        fs::write(&beside, "no checksums").unwrap();
        fails(&open, 1, &["is no list of SHA-256s: line 1"]);
        fs::write(&beside, "").unwrap();
        fails(&open, 1, &["does not list"]);

        // What is there is replaced only with --force, and then always, so that it is never that of another file.
        let source = testdata("rwkv7-bytes.pth");
        let out = files.path(name);
        let again = [&["convert", source.to_str().unwrap(), &out][..], &flags].concat();
        assert_eq!(run(&again).status, 1, "{name}");
        let forced: Vec<&str> =
            again.iter().copied().filter(|a| *a != "--checksum-file").chain(["--force"]).collect();
        ok(&forced);
        ok(["verify", &open]);
    }
}

#[test]
fn a_file_is_compared_with_its_source() {
    let files = Files::new();
    let source = testdata("rwkv7-bytes.pth");
    let source = source.to_str().unwrap();
    for (name, flags) in [
        ("a.gguf", &["-t", "q4_0"][..]),
        ("b.gguf", &["-t", "q4_k_m", "--search", "best"]),
        ("c.prefab", &["-t", "int8"]),
        ("d.safetensors", &["-t", "f16"]),
        ("e.gguf", &["-t", "f16"]),
        ("f.rwkvz", &["-t", "q4_0"]),
        ("g.bin", &["-t", "q5_1"]),
    ] {
        let path = files.convert(name, flags);
        let ran = run(["--format", "json", "verify", &path, "--against", source]);
        assert_eq!(ran.status, 0, "{name}: {}", ran.stderr);
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        let tensors = report["against"]["tensors"].as_array().unwrap();
        assert!(tensors.iter().any(|t| t["rounding"].as_f64().is_some_and(|r| r > 0.0)), "{name}");
        assert!(tensors.iter().all(|t| t["relative"].as_f64().unwrap() < 0.2), "{name}");
        assert_eq!(report["against"]["unlike"], json!([]), "{name}");
    }
    let ran = run(["verify", &files.path("a.gguf"), "--against", source, "--max-relative", "0.01"]);
    assert_eq!((ran.status, ran.stderr.contains("more than 0.01")), (3, true), "{}", ran.stderr);

    // A matrix that is a little off, in a file that is sound in itself.
    let mut model = parts("rwkv7-bytes.pth");
    let off = model.iter_mut().find(|(name, ..)| name == "blocks.0.att.output.weight").unwrap();
    off.2.iter_mut().for_each(|v| *v *= 1.25);
    let other = files.write("other.safetensors", &safetensors(&model));
    let made = files.path("made.gguf");
    ok(["convert", &other, &made, "-t", "q4_0"]);
    let ran = run(["verify", &made, "--against", source]);
    assert_eq!(ran.status, 3, "{}", ran.stdout);
    assert!(ran.stderr.contains("blocks.0.att.output.weight") && ran.stderr.contains("plain rounding"));
    // Of another model.
    let six = testdata("rwkv6-bytes.pth");
    assert_eq!(run(["verify", &files.path("a.gguf"), "--against", six.to_str().unwrap()]).status, 3);
}

#[test]
fn a_calibrated_file_may_err_more_than_rounding_does() {
    let files = Files::new();
    let (source, text) = (testdata("rwkv7-bytes.pth"), testdata("heldout.txt"));
    let flags = ["-t", "q4_0", "--calib", text.to_str().unwrap(), "--calib-tokens", "2048"];
    let path = files.convert("a.gguf", &flags);
    let args = ["verify", &path, "--against", source.to_str().unwrap()];
    let said = ok(args).stdout;
    assert!(said.contains("calibrated: errors exceed"), "{said}");
    let ran = run([&args[..], &["--max-relative", "0.001"]].concat());
    assert_eq!(ran.status, 3, "{}", ran.stderr);
}

#[test]
fn files_of_any_architecture_are_lists_of_tensors() {
    let files = Files::new();
    let tensors = [
        ("transformer.wte.weight".to_owned(), vec![4, 64], (0..256).map(|i| i as f32 / 100.0).collect()),
        ("transformer.h.0.mlp.weight".to_owned(), vec![2, 128], vec![0.5f32; 256]),
        ("transformer.ln_f.bias".to_owned(), vec![64], vec![0.0; 64]),
    ];
    let path = files.write("gpt.safetensors", &safetensors(&tensors));
    let said = ok(["verify", &path]).stdout;
    assert!(said.contains("checked as a container of tensors"), "{said}");
    assert!(said.contains("warning   transformer.h.0.mlp.weight holds nothing but the value 0.5"), "{said}");
    assert!(ok(["inspect", &path]).stdout.contains("transformer.ln_f.bias"));

    let out = files.path("out.pth");
    let refused = run(["convert", &path, &out, "-t", "f16"]);
    assert_eq!((refused.status, refused.stderr.contains("--as-tensors")), (1, true), "{}", refused.stderr);
    for name in ["out.pth", "out.safetensors", "out.rwkvz"] {
        let out = files.path(name);
        ok(["convert", &path, &out, "-t", "bf16", "--as-tensors"]);
        ok(["verify", &out]);
        assert!(
            ok(["diff", &path, &out, "--max-relative", "0.005"]).stdout.contains("transformer.wte.weight")
        );
    }
    for (name, kind, status) in [("a.gguf", "f16", 1), ("b.rwkvz", "q8_0", 2)] {
        let ran = run(["convert", &path, &files.path(name), "-t", kind, "--as-tensors"]);
        assert_eq!(ran.status, status, "{}", ran.stderr);
    }
    let mut other = tensors.clone();
    other[0].2[7] += 1.0;
    let other = files.write("other.safetensors", &safetensors(&other));
    assert_eq!(run(["diff", &path, &other, "--max-relative", "1e-6"]).status, 3);

    let mut bad = tensors;
    bad[1].2[3] = f32::NAN;
    let path = files.write("bad.safetensors", &safetensors(&bad));
    fails(&path, 1, &["transformer.h.0.mlp.weight", "NaN"]);
}

/// Case lora-b-without-a: half an adapter was "sound", though no command can use it.
#[test]
fn a_factor_without_its_counterpart_is_named() {
    let files = Files::new();
    let (a, b) = ("blocks.0.att.key.lora_A".to_owned(), "blocks.0.att.key.lora_B".to_owned());
    let factor = |name: &String, shape: [usize; 2]| (name.clone(), shape.to_vec(), vec![0.5f32; 1024]);
    let (first, second) = (factor(&a, [4, 256]), factor(&b, [256, 4]));
    let whole = files.write("whole.safetensors", &safetensors(&[first.clone(), second.clone()]));
    ok(["verify", &whole]);
    for (kept, lost) in [(first, &b), (second, &a)] {
        let half = files.write("half.safetensors", &safetensors(std::slice::from_ref(&kept)));
        fails(&half, 1, &[&kept.0, "has no counterpart", lost]);
    }
}

/// Parts of two models of one shape are no set, in whichever format: each part states the digest of its model.
#[test]
fn parts_of_two_models_are_no_set() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let source = testdata("rwkv7-bytes.pth");
    ok(["convert", source.to_str().unwrap(), &at("rounded.gguf"), "-t", "q8_0"]);
    for (extension, file_type) in [("gguf", "f16"), ("safetensors", "f16")] {
        for (folder, from) in [("a", source.to_str().unwrap()), ("b", &at("rounded.gguf"))] {
            fs::create_dir_all(at(folder)).unwrap();
            let out = at(&format!("{folder}/m.{extension}"));
            ok(["convert", from, &out, "-t", file_type, "--split-max-size", "1MB"]);
        }
        let parts: Vec<_> = fs::read_dir(at("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
        let mut parts: Vec<String> = parts.into_iter().map(|n| n.into_string().unwrap()).collect();
        parts.retain(|name| name.contains("-of-") && name.ends_with(extension));
        parts.sort_unstable();
        let first = at(&format!("a/{}", parts[0]));
        ok(["verify", &first]);
        fs::copy(at(&format!("b/{}", parts[1])), at(&format!("a/{}", parts[1]))).unwrap();
        let ran = run(["verify", &first]);
        assert_eq!(ran.status, 1, "{extension}");
        assert!(ran.stderr.contains("belongs to another model"), "{extension}: {}", ran.stderr);
    }
}

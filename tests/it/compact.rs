//! Compact files: `.rwkvz`.

use std::path::Path;

use crate::run::{json, ok, run, sha256, testdata};

fn args<'a>(parts: &[&'a str]) -> Vec<std::ffi::OsString> {
    parts.iter().map(|p: &&'a str| (*p).into()).collect()
}

fn convert(from: &Path, to: &Path, flags: &[&str]) {
    let mut all = args(&["--format", "json", "convert"]);
    all.extend([from.into(), to.into()]);
    all.extend(args(flags));
    ok(all);
}

/// The differences of all tensors. (Models that differ are no success.)
fn diff(a: &Path, b: &Path) -> serde_json::Value {
    let ran = run([&args(&["--format", "json", "diff"])[..], &[a.into(), b.into()]].concat());
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr))
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// The greatest of a column of all tensors of a diff.
fn greatest(diff: &serde_json::Value, column: &str) -> f64 {
    let rows = diff["tensors"].as_array().unwrap();
    assert!(!rows.is_empty());
    rows.iter().map(|row| row[column].as_f64().unwrap()).fold(0.0, f64::max)
}

#[test]
fn checkpoints_of_every_version_come_back_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes"] {
        let source = testdata(&format!("{name}.pth"));
        let compact = dir.path().join("m.rwkvz");
        convert(&source, &compact, &["--force"]);
        ok([&args(&["verify"])[..], &[compact.clone().into()]].concat());
        let said = ok([&args(&["verify", "--checksums"])[..], &[compact.clone().into()]].concat()).stdout;
        assert!(said.contains(" checksums right; no weight was decoded"), "{said}");
        assert_eq!(greatest(&diff(&source, &compact), "max"), 0.0, "{name}");
        assert!(bytes(&compact).len() as f64 <= 0.76 * bytes(&source).len() as f64, "{name}");
        // What it expands to is what the source becomes.
        let (direct, expanded) = (dir.path().join("a.st"), dir.path().join("b.st"));
        convert(&source, &direct, &["--force"]);
        convert(&compact, &expanded, &["--force"]);
        assert_eq!(bytes(&direct), bytes(&expanded), "{name}");
    }
}

#[test]
fn the_bytes_do_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv7-bytes.pth");
    let hashes = ["1", "2", "5"].map(|threads| {
        let out = dir.path().join("m.rwkvz");
        convert(&source, &out, &["--bpw", "3.5", "--threads", threads, "--force"]);
        assert!(!dir.path().join("m.rwkvz.calibration").exists());
        sha256(&bytes(&out))
    });
    assert!(hashes.iter().all(|h| *h == hashes[0]), "{hashes:?}");
}

#[test]
fn any_size_is_met_and_more_bits_are_better() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv6-bytes.pth");
    let mut before = f64::INFINITY;
    for bits in ["2.5", "3.5", "5", "7"] {
        let out = dir.path().join("m.rwkvz");
        convert(&source, &out, &["--bpw", bits, "--force"]);
        let size = bytes(&out).len();
        let found = json([&args(&["--format", "json", "inspect"])[..], &[out.clone().into()]].concat());
        let weights = found["model"]["weights"].as_f64().unwrap();
        let bits: f64 = bits.parse().unwrap();
        assert!((size as f64 * 8.0 / weights / bits - 1.0).abs() < 0.01, "{size} bytes for {bits} bits");
        let rms = greatest(&diff(&source, &out), "relative");
        assert!(rms < before, "{bits}: {rms} {before}");
        before = rms;
    }
    let out = dir.path().join("sized.rwkvz");
    convert(&source, &out, &["--target-size", "1MB"]);
    let size = bytes(&out).len();
    assert!((985_000..=1_000_000).contains(&size), "{size}");
}

#[test]
fn what_was_coded_expands_to_its_own_values() {
    let dir = tempfile::tempdir().unwrap();
    let (source, compact) = (testdata("rwkv7-bytes.pth"), dir.path().join("m.rwkvz"));
    convert(&source, &compact, &["--bpw", "4"]);
    for name in ["a.safetensors", "a.pth", "a.gguf"] {
        let expanded = dir.path().join(name);
        convert(&compact, &expanded, &["--type", "f32"]);
        assert_eq!(greatest(&diff(&compact, &expanded), "max"), 0.0, "{name}");
    }
    // Another type is made of these values.
    convert(&compact, &dir.path().join("b.gguf"), &["--type", "q8_0"]);
}

#[test]
fn it_runs_like_what_it_expands_to() {
    let dir = tempfile::tempdir().unwrap();
    let (source, compact) = (testdata("rwkv7-bytes.pth"), dir.path().join("m.rwkvz"));
    let expanded = dir.path().join("m.safetensors");
    convert(&source, &compact, &["--bpw", "5"]);
    convert(&compact, &expanded, &["--type", "f32"]);
    let text = dir.path().join("text.txt");
    std::fs::write(&text, &bytes(&testdata("heldout.txt"))[..4096]).unwrap();
    let perplexity = |model: &Path, more: &[&str]| {
        let mut all = args(&["--format", "json", "eval-ppl", "--vocab", "bytes"]);
        all.extend(args(more));
        all.extend([model.into(), text.clone().into()]);
        json(all)["candidates"][0]["perplexity"].clone()
    };
    assert_eq!(perplexity(&compact, &[]), perplexity(&expanded, &[]));
    assert_eq!(perplexity(&compact, &["--max-memory", "500MB"]), perplexity(&expanded, &[]));
}

#[test]
fn calibrated_codes_diverge_less() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv7-bytes.pth");
    let data = bytes(&testdata("heldout.txt"));
    let (calib, judge) = (dir.path().join("calib.txt"), dir.path().join("judge.txt"));
    std::fs::write(&calib, &data[..24 * 512]).unwrap();
    std::fs::write(&judge, &data[data.len() - 8 * 512..]).unwrap();
    let (plain, fed) = (dir.path().join("plain.rwkvz"), dir.path().join("fed.rwkvz"));
    convert(&source, &plain, &["--bpw", "3.5"]);
    convert(&source, &fed, &["--bpw", "3.5", "--vocab", "bytes", "--calib", calib.to_str().unwrap()]);
    let mut all = args(&["--format", "json", "eval-ppl", "--vocab", "bytes"]);
    all.extend([plain.clone().into(), judge.into(), "--against".into(), source.into()]);
    all.extend(["--candidate".into(), fed.clone().into()]);
    let found = json(all);
    let kl = |path: &Path| {
        let all = found["candidates"].as_array().unwrap();
        let one = all.iter().find(|c| c["path"] == path.to_str().unwrap()).unwrap();
        let windows: Vec<f64> =
            one["against"]["kl_by_window"].as_array().unwrap().iter().map(|k| k.as_f64().unwrap()).collect();
        windows.iter().sum::<f64>() / windows.len() as f64
    };
    assert!(kl(&fed) < 0.8 * kl(&plain), "{} {}", kl(&fed), kl(&plain));
}

/// A recipe makes the same file again, without what its bits were chosen by; a divergence asked for is measured.
#[test]
fn a_divergence_is_met_and_a_recipe_makes_the_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv7-bytes.pth");
    let calib = dir.path().join("calib.txt");
    std::fs::write(&calib, &bytes(&testdata("heldout.txt"))[..24 * 512]).unwrap();
    let [first, again, recipe] = ["a.rwkvz", "b.rwkvz", "recipe.toml"].map(|name| dir.path().join(name));
    let calibrated = ["--vocab", "bytes", "--calib", calib.to_str().unwrap()];
    let mut all = args(&["--format", "json", "convert", "--target-kl", "0.003", "--save-recipe"]);
    all.extend([recipe.clone().into(), source.clone().into(), first.clone().into()]);
    all.extend(args(&calibrated));
    let choice = &json(all)["choice"];
    let reached = choice["reached_divergence"]["value"].as_f64().unwrap();
    assert!(reached > 0.0 && reached <= 0.003, "{choice}");
    assert!((choice["predicted_divergence"].as_f64().unwrap() / 0.003 - 1.0).abs() < 0.01, "{choice}");
    convert(&source, &again, &[&["--recipe", recipe.to_str().unwrap()][..], &calibrated].concat());
    // (Each says of itself what it was made by, and that is all the same.)
    assert_eq!(sha256(&bytes(&first)), sha256(&bytes(&again)));

    let text = std::fs::read_to_string(&recipe).unwrap();
    let all_but_one: Vec<&str> = text.lines().filter(|line| !line.starts_with("\"head.weight")).collect();
    std::fs::write(&recipe, all_but_one.join("\n")).unwrap();
    let ran = run([
        "convert".into(),
        source.into_os_string(),
        again.into_os_string(),
        "--recipe".into(),
        recipe.into_os_string(),
    ]);
    assert!(ran.stderr.contains("the recipe says nothing of head.weight"), "{}", ran.stderr);
}

/// A branch of low rank is within the file, takes no more bytes, and is there only if it helps.
#[test]
fn branches_of_low_rank_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv7-bytes.pth");
    let [plain, branched] = ["a.rwkvz", "b.rwkvz"].map(|name| dir.path().join(name));
    convert(&source, &plain, &["--bpw", "2"]);
    convert(&source, &branched, &["--bpw", "2", "--low-rank", "2"]);
    assert!(bytes(&branched).len() as f64 <= 1.001 * bytes(&plain).len() as f64);
    let rms = |path: &Path| greatest(&diff(&source, path), "relative");
    assert!(rms(&branched) <= 1.01 * rms(&plain), "{} {}", rms(&branched), rms(&plain));
    ok([&args(&["verify"])[..], &[branched.into()]].concat());
}

#[test]
fn fixed_types_are_served_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv7-bytes.pth");
    for kind in ["q4_k_m", "q8_0", "iq4_nl", "int8", "nf4", "nf4_dq", "f16", "f32", "bf16"] {
        let (compact, other) = (dir.path().join("m.rwkvz"), dir.path().join("m.safetensors"));
        convert(&source, &compact, &["--type", kind, "--force"]);
        ok([&args(&["verify"])[..], &[compact.clone().into()]].concat());
        convert(&compact, &other, &["--type", "f32", "--force"]);
        assert_eq!(greatest(&diff(&compact, &other), "max"), 0.0, "{kind}");
    }
}

/// Scales in 8 bits take 0.37 bits a weight fewer than those in f32, and cost next to nothing.
#[test]
fn nf4_has_its_scales_quantized_too() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv7-bytes.pth");
    let [dq, again, best, folder] =
        ["a.rwkvz", "b.rwkvz", "c.rwkvz", "folder"].map(|name| dir.path().join(name));
    convert(&source, &dq, &["--type", "nf4_dq"]);
    convert(&source, &again, &["--type", "nf4_dq", "--threads", "1"]);
    assert_eq!(sha256(&bytes(&dq)), sha256(&bytes(&again)));
    convert(&source, &best, &["--type", "nf4_dq", "--search", "best"]);
    convert(&source, &folder, &["--to", "hf", "--type", "nf4"]);
    let tensors = |path: &Path| -> Vec<(String, serde_json::Value)> {
        let found = json([&args(&["--format", "json", "inspect"])[..], &[path.into()]].concat());
        let tensors = found["tensors"].as_array().unwrap().iter();
        tensors.map(|t| (t["name"].as_str().unwrap().to_owned(), t.clone())).collect()
    };
    let coded: Vec<_> = tensors(&dq).into_iter().filter(|(_, t)| t["encoding"] == "nf4_dq").collect();
    assert_eq!(coded.len(), 14, "the matrices of two blocks, embedding and head");
    for (name, t) in &coded {
        let weights: u64 = t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product();
        let bits = t["bytes"].as_u64().unwrap() as f64 * 8.0 / weights as f64;
        assert!((4.126..4.135).contains(&bits), "{name}: {bits}");
    }
    let error = |path: &Path, name: &str| -> f64 {
        let found = diff(&source, path);
        let found = found["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap().clone();
        found["relative"].as_f64().unwrap()
    };
    let key = "blocks.1.att.key.weight";
    let (nested, searched, single) = (error(&dq, key), error(&best, key), error(&folder, key));
    assert!((nested / single - 1.0).abs() < 0.005, "{nested} against {single}");
    assert!(searched < 0.98 * nested, "{searched} against {nested}");
}

#[test]
fn goals_and_types_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv7-bytes.pth");
    for (out, flags, what) in [
        ("m.rwkvz", &["--target-kl", "0.1"][..], "--calib"),
        ("m.gguf", &["--bpw", "4"], "types are chosen by what they cost on a text"),
        ("m.rwkvz", &["--type", "coded"], "files of the type coded have any size, and none is asked for"),
        ("m.rwkvz", &["--type", "q8_0", "--bpw", "4"], "the type q8_0 has a size of its own"),
        ("m.rwkvz", &["--bpw", "0.2"], "bytes are too few for this model: the smallest file has"),
        ("m.rwkvz", &["--bpw", "0"], "are no positive number"),
        ("m.rwkvz", &["--type", "sf4"], "there are no compact files of the type sf4"),
        ("m.rwkvz", &["--type", "nf4_dq", "--low-rank", "4"], "--low-rank changes nothing"),
    ] {
        let out = dir.path().join(out);
        let ran =
            run([&args(&["convert"])[..], &[source.clone().into(), out.clone().into()], &args(flags)]
                .concat());
        assert_eq!(ran.status, 2, "{flags:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(what), "{flags:?}: {}", ran.stderr);
        assert!(!out.exists());
    }
}

/// Single tensors of any type that compact files hold, and at any rate beside fixed types.
#[test]
fn recipes_mix_all_types() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv7-bytes.pth");
    let [recipe, out, expanded] = ["r.toml", "m.rwkvz", "m.safetensors"].map(|name| dir.path().join(name));
    for kind in ["nf4_dq", "q4_k_m"] {
        let stored = [
            ("blocks.0.att.key.weight", "\"nf4\"", "nf4_dq"),
            ("blocks.0.att.value.weight", "\"int8\"", "int8"),
            ("blocks.1.att.key.weight", "\"bf16\"", "lossless"),
            ("blocks.1.att.value.weight", "4.5", "codes"),
            ("blocks.1.ffn.key.weight", "\"q6_k\"", "q6_k"),
        ];
        let lines: String = stored.iter().map(|(name, said, _)| format!("\"{name}\" = {said}\n")).collect();
        std::fs::write(&recipe, format!("type = \"{kind}\"\n[tensors]\n{lines}")).unwrap();
        convert(&source, &out, &["--recipe", recipe.to_str().unwrap(), "--force"]);
        let found = json([&args(&["--format", "json", "inspect"])[..], &[out.clone().into()]].concat());
        for (name, _, encoding) in stored {
            let tensor = found["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap();
            assert_eq!(tensor["encoding"], encoding, "{kind}: {name}");
        }
        convert(&out, &expanded, &["--type", "f32", "--force"]);
        assert_eq!(greatest(&diff(&out, &expanded), "max"), 0.0, "{kind}");
    }
}

/// More than codes can use is a warning.
#[test]
fn a_size_that_is_too_large_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (testdata("rwkv7-bytes.pth"), dir.path().join("m.rwkvz"));
    let warnings = |bpw: &str| {
        let mut all = args(&["--format", "json", "convert", "--dry-run", "--bpw", bpw]);
        all.extend([source.clone().into(), out.clone().into()]);
        json(all)["warnings"].to_string()
    };
    assert!(warnings("1e30").contains("most there are"), "no number is too large");
    assert!(warnings("12").contains("without a size, bf16 is kept bit by bit"), "{}", warnings("12"));
    assert_eq!(warnings("6"), "[]");
}

/// Models of many small matrices keep them, and the rest gives way evenly: a size is met, and nothing lost for it.
#[test]
fn small_models_keep_what_they_know() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (testdata("rwkv4-bytes.pth"), dir.path().join("m.rwkvz"));
    let exact = dir.path().join("exact.rwkvz");
    convert(&source, &exact, &[]);
    for bits in ["3", "6"] {
        convert(&source, &out, &["--bpw", bits, "--force"]);
        let found = diff(&source, &out);
        assert!(greatest(&found, "relative") < if bits == "3" { 0.35 } else { 0.08 }, "{bits}: {found}");
    }
    let ran = run([
        "convert".into(),
        source.into_os_string(),
        out.clone().into_os_string(),
        "--target-size".into(),
        "60kB".into(),
        "--force".into(),
    ]);
    assert_eq!(ran.status, 2, "{}", ran.stderr);
}

/// Blocks are copied; codes are not, and it is said what to do.
#[test]
fn compact_files_become_compact_files() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv7-bytes.pth");
    let [blocks, copy, codes] = ["a.rwkvz", "b.rwkvz", "c.rwkvz"].map(|name| dir.path().join(name));
    convert(&source, &blocks, &["--type", "q4_k_m"]);
    convert(&blocks, &copy, &["--name", "another"]);
    assert_eq!(greatest(&diff(&blocks, &copy), "max"), 0.0);
    assert!(bytes(&copy).len() < bytes(&blocks).len() + 1000);
    convert(&source, &codes, &["--bpw", "4"]);
    let copied = || {
        run([
            "convert".into(),
            codes.clone().into(),
            copy.clone().into(),
            std::ffi::OsString::from("--force"),
        ])
    };
    let ran = copied();
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("is stored as codes, which cannot be copied"), "{}", ran.stderr);
    convert(&source, &codes, &["--type", "nf4_dq", "--force"]);
    let ran = copied();
    assert!(ran.stderr.contains("is stored as nf4_dq, which cannot be copied"), "{}", ran.stderr);
}

/// A release tells the size that files really have, estimated as they are when they are planned.
#[test]
fn releases_tell_their_real_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let (job, out) = (dir.path().join("release.toml"), dir.path().join("out"));
    let source = testdata("rwkv7-bytes.pth");
    let text = format!(
        "[[model]]\nname = \"m\"\nsource = {source:?}\n[[artifact]]\ntarget = \"compact\"\n[[artifact]]\n\
         target = \"compact\"\ntype = \"bf16\"\ngates = {{ max_size = \"2.5MB\" }}\n"
    );
    std::fs::write(&job, text).unwrap();
    let batch =
        [&args(&["--format", "json", "batch"])[..], &[job.into(), "--out".into(), out.clone().into()]];
    let found = json(batch.concat());
    let cells = found["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 2, "{found}");
    for cell in cells {
        let path = out.join(cell["path"].as_str().unwrap());
        assert_eq!(cell["record"]["bytes"], bytes(&path).len(), "{cell}");
    }
}

#[test]
fn a_damaged_section_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (source, compact) = (testdata("rwkv7-bytes.pth"), dir.path().join("m.rwkvz"));
    convert(&source, &compact, &["--bpw", "4"]);
    let mut damaged = bytes(&compact);
    damaged[5000] ^= 1;
    std::fs::write(&compact, damaged).unwrap();
    let checked = run([&args(&["verify", "--checksums"])[..], &[source.clone().into()]].concat());
    assert_eq!(checked.status, 0, "a torch archive has checksums: {}", checked.stderr);
    for args in [
        vec!["diff".into(), source.clone().into_os_string(), compact.clone().into_os_string()],
        vec!["generate".into(), compact.clone().into_os_string(), "--prompt".into(), "x".into()],
        vec!["verify".into(), compact.clone().into_os_string()],
        vec!["verify".into(), "--checksums".into(), compact.clone().into_os_string()],
        vec![
            "convert".into(),
            compact.clone().into_os_string(),
            dir.path().join("m.gguf").into_os_string(),
            "--type".into(),
            "q8_0".into(),
        ],
    ] {
        let ran = run(args);
        assert_eq!(ran.status, 1);
        assert!(ran.stderr.contains("in tensor \"emb.weight\""), "{}", ran.stderr);
    }
}

//! Calibration: better files of the same size, the same bytes always, and plain words where it cannot be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::run::{json, ok, program, run, testdata};

/// The first and the last part of the held-out text: to calibrate on, and to judge by.
fn texts(dir: &Path, tokens: usize) -> (String, String) {
    let text = fs::read(testdata("heldout.txt")).unwrap();
    let path = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    (path("calib.txt", &text[..tokens]), path("judge.txt", &text[text.len() - 8192..]))
}

fn model(name: &str) -> String {
    testdata(name).to_str().unwrap().to_owned()
}

fn out(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

/// Mean divergence of `file` from `model` on `text`.
fn divergence(file: &str, model: &str, text: &str) -> f64 {
    let found = json(["--format", "json", "eval-ppl", file, text, "--against", model]);
    found["candidates"][0]["against"]["kl"]["value"].as_f64().unwrap()
}

#[test]
fn calibrated_files_are_nearer_to_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let (calib, judge) = texts(dir.path(), 16_384);
    // A version without GGUF, and other formats and targets.
    for (name, file, kind, at_most) in [
        ("rwkv7-bytes.pth", "a.gguf", "q4_k_m", 0.8),
        ("rwkv6-bytes.pth", "b.gguf", "q3_k_m", 0.8),
        ("rwkv4-bytes.pth", "c.bin", "q4_0", 0.8),
        ("rwkv7-bytes.pth", "d.prefab", "nf4", 0.9),
        ("rwkv7-bytes.pth", "e.rwkvz", "nf4_dq", 0.9),
    ] {
        let (model, plain, better) =
            (model(name), out(dir.path(), &format!("plain-{file}")), out(dir.path(), file));
        ok(["convert", &model, &plain, "-t", kind]);
        let done = json(["--format", "json", "convert", &model, &better, "-t", kind, "--calib", &calib]);
        let outcomes = done["calibrated"].as_array().unwrap();
        assert!(outcomes.len() > 10, "{name}: {outcomes:?}");
        // Never worse on the tokens that were held out.
        for o in outcomes {
            assert!(o["error"].as_f64() <= o["default_error"].as_f64(), "{o}");
        }
        let (a, b) = (divergence(&plain, &model, &judge), divergence(&better, &model, &judge));
        assert!(b < at_most * a, "{name} {kind}: {b} against {a}");
        ok(["verify", &better]);
        assert!(!Path::new(&format!("{better}.calibration")).exists());
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (calib, _) = texts(dir.path(), 4096);
    let mut files = Vec::new();
    for threads in ["1", "3"] {
        let file = out(dir.path(), &format!("{threads}.gguf"));
        let model = model("rwkv7-bytes.pth");
        ok(["convert", &model, &file, "-t", "q3_k_m", "--calib", &calib, "--threads", threads]);
        files.push(fs::read(file).unwrap());
    }
    assert!(files[0] == files[1]);
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (calib, _) = texts(dir.path(), 16_384);
    let model = model("rwkv7-bytes.pth");
    let convert = |file: &str| -> Vec<String> {
        ["convert", &model, file, "-t", "q4_k_m", "--calib", &calib].map(str::to_owned).into()
    };
    let whole = out(dir.path(), "whole.gguf");
    ok(convert(&whole));
    let file = out(dir.path(), "killed.gguf");
    let store = PathBuf::from(format!("{file}.calibration"));
    let finished = || {
        fs::read_dir(&store).map_or(0, |d| {
            d.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "seal")).count()
        })
    };
    let mut child =
        program().args(convert(&file)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while finished() < 3 {
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = finished();
    assert!(kept >= 3 && !Path::new(&file).exists());
    let modified = |name: &str| fs::metadata(store.join(name)).unwrap().modified().unwrap();
    let first = fs::read_dir(&store).unwrap().find_map(|e| {
        let name = e.unwrap().file_name().into_string().unwrap();
        name.ends_with(".seal").then_some(name)
    });
    let before = modified(first.as_ref().unwrap());
    // A run that is stopped once more: what was finished is not made again.
    let mut child =
        program().args(convert(&file)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while finished() == kept && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if store.exists() {
        assert_eq!(modified(first.as_ref().unwrap()), before);
        // Nor is what the disk lost taken for what was made.
        let kept = store.join(first.as_ref().unwrap()).with_extension("bytes");
        let mut bytes = fs::read(&kept).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&kept, bytes).unwrap();
    }
    ok(convert(&file).into_iter().chain(["-f".to_owned()]));
    assert!(fs::read(&file).unwrap() == fs::read(&whole).unwrap());
    assert!(!store.exists());
}

#[test]
fn what_another_run_left_is_not_taken_for_this_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (calib, _) = texts(dir.path(), 8192);
    let model = model("rwkv7-bytes.pth");
    let file = out(dir.path(), "a.gguf");
    let convert = |file: &str, more: &[&str]| -> Vec<String> {
        let args = ["convert", &model, file, "-t", "q3_k_m", "--calib", &calib];
        args.iter().chain(more).map(|a| (*a).to_owned()).collect()
    };
    let store = PathBuf::from(format!("{file}.calibration"));
    let mut child =
        program().args(convert(&file, &[])).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    let begun = || {
        let is_outcome = |e: std::io::Result<fs::DirEntry>| {
            e.is_ok_and(|e| e.path().extension().is_some_and(|e| e == "seal"))
        };
        fs::read_dir(&store).is_ok_and(|mut entries| entries.any(is_outcome))
    };
    while !begun() && !Path::new(&file).exists() {
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    ok(convert(&file, &["--calib-independent", "-f"]));
    let fresh = out(dir.path(), "b.gguf");
    ok(convert(&fresh, &["--calib-independent"]));
    assert!(fs::read(&file).unwrap() == fs::read(&fresh).unwrap());
    let sequential = out(dir.path(), "c.gguf");
    ok(convert(&sequential, &[]));
    assert!(fs::read(&sequential).unwrap() != fs::read(&fresh).unwrap());
}

#[test]
fn a_size_is_kept_and_a_recipe_reproduces_it() {
    let dir = tempfile::tempdir().unwrap();
    let (calib, judge) = texts(dir.path(), 8192);
    let model = model("rwkv7-bytes.pth");
    let (uniform, file, again) =
        (out(dir.path(), "u.gguf"), out(dir.path(), "a.gguf"), out(dir.path(), "b.gguf"));
    let recipe = out(dir.path(), "recipe.toml");
    ok(["convert", &model, &uniform, "-t", "q4_k_m", "--calib", &calib]);
    let size = fs::metadata(&uniform).unwrap().len();
    let args = ["--format", "json", "convert", &model, &file, "--calib", &calib, "--save-recipe", &recipe];
    let done = json(args.iter().copied().chain(["--target-size", &size.to_string()]));
    assert!(fs::metadata(&file).unwrap().len() <= size);
    assert!(done["choice"]["predicted_divergence"].as_f64().unwrap() > 0.0);
    let (a, b) = (divergence(&uniform, &model, &judge), divergence(&file, &model, &judge));
    assert!(b < 0.8 * a, "{b} against {a}");
    ok(["convert", &model, &again, "--recipe", &recipe, "--calib", &calib]);
    assert!(fs::read(&file).unwrap() == fs::read(&again).unwrap());
    // The size in other words, and the divergence.
    let bits = json([
        "--format",
        "json",
        "convert",
        &model,
        &out(dir.path(), "c.gguf"),
        "--calib",
        &calib,
        "--target-bpw",
        "5",
    ]);
    assert!(bits["bits_per_weight"].as_f64().unwrap() <= 5.0);
    let kl = json([
        "--format",
        "json",
        "convert",
        &model,
        &out(dir.path(), "d.gguf"),
        "--calib",
        &calib,
        "--target-kl",
        "0.01",
    ]);
    assert!(kl["choice"]["predicted_divergence"].as_f64().unwrap() <= 0.01);
    let reached = kl["choice"]["reached_divergence"]["value"].as_f64().unwrap();
    assert!(reached > 0.0 && reached <= 0.01, "{reached}");
    let elsewhere = divergence(&out(dir.path(), "d.gguf"), &model, &judge);
    assert!(elsewhere > 0.5 * reached && elsewhere < 2.0 * reached, "{elsewhere} and {reached}");
}

#[test]
fn what_was_measured_once_serves_many_conversions() {
    let dir = tempfile::tempdir().unwrap();
    let (calib, _) = texts(dir.path(), 8192);
    for (name, file) in
        [("rwkv7-bytes.pth", "7.gguf"), ("rwkv6-bytes.pth", "6.gguf"), ("rwkv4-bytes.pth", "4.bin")]
    {
        let model = model(name);
        let stats = out(dir.path(), &format!("{file}.safetensors"));
        let found = json(["--format", "json", "calibrate", &model, &calib, "-o", &stats]);
        assert_eq!(found["tokens"].as_u64(), Some(8192));
        let kind = if file.ends_with("gguf") { "q3_k_m" } else { "q5_1" };
        for more in [&[][..], &["--equalize"]] {
            let convert = |file: &str, calib: &[&str]| {
                let file = out(dir.path(), file);
                ok(["convert", &model, &file, "-f", "-t", kind, "--calib"].iter().chain(calib).chain(more));
                fs::read(file).unwrap()
            };
            // The bytes are those of a run over the text in which nothing was rounded.
            let direct = convert(&format!("direct-{file}"), &[&calib, "--calib-independent"]);
            assert!(convert(&format!("stats-{file}"), &[&stats]) == direct, "{name} {more:?}");
        }
    }
    // Types are chosen on the text in the file.
    let (stats, file) = (out(dir.path(), "7.gguf.safetensors"), out(dir.path(), "a.gguf"));
    let model7 = model("rwkv7-bytes.pth");
    ok(["convert", &model7, &file, "--calib", &stats, "--target-bpw", "5"]);
    for (name, args, what) in [
        ("rwkv6-bytes.pth", &[][..], "was measured on another model: RWKV-7.0 of 2 blocks, 256 channels"),
        ("rwkv7-bytes.pth", &["--calib-ctx", "64"], "holds what was measured on its own text"),
        ("rwkv7-bytes.pth", &["--imatrix", &stats], "both an importance matrix and a text"),
    ] {
        let (model, file) = (model(name), out(dir.path(), "refused.gguf"));
        let all = ["convert", &model, &file, "-t", "q4_k_m", "--calib", &stats];
        let ran = run(all.iter().copied().chain(args.iter().copied()));
        assert!(ran.status != 0 && ran.stderr.contains(what), "{args:?}: {}", ran.stderr);
    }
    // Other weights of the same shape, and a file that holds something else.
    let rounded = out(dir.path(), "rounded.gguf");
    ok(["convert", &model7, &rounded, "-t", "q8_0"]);
    for (model, stats, what) in [
        (&rounded, &stats, "was measured on a model of this shape with other weights"),
        (&model7, &out(dir.path(), "head.safetensors"), "holds no measurements to calibrate with"),
    ] {
        if !Path::new(stats).exists() {
            ok(["cluster-head", &model7, "-o", stats]);
        }
        let ran = run(["convert", model, &out(dir.path(), "refused.gguf"), "-t", "q4_k_m", "--calib", stats]);
        assert!(ran.status == 1 && ran.stderr.contains(what), "{}", ran.stderr);
    }
}

#[test]
fn the_models_own_samples_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let (_, judge) = texts(dir.path(), 16);
    let model = model("rwkv7-bytes.pth");
    let (plain, better) = (out(dir.path(), "p.gguf"), out(dir.path(), "b.gguf"));
    ok(["convert", &model, &plain, "-t", "q3_k_m"]);
    ok([
        "convert",
        &model,
        &better,
        "-t",
        "q3_k_m",
        "--calib",
        "self",
        "--calib-tokens",
        "8192",
        "--calib-ctx",
        "256",
    ]);
    assert!(divergence(&better, &model, &judge) < divergence(&plain, &model, &judge));
}

#[test]
fn a_text_that_shares_content_with_the_calibration_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (calib, judge) = texts(dir.path(), 8192);
    let model = model("rwkv7-bytes.pth");
    let file = out(dir.path(), "a.gguf");
    ok(["convert", &model, &file, "-t", "q8_0", "--calib", &calib]);
    let shared =
        |text: &str| -> Value { json(["--format", "json", "eval-ppl", &file, text])["warnings"].clone() };
    assert_eq!(shared(&judge), serde_json::json!([]));
    let warnings = shared(&calib);
    assert!(warnings[0].as_str().unwrap().contains("calibrated on"), "{warnings}");
}

#[test]
fn an_importance_matrix_is_made_that_convert_reads() {
    let dir = tempfile::tempdir().unwrap();
    let (calib, _) = texts(dir.path(), 4096);
    let model = model("rwkv7-bytes.pth");
    let mut files = Vec::new();
    for name in ["a.gguf", "a.dat"] {
        let (imatrix, file) = (out(dir.path(), name), out(dir.path(), &format!("{name}.q3.gguf")));
        let found = json(["--format", "json", "calibrate", &model, &calib, "-o", &imatrix]);
        assert_eq!((found["tokens"].as_u64(), found["matrices"].as_u64()), (Some(4096), Some(27)));
        ok(["convert", &model, &file, "-t", "q3_k_m", "--imatrix", &imatrix]);
        files.push(imatrix);
    }
    assert_eq!(run(["calibrate", &model, &calib, "-o", &files[0]]).status, 1);
    assert_eq!(run(["calibrate", &model, &calib, "-o", &out(dir.path(), "a.npz")]).status, 2);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (calib, _) = texts(dir.path(), 4096);
    let short = out(dir.path(), "short.txt");
    fs::write(&short, "too short to learn from").unwrap();
    let model = model("rwkv7-bytes.pth");
    let file = out(dir.path(), "a.gguf");
    for (args, status, what) in [
        (&["-t", "q4_k_m", "--calib", &short][..], 2, "too little to calibrate on: 23 tokens in 1 sequences"),
        (&["-t", "bf16", "--calib", &calib], 2, "nothing is rounded to fewer bits as bf16"),
        (&["-t", "q4_k_m", "--calib", &calib, "self"], 2, "texts and the word self are both given"),
        (&["-t", "q4_k_m", "--calib", &calib, "--calib-ctx", "4"], 2, "sequences of 4 tokens are too short"),
        (
            &["-t", "q4_k_m", "--calib", &calib, "--calib-tokens", "0"],
            2,
            "0 tokens are too few to calibrate on",
        ),
        (
            &["--calib", &calib, "--target-size", "100kB"],
            2,
            "100000 bytes are too few for this model: the smallest",
        ),
        (&["--calib", &calib, "--target-kl", "0"], 2, "are no positive number"),
        (&["-t", "q4_k_m", "--calib", &calib, "--max-memory", "60MiB"], 5, "calibration needs"),
        (&["-t", "q4_k_m", "--calib", "nowhere.txt"], 1, "nowhere.txt"),
        (&["--target-size", "1MB"], 2, "--calib"),
    ] {
        let ran = run(["convert", &model, &file].iter().copied().chain(args.iter().copied()));
        assert!(ran.status == status && ran.stderr.contains(what), "{args:?}: {} {}", ran.status, ran.stderr);
        assert!(!Path::new(&file).exists());
    }
}

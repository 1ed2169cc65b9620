//! Branches of low rank: a quantized rest, and the adapter beside it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::run::{json, ok, run, testdata};

fn source() -> String {
    testdata("rwkv7-bytes.pth").to_str().unwrap().to_owned()
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

/// The divergence of a quantized model from its source on a short text.
fn divergence(folder: &Path, model: &str, args: &[&str]) -> f64 {
    let text = path(folder, "text.txt");
    let held_out = fs::read(testdata("heldout.txt")).unwrap();
    fs::write(&text, &held_out[held_out.len() - 4096..]).unwrap();
    let source = source();
    let all = ["--format", "json", "eval-ppl", model, &text, "--against", &source, "--vocab", "bytes"];
    let found = json(all.iter().chain(args));
    found.pointer("/candidates/0/against/kl/value").and_then(Value::as_f64).unwrap()
}

#[test]
fn the_rest_and_its_branches_are_the_better_model() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, out) = (path(dir.path(), "plain.gguf"), path(dir.path(), "out.gguf"));
    let lora = path(dir.path(), "out.lora.gguf");
    let common = ["--type", "q2_k", "--vocab", "bytes"];
    ok(["convert", &source(), &plain].iter().chain(&common));
    let branched = ["--low-rank", "8", "--modelfile", "g1", "--format", "json"];
    let source = source();
    let said = json(["convert", &source, &out].iter().chain(&common).chain(&branched));
    assert_eq!(said.pointer("/low_rank/matrices"), Some(&Value::from(12)));
    let bytes = fs::metadata(&lora).unwrap().len();
    assert_eq!(said.pointer("/low_rank/adapter_bytes"), Some(&Value::from(bytes)));
    let dry = json(["convert", &source, &out, "--dry-run", "-f"].iter().chain(&common).chain(&branched));
    assert_eq!(dry.pointer("/low_rank/adapter_bytes"), Some(&Value::from(bytes)));
    let modelfile = fs::read_to_string(dir.path().join("out.Modelfile")).unwrap();
    assert!(modelfile.starts_with("FROM ./out.gguf\nADAPTER ./out.lora.gguf\n"), "{modelfile}");

    let with = divergence(dir.path(), &out, &["--lora", &lora, "--adapt", "compared"]);
    let (without, rounded) = (divergence(dir.path(), &out, &[]), divergence(dir.path(), &plain, &[]));
    assert!(with < rounded && rounded < without, "{with} {rounded} {without}");

    // One half is told from a whole: by its adapter beside it.
    ok(["verify", &out, "--strict"]);
    let away = path(dir.path(), "away.lora.gguf");
    fs::rename(&lora, &away).unwrap();
    let half = run(["verify", &out, "--strict"]);
    assert!(half.status == 3 && half.stdout.contains("half of a model"), "{} {}", half.stdout, half.stderr);
    let text = path(dir.path(), "text.txt");
    let warns =
        |args: &[&str]| run(["eval-ppl", &out, &text].iter().chain(args)).stderr.contains("half of a model");
    assert!(warns(&[]) && !warns(&["--lora", &away]));
    // Nor is one half made into a whole that says nothing of it.
    let (other, half) = (path(dir.path(), "other.gguf"), path(dir.path(), "half.gguf"));
    let refused = run(["convert", &out, &half, "--type", "q8_0"]);
    assert!(refused.status == 2 && refused.stderr.contains("half of a model"), "{}", refused.stderr);
    ok(["convert", &source, &other, "--low-rank", "8", "--search", "best"].iter().chain(&common));
    let lora_of_other = path(dir.path(), "other.lora.gguf");
    for command in [&["convert", &out, &half, "--type", "q8_0"][..], &["eval-ppl", &out, &text]] {
        let refused = run(command.iter().chain(&["--lora", &lora_of_other]));
        assert!(refused.status != 0 && refused.stderr.contains("was not made with"), "{}", refused.stderr);
    }
    ok(["convert", &out, &half, "--type", "q8_0", "--lora", &away]);
    fs::rename(&away, &lora).unwrap();

    // The same for any number of threads.
    let again = path(dir.path(), "again.gguf");
    ok(["convert", &source, &again, "--low-rank", "8", "--threads", "1"].iter().chain(&common));
    assert_eq!(fs::read(&again).unwrap(), fs::read(&out).unwrap());
    assert_eq!(fs::read(path(dir.path(), "again.lora.gguf")).unwrap(), fs::read(&lora).unwrap());

    // The adapter belongs to this model alone, and is not overwritten unasked.
    let text = path(dir.path(), "text.txt");
    let refused = run(["eval-ppl", &plain, &text, "--lora", &lora, "--vocab", "bytes"]);
    assert!(refused.stderr.contains("plain.gguf was not made with"), "{}", refused.stderr);
    fs::remove_file(&out).unwrap();
    fs::remove_file(dir.path().join("out.Modelfile")).unwrap();
    let refused = run(["convert", &source, &out, "--low-rank", "8"].iter().chain(&common));
    assert!(refused.stderr.contains("out.lora.gguf"), "{}", refused.stderr);
}

/// `m.GGUF` had one adapter on disk and another in its Modelfile; two sizes of a model shared an adapter.
#[test]
fn the_modelfile_names_the_adapter_on_disk_and_no_two_models_share_one() {
    let dir = tempfile::tempdir().unwrap();
    for (name, stem) in [
        ("m.GGUF", "m"),
        ("RWKV-x070-0.4B", "RWKV-x070-0.4B"),
        ("RWKV-x070-0.1B", "RWKV-x070-0.1B"),
        ("RWKV-x070-0.1B.q2.gguf", "RWKV-x070-0.1B.q2"),
    ] {
        let out = path(dir.path(), name);
        let flags = ["--to", "gguf", "--type", "q2_k", "--low-rank", "4", "--modelfile", "world"];
        ok(["convert", &source(), &out].iter().chain(&flags));
        let modelfile = fs::read_to_string(dir.path().join(format!("{stem}.Modelfile"))).unwrap();
        let adapter = format!("{stem}.lora.gguf");
        assert!(modelfile.starts_with(&format!("FROM ./{name}\nADAPTER ./{adapter}\n")), "{modelfile}");
        assert!(dir.path().join(adapter).is_file());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4 * 3);
}

#[test]
fn calibrated_branches_fit_rescaled_matrices_too() {
    let dir = tempfile::tempdir().unwrap();
    let (out, calib) = (path(dir.path(), "out.gguf"), path(dir.path(), "calib.txt"));
    fs::write(&calib, &fs::read(testdata("heldout.txt")).unwrap()[..8192]).unwrap();
    let source = source();
    let said = json([
        "convert",
        &source,
        &out,
        "--type",
        "q2_k",
        "--vocab",
        "bytes",
        "--calib",
        &calib,
        "--equalize",
        "--low-rank",
        "4",
        "--low-rank-for",
        "blk.*.time_mix_*.weight",
        "--format",
        "json",
    ]);
    let outcomes = said["calibrated"].as_array().unwrap();
    let branched: Vec<&Value> = outcomes.iter().filter(|o| o.get("branch").is_some()).collect();
    assert!(!branched.is_empty() && branched.len() <= 8, "{}", branched.len());
    for outcome in branched {
        assert!(outcome["name"].as_str().unwrap().contains(".time_mix_"));
        let without = outcome.pointer("/branch/error_without").and_then(Value::as_f64).unwrap();
        assert!(outcome["error"].as_f64().unwrap() < without);
    }
    let lora = path(dir.path(), "out.lora.gguf");
    let with = divergence(dir.path(), &out, &["--lora", &lora, "--adapt", "compared"]);
    assert!(with < divergence(dir.path(), &out, &[]));
    assert!(!dir.path().join("out.gguf.calibration").exists());
}

#[test]
fn branches_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = source();
    for (out, args, what) in [
        (
            "a.gguf",
            &["--type", "f16", "--low-rank", "8"][..],
            "no quantized matrix can have a branch of rank 8",
        ),
        (
            "a.gguf",
            &["--type", "q2_k", "--low-rank", "256"],
            "no quantized matrix can have a branch of rank 256",
        ),
        ("a.prefab", &["--type", "int8", "--low-rank", "8"], "with branches of low rank"),
        (
            "a.gguf",
            &["--type", "q2_k", "--low-rank", "8", "--low-rank-for", "att.key"],
            "\"att.key\" is the name of no tensor",
        ),
        ("a.gguf", &["--type", "q2_k", "--low-rank", "8", "--shard", "1/2"], "go into one adapter"),
    ] {
        let out = path(dir.path(), out);
        let ran =
            run(["convert", &source, &out, "--vocab", "bytes"].iter().copied().chain(args.iter().copied()));
        assert!(ran.status != 0 && ran.stderr.contains(what), "{args:?}: {}", ran.stderr);
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "{args:?}");
    }
}

//! `eval-ppl`, `generate` and `tokenize` as users run them.

use std::fs;

use serde_json::Value;

use crate::run::{json, ok, run, testdata};

fn path(name: &str) -> String {
    testdata(name).to_str().unwrap().to_owned()
}

/// The first 16 KiB of the held-out text, on which the official runner was recorded.
fn text(folder: &tempfile::TempDir, bytes: usize) -> String {
    let file = folder.path().join(format!("text-{bytes}.txt"));
    fs::write(&file, &fs::read(testdata("heldout.txt")).unwrap()[..bytes]).unwrap();
    file.to_str().unwrap().to_owned()
}

fn number(value: &Value, at: &str) -> f64 {
    value.pointer(at).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {at} in {value}"))
}

#[test]
fn perplexity_is_that_of_the_official_runner() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(&folder, 16 << 10);
    for name in ["rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes"] {
        let golden = fs::read(testdata(&format!("golden/{name}/nll.json"))).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let found = json(["--format", "json", "eval-ppl", &path(&format!("{name}.pth")), &text]);
        assert_eq!(number(&found, "/scored/windows"), 32.0);
        assert_eq!(number(&found, "/scored/bytes"), number(&golden, "/scored_bytes"));
        for (figure, expected) in [("nats_per_byte", "/nats_per_byte"), ("bits_per_byte", "/bits_per_byte")] {
            let found = number(&found, &format!("/model/{figure}/value"));
            let expected = number(&golden, expected);
            assert!((found - expected).abs() < 5e-6, "{name} {figure}: {found} and not {expected}");
        }
    }
}

#[test]
fn an_evaluation_does_not_depend_on_threads_or_memory() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(&folder, 5000);
    for (model, other) in
        [("rwkv7-bytes.pth", "rwkv7-bytes.q4.gguf"), ("rwkv6-bytes.pth", "rwkv6-bytes.q4.gguf")]
    {
        let quantized = folder.path().join(other).to_str().unwrap().to_owned();
        ok(["convert", &path(model), &quantized, "-t", "q4_0"]);
        let base =
            ["--format", "json", "eval-ppl", &quantized, &text, "--against", &path(model), "--ctx", "256"];
        let one = ok(base.iter().copied().chain(["--threads", "1"])).stdout;
        assert!(number(&serde_json::from_str(&one).unwrap(), "/candidates/0/against/kl/value") > 0.0);
        for more in [&["--threads", "3"][..], &["--threads", "2", "--max-memory", "90MB"]] {
            assert_eq!(ok(base.iter().chain(more)).stdout, one, "{more:?}");
        }
    }
}

#[test]
fn a_model_does_not_differ_from_itself_and_checks_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (text, model) = (text(&folder, 3000), path("rwkv7-bytes.pth"));
    let copy = folder.path().join("copy.gguf").to_str().unwrap().to_owned();
    let rough = folder.path().join("rough.gguf").to_str().unwrap().to_owned();
    ok(["convert", &model, &copy, "-t", "f32"]);
    ok(["convert", &model, &rough, "-t", "q4_0"]);
    let (markdown, csv) = (folder.path().join("r.md"), folder.path().join("r.csv"));
    let found = json([
        "--format",
        "json",
        "eval-ppl",
        &rough,
        &text,
        "--against",
        &model,
        "--candidate",
        &copy,
        "--save",
        markdown.to_str().unwrap(),
        "--save",
        csv.to_str().unwrap(),
    ]);
    // The nearest comes first.
    assert!(found["candidates"][0]["path"].as_str().unwrap().ends_with("copy.gguf"));
    assert_eq!(number(&found, "/candidates/0/against/kl/value"), 0.0);
    assert_eq!(number(&found, "/candidates/0/against/top1/value"), 1.0);
    assert_eq!(number(&found, "/candidates/0/against/ppl_ratio/value"), 1.0);
    let kl = number(&found, "/candidates/1/against/kl/value");
    assert!(kl > 1e-4 && kl < 1.0, "{kl}");
    assert_eq!(fs::read_to_string(markdown).unwrap().lines().filter(|l| l.starts_with('|')).count(), 5);
    assert_eq!(fs::read_to_string(csv).unwrap().lines().count(), 4);

    let args = ["eval-ppl", &rough, &text, "--against", &model, "--max-kl", "0.00001", "--min-top1", "0.1"];
    let failed = run(args);
    assert_eq!(failed.status, 3, "{}", failed.stderr);
    assert!(failed.stderr.contains("rough.gguf: the mean divergence is "), "{}", failed.stderr);
    assert!(!failed.stderr.contains("top-1"), "{}", failed.stderr);
}

#[test]
fn documents_carry_their_state() {
    let folder = tempfile::tempdir().unwrap();
    let (text, model) = (text(&folder, 6000), path("rwkv7-bytes.pth"));
    let bits = |more: &[&str]| {
        let args = ["--format", "json", "eval-ppl", &model, &text].into_iter().chain(more.iter().copied());
        let found = json(args);
        (number(&found, "/scored/tokens"), number(&found, "/model/bits_per_byte/value"))
    };
    let (tokens, carried) = bits(&["--document"]);
    assert_eq!(tokens, 5999.0);
    // A document is one window as long as itself.
    let (_, long) = bits(&["--ctx", "6000"]);
    assert!((carried - long).abs() < 1e-12, "{carried} {long}"); // summed up window by window
    let (tokens, short) = bits(&["--ctx", "128"]);
    assert_eq!(tokens, 46.0 * 127.0);
    assert!(short > carried, "{short} {carried}");
    // Overlapping windows give every token some context.
    let (tokens, sliding) = bits(&["--ctx", "128", "--stride", "64"]);
    assert_eq!(tokens, 127.0 + 91.0 * 64.0);
    assert!(sliding < short, "{sliding} {short}");
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let short = text(&folder, 100);
    let model = path("rwkv7-bytes.pth");
    let said = |args: &[&str], status: i32| {
        let ran = run(args);
        assert_eq!(ran.status, status, "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
        ran.stderr
    };
    let stderr = said(&["eval-ppl", &model, &short], 2);
    assert!(stderr.contains("the text is too short: 100 tokens, and a window has 512"), "{stderr}");
    assert!(stderr.contains("--ctx 100"), "{stderr}");
    let stderr = said(&["eval-ppl", &model, "/nowhere.txt"], 1);
    assert!(stderr.contains("cannot read the text /nowhere.txt"), "{stderr}");
    let stderr = said(&["eval-ppl", &model, &short, "--save", "x.pdf"], 2);
    assert!(stderr.contains("names no format of results"), "{stderr}");
    let stderr = said(&["eval-ppl", &model, &short, "--vocab", "world"], 2);
    assert!(stderr.contains("World has 65530 ids, but "), "{stderr}");
    let tokens = folder.path().join("t.ids");
    fs::write(&tokens, "1 2 300 4").unwrap();
    let stderr = said(&["eval-ppl", &model, tokens.to_str().unwrap(), "--ctx", "4"], 2);
    assert!(stderr.contains("the token 300 is unknown to "), "{stderr}");
    let stderr = said(&["eval-ppl", &model, &short, "--lora", &model], 1);
    assert!(stderr.contains("is no adapter: it holds no LoRA"), "{stderr}");
}

#[test]
fn tokens_come_back_as_bytes() {
    assert_eq!(ok(["tokenize", "Hello, world"]).stdout, "33155 45 40213\n");
    assert_eq!(ok(["tokenize", "--decode", "33155, 45 40213"]).stdout, "Hello, world");
    assert_eq!(run(["tokenize", "--decode", "65530"]).status, 2);
}

#[test]
fn a_quantized_model_still_talks() {
    let folder = tempfile::tempdir().unwrap();
    let quantized = folder.path().join("q.gguf").to_str().unwrap().to_owned();
    ok(["convert", &path("rwkv7-bytes.pth"), &quantized, "-t", "q8_0"]);
    let greedy = |model: &str| ok(["generate", model, "-p", "The function returns", "-n", "40", "--greedy"]);
    let full = greedy(&path("rwkv7-bytes.pth"));
    assert!(full.stdout.starts_with("The function returns "), "{}", full.stdout);
    assert!(full.stderr.contains("tokens/s"), "{}", full.stderr);
    let quantized = greedy(&quantized).stdout;
    assert_eq!(quantized.len(), full.stdout.len());
    assert_eq!(quantized[..24], full.stdout[..24]);
    let sampled = |seed: &str| {
        ok(["generate", &path("rwkv7-bytes.pth"), "-p", "fn ", "-n", "60", "--seed", seed]).stdout
    };
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
}

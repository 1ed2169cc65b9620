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
    // Three tables: of all models, and of the candidates' divergence, whole and by position.
    let markdown = fs::read_to_string(markdown).unwrap();
    assert_eq!(markdown.lines().filter(|l| l.starts_with('|')).count(), 5 + 4 + 4);
    let csv = fs::read_to_string(csv).unwrap();
    let lines: Vec<Vec<&str>> = csv.lines().map(|l| l.split(',').collect()).collect();
    assert_eq!(lines.len(), 4);
    let column = |name: &str| lines[0].iter().position(|n| *n == name).unwrap();
    let kl_of = |ending: &str| lines[3][column(&format!("kl{ending}"))].parse::<f64>().unwrap();
    assert_eq!(kl_of(""), kl);
    assert!(kl_of("_low") < kl && kl < kl_of("_high") && kl_of("_error") > 0.0, "{csv}");
    for figure in
        ["kl_median", "kl_p999_high", "ppl_ratio_low", "nats_per_byte", "kl_from_256", "kl_from_1_error"]
    {
        assert!(lines[3][column(figure)].parse::<f64>().is_ok(), "{figure}");
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
    }
    let [low, high] = ["0", "1"]
        .map(|end| number(&found, &format!("/candidates/1/against/by_position/7/kl/interval/{end}")));
    let middle = number(&found, "/candidates/1/against/by_position/7/kl/value");
    assert!(low < middle && middle < high, "{low} {middle} {high}");

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
    assert!(stderr.contains("check the path and the spelling"), "{stderr}");
    let gated = ["eval-ppl", &model, "/nowhere.txt", "--against", &model];
    for (flags, said) in [
        (["--min-top1", "97"], "which is a share between 0 and 1 (97 % is 0.97)"),
        (["--max-kl", "nan"], "NaN is no limit of the mean divergence"),
        (["--max-ppl-ratio", "0"], "0 is no limit of the perplexity ratio"),
        (["--threads", "0"], "0 is not in 1..=1024"),
        (["--group-norm-epsilon", "nan"], "give a small number above 0"),
    ] {
        let stderr = said_of(&gated, &flags);
        assert!(stderr.contains(said), "{flags:?}: {stderr}");
    }
    for command in [&["eval-ppl", &model, &short, "--ctx", "50"][..], &["generate", &model, "-p", "x"]] {
        let ran = run(command.iter().chain(&["--max-memory", "10MB"]));
        assert_eq!(ran.status, 5, "{}", ran.stderr);
        let least = ran.stderr.split_once("the least is --max-memory ").unwrap().1.trim();
        ok(command.iter().chain(&["--max-memory", least]));
    }
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

/// What a command line that makes no sense is told.
fn said_of(args: &[&str], more: &[&str]) -> String {
    let ran = run(args.iter().chain(more));
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    ran.stderr
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
    let found = json([
        "generate",
        &path("rwkv7-bytes.pth"),
        "-p",
        "fn ",
        "-n",
        "60",
        "--seed",
        "1",
        "--format",
        "json",
    ]);
    assert_eq!(format!("fn {}\n", found["text"].as_str().unwrap()), sampled("1"));
    assert_eq!((found["tokens"].as_array().unwrap().len(), &found["seed"]), (60, &Value::from(1)));
    assert!(number(&found, "/tokens_per_second") > 0.0);
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
}

/// Fails with this status, says nothing on standard output, and this on standard error.
fn refused(args: &[&str], status: i32, expected: &str) {
    let ran = run(args);
    assert_eq!(ran.status, status, "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains(expected), "{}\n does not say \n{expected}", ran.stderr);
}

#[test]
fn every_type_of_gguf_evaluates_as_near_as_it_rounds() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(&folder, 1024);
    for name in ["rwkv6-bytes", "rwkv7-bytes"] {
        let source = path(&format!("{name}.pth"));
        // The source is bf16.
        for (kind, limit) in [
            ("f32", 0.0),
            ("bf16", 0.0),
            ("f16", 1e-6),
            ("q8_0", 1e-3),
            ("q6_k", 5e-3),
            ("q5_k_m", 0.02),
            ("q4_k_m", 0.05),
            ("iq4_xs", 0.1),
            ("q2_k", 2.0),
        ] {
            let out = folder.path().join(format!("{name}.{kind}.gguf")).to_str().unwrap().to_owned();
            ok(["convert", &source, &out, "-t", kind]);
            let found = json(["--format", "json", "eval-ppl", &out, &text, "--against", &source]);
            let kl = number(&found, "/candidates/0/against/kl/value");
            println!("{name} {kind}: {kl:.2e} nats");
            assert!((0.0..=limit).contains(&kl), "{name} {kind}: {kl}");
            assert!(limit == 0.0 || kl > 0.0, "{name} {kind} rounds");
        }
    }
}

#[test]
fn a_model_is_run_with_a_byte_pair_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(&folder, 4000);
    // A folder as Hugging Face's; 923 tokens, and rows for more.
    let model = folder.path().join("pytorch_model.bin");
    crate::synthetic::write(&model, crate::synthetic::Shape { layers: 1, embd: 64, vocab: 1024 }).unwrap();
    let model = model.to_str().unwrap();
    let pile = path("golden/tokenizers/pile.json");
    let evaluate = ["--format", "json", "eval-ppl", model, &text, "--ctx", "64"];
    refused(&evaluate, 2, "no built-in vocabulary has 1024 tokens");
    let given = ok(evaluate.iter().copied().chain(["--vocab", &pile])).stdout;
    let found: Value = serde_json::from_str(&given).unwrap();
    assert_eq!(found["vocabulary"], "pile.json");
    let tokens = number(&found, "/text_tokens");
    assert!((1000.0..2500.0).contains(&tokens), "{tokens}");
    assert!(number(&found, "/scored/bytes") > number(&found, "/scored/tokens"));

    fs::copy(&pile, folder.path().join("tokenizer.json")).unwrap();
    let beside = ok(evaluate).stdout;
    assert_eq!(beside.replace("\"tokenizer.json\"", "\"pile.json\""), given);
    let prompt = "Special: <|endoftext|> and text";
    let said = ok(["generate", model, "-p", prompt, "-n", "5", "--greedy"]).stdout;
    assert!(said.starts_with(prompt), "{said}");
    let ids = ok(["tokenize", "--model", model, prompt]).stdout;
    assert_eq!(ids, ok(["tokenize", "--vocab", &pile, prompt]).stdout);
    assert_eq!(ok(["tokenize", "--model", model, "--decode", &ids]).stdout, prompt);
    // Hybrids cannot be run here, but their tokenizer can.
    let hybrid = path("hybrids/rwkv6qwen2");
    let ids = ok(["tokenize", "--model", &hybrid, "It's 12 o'clock"]).stdout;
    assert_eq!(ok(["tokenize", "--model", &hybrid, "--decode", &ids]).stdout, "It's 12 o'clock");

    let small = path("rwkv7-bytes.pth");
    refused(&["eval-ppl", &small, &text, "--vocab", &pile], 2, "pile.json has 923 ids, but ");
    let bad = folder.path().join("bad.json");
    fs::write(&bad, r#"{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#).unwrap();
    refused(&["tokenize", "--vocab", bad.to_str().unwrap(), "x"], 1, "its model is not BPE");
    let out = folder.path().join("o.gguf").to_str().unwrap().to_owned();
    refused(&["convert", model, &out, "-t", "q8_0", "--vocab", &pile], 1, "a list of byte strings only");
}

#[test]
fn models_with_different_vocabularies_are_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (text, model) = (text(&folder, 2000), path("rwkv7-bytes.pth"));
    let larger = folder.path().join("larger.pth");
    crate::synthetic::write(&larger, crate::synthetic::Shape { layers: 1, embd: 64, vocab: 512 }).unwrap();
    let larger = larger.to_str().unwrap();
    refused(
        &["eval-ppl", &model, &text, "--against", larger, "--vocab", "bytes"],
        2,
        "larger.pth predicts 512 tokens and ",
    );
    // As many tokens, but two of them mean something else.
    let file = |name: &str, swap: bool| {
        let list = folder.path().join(format!("{name}.txt"));
        let id = |b: u8| match (b, swap) {
            (b'a', true) => b'b',
            (b'b', true) => b'a',
            (other, _) => other,
        };
        let lines: String = (0..=255).map(|b| format!("{b} b'\\x{:02x}' 1\n", id(b))).collect();
        fs::write(&list, lines).unwrap();
        let out = folder.path().join(format!("{name}.gguf")).to_str().unwrap().to_owned();
        ok(["convert", &model, &out, "-t", "f16", "--vocab", list.to_str().unwrap()]);
        out
    };
    let (a, b) = (file("plain", false), file("swapped", true));
    refused(&["eval-ppl", &b, &text, "--against", &a], 2, "have different vocabularies");
    ok(["eval-ppl", &b, &text, "--against", &a, "--vocab", "bytes"]);
    // A folder states its vocabulary too, by a file in it.
    let hf = folder.path().join("hf");
    let hf = hf.to_str().unwrap();
    ok(["convert", &model, hf, "--to", "hf", "--vocab", "bytes"]);
    ok(["eval-ppl", hf, &text, "--against", &a]);
    let listed = folder.path().join("hf/rwkv_vocab_v20230424.txt");
    fs::copy(folder.path().join("swapped.txt"), &listed).unwrap();
    refused(&["eval-ppl", hf, &text, "--against", &a], 2, "have different vocabularies");
    ok(["eval-ppl", hf, &text, "--against", &a, "--vocab", "bytes"]);
    // Candidates of the same name in different folders are told apart.
    fs::create_dir(folder.path().join("other")).unwrap();
    let twin = folder.path().join("other/plain.gguf").to_str().unwrap().to_owned();
    fs::copy(&a, &twin).unwrap();
    let shown = ok(["eval-ppl", &a, &text, "--against", &model, "--candidate", &twin]).stdout;
    assert!(shown.contains(&a) && shown.contains(&twin), "{shown}");
}

/// Tokens need no vocabulary, only their number.
#[test]
fn tokens_are_scored_without_a_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("few.pth");
    crate::synthetic::write(&model, crate::synthetic::Shape { layers: 1, embd: 64, vocab: 12 }).unwrap();
    let ids = folder.path().join("t.ids");
    fs::write(&ids, "1 2 3 4 5 6 7 8 9 10 11 0").unwrap();
    let (model, ids) = (model.to_str().unwrap(), ids.to_str().unwrap());
    let found = json(["--format", "json", "eval-ppl", model, ids, "--ctx", "12"]);
    assert_eq!((number(&found, "/scored/tokens"), number(&found, "/scored/bytes")), (11.0, 0.0));
    assert_eq!(found["model"]["bits_per_byte"], Value::Null);
    refused(
        &["eval-ppl", model, path("rwkv7-bytes.pth").as_str()],
        2,
        "no built-in vocabulary has 12 tokens",
    );
}

#[test]
fn texts_of_any_bytes_are_scored_and_damaged_ones_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = path("rwkv7-bytes.pth");
    let file = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let bytes: Vec<u8> = (0..600u32).map(|i| (i * 37 % 256) as u8).collect();
    let found = json(["--format", "json", "eval-ppl", &model, &file("any.txt", &bytes), "--allow-non-utf8"]);
    assert_eq!((number(&found, "/scored/bytes"), number(&found, "/text_tokens")), (511.0, 600.0));
    refused(&["eval-ppl", &model, &file("none.txt", b"")], 2, "the text is too short: 0 tokens");
    refused(&["eval-ppl", &model, &file("one.txt", b"x"), "--document"], 2, "the text is too short: 1 token");
    let short = file("short.txt", &bytes[..30]);
    let found = json(["--format", "json", "eval-ppl", &model, &short, "--document", "--allow-non-utf8"]);
    assert_eq!(number(&found, "/scored/tokens"), 29.0);

    let bad = file("a.jsonl", b"{\"text\": \"fine\"}\n{\"text\": \"cut\n");
    refused(&["eval-ppl", &model, &bad], 1, "a.jsonl cannot be turned into tokens: line 2: ");
    let bad = file("b.jsonl", b"\"fine\"\n\n{\"body\": \"x\"}\n");
    refused(&["eval-ppl", &model, &bad], 1, "line 3 is no string and has no string \"text\"");
    let bad = file("c.jsonl", b"{\"text\": \"fine\"}\n\"\xff\"\n");
    refused(&["eval-ppl", &model, &bad], 1, "c.jsonl is likely Latin-1");
    refused(&["eval-ppl", &model, &bad, "--allow-non-utf8"], 1, "line 2: ");
    let array = |kind: &str, shape: &str, data: &[u8]| {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    };
    let npy = |kind: &str| array(kind, "(1,)", &[0; 8]);
    for (what, bytes, said) in [
        ("negative.npy", array("<i4", "(2,)", &[1, 0, 0, 0, 255, 255, 255, 255]), "-1 is no token"),
        ("table.npy", array("<u2", "(2, 2)", &[0; 8]), "it has 2 dimensions, and tokens have one"),
        ("short.npy", array("<i8", "(2,)", &[0; 8]), "it has 8 bytes of data, not 2 times 8"),
    ] {
        refused(&["eval-ppl", &model, &file(what, &bytes)], 1, said);
    }
    refused(
        &["eval-ppl", &model, &file("f.npy", &npy("<f8"))],
        1,
        "f.npy cannot be turned into tokens: it holds no integers",
    );
    refused(&["eval-ppl", &model, &file("b.npy", &npy("|b1"))], 1, "it holds no integers");
    // Integers of any size and order are the same tokens.
    let text = file("ab.txt", b"abba");
    let bits = |text: &str| {
        let found = json(["--format", "json", "eval-ppl", &model, text, "--document"]);
        number(&found, "/model/bits_per_byte/value")
    };
    let expected = bits(&text);
    let u16s: Vec<u8> = b"abba".iter().flat_map(|b| [0, *b]).collect();
    for (name, array) in [("u1.npy", array("|u1", "(4,)", b"abba")), ("i2.npy", array(">i2", "(4,)", &u16s))]
    {
        assert_eq!(bits(&file(name, &array)), expected, "{name}");
    }
    let marked = file("marked.jsonl", b"\xef\xbb\xbf\"abba\"\n");
    assert_eq!(bits(&marked), expected);
    let mixed = file("mixed.jsonl", b"\"ab\"\n\"abba\"\n");
    let found = json(["--format", "json", "eval-ppl", &model, &mixed, "--ctx", "4"]);
    let warning = found["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("1 of 2 documents are shorter than a window"), "{warning}");
    refused(
        &["eval-ppl", &model, &text, "--ctx", "4", "--stride", "5"],
        2,
        "that start 5 apart leave tokens out",
    );
    refused(&["eval-ppl", &model, &file("n.npy", b"\x93NUMP")], 1, "it is no .npy file");
    refused(&["eval-ppl", &model, &file("w.ids", b"1 2 -3")], 1, "\"-3\" is no token");
    // A vocabulary without a token for a byte of the text.
    let list = file("few.txt", b"97 'a' 1\n98 'b' 1\n");
    refused(
        &["eval-ppl", &model, &file("abc.txt", b"abc"), "--vocab", &list],
        1,
        "no token for the byte 0x63 at offset 2",
    );
}

/// Results go nowhere where something is read, and nowhere that is not there: said before the work.
#[test]
fn results_never_replace_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (text, model) = (dir.path().join("text.md"), testdata("rwkv7-bytes.pth"));
    std::fs::write(&text, "fn main() {}\n".repeat(20)).unwrap();
    let before = std::fs::read(&text).unwrap();
    let missing = dir.path().join("no-folder/results.json");
    for (save, what) in [(&text, "is the input, which is never changed"), (&missing, "does not exist")] {
        let args =
            ["eval-ppl".into(), model.clone(), text.clone(), "--ctx".into(), "64".into(), "--save".into()];
        let ran = run(args.iter().chain([save]).map(|a| a.as_os_str()));
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(what), "{}", ran.stderr);
    }
    assert_eq!(std::fs::read(&text).unwrap(), before);
}

/// What stands in which order makes no figure another, and windows that no text can fill are an error.
#[test]
fn the_order_of_documents_changes_no_figure() {
    let dir = tempfile::tempdir().unwrap();
    let model = testdata("rwkv7-bytes.pth");
    let document = |len: usize| serde_json::json!("let mut sum = 0; ".repeat(len)).to_string();
    let perplexity = |name: &str, lengths: &[usize]| {
        let path = dir.path().join(name);
        let lines: Vec<String> = lengths.iter().map(|len| document(*len)).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let args = ["--format", "json", "eval-ppl", "--vocab", "bytes", "--document"];
        let all = args.into_iter().map(std::ffi::OsString::from).chain([model.clone().into(), path.into()]);
        json(all)["model"]["perplexity"]["value"].as_f64().unwrap()
    };
    let (a, b) = (perplexity("a.jsonl", &[1, 40, 2, 2]), perplexity("b.jsonl", &[40, 2, 1, 2]));
    assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
    let text = dir.path().join("a.jsonl");
    let ran =
        run(["eval-ppl".into(), model, text.clone(), text, "--ctx".into(), usize::MAX.to_string().into()]
            .iter()
            .map(|a: &std::path::PathBuf| a.as_os_str()));
    assert_eq!(ran.status, 2, "{}", ran.stderr);
}

/// Whatever a run said as JSON becomes a page.
#[test]
fn results_become_pages() {
    let folder = tempfile::tempdir().unwrap();
    let (text, model) = (text(&folder, 3000), path("rwkv7-bytes.pth"));
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (quantized, found, page) = (place("q4.gguf"), place("found.json"), place("page.html"));
    for (args, parts) in [
        (
            vec!["convert", &model, &quantized, "-t", "q4_0"],
            &["blk.0.", "class=\"map\"", "bits a weight of every tensor", "block 1"][..],
        ),
        (
            vec!["eval-ppl", &quantized, &text, "--against", &model],
            &["rwkv7-bytes.pth, the reference", "<polyline", "q4.gguf", "tokens read before"],
        ),
        (vec!["diff", &model, &quantized], &["relative error", "blocks.1.ffn.key.weight", "q4_0"]),
    ] {
        let said = ok(["--format", "json"].iter().chain(&args)).stdout;
        fs::write(&found, said).unwrap();
        ok(["report", &found, "-o", &page, "-f"]);
        let html = fs::read_to_string(&page).unwrap();
        for part in parts {
            assert!(html.contains(part), "{args:?}: no {part}");
        }
    }
    fs::write(&found, "{}").unwrap();
    refused(&["report", &found], 1, "holds no results that can be shown: it is of another kind");
}

//! Texts that are none of the model's kind (case calib-not-utf8; gpt-2-simple#46, AutoGPTQ#650, code2prompt#30).

use std::fs;
use std::path::Path;

use crate::run::{ok, run, testdata};

/// Every command that reads a text, on `text`; writes into `dir`.
fn commands(dir: &Path, text: &str) -> Vec<Vec<String>> {
    let model = testdata("rwkv7-bytes.pth").to_str().unwrap().to_owned();
    let out = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let all: [&[&str]; 5] = [
        &[
            "convert",
            &model,
            &out("o.gguf"),
            "-t",
            "q4_0",
            "--calib",
            text,
            "--calib-tokens",
            "256",
            "--calib-ctx",
            "64",
        ],
        &["calibrate", &model, text, "-o", &out("o.dat"), "--tokens", "256", "--ctx", "64"],
        &["eval-ppl", &model, text, "--windows", "1", "--ctx", "64"],
        &[
            "cluster-head",
            &model,
            "-o",
            &out("o.rwkvz"),
            "--calib",
            text,
            "--calib-tokens",
            "256",
            "--calib-ctx",
            "64",
        ],
        &[
            "convert",
            &model,
            &out("p.gguf"),
            "-t",
            "q4_0",
            "--calib",
            text,
            "--calib-tokens",
            "256",
            "--calib-ctx",
            "64",
            "--dry-run",
        ],
    ];
    all.iter().map(|args| args.iter().map(|a| (*a).to_owned()).collect()).collect()
}

#[test]
fn other_encodings_are_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(testdata("heldout.txt")).unwrap();
    let text: String = text.chars().take(4000).collect();
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let gbk = encoding_rs::GBK.encode(&"春天来了,小溪里的冰慢慢融化。".repeat(40)).0.into_owned();
    for (name, bytes, what, iconv) in [
        ("marked.txt", [&b"\xff\xfe"[..], &utf16].concat(), "is UTF-16 LE", "iconv -f UTF-16 -t UTF-8"),
        ("bare.json", utf16, "is UTF-16 LE", "iconv -f UTF-16LE -t UTF-8"),
        ("gbk", gbk, "is likely GBK (GB18030)", "iconv -f GB18030 -t UTF-8"),
        (
            "binary.txt",
            fs::read(testdata("rwkv7-bytes.pth")).unwrap()[100..9000].to_vec(),
            "is binary data",
            "save it",
        ),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        for args in commands(dir.path(), path.to_str().unwrap()) {
            let ran = run(&args);
            assert_eq!(ran.status, 1, "{args:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(&format!("{name} {what}")), "{args:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(iconv) && ran.stderr.contains("--allow-non-utf8"), "{}", ran.stderr);
            if name == "gbk" && args[0] == "eval-ppl" {
                let allowed = ok(args.iter().map(String::as_str).chain(["--allow-non-utf8"]));
                assert!(allowed.stdout.contains("perplexity"), "{}", allowed.stdout);
            }
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing was written");
}

#[test]
fn unfit_texts_are_warned_of_and_samples_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let held_out = fs::read(testdata("heldout.txt")).unwrap();
    let digits: String = (0..1500u32).map(|i| format!("{} ", i.wrapping_mul(2_654_435_761) >> 25)).collect();
    for (name, bytes, warning) in [
        ("digits.txt", digits.into_bytes(), Some("different tokens only")),
        ("zeros.txt", vec![b'0'; 4096], Some("consists of 1 different tokens only")),
        (
            "crlf.txt",
            String::from_utf8_lossy(&held_out[..4096]).replace('\n', "\r\n").into_bytes(),
            Some("(CRLF)"),
        ),
        ("cut.txt", held_out[held_out.len() - 5000..][..4999].to_vec(), None),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let commands = commands(dir.path(), path.to_str().unwrap());
        for mut args in commands {
            // (Enough tokens to judge.)
            args.iter_mut().filter(|a| *a == "256").for_each(|a| *a = "1024".to_owned());
            if matches!(args[0].as_str(), "convert") {
                args.push("-f".to_owned());
            }
            let _ = fs::remove_file(dir.path().join("o.dat"));
            let _ = fs::remove_file(dir.path().join("o.rwkvz"));
            let said = ok(&args).stdout;
            match warning {
                Some(text) => assert!(said.contains("arning") && said.contains(text), "{args:?}: {said}"),
                None => {
                    let all = ["different tokens", "letters", "UTF-8", "CRLF"];
                    assert!(!all.iter().any(|text| said.contains(text)), "{args:?}: {said}");
                }
            }
        }
    }
}

#[test]
fn a_mark_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(testdata("heldout.txt")).unwrap();
    let text: String = text.chars().take(2000).collect();
    let model = testdata("rwkv7-bytes.pth");
    let perplexity = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let args = ["--format", "json", "eval-ppl", model.to_str().unwrap(), path.to_str().unwrap()];
        let found: serde_json::Value = serde_json::from_str(&ok(args).stdout).unwrap();
        (found["text_tokens"].clone(), found["model"]["perplexity"].clone())
    };
    assert_eq!(perplexity("plain.txt", &text), perplexity("marked.txt", &format!("\u{feff}{text}")));
}

/// A text that the model finds far less likely than it expects: bytes in another encoding, taken as they are.
#[test]
fn texts_that_the_model_does_not_know_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let held_out = fs::read_to_string(testdata("heldout.txt")).unwrap();
    let foreign =
        encoding_rs::GBK.encode(&"春天来了,小溪里的冰慢慢融化。鸟儿在树上歌唱".repeat(60)).0.into_owned();
    // No repetition: the bytes differ from line to line.
    let foreign: Vec<u8> = foreign.iter().enumerate().map(|(i, b)| b ^ (i / 7 % 5) as u8).collect();
    for (name, bytes, is_unlikely) in
        [("known.txt", held_out.as_bytes()[..6000].to_vec(), false), ("foreign.txt", foreign, true)]
    {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let commands = commands(dir.path(), path.to_str().unwrap());
        for mut args in commands.into_iter().take(2) {
            args.iter_mut().filter(|a| *a == "256").for_each(|a| *a = "2048".to_owned());
            args.push("--allow-non-utf8".to_owned());
            args.push("-f".to_owned());
            let said = ok(&args).stdout;
            let warned = said.contains("finds the text to calibrate on unlikely");
            assert_eq!(warned, is_unlikely, "{args:?}: {said}");
        }
    }
}

/// Capital letters only: no encoding is wrong and no token rare, and yet the file becomes worse than the default encoder's.
#[test]
fn texts_that_make_the_file_worse_elsewhere_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let held_out = fs::read_to_string(testdata("heldout.txt")).unwrap();
    for (name, text, is_harmful) in
        [("plain.txt", held_out.clone(), false), ("capitals.txt", held_out.to_uppercase(), true)]
    {
        let path = dir.path().join(name);
        fs::write(&path, &text[..8000]).unwrap();
        let mut args = commands(dir.path(), path.to_str().unwrap()).swap_remove(0);
        args.iter_mut().filter(|a| *a == "256").for_each(|a| *a = "2048".to_owned());
        args.push("-f".to_owned());
        let said = ok(&args).stdout;
        assert_eq!(said.contains("makes the file worse elsewhere"), is_harmful, "{said}");
    }
}

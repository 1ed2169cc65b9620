use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;
use serde_json::Value;

use crate::recipe::{Recipe, flag_of};

/// Keys that are known by what the plan and the opened files say.
const ELSEWHERE: [&str; 5] = ["type", "target", "tensors", "lora", "state"];

/// Every other option: its flag, what must be given beside it, and another value than it has without the flag. FILE is a
/// file.
const OPTIONS: &[(&str, &[&str], &str)] = &[
    ("--mix", &[], "llama.cpp"),
    ("--fallback", &[], "error"),
    ("--search", &[], "best"),
    ("--imatrix", &[], "FILE"),
    ("--equalize", &[], ""),
    ("--split-max-size", &[], "1MB"),
    ("--layers", &[], "1"),
    ("--rescale", &[], "0"),
    ("--force-target", &[], ""),
    ("--drop", &[], "a*"),
    ("--modelfile", &[], "world"),
    ("--lora-alpha", &["--lora", "FILE"], "0.5"),
    ("--lora-init", &["--lora", "FILE"], "FILE"),
    ("--state-layout", &["--state", "FILE"], "key-value"),
    ("--calib", &[], "FILE"),
    ("--calib-tokens", &["--calib", "FILE"], "1024"),
    ("--calib-ctx", &["--calib", "FILE"], "64"),
    ("--calib-seed", &["--calib", "self"], "1"),
    ("--calib-independent", &["--calib", "FILE"], ""),
    ("--allow-non-utf8", &["--calib", "FILE"], ""),
    ("--preset", &[], "smallest"),
    ("--target-size", &[], "1MB"),
    ("--target-bpw", &[], "4.5"),
    ("--target-kl", &["--calib", "FILE"], "0.1"),
    ("--low-rank", &[], "4"),
    ("--low-rank-for", &["--low-rank", "4"], "a*"),
    ("--as-tensors", &[], ""),
    ("--no-checksums", &[], ""),
    ("--portable", &[], ""),
    ("--set-key", &[], "my.key=str:a"),
    ("--vocab", &[], "FILE"),
    ("--chat-template", &[], "FILE"),
    ("--name", &[], "a"),
    ("--author", &[], "a"),
    ("--model-version", &[], "a"),
    ("--organization", &[], "a"),
    ("--description", &[], "a"),
    ("--license", &[], "mit"),
    ("--url", &[], "a"),
    ("--base-model", &[], "a/b"),
    ("--no-card", &[], ""),
];

/// Identity of the options alone.
fn of(args: &[&str], file: &Path) -> Identity {
    let file = file.to_str().unwrap();
    let args = args.iter().filter(|arg| !arg.is_empty()).map(|arg| if *arg == "FILE" { file } else { arg });
    let recipe = crate::cli::recipe_of(["convert", "in.pth", "out.gguf"].into_iter().chain(args)).unwrap();
    let mut identity = Identity::default();
    identity.recipe(&recipe).unwrap();
    identity
}

#[test]
fn every_option_makes_another_identity_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "one").unwrap();
    for (flag, beside, value) in OPTIONS {
        let without = of(beside, &file);
        let args = [*beside, &[*flag, *value]].concat();
        let with = of(&args, &file);
        assert_ne!(with.digest(), without.digest(), "{flag}");
        let told = with.differences(&without);
        assert!(
            told.iter().any(|told| told == flag || told.starts_with(&format!("{flag} ("))),
            "{flag}: {told:?}"
        );
        assert_eq!(of(&args, &file), with, "{flag}");
        // The contents of a file count, not its place.
        if *value == "FILE" {
            fs::write(&file, "two").unwrap();
            assert_eq!(of(&args, &file).differences(&with).last().map(String::as_str), Some(*flag));
            fs::write(&file, "one").unwrap();
        }
    }
}

/// A new option has a row in the table above.
#[test]
fn no_option_is_forgotten() {
    let keys = serde_json::to_value(Recipe::default()).unwrap();
    let keys = keys.as_object().unwrap().iter().flat_map(|(key, value)| match value {
        Value::Object(table) if key != "tensors" => {
            table.keys().map(|inner| flag_of(&[key, inner])).collect()
        }
        _ => vec![flag_of(&[key])],
    });
    let rows = OPTIONS.iter().map(|(flag, ..)| (*flag).to_owned());
    let told: BTreeSet<String> = rows.chain(ELSEWHERE.map(|key| flag_of(&[key]))).collect();
    let forgotten: Vec<String> = keys.filter(|flag| !told.contains(flag)).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

#[test]
fn what_changes_no_byte_is_no_ingredient() {
    let file = Path::new("none");
    let plain = of(&[], file);
    for args in [["--threads", "3"], ["--max-memory", "1GiB"], ["--save-recipe", "a.toml"]] {
        assert_eq!(of(&args, file), plain, "{args:?}");
    }
    // Where a default is meant, it does not matter who says so.
    assert_eq!(of(&["--search", "standard"], file), plain);
    assert_eq!(of(&["--calib", "self"], file), of(&["--calib", "self", "--calib-ctx", "512"], file));
}

#[test]
fn an_identity_is_read_back() {
    let mut identity = of(&["--drop", "a\"\n b", "--target-bpw", "4.1"], Path::new("none"));
    identity.add(METADATA, "0123");
    let text = identity.to_text();
    assert!(text.starts_with(&identity.digest()) && text.ends_with("}\n"), "{text}");
    assert_eq!(Identity::parse(&text), Stated::Sound(identity.clone()));
    assert_eq!(Identity::parse(&text.replace("4.1", "4.2")), Stated::Damaged);
    assert_eq!(Identity::parse(""), Stated::Damaged);
    assert_eq!(Identity::parse("0.1.0 1 abc | def\n"), Stated::Older("0.1.0".to_owned()));
    // Consequences are told only if no option differs.
    let mut other = identity.clone();
    other.add(METADATA, "4567");
    assert_eq!(identity.differences(&other), ["the metadata (0123, 4567)"]);
    other.add("--search", "best");
    assert_eq!(identity.differences(&other), ["--search (standard, best)"]);
    assert!(identity.differences(&identity).is_empty());
}

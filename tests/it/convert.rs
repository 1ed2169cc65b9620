//! What a conversion promises: the same bytes always, no harm to what is there, nothing left behind.

use std::fs;

use crate::run::{json, ok, run, testdata};

const MODEL: &str = "rwkv7-bytes.pth";

fn source() -> String {
    testdata(MODEL).to_str().unwrap().to_owned()
}

#[test]
fn bytes_do_not_depend_on_threads_or_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (threads, memory) in [("1", "256MiB"), ("2", "64MiB"), ("5", "50MiB"), ("16", "1GiB")] {
        let out = dir.path().join(format!("{threads}.gguf"));
        let out = out.to_str().unwrap();
        ok(["convert", &source(), out, "-t", "q8_0", "--threads", threads, "--max-memory", memory]);
        files.push(fs::read(out).unwrap());
    }
    assert!(files.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn the_dry_run_tells_what_the_real_run_does() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let args = ["--format", "json", "convert", &source(), out.to_str().unwrap(), "-t", "q5_1"];
    let mut planned = json(args.iter().chain(&["--dry-run"]));
    assert!(!out.exists());
    let mut done = json(args);
    assert_eq!(fs::metadata(&out).unwrap().len(), planned["bytes"].as_u64().unwrap());
    for report in [&mut planned, &mut done] {
        let fields = report.as_object_mut().unwrap();
        fields.remove("seconds");
        fields.remove("written");
    }
    assert_eq!(planned, done);
    // And it says where every tensor lies.
    let found = json(["--format", "json", "inspect", out.to_str().unwrap()]);
    let places = |report: &serde_json::Value| -> Vec<(String, u64, u64, String)> {
        let list = report["tensors"].as_array().unwrap();
        let field = |t: &serde_json::Value, key: &str| t[key].as_str().unwrap().to_owned();
        list.iter()
            .map(|t| {
                let number = |key: &str| t[key].as_u64().unwrap();
                (field(t, "name"), number("offset"), number("bytes"), field(t, "encoding"))
            })
            .collect()
    };
    assert_eq!(places(&planned), places(&found));
}

#[test]
fn what_is_there_is_not_replaced_without_force() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    fs::write(&out, "precious").unwrap();
    let args = ["convert", &source(), out.to_str().unwrap(), "-t", "q8_0"];
    assert_eq!(run(args).status, 1);
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    ok(args.iter().chain(&["--force"]));
    assert!(fs::metadata(&out).unwrap().len() > 100_000);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn the_input_is_never_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.gguf");
    ok(["convert", &source(), model.to_str().unwrap(), "-t", "f16"]);
    let before = fs::read(&model).unwrap();
    // Under its own name, and through a link.
    let link = dir.path().join("link.gguf");
    std::os::unix::fs::symlink(&model, &link).unwrap();
    for out in [&model, &link] {
        let ran = run(["convert", model.to_str().unwrap(), out.to_str().unwrap(), "-t", "q8_0", "--force"]);
        assert_eq!(ran.status, 2, "{}", ran.stderr);
    }
    assert_eq!(fs::read(&model).unwrap(), before);
}

/// Cases partial-input and save-recipe-onto-source: every file that a run reads stays, whatever name an output has.
#[test]
fn inputs_stay_whatever_an_output_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["model.pth", "model.gguf.partial", "m.gguf", "m.safetensors", "m.json"] {
        fs::copy(testdata(MODEL), at(name)).unwrap();
    }
    for name in ["text.txt", "stats.gguf.partial", "template"] {
        fs::write(at(name), "The quick brown fox jumps over the lazy dog. ".repeat(40)).unwrap();
    }
    fs::write(at("recipe.toml"), "type = \"q8_0\"\n").unwrap();
    let before: Vec<Vec<u8>> =
        fs::read_dir(dir.path()).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    let (model, partial, text) = (at("model.pth"), at("model.gguf.partial"), at("text.txt"));
    let calibrated = ["--calib", &text, "--calib-tokens", "64", "--calib-ctx", "64", "-t", "q8_0", "-f"];
    for args in [
        vec!["convert", &partial, &at("model.gguf"), "-t", "q8_0"],
        vec!["convert", &model, &at("o.gguf"), "-t", "q8_0", "--save-recipe", &model, "-f"],
        vec!["convert", &model, &at("o.gguf"), "-t", "q8_0", "--save-recipe", &at("o.gguf"), "-f"],
        vec!["convert", &model, &at("recipe.toml"), "--to", "gguf", "--recipe", &at("recipe.toml"), "-f"],
        vec![
            "convert",
            &model,
            &at("template"),
            "--to",
            "gguf",
            "-t",
            "q8_0",
            "--chat-template",
            &at("template"),
            "-f",
        ],
        [&["convert", &model, &text, "--to", "gguf"], &calibrated[..]].concat(),
        vec![
            "calibrate",
            &model,
            &at("stats.gguf.partial"),
            "-o",
            &at("stats.gguf"),
            "--tokens",
            "64",
            "--ctx",
            "64",
        ],
        vec!["calibrate", &at("m.gguf"), &text, "-o", &at("m.gguf"), "-f"],
        vec!["cluster-head", &at("m.safetensors"), "-o", &at("m.safetensors"), "-f"],
        vec!["eval-ppl", &at("m.json"), &text, "--save", &at("m.json"), "-f"],
    ] {
        let ran = run(&args);
        let says = ["is the input, which is never changed", "would write two files of the name"];
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(says.iter().any(|said| ran.stderr.contains(said)), "{args:?}: {}", ran.stderr);
        let after: Vec<Vec<u8>> =
            fs::read_dir(dir.path()).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
        assert!(after == before, "{args:?}: {}", ran.stderr);
    }
}

/// It was refused by the system when all was written: `cannot rename to its name`.
#[test]
fn a_folder_name_for_a_file_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = format!("{}/y.gguf/", dir.path().display());
    for args in [vec![&*out], vec!["x.gguf", "--save-recipe", &*out]] {
        let refused = run(["convert", &source()].into_iter().chain(args).chain(["--type", "q8_0"]));
        assert!(
            refused.status == 2 && refused.stderr.contains("is the name of a folder"),
            "{}",
            refused.stderr
        );
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A file of somebody's at the name where the old output is set aside was found when all was done.
#[test]
fn names_that_the_run_takes_meanwhile_are_looked_at_first() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (source, out) = (source(), at("o.gguf"));
    let convert = |more: &[&str]| run(["convert", &source, &out, "-t", "q4_0"].iter().chain(more));
    assert_eq!(convert(&["--checksum-file"]).status, 0);
    fs::write(at(".o.gguf.previous"), "mine").unwrap();
    let refused = convert(&["-f"]);
    assert!(
        refused.status == 2 && refused.stderr.contains(".o.gguf.previous is in the way"),
        "{}",
        refused.stderr
    );
    fs::remove_file(at(".o.gguf.previous")).unwrap();
    // Checksums of an earlier output would call the new one damaged.
    fs::rename(&out, at("old.gguf")).unwrap();
    let refused = convert(&[]);
    assert!(refused.stderr.contains("o.gguf.sha256 exists already"), "{}", refused.stderr);
    // Rights stay.
    assert_eq!(convert(&["-f"]).status, 0);
    ok(["verify", &out]);
    fs::set_permissions(&out, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(convert(&["-f"]).status, 0);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    // Two names of one file, by a link.
    symlink(dir.path(), at("link")).unwrap();
    let refused = convert(&["-f", "--save-recipe", &at("link/o.gguf")]);
    assert!(refused.stderr.contains("would write two files of the name"), "{}", refused.stderr);
    let refused = run(["convert", &source, &at("link/."), "--to", "hf"]);
    assert!(refused.stderr.contains("is no name that an output can get"), "{}", refused.stderr);
}

#[test]
fn paths_may_hold_spaces_and_any_script() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("модель 模型 é");
    fs::create_dir(&folder).unwrap();
    let input = folder.join("in put.pth");
    fs::copy(testdata(MODEL), &input).unwrap();
    let out = folder.join("输出 file.gguf");
    ok(["convert", input.to_str().unwrap(), out.to_str().unwrap(), "-t", "q4_0"]);
    ok(["verify", out.to_str().unwrap()]);
}

#[test]
fn a_partial_file_of_somebody_else_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (out, partial) = (dir.path().join("a.gguf"), dir.path().join("a.gguf.partial"));
    fs::write(&partial, "a download").unwrap();
    for force in [&[][..], &["--force"]] {
        let source = source();
        let ran = run(["convert", &source, out.to_str().unwrap(), "-t", "q8_0"]
            .into_iter()
            .chain(force.iter().copied()));
        assert_eq!(ran.status, 2);
        assert!(ran.stderr.contains("a.gguf.partial is in the way"), "{}", ran.stderr);
        assert_eq!(fs::read_to_string(&partial).unwrap(), "a download");
    }
}

#[test]
fn what_stands_in_the_way_is_not_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let (out, partial) = (dir.path().join("out.gguf"), dir.path().join("out.gguf.partial"));
    let (input, precious) = (dir.path().join("in.pth"), dir.path().join("precious"));
    fs::copy(testdata(MODEL), &input).unwrap();
    fs::write(&precious, "precious").unwrap();
    // A link, and another name, of the input and of a stranger's file.
    for (victim, hard) in [(&input, false), (&precious, false), (&input, true), (&precious, true)] {
        let before = fs::read(victim).unwrap();
        if hard {
            fs::hard_link(victim, &partial).unwrap();
        } else {
            std::os::unix::fs::symlink(victim, &partial).unwrap();
        }
        let ran = run(["convert", input.to_str().unwrap(), out.to_str().unwrap(), "-t", "q8_0"]);
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        let why = if *victim == input { "is the input, which is never changed" } else { "is in the way" };
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
        assert_eq!(fs::read(victim).unwrap(), before);
        assert!(!out.exists());
        fs::remove_file(&partial).unwrap();
    }
}

#[test]
fn metadata_come_from_flags_and_pass_through() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    let flags = [
        "--name",
        "My Model",
        "--author",
        "Me",
        "--license",
        "apache-2.0",
        "--base-model",
        "BlinkDL/rwkv7-g1",
        "--url",
        "https://example.org",
        "--organization",
        "Us",
        "--description",
        "Small",
        "--model-version",
        "1",
    ];
    ok(["convert", &source(), a.to_str().unwrap(), "-t", "f16"].iter().chain(&flags));
    ok(["convert", a.to_str().unwrap(), b.to_str().unwrap(), "-t", "q8_0"]);
    for path in [&a, &b] {
        let found = json(["--format", "json", "inspect", path.to_str().unwrap()]);
        let key = |key: &str| found["metadata"][key].as_str().unwrap().to_owned();
        assert_eq!(key("general.name"), "My Model");
        assert_eq!(key("general.author"), "Me");
        assert_eq!(key("general.license"), "apache-2.0");
        assert_eq!(key("general.base_model.0.name"), "rwkv7-g1");
        assert_eq!(key("general.base_model.0.organization"), "BlinkDL");
    }
}

#[test]
fn bash_completes_options_and_their_values() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("rwkv-quant.bash");
    fs::write(&script, ok(["completions", "bash"]).stdout).unwrap();
    // As bash itself calls it: the program, the word to be completed, the word before.
    let complete = |line: &[&str]| {
        let [.., before, word] = line else { panic!("two words at least") };
        let asked = format!(
            "source '{}'; COMP_WORDS=({} '{word}'); COMP_CWORD={}; \
             $(complete -p rwkv-quant | grep -o '_rwkv[^ ]*') rwkv-quant '{word}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            line[..line.len() - 1].join(" "),
            line.len() - 1,
        );
        let ran = std::process::Command::new("bash").args(["--norc", "-c", &asked]).output().unwrap();
        assert!(ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
        let offered = String::from_utf8(ran.stdout).unwrap();
        offered.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(complete(&["rwkv-quant", "conv"]).contains(&"convert".to_owned()));
    for verb in ["convert", "quantize"] {
        let options = complete(&["rwkv-quant", verb, "--th"]);
        assert_eq!(options, ["--threads"], "{verb}");
        let types = complete(&["rwkv-quant", verb, "--type", "q8"]);
        assert_eq!(types, ["q8_0"], "{verb}");
    }
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(ok(["completions", shell]).stdout.contains("rwkv-quant"), "{shell}");
    }
    assert!(ok(["man"]).stdout.contains(".TH rwkv-quant"));
    let dir = tempfile::tempdir().unwrap();
    ok(["man", dir.path().to_str().unwrap()]);
    assert!(dir.path().join("rwkv-quant-convert.1").exists());
}

/// Rescaled channels: the same size, the same bytes whatever the threads, said in the report and in the file.
#[test]
fn channels_are_rescaled_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let imatrix = testdata("golden/llama_cpp/rwkv7-bytes.imatrix.gguf");
    let imatrix = imatrix.to_str().unwrap();
    let convert = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let args = ["--format", "json", "convert", &source(), out.to_str().unwrap(), "-t", "q4_0"];
        let report = json(args.iter().chain(&["--imatrix", imatrix]).chain(more));
        (out, report)
    };
    let (plain, report) = convert("plain.gguf", &[]);
    assert!(report["equalized"].as_array().unwrap().is_empty());
    let (one, report) = convert("one.gguf", &["--equalize", "--threads", "1"]);
    let (five, _) = convert("five.gguf", &["--equalize", "--threads", "5"]);
    assert_eq!(fs::read(&one).unwrap(), fs::read(&five).unwrap());
    let pairs: Vec<&str> =
        report["equalized"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert!(!pairs.is_empty());
    assert!(report["warnings"].to_string().contains("no longer fit"), "{report}");
    let data = |path: &std::path::Path| json(["--format", "json", "inspect", path.to_str().unwrap()]);
    let bytes = |path| {
        data(path)["tensors"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(bytes(&one), bytes(&plain));
    // What was rescaled stays known, and adapters are kept from it.
    let again = dir.path().join("again.gguf");
    ok(["convert", one.to_str().unwrap(), again.to_str().unwrap(), "-t", "f16"]);
    for path in [&one, &again] {
        let metadata = data(path)["metadata"].to_string();
        assert!(metadata.contains(&pairs.join(",")), "{metadata}");
    }
    let third = dir.path().join("third.gguf");
    let ran =
        run(["convert", one.to_str().unwrap(), third.to_str().unwrap(), "-t", "f16", "--lora", &source()]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("rescaled channels"), "{}", ran.stderr);
}

#[test]
fn channels_are_not_rescaled_in_vain() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    for (more, reason) in
        [(["-t", "q4_0"], "how large activations are"), (["-t", "f16"], "are not quantized")]
    {
        let args = ["convert", &source(), out.to_str().unwrap(), "--equalize"];
        let ran = run(args.iter().copied().chain(more));
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{}", ran.stderr);
        assert!(!out.exists());
    }
}

/// What is quantized already loses twice, and is said to.
#[test]
fn rounding_a_second_time_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let source = testdata("rwkv7-bytes.pth");
    let (q8, q4, again) = (path("q8.gguf"), path("q4.gguf"), path("again.gguf"));
    let warning = "is quantized already (";
    let said = ok(["convert", source.to_str().unwrap(), &q8, "-t", "q8_0"]).stdout;
    assert!(!said.contains(warning), "{said}");
    let said = ok(["convert", &q8, &q4, "-t", "q4_0"]).stdout;
    assert!(said.contains("q8.gguf is quantized already (q8_0): "), "{said}");
    // The same type is copied; what is decoded loses nothing more.
    for (flags, to) in [(["-t", "q8_0"], &again), (["-t", "f16"], &path("f16.gguf"))] {
        let said = ok(["convert", &q8, to].into_iter().chain(flags)).stdout;
        assert!(!said.contains(warning), "{said}");
    }
}

//! One identity of a result: what was made with other options, by another version, or is damaged, is never used again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rwkv_quant::pipeline::{Silent, Stop};
use rwkv_quant::shards;

use crate::run::{json, ok, program, run, testdata};

/// A folder, and a text in it to calibrate on.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let text = fs::read(testdata("heldout.txt")).unwrap();
        fs::write(place.path("text.txt"), &text[..4096]).unwrap();
        fs::write(place.path("other.txt"), &text[4096..8192]).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The arguments of a conversion to `out`; TEXT and OTHER are texts.
    fn convert(&self, out: &str, options: &[&str]) -> Vec<String> {
        let source = testdata("rwkv7-bytes.pth").to_str().unwrap().to_owned();
        let option = |option: &&str| match *option {
            "TEXT" => self.text("text.txt"),
            "OTHER" => self.text("other.txt"),
            other => other.to_owned(),
        };
        ["convert".to_owned(), source, self.text(out)].into_iter().chain(options.iter().map(option)).collect()
    }

    /// Puts the identity at which a run of these options was broken off, and nothing else, beside `out`.
    fn broken_off(&self, out: &str, options: &[&str]) {
        let identity = self.path(&format!("{out}.calibration/identity"));
        let mut child = program()
            .args(self.convert(out, options))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !identity.exists() && child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(120));
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(identity.exists() && !self.path(out).exists(), "it was done before it could be killed");
    }
}

/// Case merge-mixed-recipes: shards that differ in one option are no conversion, whether the format has metadata or not.
#[test]
fn shards_of_other_options_are_refused_by_name() {
    let calib = ["--calib", "TEXT", "--calib-tokens", "512", "--calib-ctx", "64", "--calib-independent"];
    let with = |other: &[&'static str]| [&calib[..], other].concat();
    for (out, common, others) in [
        (
            "a.bin",
            &["--type", "q4_0"][..],
            &[
                ("--equalize", with(&["--equalize"])),
                ("--calib-tokens", [&calib[..2], &["--calib-tokens", "1024"], &calib[4..]].concat()),
                ("--calib", [&["--calib", "OTHER"], &calib[2..]].concat()),
            ][..],
        ),
        (
            "a.gguf",
            &["--type", "q4_0"],
            &[
                ("--search", vec!["--search", "best"]),
                ("--mix", vec!["--mix", "llama.cpp"]),
                ("--name", vec!["--name", "other"]),
                ("--split-max-size", vec!["--split-max-size", "1MB"]),
            ],
        ),
        ("a.rwkvz", &["--type", "nf4"], &[("--search", vec!["--search", "best"])]),
    ] {
        let place = Place::new();
        let base: Vec<&str> = if out == "a.bin" { with(&[]) } else { Vec::new() };
        ok(place.convert(out, &[common, &base, &["--shard", "1/2"]].concat()));
        for (flag, other) in others {
            ok(place.convert(out, &[common, other, &["--shard", "2/2", "--force"]].concat()));
            let ran = run(["merge", &place.text(out)]);
            assert_eq!(ran.status, 3, "{out} {flag}: {}", ran.stderr);
            assert!(ran.stderr.contains("are of different conversions: they differ in "), "{}", ran.stderr);
            assert!(ran.stderr.contains(flag), "{out} {flag}: {}", ran.stderr);
            assert!(!place.path(out).exists());
            // A shard of other options is not taken for the one that is asked for, nor replaced.
            let second = [common, &base, &["--shard", "2/2"]].concat();
            let ran = run(place.convert(out, &second));
            assert_eq!(ran.status, 1, "{}", ran.stderr);
            assert!(ran.stderr.contains("is a shard of another conversion"), "{}", ran.stderr);
            assert!(ran.stderr.contains(flag) && ran.stderr.contains("--force"), "{}", ran.stderr);
        }
        ok(place.convert(out, &[common, &base, &["--shard", "2/2", "--force"]].concat()));
        ok(["merge", &place.text(out)]);
    }
}

/// Every option that a shard can have, in turn: beside one without it there is no conversion.
#[test]
fn shards_that_differ_in_any_option_are_refused() {
    const CALIB: &[&str] =
        &["--calib", "TEXT", "--calib-tokens", "512", "--calib-ctx", "64", "--calib-independent"];
    let tokens = ["--calib", "TEXT", "--calib-tokens", "1024", "--calib-ctx", "64", "--calib-independent"];
    let ctx = ["--calib", "TEXT", "--calib-tokens", "512", "--calib-ctx", "32", "--calib-independent"];
    let text = ["--calib", "OTHER", "--calib-tokens", "512", "--calib-ctx", "64", "--calib-independent"];
    let sampled = |seed| {
        [
            "--calib",
            "self",
            "--calib-tokens",
            "256",
            "--calib-ctx",
            "64",
            "--calib-seed",
            seed,
            "--calib-independent",
        ]
    };
    let place = Place::new();
    let model = testdata("rwkv7-bytes.pth").to_str().unwrap().to_owned();
    for (name, text) in [("one.dat", "TEXT"), ("two.dat", "OTHER")] {
        let text = place.text(if text == "TEXT" { "text.txt" } else { "other.txt" });
        let args = ["--tokens", "1024", "--ctx", "64"];
        ok(["calibrate", &model, &text, "-o", &place.text(name)].iter().chain(&args));
    }
    fs::write(place.path("template.jinja"), "{{ messages }}").unwrap();
    fs::write(place.path("types.toml"), "[tensors]\n\"blk.0.time_mix_key.weight\" = \"q6_k\"\n").unwrap();
    let (one, two) = (place.text("one.dat"), place.text("two.dat"));
    let (template, types) = (place.text("template.jinja"), place.text("types.toml"));
    let (one, two, template, types) = (one.as_str(), two.as_str(), template.as_str(), types.as_str());
    let (seed_0, seed_1) = (sampled("0"), sampled("1"));
    let mut tried = 0;
    for (base, others) in [
        (
            &[][..],
            &[
                &["--type", "q5_0"][..],
                &["--mix", "llama.cpp"],
                &["--search", "best"],
                &["--recipe", types],
                &["--imatrix", one],
                &["--split-max-size", "1MB"],
                &["--drop", "blocks.0.ln0.*"],
                &["--no-checksums"],
                &["--portable"],
                &["--modelfile", "g1"],
                &["--set-key", "my.key=str:a"],
                &["--vocab", "bytes", "--name", "x"],
                &["--chat-template", template],
                &["--name", "a"],
                &["--author", "a"],
                &["--model-version", "a"],
                &["--organization", "a"],
                &["--description", "a"],
                &["--license", "mit"],
                &["--url", "a"],
                &["--base-model", "a/b"],
                CALIB,
            ][..],
        ),
        (&["--imatrix", one], &[&["--imatrix", two][..], &["--imatrix", one, "--equalize"]]),
        (
            CALIB,
            &[
                &tokens[..],
                &ctx,
                &text,
                &[CALIB, &["--portable"]].concat(),
                &[CALIB, &["--equalize"]].concat(),
            ],
        ),
        (&seed_0, &[&seed_1[..]]),
    ] {
        ok(place.convert("a.gguf", &[&["--type", "q4_0"], base, &["--shard", "1/2", "--force"]].concat()));
        for other in others {
            let file_type = if other.contains(&"--type") { &[][..] } else { &["--type", "q4_0"] };
            let ran =
                run(place.convert("a.gguf", &[file_type, other, &["--shard", "2/2", "--force"]].concat()));
            // Norms of block 0 cannot be left out: what is refused makes no shard.
            assert!(ran.status == 0 || other.contains(&"--drop"), "{other:?}: {}", ran.stderr);
            if ran.status == 0 {
                let ran = run(["merge", &place.text("a.gguf")]);
                assert_eq!(ran.status, 3, "{other:?}: {}", ran.stderr);
                assert!(
                    ran.stderr.contains("are of different conversions: they differ in "),
                    "{}",
                    ran.stderr
                );
                tried += 1;
            }
        }
        ok(place.convert("a.gguf", &[&["--type", "q4_0"], base, &["--shard", "2/2", "--force"]].concat()));
        ok(["merge", &place.text("a.gguf"), "--force"]);
    }
    assert!(tried >= 28, "{tried}");
}

/// Forward passes round otherwise without fused multiply-add, so what is calibrated there is another file.
#[test]
fn shards_of_processors_that_round_otherwise_are_refused() {
    #[cfg(target_arch = "x86_64")]
    let is_fused = std::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let is_fused = cfg!(target_arch = "aarch64");
    let calib = ["--calib", "TEXT", "--calib-tokens", "512", "--calib-ctx", "64", "--calib-independent"];
    let place = Place::new();
    let shard = |number: &str, more: &[&str]| {
        let args = place
            .convert("a.gguf", &[&["--type", "q4_0"], &calib[..], &["--shard", number, "-f"], more].concat());
        let ran = program()
            .args(args)
            .env("RWKV_QUANT_ISA", if number == "2/2" { "portable" } else { "avx512" })
            .output();
        assert!(ran.unwrap().status.success());
    };
    shard("1/2", &[]);
    shard("2/2", &[]);
    let ran = run(["merge", &place.text("a.gguf")]);
    assert_eq!(ran.status, if is_fused { 3 } else { 0 }, "{}", ran.stderr);
    assert!(!is_fused || ran.stderr.contains("fused multiply-add"), "{}", ran.stderr);
    // Portable work is the same everywhere, and plain types always are.
    shard("1/2", &["--portable"]);
    shard("2/2", &["--portable"]);
    ok(["merge", &place.text("a.gguf"), "-f"]);
}

/// One flipped bit anywhere in a shard is found, or changes nothing.
#[test]
fn a_flipped_bit_of_a_shard_is_found_or_harmless() {
    const FLIPS: usize = 120;
    for (out, options) in
        [("a.gguf", &["--type", "q4_0"][..]), ("a.bin", &["--type", "q5_1"]), ("a.rwkvz", &["--type", "nf4"])]
    {
        let (whole, place) = (Place::new(), Place::new());
        ok(whole.convert(out, options));
        let whole = fs::read(whole.path(out)).unwrap();
        for shard in ["1/2", "2/2"] {
            ok(place.convert(out, &[options, &["--shard", shard]].concat()));
        }
        let (path, result) = (place.path(&format!("{out}.shard-1of2")), place.path(out));
        let sound = fs::read(&path).unwrap();
        // Half of the bits in the first and last parts, where what describes the shard stands; the others all over.
        let ends = (0..FLIPS / 4).map(|n| n * 60_000 / (FLIPS / 4));
        let places = ends
            .flat_map(|n| [n, sound.len() - 1 - n])
            .chain((0..FLIPS / 2).map(|n| n * sound.len() / (FLIPS / 2)));
        let mut found = 0;
        for (n, at) in places.enumerate() {
            let mut flipped = sound.clone();
            flipped[at] ^= 1 << (n % 8);
            fs::write(&path, flipped).unwrap();
            match shards::merge(&result, true, &Silent, &Stop::new()) {
                Err(_) => found += 1,
                Ok(_) => assert!(fs::read(&result).unwrap() == whole, "{out}: bit {} of byte {at}", n % 8),
            }
        }
        println!("{out}: {found} of {FLIPS} flips were found, the others are harmless");
        assert!(found > FLIPS * 8 / 10, "{out}: {found}");
        fs::write(&path, &sound).unwrap();
        shards::merge(&result, true, &Silent, &Stop::new()).unwrap();
        assert!(fs::read(&result).unwrap() == whole, "{out}");
    }
}

#[test]
fn shards_of_the_first_version_are_refused_by_name() {
    let place = Place::new();
    let shard = |index: &str| place.convert("a.bin", &["--type", "q5_1", "--shard", index]);
    ok(shard("1/2"));
    ok(shard("2/2"));
    let path = place.path("a.bin.shard-1of2");
    // Its heads are bare JSON: without the SHA-256 and the space before it.
    let key = b"rwkv-quant.shard\":\"";
    let mut old = fs::read(&path).unwrap();
    let at = old.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    old.drain(at..at + 65);
    let length = u64::from_le_bytes(old[..8].try_into().unwrap()) - 65;
    old[..8].copy_from_slice(&length.to_le_bytes());
    fs::write(&path, old).unwrap();
    for args in [vec!["merge".to_owned(), place.text("a.bin")], shard("1/2")] {
        let ran = run(&args);
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        assert!(
            ran.stderr.contains("a.bin.shard-1of2 was made by rwkv-quant 0.1.0; make it again"),
            "{}",
            ran.stderr
        );
    }
    ok(shard("1/2").into_iter().chain(["--force".to_owned()]));
    ok(["merge", &place.text("a.bin")]);
}

/// Finished matrices of a run with other options are neither used nor removed, unless that is forced.
#[test]
fn checkpoints_of_other_options_are_refused_by_name() {
    let place = Place::new();
    let calib = ["--calib", "TEXT", "--calib-ctx", "64", "--calib-tokens", "2048"];
    let gguf = [&["--type", "q4_k_m"], &calib[..]].concat();
    let rwkvz = [&["--bpw", "4", "--vocab", "bytes"], &calib[..]].concat();
    for (out, options, other, flag) in [
        ("a.gguf", &gguf, &["--calib-independent"][..], "--calib-independent (not given, given)"),
        ("b.gguf", &gguf, &["--equalize"], "--equalize (not given, given)"),
        ("c.rwkvz", &rwkvz, &["--low-rank", "4"], "--low-rank (not given, 4)"),
    ] {
        place.broken_off(out, options);
        let kept = place.path(&format!("{out}.calibration/identity"));
        let before = fs::read(&kept).unwrap();
        let others = [&options[..], other].concat();
        let ran = run(place.convert(out, &others));
        assert_eq!(ran.status, 1, "{}", ran.stderr);
        assert!(
            ran.stderr
                .contains(&format!("{out}.calibration holds finished matrices of a run with other options"))
        );
        assert!(ran.stderr.contains(flag) && ran.stderr.contains("--force"), "{}", ran.stderr);
        assert_eq!(fs::read(&kept).unwrap(), before);
        assert!(!place.path(out).exists());
    }
    let (fresh, forced) = (place.path("fresh.gguf"), place.path("a.gguf"));
    let others = [&gguf[..], &["--calib-independent"]].concat();
    ok(place.convert("a.gguf", &[&others[..], &["--force"]].concat()));
    ok(place.convert("fresh.gguf", &others));
    assert!(fs::read(fresh).unwrap() == fs::read(forced).unwrap());
    // What version 0.1.0 left, and what is damaged.
    let identity = place.path("b.gguf.calibration/identity");
    let sound = fs::read(&identity).unwrap();
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for (text, what) in [
        (&b"0.1.0 1 0123 | 4567 89 | ab | cd Best\n"[..], "was made by rwkv-quant 0.1.0; make it again"),
        (&damaged, "its identity is damaged"),
        (b"", "its identity is damaged"),
    ] {
        fs::write(&identity, text).unwrap();
        let ran = run(place.convert("b.gguf", &gguf));
        assert!(ran.status == 1 && ran.stderr.contains(what), "{}", ran.stderr);
    }
    fs::write(&identity, sound).unwrap();
    ok(place.convert("b.gguf", &gguf));
}

#[test]
fn clean_removes_what_is_ours_and_nothing_else() {
    let place = Place::new();
    let calib = ["--type", "q4_k_m", "--calib", "TEXT", "--calib-ctx", "64", "--calib-tokens", "2048"];
    place.broken_off("a.gguf", &calib);
    for out in ["a.gguf", "b.rwkvz"] {
        ok(place.convert(out, &["--type", if out == "a.gguf" { "q8_0" } else { "nf4" }, "--shard", "1/2"]));
    }
    let (partial, args) = (
        place.path("e.gguf.partial"),
        place.convert("e.gguf", &["--type", "q4_0", "--search", "best", "--threads", "1"]),
    );
    for _ in 0..50 {
        let mut child = program().args(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !partial.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if partial.exists() {
            break;
        }
        fs::remove_file(place.path("e.gguf")).ok();
    }
    assert!(partial.exists(), "no run could be killed in time");
    // Somebody's, by names like those of ours.
    fs::create_dir(place.path("c.gguf.calibration")).unwrap();
    for (name, text) in [
        ("c.gguf.calibration/notes", "mine"),
        ("c.gguf.shard-1of2", "mine"),
        ("c.gguf.partial", "mine"),
        (".c.gguf.journal", "mine"),
    ] {
        fs::write(place.path(name), text).unwrap();
    }
    // A kill came between making the folder and its first file.
    fs::create_dir(place.path("f.gguf.calibration")).unwrap();
    fs::create_dir(place.path("d.gguf.calibration")).unwrap();
    fs::copy(place.path("a.gguf.calibration/identity"), place.path("d.gguf.calibration/identity")).unwrap();
    fs::write(place.path("d.gguf.calibration/lock"), "").unwrap();
    fs::write(place.path("d.gguf.calibration/notes"), "mine").unwrap();
    let folder = place.0.path().to_str().unwrap().to_owned();
    let found = |args: &[&str]| -> Vec<(String, String, String)> {
        let listed = json(["--format", "json", "clean"].iter().chain(args));
        let of = |leftover: &serde_json::Value, key: &str| leftover[key].as_str().unwrap().to_owned();
        let name = |path: String| Path::new(&path).file_name().unwrap().to_str().unwrap().to_owned();
        let list = listed["leftovers"].as_array().unwrap().clone();
        list.iter().map(|l| (name(of(l, "path")), of(l, "kind"), of(l, "state"))).collect()
    };
    let row = |name: &str, kind: &str, state: &str| (name.to_owned(), kind.to_owned(), state.to_owned());
    let all = |state: &str| {
        vec![
            row(".a.gguf.journal", "unfinished output", state),
            row(".e.gguf.journal", "unfinished output", state),
            row("a.gguf.calibration", "checkpoint", state),
            row("a.gguf.shard-1of2", "shard", state),
            row("b.rwkvz.shard-1of2", "shard", state),
            row("f.gguf.calibration", "checkpoint", state),
        ]
    };
    let entries = || fs::read_dir(&folder).unwrap().count();
    let before = entries();
    assert_eq!(found(&[&folder]), all("found"));
    let of_a = |rows: Vec<(String, String, String)>| [&rows[..1], &rows[2..4]].concat();
    assert_eq!(found(&[&place.text("a.gguf")]), of_a(all("found")));
    assert!(found(&[&place.text("a"), "-f"]).is_empty());
    assert_eq!(entries(), before);
    // What a run works on stays.
    let lock = fs::File::open(place.path("a.gguf.calibration/lock")).unwrap();
    lock.try_lock().unwrap();
    assert_eq!(found(&[&place.text("a.gguf"), "-f"])[1], row("a.gguf.calibration", "checkpoint", "in_use"));
    assert!(place.path("a.gguf.calibration/identity").exists() && !place.path("a.gguf.shard-1of2").exists());
    drop(lock);
    let said = ok(["clean", &folder, "-f"]).stdout;
    assert!(said.contains("removed checkpoint ") && said.contains("removed shard "), "{said}");
    assert_eq!(entries(), before - 7);
    assert!(!partial.exists());
    assert!(
        place.path("c.gguf.calibration/notes").exists() && place.path("d.gguf.calibration/notes").exists()
    );
    assert_eq!(ok(["clean", &folder]).stdout, "nothing is left over\n");
}

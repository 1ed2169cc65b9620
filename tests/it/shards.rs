//! Conversions spread over machines: put together, they are the files of one machine, or nothing at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::run::{json, ok, program, run, testdata};

/// A folder with the shards of a conversion of the RWKV-7 model.
struct Spread {
    dir: tempfile::TempDir,
    args: Vec<String>,
}

impl Spread {
    fn new(args: &[&str]) -> Spread {
        Spread { dir: tempfile::tempdir().unwrap(), args: args.iter().map(ToString::to_string).collect() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn convert(&self, out: &str, more: &[&str]) -> Vec<String> {
        let (source, out) = (testdata("rwkv7-bytes.pth"), self.path(out));
        let mut args: Vec<String> = vec!["convert".into()];
        args.extend([source, out].iter().map(|p| p.to_str().unwrap().to_owned()));
        args.extend(self.args.iter().cloned().chain(more.iter().map(ToString::to_string)));
        args
    }

    fn shards(&self, out: &str, count: usize) {
        for index in 1..=count {
            ok(self.convert(out, &["--shard", &format!("{index}/{count}")]));
        }
    }

    fn merge(&self, out: &str) -> (i32, String) {
        let ran = run(["merge", self.path(out).to_str().unwrap()]);
        (ran.status, ran.stderr.replace(self.dir.path().to_str().unwrap(), "DIR"))
    }

    /// Wants the merged files of every count to be those of one machine.
    fn same(&self, out: &str, counts: &[usize]) {
        let whole = Spread::new(&self.args.iter().map(String::as_str).collect::<Vec<_>>());
        ok(whole.convert(out, &[]));
        let wanted = tree(whole.dir.path());
        for count in counts {
            let parts = Spread::new(&self.args.iter().map(String::as_str).collect::<Vec<_>>());
            parts.shards(out, *count);
            assert_eq!(tree(parts.dir.path()).len(), *count);
            assert_eq!(parts.merge(out), (0, String::new()));
            let mut merged = tree(parts.dir.path());
            merged.retain(|(name, _)| !name.contains(".shard-"));
            assert!(merged == wanted, "{:?} in {count} shards", self.args);
        }
    }
}

/// All files below a folder.
fn tree(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => files.extend(tree(&path).into_iter().map(|(n, bytes)| (format!("{name}/{n}"), bytes))),
            false => files.push((name, fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn shards_make_the_bytes_of_one_machine() {
    let imatrix = testdata("golden/llama_cpp/rwkv7-bytes.imatrix.gguf");
    let imatrix = imatrix.to_str().unwrap();
    for (args, counts) in [
        (&["--type", "q4_0"][..], &[1, 3, 7, 100][..]),
        (&["--type", "q8_0"], &[3, 7]),
        (&["--type", "q4_k_m", "--mix", "llama.cpp", "--imatrix", imatrix], &[3]),
        (&["--type", "q4_0", "--search", "best", "--threads", "1", "--max-memory", "50MiB"], &[2]),
    ] {
        Spread::new(args).same("out.gguf", counts);
    }
}

#[test]
fn sets_and_what_stands_beside_them_are_spread_too() {
    Spread::new(&["--type", "q8_0", "--split-max-size", "500kB"]).same("out.gguf", &[3]);
    Spread::new(&["--type", "q4_0", "--modelfile", "world"]).same("out.gguf", &[2]);
    Spread::new(&["--to", "hf"]).same("folder", &[4]);
    Spread::new(&["--type", "q5_1"]).same("out.bin", &[2]);
}

#[test]
fn compact_files_are_spread_too() {
    Spread::new(&[]).same("out.rwkvz", &[1, 3, 100]);
    Spread::new(&["--type", "nf4"]).same("out.rwkvz", &[2]);
    Spread::new(&["--type", "nf4_dq"]).same("out.rwkvz", &[3]);
    let made = Spread::new(&["--vocab", "bytes"]);
    let (recipe, text) = (made.path("recipe.toml"), made.path("text.txt"));
    fs::write(&text, &fs::read(testdata("heldout.txt")).unwrap()[..16 * 512]).unwrap();
    let [recipe, text] = [&recipe, &text].map(|path| path.to_str().unwrap().to_owned());
    ok(made.convert("a.rwkvz", &["--bpw", "4", "--save-recipe", &recipe]));
    let calibrated = ["--recipe", &recipe, "--vocab", "bytes", "--calib", &text, "--calib-independent"];
    Spread::new(&calibrated).same("out.rwkvz", &[3]);

    let spread = Spread::new(&["--recipe", &recipe]);
    spread.shards("out.rwkvz", 2);
    let second = spread.path("out.rwkvz.shard-2of2");
    let mut damaged = fs::read(&second).unwrap();
    damaged[1000] ^= 1;
    fs::write(&second, &damaged).unwrap();
    let (status, said) = spread.merge("out.rwkvz");
    assert!(status == 1 && said.contains("does not match its SHA-256"), "{said}");
    fs::remove_file(&second).unwrap();
    assert!(spread.merge("out.rwkvz").1.contains("shard 2/2 is missing"));
    let ran = run(spread.convert("b.rwkvz", &["--shard", "1/2"]).iter().chain(&["--force".to_owned()]));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let ran = run(made.convert("b.rwkvz", &["--shard", "1/2", "--bpw", "4"]));
    assert!(ran.stderr.contains("a shard cannot know how small the others become"), "{}", ran.stderr);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let spread = Spread::new(&["--type", "q4_0"]);
    let (status, said) = spread.merge("out.gguf");
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("there are no shards of DIR/out.gguf"), "{said}");
    spread.shards("out.gguf", 3);
    let second = spread.path("out.gguf.shard-2of3");
    let sound = fs::read(&second).unwrap();
    let refused = |status: i32, what: &str| {
        let (found, said) = spread.merge("out.gguf");
        assert_eq!(found, status, "{said}");
        assert!(said.contains(what), "{said}");
        assert!(!spread.path("out.gguf").exists() && !spread.path("out.gguf.partial").exists());
    };

    fs::remove_file(&second).unwrap();
    refused(3, "shard 2/3 is missing: DIR/out.gguf.shard-2of3");
    // Of another recipe; of another count.
    let other = Spread::new(&["--type", "q4_0", "--search", "best"]);
    other.shards("out.gguf", 3);
    fs::copy(other.path("out.gguf.shard-2of3"), &second).unwrap();
    refused(3, "are of different conversions");
    fs::copy(spread.path("out.gguf.shard-3of3"), &second).unwrap();
    refused(3, "out.gguf.shard-2of3 is shard 3/3, not 2/3");
    fs::write(&second, &sound).unwrap();
    let fourth = spread.path("out.gguf.shard-4of4");
    fs::copy(&second, &fourth).unwrap();
    refused(3, "are not of one number of shards");
    fs::remove_file(fourth).unwrap();
    // Cut off, flipped, something else.
    fs::write(&second, &sound[..sound.len() - 1]).unwrap();
    refused(1, "it is cut off");
    let mut flipped = sound.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&second, &flipped).unwrap();
    refused(1, "is damaged: the data of \"");
    ok(["convert", testdata("rwkv4-bytes.pth").to_str().unwrap(), spread.path("x.st").to_str().unwrap()]);
    fs::rename(spread.path("x.st"), &second).unwrap();
    refused(1, "is no shard of a conversion");

    fs::write(&second, &sound).unwrap();
    assert_eq!(spread.merge("out.gguf").0, 0);
    assert!(spread.merge("out.gguf").1.contains("out.gguf exists already"));
    let ran = run(["verify", second.to_str().unwrap()]);
    assert!(ran.stderr.contains("is one shard of a conversion, not a model"), "{}", ran.stderr);
    // Checksums of the whole are in it, so a part of it cannot be made.
    let ran = run(Spread::new(&[]).convert("out.pth", &["--shard", "1/2"]));
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("files cannot be made in shards"), "{}", ran.stderr);
}

#[test]
fn a_shard_that_is_there_is_kept_and_a_killed_one_made_again() {
    let spread = Spread::new(&["--type", "q4_0", "--search", "best", "--threads", "1"]);
    let args = spread.convert("out.gguf", &["--shard", "1/2"]);
    let (shard, partial) = (spread.path("out.gguf.shard-1of2"), spread.path("out.gguf.shard-1of2.partial"));
    let mut killed = false;
    for _ in 0..50 {
        let mut command = program();
        let mut child = command.args(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while !partial.exists() && start.elapsed() < Duration::from_secs(10) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        killed = partial.exists();
        if killed {
            break;
        }
        fs::remove_file(&shard).ok();
    }
    assert!(killed, "no run could be killed in time");
    assert!(!shard.exists());
    ok(&args);
    assert!(!partial.exists());
    let made = fs::metadata(&shard).unwrap().modified().unwrap();
    assert!(ok(&args).stdout.contains("it is there already"));
    assert_eq!(fs::metadata(&shard).unwrap().modified().unwrap(), made);
    // A damaged one is not taken for a whole one.
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();
    assert!(run(&args).stderr.contains("exists already"));
    ok(args.iter().map(String::as_str).chain(["--force"]));
    // Array jobs say which shard they are.
    let mut second = program();
    second.args(spread.convert("out.gguf", &["--shards", "2"])).env("JOB_COMPLETION_INDEX", "1");
    assert!(second.output().unwrap().status.success());
    assert_eq!(json(["--format", "json", "merge", spread.path("out.gguf").to_str().unwrap()])["shards"], 2);
}

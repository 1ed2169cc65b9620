//! Inputs that broke a reader once, or are made to: everything that reads a file gets each of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::run::{program, testdata};

/// Peak resident memory of a run, the program's own pages included (some 60 MB in a debug build), and of its small model.
const PEAK_BYTES: u64 = 256 << 20;
/// Longest run, on a busy machine.
const LONGEST: Duration = Duration::from_secs(60);

/// Commands that read a file, `FILE`, in every way in which one is read; `MODEL` is a sound model.
const READERS: &[&[&str]] = &[
    &["inspect", "FILE"],
    &["verify", "FILE"],
    &["diff", "FILE", "MODEL"],
    &["convert", "FILE", "OUT.safetensors", "--type", "f32"],
    &["convert", "MODEL", "OUT.gguf", "--type", "q8_0", "--imatrix", "FILE", "--dry-run"],
    &["convert", "MODEL", "OUT.gguf", "--recipe", "FILE", "--dry-run"],
    &["convert", "MODEL", "OUT.gguf", "--vocab", "FILE", "--dry-run"],
    &["convert", "MODEL", "OUT.gguf", "--lora", "FILE", "--lora-alpha", "1", "--dry-run"],
    &["convert", "MODEL", "OUT.pth", "--state", "FILE", "--dry-run"],
    &[
        "convert",
        "MODEL",
        "OUT.gguf",
        "--type",
        "q8_0",
        "--calib",
        "FILE",
        "--calib-tokens",
        "16",
        "--dry-run",
    ],
    &["eval-ppl", "MODEL", "FILE", "--ctx", "8", "--windows", "1"],
    &["tokenize", "--vocab", "FILE", "some text"],
    &["batch", "FILE", "--list"],
    &["report", "FILE"],
    &["merge", "OUT.gguf"],
    &["inspect", "FOLDER"],
];

/// Runs the program on a file; what is wrong with how that ended.
fn wrong(args: &[String]) -> Option<String> {
    let mut command = program();
    let mut child = command.args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (start, status_file) = (Instant::now(), format!("/proc/{}/status", child.id()));
    let mut peak_kb = 0;
    let status = loop {
        let status = fs::read_to_string(&status_file).unwrap_or_default();
        if status.starts_with("Name:\trwkv-quant") {
            let mark = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
            peak_kb = peak_kb.max(mark.map_or(0, |kb| kb.trim().parse().unwrap()));
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > LONGEST {
            child.kill().unwrap();
            return Some("still runs after a minute".to_owned());
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    match status.code() {
        Some(0..=5) if peak_kb << 10 > PEAK_BYTES => Some(format!("takes {} MB", peak_kb >> 10)),
        Some(0) => None,
        Some(1..=5) if said.contains("error: ") => None,
        _ => Some(format!("{status}: {said}")),
    }
}

#[test]
fn every_reader_refuses_them_or_reads_them() {
    let model = testdata("rwkv7-bytes.pth");
    let mut found: Vec<PathBuf> =
        fs::read_dir(testdata("hostile")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort_unstable();
    assert!(found.len() > 20, "{found:?}");
    let failed: Vec<String> = std::thread::scope(|scope| {
        let halves = found.chunks(found.len().div_ceil(2)).map(|files| {
            let model = &model;
            scope.spawn(move || files.iter().flat_map(|file| failures(file, model)).collect::<Vec<_>>())
        });
        let halves: Vec<_> = halves.collect();
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What is wrong with how the readers end on `file`.
fn failures(file: &Path, model: &Path) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let there = dir.path().join(name);
    fs::copy(file, &there).unwrap();
    fs::copy(file, dir.path().join("OUT.gguf.shard-1of1")).unwrap();
    // As each of the files of a model's folder.
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(testdata("hybrids/arwkv7")).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let place = match name {
        _ if name.ends_with(".index.json") => "model.safetensors.index.json",
        _ if name.ends_with(".md") => "README.md",
        _ if name.ends_with(".json") => "config.json",
        _ => "model.safetensors",
    };
    fs::copy(file, folder.join(place)).unwrap();
    let named = |arg: &&str| match *arg {
        "FILE" => there.to_str().unwrap().to_owned(),
        "MODEL" => model.to_str().unwrap().to_owned(),
        "FOLDER" => folder.to_str().unwrap().to_owned(),
        _ if arg.starts_with("OUT.") => dir.path().join(arg).to_str().unwrap().to_owned(),
        _ => (*arg).to_owned(),
    };
    let runs = READERS.iter().map(|args| args.iter().map(named).collect::<Vec<_>>());
    runs.filter_map(|args| Some(format!("{name}, {}: {}", args.join(" "), wrong(&args)?))).collect()
}

//! Memory promises, measured on a child process.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use sha2::Digest;

use crate::run::{json, program};
use crate::synthetic::{Shape, write};

/// Peak resident memory of a run of the program, in bytes: the kernel's own high-water mark, read until the end.
/// (The `ru_maxrss` of a child starts at its parent's, so it tells nothing here.)
fn peak_rss(args: &[&str]) -> u64 {
    let (peak, ended_well) = peak_of(args);
    assert!(ended_well, "{args:?}");
    peak
}

/// The same, and whether the run succeeded. A run may end before anybody looks; then it is run again.
fn peak_of(args: &[&str]) -> (u64, bool) {
    const TRIES: usize = 100;
    (0..TRIES).find_map(|_| looked_at(args)).unwrap_or_else(|| panic!("{args:?} ends too soon"))
}

/// One run; `None` if it ended before anybody looked.
fn looked_at(args: &[&str]) -> Option<(u64, bool)> {
    let mut child = program().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(&status_file).unwrap_or_default();
        let mark = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        // Until it has replaced itself by the program, the child still is a copy of this process.
        if status.starts_with("Name:\trwkv-quant") {
            peak = peak.max(mark.map_or(0, |kb| kb.trim().parse().unwrap()));
        }
        if let Some(ended) = child.try_wait().unwrap() {
            return (peak > 0).then_some((peak * 1024, ended.success()));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn convert(source: &Path, max_memory: &str) -> u64 {
    let out = source.with_extension(format!("{max_memory}.gguf"));
    let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
    let args = ["--format", "quiet", "convert", source, out, "-t", "q8_0", "--max-memory", max_memory];
    peak_rss(&args)
}

/// Case threads-64-memory: what is planned follows the sizes of the model, not the square of the threads; and where it
/// would be too much there are fewer threads, and the same bytes.
#[test]
fn many_threads_need_what_a_small_model_needs() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("tiny.pth");
    write(&model, Shape { layers: 2, embd: 64, vocab: 256 }).unwrap();
    let model = model.to_str().unwrap();
    let out = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let coded = |name: &str, flags: &[&str]| {
        let args = ["--format", "json", "convert", model, &out(name), "--target-bpw", "5"];
        json(args.iter().chain(flags))
    };
    let planned = |threads| {
        let found = coded("dry.rwkvz", &["--dry-run", "--threads", threads]);
        found["peak_memory_bytes"].as_u64().unwrap()
    };
    let (one, many) = (planned("1"), planned("64"));
    assert!(many < one + (64 << 20) && many < 128 << 20, "{one} with one thread, {many} with 64");
    coded("one.rwkvz", &["--threads", "1"]);
    let little = (one + (1 << 20)).to_string();
    for (name, flags) in [
        ("many.rwkvz", &["--threads", "64"][..]),
        ("less.rwkvz", &["--threads", "64", "--max-memory", &little]),
    ] {
        let found = coded(name, flags);
        assert!(std::fs::read(out(name)).unwrap() == std::fs::read(out("one.rwkvz")).unwrap(), "{name}");
        let threads = found["threads"].as_u64().unwrap();
        assert!(if name == "many.rwkvz" { threads == 64 } else { threads < 64 }, "{name}: {threads} threads");
    }
    // The same for what is calibrated, and for evaluations.
    let text = out("text.txt");
    std::fs::write(&text, "The quick brown fox jumps over the lazy dog. ".repeat(200)).unwrap();
    let calibrated = |name: &str, threads: &str| {
        let flags =
            ["--threads", threads, "--max-memory", "512MiB", "--calib", &text, "--calib-tokens", "4096"];
        let vocab = ["--vocab", "bytes"];
        coded(name, &[&flags[..], &vocab].concat());
        std::fs::read(out(name)).unwrap()
    };
    assert!(calibrated("a.rwkvz", "1") == calibrated("b.rwkvz", "64"));
    let evaluated = |threads| {
        let args = ["--format", "json", "eval-ppl", &out("one.rwkvz"), &text, "--vocab", "bytes"];
        json(args.iter().chain(&["--threads", threads, "--max-memory", "96MiB"]))["models"].to_string()
    };
    assert_eq!(evaluated("1"), evaluated("64"));
}

#[test]
fn the_peak_does_not_grow_with_the_model_and_keeps_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (dir.path().join("small.pth"), dir.path().join("large.pth"));
    write(&small, Shape { layers: 2, embd: 512, vocab: 256 }).unwrap();
    write(&large, Shape { layers: 14, embd: 1024, vocab: 256 }).unwrap();
    let bytes = std::fs::metadata(&large).unwrap().len();
    assert!(bytes > 256 << 20, "{bytes}");
    for (limit, max_memory) in [(64 << 20, "64MiB"), (256 << 20, "256MiB")] {
        let (a, b) = (convert(&small, max_memory), convert(&large, max_memory));
        println!("peak at {max_memory}: {} MiB and {} MiB", a >> 20, b >> 20);
        assert!(a <= limit && b <= limit, "{a} and {b} bytes at {max_memory}");
    }
}

/// Opening and verifying take no more than 64 MB, and 4 bytes for each byte that was read, beside the program itself
/// (cases gguf-header-memory and rwkvz-bomb; the table of all formats is in `formats/tests/memory.rs`).
#[test]
fn hostile_files_do_not_eat_memory() {
    let dir = tempfile::tempdir().unwrap();
    let bomb = dir.path().join("bomb.rwkvz");
    let numbers = "0,".repeat(20_000_000);
    let index =
        format!(r#"{{"requires":[],"metadata":[["a",{{"array":["u8",[{numbers}0]]}}]],"sections":[]}}"#);
    let frame = zstd::bulk::compress(index.as_bytes(), 3).unwrap();
    let mut bytes = b"RWKVZ\0\r\n\x01\0\0\0\0\0\0\0".to_vec();
    bytes.extend(&frame);
    [16, frame.len() as u64, index.len() as u64, 0].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    bytes.extend(b"\x01\0\0\0\0\0\0\0");
    bytes.extend(sha2::Sha256::digest(&frame));
    bytes.extend(b"RWKVZEND");
    std::fs::write(&bomb, &bytes).unwrap();

    // A header of 60 arrays of a million u8; the file is a hole.
    let header = dir.path().join("header.gguf");
    let mut file = std::fs::File::create(&header).unwrap();
    file.write_all(&[&b"GGUF\x03\0\0\0"[..], &[0; 8], &60u64.to_le_bytes()].concat()).unwrap();
    for i in 0..60u32 {
        file.write_all(
            &[&2u64.to_le_bytes()[..], format!("{i:02}").as_bytes(), &[9, 0, 0, 0, 0, 0, 0, 0]].concat(),
        )
        .unwrap();
        file.write_all(&(1u64 << 20).to_le_bytes()).unwrap();
        file.seek(SeekFrom::Current(1 << 20)).unwrap();
    }
    let end = file.stream_position().unwrap();
    file.set_len(end).unwrap();

    // A single row of 2^27 weights in q2_k; the file is a hole.
    let wide = dir.path().join("wide.gguf");
    let mut file = std::fs::File::create(&wide).unwrap();
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let head = [
        &b"GGUF\x03\0\0\0"[..],
        &1u64.to_le_bytes(),
        &1u64.to_le_bytes(),
        &text("general.architecture"),
        &8u32.to_le_bytes(),
        &text("llama"),
        &text("x.weight"),
        &1u32.to_le_bytes(),
        &(1u64 << 27).to_le_bytes(),
        &10u32.to_le_bytes(),
        &0u64.to_le_bytes(),
    ];
    let head = head.concat();
    file.write_all(&head).unwrap();
    let wide_bytes = (head.len() as u64).next_multiple_of(32) + (1 << 27) / 256 * 84;
    file.set_len(wide_bytes).unwrap();

    // A million entries of metadata.
    let entries = dir.path().join("entries.safetensors");
    let list: Vec<String> = (0..1_000_000).map(|i| format!("\"{i:x}\":\"a\"")).collect();
    let tensor = "\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}";
    let json = format!("{{\"__metadata__\":{{{}}},{tensor}}}", list.join(","));
    let file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &[0]].concat();
    std::fs::write(&entries, &file).unwrap();
    let entries_bytes = file.len() as u64;

    // And every file that once was a finding.
    let hostile =
        std::fs::read_dir(crate::run::testdata("hostile")).unwrap().map(|entry| entry.unwrap().path());
    let sized = |path: std::path::PathBuf| (path.metadata().unwrap().len(), path);
    let all = [(bytes.len() as u64, bomb), (end, header), (wide_bytes, wide), (entries_bytes, entries)]
        .into_iter()
        .chain(hostile.map(sized));
    let all: Vec<_> = all.collect();
    assert!(all.len() > 20);

    let small = crate::run::testdata("rwkv7-bytes.pth");
    for command in ["inspect", "verify"] {
        let (least, _) = peak_of(&[command, small.to_str().unwrap()]);
        for (read, file) in &all {
            let (peak, _) = peak_of(&[command, file.to_str().unwrap()]);
            println!("{command} {}: {} MiB", file.display(), peak >> 20);
            assert!(peak <= least + 64_000_000 + 4 * read, "{command} {}: {peak}", file.display());
        }
    }
}

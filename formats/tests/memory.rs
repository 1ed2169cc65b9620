//! Files made to eat memory. The promise: opening and verifying any file allocates no more than 64 MB, and 4 bytes for
//! each byte of it that was read, whatever it says.
//!
//! `MEMORY_RECORD=benches/record/memory.md cargo test -p rwkv-quant-formats --test memory` writes the table.

#![allow(clippy::unwrap_used, dead_code, missing_docs)]

#[path = "pth/build.rs"]
mod build;
#[path = "memory/hostile.rs"]
mod hostile;

use build::{Pickle, Scratch, View, dict, legacy, pth};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOC: PeakAlloc = PeakAlloc;

/// Bytes allocated for each byte that was read, and for any file.
const EACH: usize = 4;
const ANY: usize = 64_000_000;

fn many(start: &[u8], repeated: &[u8], times: usize, end: &[u8]) -> Vec<u8> {
    [start, &repeated.repeat(times), end].concat()
}

/// Pickles that are short for what they make.
fn pickles() -> Vec<(&'static str, Vec<u8>)> {
    let long = "x".repeat(1 << 16);
    let mention =
        |p: Pickle| (0..10_000).fold(p.text("k").text(&long).op(b"q\0"), |p, i| p.int(i).op(b"h\0"));
    let tensor = Pickle::default().tensor("FloatStorage", "0", 2, View(0, &[2], &[1])).0;
    vec![
        ("tuples of tuples", pth(&many(b"]q\0", b"h\0h\0\x86q\0", 100_000, b"."), &[])),
        ("nesting", pth(&many(b"N", b"\x85", 500_000, b"."), &[])),
        ("plain values", pth(&many(b"", b"N", 5_000_000, b"."), &[])),
        ("marks", pth(&many(b"", b"(", 5_000_000, b"."), &[])),
        ("copies", pth(&many(b"N", b"2", 5_000_000, b"."), &[])),
        ("lists", pth(&many(b"", b"]", 1_000_000, b"."), &[])),
        ("sets", pth(&many(b"", b"\x8f", 1_000_000, b"."), &[])),
        ("counters", pth(&many(b"ccollections\nCounter\nq\0", b"h\0)R0", 1_000_000, b"."), &[])),
        ("memo", pth(&many(b"N", b"\x94", 5_000_000, b"."), &[])),
        ("a list that grows by itself", pth(&many(b"]q\0(", b"h\0", 2_000_000, b"e."), &[])),
        ("one tensor, many times", pth(&many(b"](", &tensor, 3_000, b"e."), &[("0", 8)])),
        ("one text, many times", pth(&dict(|p| mention(p.item("t", "0", &[2]))), &[("0", 8)])),
        ("a text that is not there", pth(b"X\xff\xff\xff\xff", &[])),
        ("a text that is not there, 64 bits", pth(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", &[])),
        ("an absurd storage", legacy(&dict(|p| p.item("t", "k", &[1 << 40])), &["k"], &[0xff; 8])),
        (
            "an expanded tensor",
            pth(
                &dict(|p| p.text("t").tensor("FloatStorage", "0", 2, View(0, &[1 << 40], &[0]))),
                &[("0", 8)],
            ),
        ),
    ]
}

// One test, since the allocator counts for the whole process.
#[test]
fn memory_stays_in_proportion_to_the_file() {
    let scratch = Scratch::new();
    let mut table = String::from(
        "# Memory of opening and verifying hostile files\n\nOf `formats/tests/memory.rs`: at most 64,000,000 bytes and 4 for each \
         byte of the file.\n\n| input | bytes | peak | result |\n| --- | ---: | ---: | --- |\n",
    );
    let mut over = Vec::new();
    let mut check = |name: &str, path: &std::path::Path, bytes: usize| {
        ALLOC.reset_peak_usage();
        let before = ALLOC.current_usage();
        let limits = formats::Limits::default();
        let result = formats::open(path, &limits).and_then(|container| {
            container.format().verify_checksums(&container, &limits)?;
            Ok(container.tensors().len())
        });
        let peak = ALLOC.peak_usage() - before;
        let said = match result {
            Ok(tensors) => format!("{tensors} tensors"),
            Err(error) => {
                error.to_string().replace(&path.display().to_string(), "it").chars().take(120).collect()
            }
        };
        table += &format!("| {name} | {bytes} | {peak} | {said} |\n");
        if peak >= bytes * EACH + ANY {
            over.push(format!("{name}: {peak} bytes for a file of {bytes}: {said}"));
        }
    };
    for (name, bytes) in pickles() {
        let path = scratch.write(&bytes);
        let len = bytes.len();
        drop(bytes);
        check(name, &path, len);
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, file, make) in hostile::ALL {
        let path = dir.path().join(file);
        let bytes = make(&path);
        check(name, &path, bytes);
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    println!("{table}");
    if let Some(path) = std::env::var_os("MEMORY_RECORD") {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        std::fs::write(root.join(path), &table).unwrap();
    }
    assert!(over.is_empty(), "{over:#?}");
}

//! Files made to eat memory: what is allocated stays in proportion to the file, whatever it says.

#![allow(clippy::unwrap_used, dead_code, missing_docs)]

#[path = "pth/build.rs"]
mod build;

use build::{Pickle, Scratch, View, dict, legacy, pth};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOC: PeakAlloc = PeakAlloc;

/// Bytes allocated for each byte of the file, and for any file.
const EACH: usize = 256;
const ANY: usize = 1 << 20;

fn many(start: &[u8], repeated: &[u8], times: usize, end: &[u8]) -> Vec<u8> {
    [start, &repeated.repeat(times), end].concat()
}

// One test, since the allocator counts for the whole process.
#[test]
fn memory_stays_in_proportion_to_the_file() {
    let long = "x".repeat(1 << 16);
    let mention =
        |p: Pickle| (0..10_000).fold(p.text("k").text(&long).op(b"q\0"), |p, i| p.int(i).op(b"h\0"));
    let tensor = Pickle::default().tensor("FloatStorage", "0", 2, View(0, &[2], &[1])).0;
    let bombs: Vec<(&str, Vec<u8>)> = vec![
        ("tuples of tuples", pth(&many(b"]q\0", b"h\0h\0\x86q\0", 100_000, b"."), &[])),
        ("nesting", pth(&many(b"N", b"\x85", 500_000, b"."), &[])),
        ("plain values", pth(&many(b"", b"N", 1_000_000, b"."), &[])),
        ("marks", pth(&many(b"", b"(", 1_000_000, b"."), &[])),
        ("copies", pth(&many(b"N", b"2", 1_000_000, b"."), &[])),
        ("lists", pth(&many(b"", b"]", 500_000, b"."), &[])),
        ("memo", pth(&many(b"N", b"\x94", 500_000, b"."), &[])),
        ("a list that grows by itself", pth(&many(b"]q\0(", b"h\0", 300_000, b"e."), &[])),
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
    ];
    let scratch = Scratch::new();
    for (name, bytes) in bombs {
        let path = scratch.write(&bytes);
        let len = bytes.len();
        drop(bytes);
        ALLOC.reset_peak_usage();
        let before = ALLOC.current_usage();
        let result = formats::open(&path, &formats::Limits::default());
        let peak = ALLOC.peak_usage() - before;
        assert!(peak < len * EACH + ANY, "{name}: {peak} bytes for a file of {len}: {result:?}");
    }
}

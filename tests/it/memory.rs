//! Memory promises, measured on a child process.

use std::path::Path;

use crate::run::program;
use crate::synthetic::{Shape, write};

/// Peak resident memory of a run of the program, in bytes.
fn peak_rss(args: &[&str]) -> u64 {
    let child = program().args(args).spawn().unwrap();
    let mut status = 0;
    // SAFETY: a rusage of zeros is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals, and the process is a child that nobody else waits for.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    assert_eq!(waited, child.id() as i32);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{args:?}");
    usage.ru_maxrss as u64 * 1024
}

fn convert(source: &Path, max_memory: &str) -> u64 {
    let out = source.with_extension(format!("{max_memory}.gguf"));
    let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
    let args = ["--format", "quiet", "convert", source, out, "-t", "q8_0", "--max-memory", max_memory];
    peak_rss(&args)
}

#[test]
fn the_peak_does_not_grow_with_the_model_and_keeps_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (dir.path().join("small.pth"), dir.path().join("large.pth"));
    write(&small, Shape { layers: 2, embd: 512, vocab: 16384 }).unwrap();
    write(&large, Shape { layers: 12, embd: 1024, vocab: 16384 }).unwrap();
    let bytes = std::fs::metadata(&large).unwrap().len();
    assert!(bytes > 256 << 20, "{bytes}");
    for (limit, max_memory) in [(80 << 20, "80MiB"), (256 << 20, "256MiB")] {
        let (a, b) = (convert(&small, max_memory), convert(&large, max_memory));
        println!("peak at {max_memory}: {} MiB and {} MiB", a >> 20, b >> 20);
        assert!(a <= limit && b <= limit, "{a} and {b} bytes at {max_memory}");
    }
}

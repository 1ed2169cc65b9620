//! Memory promises, measured on a child process.

use std::path::Path;
use std::time::Duration;

use crate::run::program;
use crate::synthetic::{Shape, write};

/// Peak resident memory of a run of the program, in bytes: the kernel's own high-water mark, read until the end.
/// (The `ru_maxrss` of a child starts at its parent's, so it tells nothing here.)
fn peak_rss(args: &[&str]) -> u64 {
    let mut child = program().args(args).spawn().unwrap();
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
            assert!(ended.success() && peak > 0, "{args:?}");
            return peak * 1024;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
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

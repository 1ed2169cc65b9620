//! Unsafe code is in the modules listed here, and every block of it says why it is sound.

use std::fs;
use std::path::{Path, PathBuf};

/// Source folders of the workspace's crates.
const SOURCES: [&str; 3] = ["src", "quant/src", "formats/src"];

/// The modules that have `#[allow(unsafe_code)]`.
const ALLOWED: [&str; 15] = [
    "formats/src/guard.rs",
    "formats/src/mapped.rs",
    "quant/src/arch/avx2.rs",
    "quant/src/arch/avx512.rs",
    "quant/src/arch/mod.rs",
    "quant/src/arch/neon.rs",
    "quant/src/arch/sse2.rs",
    "src/process.rs",
    "src/runner/arch/amx.rs",
    "src/runner/arch/avx2.rs",
    "src/runner/arch/avx512.rs",
    "src/runner/arch/columns.rs",
    "src/runner/arch/mod.rs",
    "src/runner/arch/portable.rs",
    "src/runner/arch/strips.rs",
];

/// Lines above a block within which its reason stands.
const REASON_LINES: usize = 8;

fn files_in(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_in(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every source file by its path from the root, with its lines.
fn sources() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    SOURCES.iter().for_each(|folder| files_in(&root.join(folder), &mut files));
    files.sort();
    let name = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
    let lines = |path: &Path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    files.iter().map(|path| (name(path), lines(path))).collect()
}

/// A line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn is_unsafe(line: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|what| code(line).contains(what))
}

#[test]
fn unsafe_code_is_in_the_listed_modules_only() {
    for crate_root in ["src/lib.rs", "src/main.rs", "quant/src/lib.rs", "formats/src/lib.rs"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(crate_root)).unwrap();
        assert!(text.lines().any(|line| code(line).trim() == "#![deny(unsafe_code)]"), "{crate_root}");
    }
    for (name, lines) in sources() {
        let allows = lines.iter().any(|line| code(line).contains("allow(unsafe_code)"));
        let unsafe_lines = lines.iter().filter(|line| is_unsafe(line)).count();
        let listed = ALLOWED.contains(&name.as_str());
        assert!(listed || (!allows && unsafe_lines == 0), "{name}: unsafe code outside the listed modules");
        assert!(!listed || unsafe_lines > 0, "{name}: listed, without unsafe code");
    }
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    for (name, lines) in sources() {
        for (n, line) in lines.iter().enumerate() {
            let is_block = code(line).contains("unsafe {") || code(line).contains("unsafe impl");
            let above = &lines[n.saturating_sub(REASON_LINES)..n];
            assert!(
                !is_block || above.iter().any(|line| line.contains("SAFETY")),
                "{name}:{}: no SAFETY comment",
                n + 1
            );
        }
    }
}

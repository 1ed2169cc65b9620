//! Writes a synthetic RWKV-7 checkpoint: `cargo run --release --example gen_checkpoint -- OUT.pth 1.5b`, of so many of its
//! blocks only if a number follows.

mod synthetic;

use std::path::Path;
use std::process::ExitCode;

use synthetic::{Shape, write};

/// The released models of RWKV-7 up to 7.2 billion weights.
const SHAPES: &[(&str, Shape)] = &[
    ("tiny", Shape { layers: 2, embd: 256, vocab: 256 }),
    ("0.1b", Shape { layers: 12, embd: 768, vocab: 65536 }),
    ("0.4b", Shape { layers: 24, embd: 1024, vocab: 65536 }),
    ("1.5b", Shape { layers: 24, embd: 2048, vocab: 65536 }),
    ("2.9b", Shape { layers: 32, embd: 2560, vocab: 65536 }),
    ("7.2b", Shape { layers: 32, embd: 4096, vocab: 65536 }),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (path, size, layers) = match args.as_slice() {
        [path, size] => (path, size, None),
        [path, size, layers] if layers.parse::<usize>().is_ok_and(|n| n > 0) => {
            (path, size, layers.parse().ok())
        }
        _ => {
            let names: Vec<&str> = SHAPES.iter().map(|s| s.0).collect();
            eprintln!("usage: gen_checkpoint OUT.pth SIZE [BLOCKS]    ({})", names.join(", "));
            return ExitCode::from(2);
        }
    };
    let Some((_, shape)) = SHAPES.iter().find(|(name, _)| name == size) else {
        eprintln!("there is no size {size:?}");
        return ExitCode::from(2);
    };
    let shape = Shape { layers: layers.unwrap_or(shape.layers), ..*shape };
    match write(Path::new(path), shape) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {path}: {error}");
            ExitCode::FAILURE
        }
    }
}

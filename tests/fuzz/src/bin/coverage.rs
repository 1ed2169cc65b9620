//! One target under libFuzzer, which is guided by coverage. Neither nightly Rust nor cargo-fuzz is needed:
//!
//! ```text
//! FLAGS='-Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=3
//!        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
//!        -Cllvm-args=-sanitizer-coverage-trace-compares'
//! RUSTFLAGS="$FLAGS" cargo build --release --features coverage --bin coverage --target x86_64-unknown-linux-gnu
//! FUZZ_TARGET=pth-pickle target/x86_64-unknown-linux-gnu/release/coverage corpus/pth-pickle -max_total_time=60
//! ```
//!
//! The folder `corpus/TARGET` must exist; the target's seeds are put into it at the start.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rwkv_quant_fuzz::{Scratch, Target, targets};

static STATE: OnceLock<(&'static Target, Scratch)> = OnceLock::new();

fn state() -> &'static (&'static Target, Scratch) {
    STATE.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let target = targets().into_iter().find(|t| t.name == name).expect("FUZZ_TARGET names a target");
        (target, Scratch::new().expect("a scratch folder can be made"))
    })
}

fuzz_target!(
    init: {
        let folder = std::path::Path::new("corpus").join(state().0.name);
        for (i, seed) in (state().0.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{i}")), seed).expect("corpus/TARGET exists");
        }
    },
    |data: &[u8]| {
        (state().0.run)(&state().1, data);
    }
);

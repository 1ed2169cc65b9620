//! One target, named by FUZZ_TARGET, under libFuzzer, which is guided by coverage; any other name lists them. Neither
//! nightly Rust nor cargo-fuzz is needed: campaign.py builds and runs it. The folder `corpus/TARGET` must exist; the
//! target's seeds are put into it at the start.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rwkv_quant_fuzz::{Scratch, Target, targets};

static STATE: OnceLock<(&'static Target, Scratch)> = OnceLock::new();

fn state() -> &'static (&'static Target, Scratch) {
    STATE.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let Some(target) = targets().into_iter().find(|t| t.name == name) else {
            targets().iter().for_each(|t| println!("{}", t.name));
            std::process::exit(2);
        };
        (target, Scratch::new().expect("a scratch folder can be made"))
    })
}

fuzz_target!(
    init: {
        let folder = std::path::Path::new("corpus").join(state().0.name);
        // When corpora are merged, the program is started elsewhere, and needs no seeds.
        if folder.is_dir() {
            for (i, seed) in (state().0.seeds)().iter().enumerate() {
                std::fs::write(folder.join(format!("seed-{i}")), seed).expect("the corpus takes a file");
            }
        }
    },
    |data: &[u8]| {
        (state().0.run)(&state().1, data);
    }
);

//! Importance matrices in which channels are 0: case imatrix-zero (llama.cpp #8661, #11773, #20460).

use std::ops::Range;
use std::path::Path;

use formats::{Imatrix, Limits};
use serde_json::Value;

use crate::run::{json, ok, testdata};

const WIDE: &str = "blk.0.channel_mix_value.weight";
const TYPES: [&str; 4] = ["q4_k_m", "q6_k", "q4_0", "iq4_xs"];

/// An importance matrix of rwkv7-bytes, GGUF or .dat, whose entry of [`WIDE`] has `rest` in the columns `zeros`.
fn imatrix(path: &Path, zeros: Range<usize>, rest: f32) {
    let known = testdata("golden/llama_cpp/rwkv7-bytes.imatrix.gguf");
    let mut imatrix = Imatrix::read(&known, &Limits::default()).unwrap();
    let columns = imatrix.entries.get_mut(WIDE).unwrap();
    columns[zeros].fill(rest);
    let is_dat = path.extension().is_some_and(|e| e == "dat");
    let bytes = if is_dat { imatrix.to_dat() } else { imatrix.to_gguf(512, 512).unwrap() };
    std::fs::write(path, bytes).unwrap();
}

/// The weights of [`WIDE`], and the length of its rows.
fn weights(path: &Path) -> (Vec<f32>, usize) {
    let file = formats::open(path, &Limits::default()).unwrap();
    let tensor = file.tensor(WIDE).unwrap();
    let mut values = vec![0.0; tensor.shape.iter().product()];
    quant::codec(tensor.encoding).unwrap().decode(file.bytes(tensor), &mut values);
    (values, tensor.shape[1])
}

/// Squared error of some columns of `found`, relative to `exact`.
fn error(exact: &(Vec<f32>, usize), found: &(Vec<f32>, usize), columns: &Range<usize>) -> f64 {
    let (mut off, mut power) = (0.0, 0.0);
    for (x, y) in exact.0.chunks(exact.1).zip(found.0.chunks(found.1)) {
        for i in columns.clone() {
            off += f64::from(x[i] - y[i]).powi(2);
            power += f64::from(x[i]).powi(2);
        }
    }
    off / power
}

fn converted(out: &Path, kind: &str, flags: &[&str]) -> Value {
    let (model, out) = (testdata("rwkv7-bytes.pth"), out.to_str().unwrap());
    let args = ["--format", "json", "convert", model.to_str().unwrap(), out, "-f", "-t", kind];
    json(args.iter().chain(flags))
}

#[test]
fn columns_without_an_importance_are_rounded_as_without_any() {
    let dir = tempfile::tempdir().unwrap();
    let (exact, out) = (dir.path().join("exact.gguf"), dir.path().join("out.gguf"));
    converted(&exact, "f32", &[]);
    let exact = weights(&exact);
    for search in ["standard", "best"] {
        for kind in TYPES {
            converted(&out, kind, &["--search", search]);
            let plain = weights(&out);
            for (name, zeros, rest) in [
                ("all.gguf", 0..exact.1, 0.0),
                ("some.gguf", 256..512, 0.0),
                ("few.dat", 256..288, 0.0),
                ("denormal.dat", 256..512, 1e-42),
            ] {
                let matrix = dir.path().join(name);
                imatrix(&matrix, zeros.clone(), rest);
                let flags = ["--search", search, "--imatrix", matrix.to_str().unwrap()];
                let report = converted(&out, kind, &flags);
                let (plain, found) = (error(&exact, &plain, &zeros), error(&exact, &weights(&out), &zeros));
                assert!(found < 1.3 * plain, "{kind} {search} {name}: {found:.2e} for {plain:.2e}");
                let warning = format!("{WIDE} ({} columns)", zeros.len());
                let warnings = report["warnings"].to_string();
                assert!(warnings.contains(&warning), "{kind} {name}: {warnings}");
            }
        }
    }
}

/// Nothing changes, and nothing is said, where an importance is positive or a single channel was never used.
#[test]
fn single_columns_of_importance_0_are_believed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let matrix = dir.path().join("single.gguf");
    imatrix(&matrix, 300..301, 0.0);
    for kind in TYPES {
        let report = converted(&out, kind, &["--imatrix", matrix.to_str().unwrap()]);
        assert_eq!(report["warnings"], serde_json::json!([]), "{kind}");
    }
    ok(["verify", out.to_str().unwrap()]);
}

/// Neurons that never fire in a calibration text: GPTQ into blocks, and codes of any rate.
#[test]
fn dead_neurons_keep_their_weights_under_calibration() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (model, text) = (testdata("rwkv7-bytes.pth"), at("narrow.txt"));
    let model = model.to_str().unwrap();
    // One letter over and over uses few of the neurons.
    std::fs::write(&text, "a".repeat(4096)).unwrap();
    ok(["calibrate", model, &text, "-o", &at("squares.gguf"), "--tokens", "4096"]);
    let squares = Imatrix::read(Path::new(&at("squares.gguf")), &Limits::default()).unwrap();
    let is_dead = |i: &usize| squares.entries[WIDE][*i] == 0.0;
    let dead: Vec<usize> = (0..squares.entries[WIDE].len()).filter(is_dead).collect();
    assert!(dead.len() > 100, "{} neurons are dead", dead.len());
    for (name, size) in [("out.gguf", &["-t", "q4_k_m"][..]), ("out.rwkvz", &["--target-bpw", "4.5"])] {
        let args = ["convert", model, &at(name), "--calib", &text, "--calib-tokens", "4096"];
        ok(args.iter().chain(size));
        // Back to plain weights, in GGUF's names.
        let plain = at(&format!("{name}.f32.gguf"));
        ok(["convert", &at(name), &plain, "-t", "f32"]);
        let found = weights(Path::new(&plain));
        let is_erased = |i: &&usize| found.0.chunks(found.1).all(|row| row[**i] == 0.0);
        let erased = dead.iter().filter(is_erased).count();
        assert_eq!(erased, 0, "{name}: of {} dead neurons", dead.len());
    }
}

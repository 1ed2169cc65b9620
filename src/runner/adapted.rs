//! Initial states and adapters against the official runner and merged checkpoints; damaged weights are named.

use std::path::{Path, PathBuf};

use formats::Limits;

use super::tests::{floats, sequence, worst};
use super::variants::{Tensors, tensors, write};
use super::*;
use crate::eval::{Load, Sequence, measure};
use crate::model::Dims;
use crate::model::adapter::{self, Adapter, Layout, TunedState};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn model(path: &Path) -> Model {
    Model::detect(formats::open(path, &Limits::default()).unwrap(), &[]).unwrap()
}

fn runner(model: Model) -> Runner {
    Runner::new(model, Options::default()).unwrap()
}

/// A runner of a model with these tensors.
fn of(folder: &tempfile::TempDir, name: &str, tensors: &Tensors) -> Runner {
    let file = folder.path().join(format!("{name}.safetensors"));
    write(&file, tensors);
    runner(model(&file))
}

/// The initial state that `golden/record.py` gave the official runner, in either layout.
fn tuned(model: &Model, layout: Layout) -> Tensors {
    let Dims { layers, heads, head_size: size, .. } = model.dims;
    let block = |layer: usize| {
        let value = |n: usize| ((0.37 * n as f64 + layer as f64).sin() / 2.0) as f32;
        let places = (0..heads * size * size).map(|n| match layout {
            Layout::ValueKey => n,
            Layout::KeyValue => n / (size * size) * size * size + n % size * size + n / size % size,
        });
        (format!("blocks.{layer}.att.time_state"), vec![heads, size, size], places.map(value).collect())
    };
    (0..layers).map(block).collect()
}

#[test]
fn an_initial_state_gives_the_logits_of_the_official_runner() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes"] {
        let expected = floats(&testdata(&format!("golden/{name}/fn3.tuned.logits.npy")));
        let mut found = Vec::new();
        let path = testdata(&format!("{name}.pth"));
        let file = folder.path().join("state.safetensors");
        let logits = |layout| {
            let mut model = model(&path);
            model.state = Some(TunedState::read(&file, &model, layout).unwrap());
            sequence(&runner(model), &b"fn ".map(u32::from))
        };
        for layout in [Layout::ValueKey, Layout::KeyValue] {
            write(&file, &tuned(&model(&path), layout));
            found.push(logits(layout));
            // The other layout is another state.
            let other = if layout == Layout::ValueKey { Layout::KeyValue } else { Layout::ValueKey };
            assert!(worst(&logits(other), &expected) > 0.1, "{name}");
        }
        assert_eq!(found[0], found[1], "{name}");
        let difference = worst(&found[0], &expected);
        println!("{name}: {difference:.1e}");
        assert!(difference <= 2e-5, "{name}: {difference}");
    }
}

#[test]
fn a_state_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let seven = model(&testdata("rwkv7-bytes.pth"));
    let mut tensors = tuned(&seven, Layout::ValueKey);
    let refused = |model: &Model, tensors: &Tensors| {
        let file = folder.path().join("state.safetensors");
        write(&file, tensors);
        TunedState::read(&file, model, Layout::ValueKey).unwrap_err().to_string()
    };
    tensors[1].1 = vec![8, 64, 32];
    let error = refused(&seven, &tensors);
    assert!(
        error.contains("\"blocks.1.att.time_state\" has the shape [8, 64, 32], not [4, 64, 64]"),
        "{error}"
    );
    tensors.remove(1);
    let error = refused(&seven, &tensors);
    assert!(error.contains("\"blocks.1.att.time_state\" is missing"), "{error}");
    let error = refused(&model(&testdata("rwkv4-bytes.pth")), &tensors);
    assert!(error.ends_with("rwkv4-bytes.pth is RWKV-4, whose state cannot be tuned"), "{error}");
}

#[test]
fn an_adapted_model_is_the_merged_one() {
    const ALPHA: f32 = 12.0;
    const RANK: usize = 4;
    let folder = tempfile::tempdir().unwrap();
    let prompt = b"/// Returns the ".map(u32::from);
    for name in ["rwkv4-bytes.pth", "rwkv5.2-bytes.pth", "rwkv6-bytes.pth", "rwkv7-bytes.pth"] {
        let mut merged = tensors(name);
        let mut adapter = Tensors::new();
        let noise =
            |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin() / 20.0).collect::<Vec<f32>>();
        for (name, shape, values) in &mut merged {
            let Some(matrix) = name.strip_suffix(".weight").filter(|_| name.contains("blocks.1")) else {
                continue;
            };
            if let [outs, ins] = shape[..] {
                let (a, b) = (noise(RANK * ins, 0.71), noise(outs * RANK, 0.37));
                for (row, values) in values.chunks_mut(ins).enumerate() {
                    for (column, value) in values.iter_mut().enumerate() {
                        let change: f32 = (0..RANK).map(|r| b[row * RANK + r] * a[r * ins + column]).sum();
                        *value += ALPHA / RANK as f32 * change;
                    }
                }
                adapter.push((format!("{matrix}.lora_A"), vec![RANK, ins], a));
                adapter.push((format!("{matrix}.lora_B"), vec![outs, RANK], b));
            } else {
                values.iter_mut().for_each(|v| *v *= 0.9);
                adapter.push((name.clone(), shape.clone(), values.clone()));
            }
        }
        assert!(adapter.len() >= 10, "{name}: {}", adapter.len());
        let merged = sequence(&of(&folder, "merged", &merged), &prompt);
        let file = folder.path().join("lora.safetensors");
        write(&file, &adapter);
        let mut adapted = model(&testdata(name));
        let options = adapter::Options { alpha: Some(ALPHA), init: None, unscaled: false };
        Adapter::read(&file, &adapted, options).unwrap().merge(&mut adapted);
        let plain = sequence(&runner(model(&testdata(name))), &prompt);
        let difference = worst(&sequence(&runner(adapted), &prompt), &merged);
        println!("{name}: {difference:.1e}");
        assert!(difference <= 2e-5, "{name}: {difference}");
        assert!(worst(&plain, &merged) > 0.1, "{name}: the adapter must matter");
    }
}

/// Values of a row of the embedding.
fn columns(model: &str) -> usize {
    let (_, shape, _) = tensors(model).into_iter().find(|t| t.0 == "emb.weight").unwrap();
    shape[1]
}

/// Message about a model with one weight replaced.
fn complaint(model: &str, tensor: &str, at: usize, weight: f32) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut damaged = tensors(model);
    let (_, _, values) = damaged.iter_mut().find(|t| t.0 == tensor).unwrap();
    values[at] = weight;
    let runner = of(&folder, "damaged", &damaged);
    let tokens: Vec<u32> = b"fn main() {}".iter().map(|b| u32::from(*b)).collect();
    let all = 0..tokens.len();
    let sequence = Sequence { scored: 1..all.end, tokens: all, window: 0, window_tokens: 99 };
    let load = Load { tokens: 64, logits: 64, sequences: 4 };
    let error = measure(&[&runner], &[], &tokens, &[sequence], load, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("damaged.safetensors "), "{error}");
    error
}

#[test]
fn damaged_weights_are_named_by_file_and_block() {
    for model in ["rwkv4-bytes.pth", "rwkv5.2-bytes.pth", "rwkv6-bytes.pth", "rwkv7-bytes.pth"] {
        for (tensor, block) in
            [("blocks.0.att.key.weight", 0), ("blocks.1.ffn.value.weight", 1), ("blocks.1.ln1.weight", 1)]
        {
            let error = complaint(model, tensor, 7, f32::NAN);
            assert!(error.ends_with(&format!("computes infinite or NaN values in block {block}")), "{error}");
        }
        let error = complaint(model, "blocks.1.att.output.weight", 7, f32::INFINITY);
        assert!(error.ends_with("computes infinite or NaN values in block 1"), "{error}");
        for tensor in ["emb.weight", "blocks.0.ln0.bias"] {
            // (The text starts with "fn", and the first byte's row is the one that is damaged.)
            let at = if tensor == "emb.weight" { usize::from(b'f') * columns(model) } else { 0 };
            let error = complaint(model, tensor, at, f32::NAN);
            assert!(error.ends_with("in the embedding or its norm, blocks.0.ln0"), "{error}");
        }
        for weight in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = complaint(model, "head.weight", 1000, weight);
            assert!(
                error.contains("gives logits that are infinite or NaN for the token at place 1 "),
                "{error}"
            );
        }
        let error = complaint(model, "ln_out.bias", 3, f32::NAN);
        assert!(error.contains("gives logits that are infinite or NaN"), "{error}");
    }
}

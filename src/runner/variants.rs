//! Versions that no published test model has, against models of their neighbours that must compute the same.

use std::path::{Path, PathBuf};

use formats::{Limits, Metadata, Planned};
use quant::Encoding;

use super::tests::{sequence, worst};
use super::*;
use crate::equalize::tests::anything;

pub(super) type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// All tensors of one of the project's models.
pub(super) fn tensors(name: &str) -> Tensors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    let model = Model::detect(formats::open(&path, &Limits::default()).unwrap(), &[]).unwrap();
    let one = |held: &ModelTensor| {
        let mut values = vec![0.0; held.values.elements()];
        held.values.read(&model.container, 0..held.values.rows(), &mut values);
        (held.name(), held.values.shape().to_vec(), values)
    };
    model.tensors.iter().map(one).collect()
}

/// The logits of a model with these tensors.
fn logits(folder: &tempfile::TempDir, name: &str, tensors: &Tensors, version: &str) -> Vec<f32> {
    logits_of(model(folder, name, tensors, version))
}

/// A model with these tensors.
fn model(folder: &tempfile::TempDir, name: &str, tensors: &Tensors, version: &str) -> Model {
    let file: PathBuf = folder.path().join(format!("{name}.safetensors"));
    write(&file, tensors);
    let model = Model::detect(formats::open(&file, &Limits::default()).unwrap(), &[]).unwrap();
    assert_eq!(model.version.name, version);
    model
}

fn logits_of(model: Model) -> Vec<f32> {
    let prompt: Vec<u32> = b"/// Returns the ".iter().map(|b| u32::from(*b)).collect();
    sequence(&Runner::new(model, Options::default()).unwrap(), &prompt)
}

/// Writes a safetensors file.
pub(super) fn write(file: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let plan = |(name, shape, _): &(String, Vec<usize>, Vec<f32>)| Planned {
        name: name.clone(),
        shape: shape.clone(),
        encoding: Encoding::F32,
    };
    let planned: Vec<Planned> = tensors.iter().map(plan).collect();
    let placement = formats::safetensors::place(&Metadata::new(), &planned).unwrap();
    let mut bytes = placement.head.clone();
    for (offset, (_, _, values)) in placement.offsets.iter().zip(tensors) {
        bytes.resize(*offset as usize, 0);
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    std::fs::write(file, bytes).unwrap();
}

/// 5.1 is 5.2 with one decay and one bonus a head.
#[test]
fn version_5_1_is_5_2_with_equal_channels() {
    let folder = tempfile::tempdir().unwrap();
    let mut fine = tensors("rwkv5.2-bytes.pth");
    let (mut coarse, mut real) = (Tensors::new(), Tensors::new());
    for (name, shape, values) in &mut fine {
        if name.ends_with("time_decay") || name.ends_with("time_faaaa") {
            let size = shape[1];
            for head in values.chunks_mut(size) {
                let first = head[0].abs();
                head.fill(first);
            }
            let heads: Vec<f32> = values.chunks(size).map(|h| h[0]).collect();
            real.push((name.clone(), vec![shape[0]], heads.clone()));
            let (name, heads) = match name.strip_suffix("time_faaaa") {
                Some(before) => (format!("{before}time_first"), heads.iter().map(|u| u.ln()).collect()),
                None => (name.clone(), heads),
            };
            coarse.push((name, vec![shape[0]], heads));
        } else {
            coarse.push((name.clone(), shape.clone(), values.clone()));
            real.push((name.clone(), shape.clone(), values.clone()));
        }
    }
    let fine = logits(&folder, "fine", &fine, "5.2");
    assert_eq!(logits(&folder, "real", &real, "5.1"), fine);
    assert!(worst(&logits(&folder, "coarse", &coarse, "5.1"), &fine) < 2e-5);
}

/// 7a multiplies the hidden layer by `((y s1) M) s2 + s0`; with factors that do not depend on the token, that can
/// be put into the rows of `ffn.value`.
#[test]
fn version_7a_scales_the_hidden_layer() {
    let folder = tempfile::tempdir().unwrap();
    let plain = tensors("rwkv7-bytes.pth");
    let get = |name: &str| plain.iter().find(|t| t.0 == name).unwrap();
    let (vocab, embd) = (get("emb.weight").1[0], get("emb.weight").1[1]);
    let ffn = get("blocks.0.ffn.key.weight").1[0];
    let noise = |n: usize, f: f32| (0..n).map(|i| (i as f32 * f).sin()).collect::<Vec<f32>>();
    let scale: Vec<f32> = noise(ffn, 0.77).iter().map(|v| 1.0 + v / 4.0).collect();
    let (mut deep, mut folded) = (plain.clone(), plain.clone());
    for (name, _, values) in &mut folded {
        if name.ends_with("ffn.value.weight") {
            values.chunks_mut(ffn).for_each(|row| row.iter_mut().zip(&scale).for_each(|(v, s)| *v *= s));
        }
    }
    let layers = plain.iter().filter(|t| t.0.ends_with("ffn.key.weight")).count();
    let mut random = Vec::new();
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[usize], values: Vec<f32>| {
            let tensor = (format!("blocks.{layer}.ffn.{name}"), shape.to_vec(), values);
            random.push(tensor);
        };
        add("s_emb.weight", &[vocab, 1024], noise(vocab * 1024, 0.31));
        add("s_emb_x.weight", &[1024, embd], noise(1024 * embd, 0.53));
        add("s0", &[1, 1, ffn], scale.clone());
        add("s1", &[embd, 32], noise(embd * 32, 0.91));
        add("s2", &[32, ffn], vec![0.0; 32 * ffn]);
    }
    deep.extend(random);
    let folded = logits(&folder, "folded", &folded, "7.0");
    let found = logits(&folder, "deep", &deep, "7a");
    assert!(worst(&found, &folded) < 1e-4, "{}", worst(&found, &folded));
    // And the looked-up matrix matters where s2 lets it through.
    for (name, _, values) in &mut deep {
        if name.ends_with("ffn.s2") {
            values.fill(0.001);
        }
    }
    let deeper = logits(&folder, "deeper", &deep, "7a");
    assert!(worst(&deeper, &folded) > 1e-3);
    // Channels that are rescaled are rescaled for it too.
    let mut rescaled = model(&folder, "rescaled", &deep, "7a");
    rescaled.rescale(&anything(&rescaled, |_| true)).unwrap();
    assert!(logits_of(rescaled) == deeper);
}

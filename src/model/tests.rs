//! Every version in every naming: made up from the tables, written, found again.

use formats::{Limits, Metadata, Planned};
use quant::Encoding;

use super::spec::{Dim, Rank, Scope};
use super::{Body, Map, Model, NAMINGS, Naming, TensorSpec, TensorView, VERSIONS, Version};

/// Sizes that are all different, so that no dimension can be taken for another.
fn size(dim: Dim) -> usize {
    match dim {
        Dim::One => 1,
        Dim::V => 11,
        Dim::C | Dim::A => 12,
        Dim::F => 20,
        Dim::H => 3,
        Dim::N => 4,
        Dim::G => 8,
        Dim::Rank(rank) => rank as usize + 5,
        Dim::FiveRanks(rank) => 5 * (rank as usize + 5),
        Dim::Is(n) => n,
    }
}

const LAYERS: usize = 3;

/// Name, shape and values of a stored tensor.
type Part = (String, Vec<usize>, Vec<f32>);

/// A model's tensors as a file of this naming holds them; `None` if the naming does not know the version.
fn file(version: &'static Version, naming: &Naming) -> Option<Vec<Part>> {
    let mut tensors: Vec<Part> = Vec::new();
    for spec in version.specs() {
        let stored = naming.store(version, spec)?;
        for layer in if spec.scope == Scope::Model { 0..1 } else { 0..LAYERS } {
            if spec.scope == Scope::Later && layer == 0 {
                continue;
            }
            let (mut shape, mut values) = canonical(spec, layer);
            if stored.transposed {
                let n = shape.len();
                let (rows, cols) = (shape[n - 2], shape[n - 1]);
                values = values
                    .chunks(rows * cols)
                    .flat_map(|m| (0..rows * cols).map(|i| m[i % rows * cols + i / rows]).collect::<Vec<_>>())
                    .collect();
                shape.swap(n - 2, n - 1);
            }
            let name = stored.name_in(layer);
            match stored.stack {
                None => tensors.push((name, shape, values)),
                Some(0) => tensors.push((name, vec![1, size(Dim::C)], values)),
                Some(k) => {
                    let stack = tensors.iter_mut().find(|t| t.0 == name)?;
                    assert_eq!(stack.1[0], k, "{name}: out of order");
                    stack.1[0] += 1;
                    stack.2.extend(values);
                }
            }
        }
    }
    Some(tensors)
}

/// Shape and values of a spec in a block: every value of the model is another one.
fn canonical(spec: &TensorSpec, layer: usize) -> (Vec<usize>, Vec<f32>) {
    let shape: Vec<usize> = spec.shape.iter().map(|d| size(*d)).collect();
    let seed = spec.name.bytes().fold(layer as u32 + 1, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let count: usize = shape.iter().product();
    (shape, (0..count as u32).map(|i| (seed % 1000) as f32 + i as f32 / 1024.0).collect())
}

fn open(tensors: &[Part], prefix: &str) -> Model {
    let planned: Vec<Planned> = tensors
        .iter()
        .map(|(name, shape, _)| Planned {
            name: format!("{prefix}{name}"),
            encoding: Encoding::F32,
            shape: shape.clone(),
        })
        .collect();
    let placement = formats::safetensors::place(&Metadata::new(), &planned).unwrap();
    let mut bytes = placement.head;
    for (_, _, values) in tensors {
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    let file = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Model::detect(formats::open(file.path(), &Limits::default()).unwrap(), &[]).unwrap()
}

fn values(model: &Model, lazy: &TensorView) -> Vec<f32> {
    let mut out = vec![0.0; lazy.elements()];
    lazy.read(&model.container, 0..lazy.rows(), &mut out);
    out
}

#[test]
fn every_version_is_found_in_every_naming() {
    let mut pairs = 0;
    for version in VERSIONS.iter().filter(|v| v.body == Body::Rwkv) {
        for naming in NAMINGS.iter().filter(|n| n.formats.contains(&"safetensors")) {
            let Some(tensors) = file(version, naming) else { continue };
            let model = open(&tensors, if naming.wrapped { "_orig_mod.module." } else { "" });
            let what = format!("{} in the naming of {}", version.about, naming.name);
            assert_eq!(model.version.about, version.about, "{what}");
            let d = model.dims;
            assert_eq!((d.layers, d.vocab, d.embd, d.ffn), (LAYERS, 11, 12, 20), "{what}");
            assert_eq!((d.heads, d.head_size), if version.major() == 4 { (0, 0) } else { (3, 4) }, "{what}");
            if version.major() == 7 {
                assert_eq!(model.uniform_rank(Rank::Gate), Some(Rank::Gate as usize + 5));
            }
            for held in &model.tensors {
                let (shape, expected) = canonical(held.spec, held.layer);
                assert_eq!(held.values.shape(), shape, "{what}: {}", held.name());
                assert_eq!(values(&model, &held.values), expected, "{what}: {}", held.name());
            }
            pairs += 1;
        }
    }
    assert!(pairs >= 20, "only {pairs} pairs of version and naming");
}

#[test]
fn rows_are_read_alike_in_any_pieces() {
    let version = VERSIONS.iter().find(|v| v.name == "6.0").unwrap();
    let naming = NAMINGS.iter().find(|n| n.name == "web-rwkv").unwrap();
    let model = open(&file(version, naming).unwrap(), "");
    for held in &model.tensors {
        let lazy = held.values.clone().mapped(Map::Scale(0.5));
        let whole = values(&model, &lazy);
        let mut pieces = Vec::new();
        for row in 0..lazy.rows() {
            let mut out = vec![0.0; lazy.cols()];
            lazy.read(&model.container, row..row + 1, &mut out);
            pieces.extend(out);
        }
        assert_eq!(pieces, whole, "{}", held.name());
    }
}

/// Factors go with their channels through whatever happens to a tensor's shape.
#[test]
fn factors_follow_their_channels() {
    let version = VERSIONS.iter().find(|v| v.name == "6.0").unwrap();
    let naming = NAMINGS.iter().find(|n| n.name == "web-rwkv").unwrap();
    let model = open(&file(version, naming).unwrap(), "");
    for held in model.tensors.iter().filter(|h| h.values.shape().len() >= 2) {
        let (plain, shape) = (&held.values, held.values.shape());
        for dim in 0..shape.len() {
            let step: usize = shape[dim + 1..].iter().product();
            let factor = |i: usize| 1.0 + (i / step % shape[dim]) as f32;
            let lazy = plain.rescaled(dim, (0..shape[dim]).map(|i| factor(i * step)).collect()).unwrap();
            let expected: Vec<f32> =
                values(&model, plain).iter().enumerate().map(|(i, v)| v * factor(i)).collect();
            let what = format!("{} along {dim}", held.name());
            assert_eq!(values(&model, &lazy), expected, "{what}");
            assert_eq!(values(&model, &lazy.reshaped(&[expected.len()]).unwrap()), expected, "{what}");
            let twice = lazy.transposed().and_then(|t| t.transposed()).unwrap();
            assert_eq!(values(&model, &twice), expected, "{what}");
            let turned = lazy.transposed().unwrap();
            let (rows, cols) = (shape[shape.len() - 2], shape[shape.len() - 1]);
            let there =
                |i: usize| i / (rows * cols) * rows * cols + i % rows * cols + i % (rows * cols) / rows;
            let swapped: Vec<f32> = (0..expected.len()).map(|i| expected[there(i)]).collect();
            assert_eq!(values(&model, &turned), swapped, "{what}");
            let each = expected.len() / shape[0];
            match lazy.slice(0) {
                Some(first) => assert_eq!(values(&model, &first), expected[..each], "{what}"),
                None => assert!(dim == 0 && shape[0] > 1, "{what}"),
            }
            let stacked = TensorView::stacked(&[lazy.clone(), lazy.clone()]).unwrap();
            assert_eq!(values(&model, &stacked), [expected.clone(), expected.clone()].concat(), "{what}");
            let mut outer = shape.to_vec();
            outer.iter_mut().for_each(|d| *d += 1);
            let padded = lazy.padded(&outer).unwrap();
            let found: Vec<f32> = values(&model, &padded).into_iter().filter(|v| *v != 0.0).collect();
            assert_eq!(found, expected.iter().copied().filter(|v| *v != 0.0).collect::<Vec<f32>>(), "{what}");
            let doubled = values(&model, &lazy.repeated(2).unwrap());
            assert!(doubled.iter().zip(expected.iter().flat_map(|v| [v, v])).all(|(a, b)| a == b), "{what}");
        }
        assert_eq!(plain.rescaled(0, vec![1.0; shape[0] + 1].into()), None);
    }
}

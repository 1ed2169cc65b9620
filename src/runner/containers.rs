//! Check that a model gives equal logits from every container and naming that is read.

use std::collections::BTreeMap;
use std::path::Path;

use formats::{Limits, Placement, Planned};
use quant::Encoding;

use super::tests::{sequence, worst};
use super::variants::{Tensors, write};
use super::*;
use crate::equalize::tests::anything;
use crate::model::{Map, NAMINGS, Naming};

fn open(path: &Path) -> Runner {
    let container = formats::open(path, &Limits::default()).unwrap();
    Runner::new(Model::detect(container, &[]).unwrap(), Options::default()).unwrap()
}

fn swapped(shape: &mut [usize], values: &[f32]) -> Vec<f32> {
    let [.., rows, cols] = shape[..] else { panic!("{shape:?}") };
    let n = shape.len();
    shape.swap(n - 2, n - 1);
    let one = |m: &[f32]| (0..rows * cols).map(|i| m[i % rows * cols + i / rows]).collect::<Vec<f32>>();
    values.chunks(rows * cols).flat_map(one).collect()
}

/// The tensors of a model as a naming stores them; `None` if it does not know the version.
fn stored(model: &Model, naming: &Naming) -> Option<Tensors> {
    let mut plain = Tensors::new();
    // By name: the vectors that stand stacked under it, by their places.
    let mut stacks: BTreeMap<String, BTreeMap<usize, Vec<f32>>> = BTreeMap::new();
    for held in &model.tensors {
        let stored = naming.store(model.version, held.spec)?;
        assert_eq!(stored.regroup, None, "only hybrids have such tensors");
        let mut values = vec![0.0; held.values.elements()];
        held.values.read(&model.container, 0..held.values.rows(), &mut values);
        let mut shape = held.values.shape().to_vec();
        if stored.transposed {
            values = swapped(&mut shape, &values);
        }
        for v in &mut values {
            *v = match stored.undo {
                None => *v,
                Some(Map::Ln) => v.exp(),
                Some(Map::LnNeg) => -v.exp(),
                Some(Map::LnNegLn) => (-v.exp()).exp(),
                Some(Map::Scale(factor)) => *v / factor,
                Some(map) => panic!("{map:?} undoes nothing that a naming does"),
            };
        }
        let name = stored.name_in(held.layer);
        match stored.stack {
            Some(place) => drop(stacks.entry(name).or_default().insert(place, values)),
            None => plain.push((name, shape, values)),
        }
    }
    for (name, parts) in stacks {
        let (count, width) = (parts.len(), parts[&0].len());
        plain.push((name, vec![count, width], parts.into_values().flatten().collect()));
    }
    Some(plain)
}

/// Writes a file of rwkv.cpp.
fn write_rwkv_cpp(path: &Path, model: &Model, tensors: &Tensors) {
    let dims = model.dims;
    let header = formats::rwkv_cpp::Header {
        n_vocab: dims.vocab as u32,
        n_embed: dims.embd as u32,
        n_layer: dims.layers as u32,
        encoding: Encoding::F32,
    };
    let plan = |(name, shape, _): &_| Planned {
        name: String::clone(name),
        encoding: Encoding::F32,
        shape: Vec::clone(shape),
    };
    let planned: Vec<Planned> = tensors.iter().map(plan).collect();
    let Placement { head, offsets, between, total_bytes, .. } =
        formats::rwkv_cpp::place(&header, &planned).unwrap();
    let mut bytes = vec![0; total_bytes as usize];
    let mut put = |at: u64, part: &[u8]| bytes[at as usize..][..part.len()].copy_from_slice(part);
    put(0, &head);
    between.iter().for_each(|(at, part)| put(*at, part));
    for (at, (_, _, values)) in offsets.iter().zip(tensors) {
        put(*at, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn every_naming_gives_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = b"/// Returns the ".map(u32::from);
    let mut seen = Vec::new();
    for name in ["rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes"] {
        let runner = open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/{name}.pth")));
        let expected = sequence(&runner, &prompt);
        // GGUF files and prefabs are written by the program itself: tests/it/evaluate.rs, web_rwkv.rs.
        for naming in NAMINGS.iter().filter(|n| !matches!(n.formats, ["GGUF"] | ["prefab"])) {
            let Some(tensors) = stored(runner.model(), naming) else { continue };
            let what = format!("{name} in the naming of {}", naming.name);
            let (file, limit) = match naming.name {
                "rwkv.cpp" => (folder.path().join("model.bin"), 1e-5), // decays are stored transformed
                _ => (folder.path().join("model.safetensors"), 0.0),
            };
            match naming.name {
                "rwkv.cpp" => write_rwkv_cpp(&file, runner.model(), &tensors),
                _ => write(&file, &tensors),
            }
            let difference = worst(&sequence(&open(&file), &prompt), &expected);
            println!("{what}: {difference:.1e}");
            assert!(difference <= limit, "{what}: {difference}");
            let mut rescaled = open(&file).into_model();
            let unchanged = sequence(&open(&file), &prompt);
            rescaled.rescale(&anything(&rescaled, |_| true)).unwrap();
            let rescaled = Runner::new(rescaled, Options::default()).unwrap();
            assert!(sequence(&rescaled, &prompt) == unchanged, "{what}, rescaled");
            seen.push(naming.name);
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 7, "{seen:?}");
}

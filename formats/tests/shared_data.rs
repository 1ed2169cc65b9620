//! Real small models in every container that is read: right names, counts, shapes and encodings.
//!
//! They are not part of the project: the tests look for them in `RWKV_QUANT_DATA` or in `shared/data`
//! beside the project, and say so if they skip.
#![allow(clippy::unwrap_used)] // in functions that tests share

use std::path::PathBuf;

use formats::{Container, Limits, Value, open};
use quant::Encoding;

/// The folder or file of that name, if the data is there.
fn data(name: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var_os("RWKV_QUANT_DATA").map_or_else(beside, PathBuf::from);
    let path = folder.join(name);
    if !path.exists() {
        println!("skipped: there is no {}", path.display());
        return None;
    }
    Some(path)
}

#[track_caller]
fn opened(name: &str) -> Option<Container> {
    Some(open(&data(name)?, &Limits::default()).unwrap())
}

#[track_caller]
fn shape(model: &Container, tensor: &str, shape: &[usize], encoding: Encoding) {
    let tensor = model.tensor(tensor).unwrap();
    assert_eq!((tensor.shape.as_slice(), tensor.encoding), (shape, encoding));
    assert_eq!(model.bytes(tensor).len() as u64, tensor.bytes);
}

fn count(model: &Container, encoding: Encoding) -> usize {
    model.tensors().iter().filter(|t| t.encoding == encoding).count()
}

#[test]
fn safetensors_in_one_file() {
    for (name, tensors, tensor, wanted) in [
        ("models/tiny-rwkv6-1m.bf16.safetensors", 342, "blocks.3.att.time_maa_w1", [64, 160]),
        ("models/tiny-rwkv7-834K.bf16.safetensors", 399, "blocks.11.ffn.key.weight", [256, 64]),
    ] {
        let Some(model) = opened(name) else { return };
        assert_eq!(model.format().name(), "safetensors");
        assert_eq!(count(&model, Encoding::BF16), tensors);
        assert_eq!(model.tensors().len(), tensors);
        shape(&model, tensor, &wanted, Encoding::BF16);
        assert_eq!(model.tensors()[0].name, "emb.weight", "in the order of the data");
        assert!(model.tensors().is_sorted_by_key(|t| t.offset));
        assert_eq!(model.value("format"), Some(&Value::from("pt")));
        assert!(model.config().is_none());
    }
}

#[test]
fn hugging_face_folders() {
    for (name, files, tensors, kind, tensor, wanted) in [
        ("hf/tiny-rwkv5.2-730K-hf", 2, 270, "rwkv5", "rwkv.blocks.4.attention.gate.weight", &[64, 64][..]),
        ("hf/tiny-rwkv6-1m-hf", 2, 342, "rwkv6", "rwkv.embeddings.weight", &[256, 64]),
        ("hf/tiny-rwkv7-834K-hf", 1, 399, "rwkv7", "model.layers.0.attn.x_r", &[1, 1, 64]),
    ] {
        let Some(model) = opened(name) else { return };
        assert_eq!((model.files().len(), model.tensors().len()), (files, tensors));
        assert_eq!(count(&model, Encoding::F32), tensors);
        assert_eq!(model.config().unwrap()["model_type"], kind);
        assert_eq!(model.value("index.total_size"), None);
        shape(&model, tensor, wanted, Encoding::F32);
        assert_eq!(model.path(), data(name).unwrap());
        // Every file of weights and every index in the folder opens the same model.
        for entry in model.path().read_dir().unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            if file.ends_with(".safetensors") || file.ends_with(".index.json") {
                let same = open(&path, &Limits::default()).unwrap();
                assert_eq!(same.tensors(), model.tensors(), "{file}");
                assert_eq!(same.config(), model.config());
            }
        }
    }
}

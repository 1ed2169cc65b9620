//! Real small models in every container that is read: right names, counts, shapes and encodings.
//!
//! They are not part of the project, so the tests are ignored unless they are asked for: `RWKV_QUANT_DATA`, or `shared/data`
//! beside the project.
#![allow(clippy::unwrap_used)] // in functions that tests share

use std::path::PathBuf;

use formats::{Container, Error, Limits, Planned, Value, open, rwkv_cpp};
use quant::Encoding;

/// The folder or file of that name.
fn data(name: &str) -> PathBuf {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    std::env::var_os("RWKV_QUANT_DATA").map_or_else(beside, PathBuf::from).join(name)
}

#[track_caller]
fn opened(name: &str) -> Container {
    open(&data(name), &Limits::default()).unwrap_or_else(|e| panic!("{e}: RWKV_QUANT_DATA names the folder"))
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
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn safetensors_in_one_file() {
    for (name, tensors, tensor, wanted) in [
        ("models/tiny-rwkv6-1m.bf16.safetensors", 342, "blocks.3.att.time_maa_w1", [64, 160]),
        ("models/tiny-rwkv7-834K.bf16.safetensors", 399, "blocks.11.ffn.key.weight", [256, 64]),
    ] {
        let model = opened(name);
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
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn hugging_face_folders() {
    for (name, files, tensors, kind, tensor, wanted) in [
        ("hf/tiny-rwkv5.2-730K-hf", 2, 270, "rwkv5", "rwkv.blocks.4.attention.gate.weight", &[64, 64][..]),
        ("hf/tiny-rwkv6-1m-hf", 2, 342, "rwkv6", "rwkv.embeddings.weight", &[256, 64]),
        ("hf/tiny-rwkv7-834K-hf", 1, 399, "rwkv7", "model.layers.0.attn.x_r", &[1, 1, 64]),
    ] {
        let model = opened(name);
        assert_eq!((model.files().len(), model.tensors().len()), (files, tensors));
        assert_eq!(count(&model, Encoding::F32), tensors);
        assert_eq!(model.config().unwrap()["model_type"], kind);
        assert_eq!(model.value("index.total_size"), None);
        shape(&model, tensor, wanted, Encoding::F32);
        assert_eq!(model.path(), data(name));
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

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn rwkv_cpp_files() {
    for (name, tensors, blocks, n_layer) in [
        ("5v2-730K-FP32", 270, (Encoding::F32, 270), 12),
        ("5v2-730K-Q5_0", 270, (Encoding::Q5_0, 96), 12),
        ("5v2-730K-Q5_1", 270, (Encoding::Q5_1, 96), 12),
        ("7v0-834K-FP32", 339, (Encoding::F32, 339), 12),
        ("7v0-834K-Q5_0", 339, (Encoding::Q5_0, 72), 12),
        ("7v0-834K-Q5_1", 339, (Encoding::Q5_1, 72), 12),
    ] {
        let model = opened(&format!("rwkv_cpp/tiny-rwkv-{name}.bin"));
        assert_eq!(model.format().name(), "rwkv.cpp");
        assert_eq!(model.tensors().len(), tensors);
        assert_eq!(count(&model, blocks.0), blocks.1);
        let number = |key: &str| model.value(&format!("rwkv_cpp.{key}")).and_then(Value::as_u64);
        let keys = ["version", "n_vocab", "n_embed", "n_layer"];
        assert_eq!(keys.map(number), [101, 256, 64, n_layer].map(Some));
        shape(&model, "emb.weight", &[256, 64], Encoding::F32);
        if name.starts_with('5') {
            shape(&model, "blocks.0.att.time_decay", &[8, 8, 1], Encoding::F32);
            shape(&model, "blocks.5.ffn.value.weight", &[64, 256], blocks.0);
        } else {
            shape(&model, "blocks.0.att.x_rwkvag", &[6, 1, 64], Encoding::F32);
            shape(&model, "blocks.0.att.w1", &[32, 64], Encoding::F32);
        }

        // The writer makes the same file again, but for the data.
        let planned: Vec<Planned> = model
            .tensors()
            .iter()
            .map(|t| Planned { name: t.name.clone(), encoding: t.encoding, shape: t.shape.clone() })
            .collect();
        let header = rwkv_cpp::Header { n_vocab: 256, n_embed: 64, n_layer: 12, encoding: blocks.0 };
        let placement = rwkv_cpp::place(&header, &planned).unwrap();
        let bytes = model.files()[0].bytes();
        assert!(bytes.starts_with(&placement.head));
        assert_eq!(placement.total_bytes, bytes.len() as u64);
        assert!(placement.offsets.iter().zip(model.tensors()).all(|(offset, t)| *offset == t.offset));
        assert!(placement.between.iter().all(|(at, piece)| bytes[*at as usize..].starts_with(piece)));
    }
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn expected_logits_are_no_model() {
    let path = data("rwkv_cpp/expected-logits-7v0-834K.bin");
    assert!(matches!(open(&path, &Limits::default()), Err(Error::NotAModel { .. })));
}

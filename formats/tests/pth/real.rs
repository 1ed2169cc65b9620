//! Real checkpoints, written by torch. They lie outside the project, so the tests are ignored unless they are asked for.

use std::path::PathBuf;

use formats::{Container, Limits, open};
use quant::Encoding;

/// The folder of real models.
pub fn models() -> PathBuf {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"));
    let models = std::env::var_os("RWKV_QUANT_DATA").map_or_else(beside, PathBuf::from).join("models");
    assert!(models.is_dir(), "there is no folder {}: RWKV_QUANT_DATA names another", models.display());
    models
}

fn model(folder: &std::path::Path, name: &str) -> Container {
    open(&folder.join(name), &Limits::default()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn every_model_opens_with_its_tensors() {
    let folder = models();
    for (name, tensors, encoding, embedding) in [
        ("rwkv7-reverse-54K.bf16.pth", 138, Encoding::BF16, [12, 32]),
        ("rwkv7-reverse-54K.fp32.pth", 138, Encoding::F32, [12, 32]),
        ("tiny-rwkv4-660K.bf16.pth", 78, Encoding::BF16, [256, 128]),
        ("tiny-rwkv4-660K.fp32.pth", 78, Encoding::F32, [256, 128]),
        ("tiny-rwkv5.0-730K.bf16.pth", 246, Encoding::BF16, [256, 64]),
        ("tiny-rwkv5.0-730K.fp32.pth", 246, Encoding::F32, [256, 64]),
        ("tiny-rwkv5.2-730K.bf16.pth", 270, Encoding::BF16, [256, 64]),
        ("tiny-rwkv5.2-730K.fp32.pth", 270, Encoding::F32, [256, 64]),
        ("tiny-rwkv6-1m.bf16.pth", 342, Encoding::BF16, [256, 64]),
        ("tiny-rwkv6-1m.fp32.pth", 342, Encoding::F32, [256, 64]),
        ("tiny-rwkv7-834K.bf16.pth", 399, Encoding::BF16, [256, 64]),
    ] {
        let c = model(&folder, name);
        assert_eq!(c.format().name(), "torch");
        assert_eq!(c.tensors().len(), tensors, "{name}");
        assert!(c.tensors().iter().all(|t| t.encoding == encoding && t.strides.is_none()), "{name}");
        let emb = c.tensor("emb.weight").unwrap();
        assert_eq!(emb.shape, embedding, "{name}");
        assert!(c.tensor("blocks.0.ln0.weight").is_some() && c.tensor("head.weight").is_some());
        assert!(c.tensors().iter().all(|t| t.offset % 64 == 0), "torch aligns storages");
        assert!(c.metadata().is_empty());
    }
}

/// The safetensors files were made from the same tensors by another program.
#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn the_data_is_that_of_the_safetensors_file() {
    let folder = models();
    for stem in ["tiny-rwkv6-1m.bf16", "tiny-rwkv7-834K.bf16"] {
        let c = model(&folder, &format!("{stem}.pth"));
        let bytes = std::fs::read(folder.join(format!("{stem}.safetensors"))).unwrap();
        let other = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(other.names().len(), c.tensors().len());
        for t in c.tensors() {
            let view = other.tensor(&t.name).unwrap();
            assert_eq!(view.shape(), t.shape, "{}", t.name);
            assert_eq!(view.data(), c.bytes(t), "{}", t.name);
        }
    }
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn the_legacy_layout_is_read_like_the_new_one() {
    let folder = models();
    let new = model(&folder, "rwkv7-reverse-54K.fp32.pth");
    let old = model(&folder, "rwkv7-reverse-54K.fp32.legacy.pth");
    assert_eq!(old.tensors().len(), new.tensors().len());
    for (o, n) in old.tensors().iter().zip(new.tensors()) {
        assert_eq!((&o.name, o.encoding, &o.shape, &o.strides), (&n.name, n.encoding, &n.shape, &n.strides));
        assert_eq!(old.bytes(o), new.bytes(n), "{}", o.name);
    }
}

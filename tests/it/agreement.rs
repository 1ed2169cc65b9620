//! The same model gives the same weights from every container and naming.

use std::path::Path;

use crate::run::{json, ok, run, shared_data, testdata};

/// What `inspect` says of a model: version, sizes and ranks.
fn summary(path: &Path) -> serde_json::Value {
    let mut model = json(["inspect", "--format", "json", path.to_str().unwrap()])["model"].clone();
    assert!(model.is_object(), "{}: no model found", path.display());
    for key in ["naming", "prefix", "tokenizer"] {
        model.as_object_mut().unwrap().remove(key);
    }
    model
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn every_shared_model_is_recognised() {
    let data = shared_data();
    // Name in the file name, version, sizes (L, C, F, V, heads, head size).
    let expected = [
        ("rwkv7-reverse-54K", "7.0", [4, 32, 128, 12, 2, 16]),
        ("tiny-rwkv4-660K", "4.0", [4, 128, 256, 256, 0, 0]),
        ("tiny-rwkv5.0-730K", "5.0", [12, 64, 256, 256, 8, 8]),
        ("tiny-rwkv5.2-730K", "5.2", [12, 64, 256, 256, 8, 8]),
        ("tiny-rwkv6-1m", "6.0", [12, 64, 224, 256, 8, 8]),
        ("tiny-rwkv7-834K", "7.0", [12, 64, 256, 256, 1, 64]),
        ("tiny-rwkv-5v2-730K", "5.2", [12, 64, 256, 256, 8, 8]),
        ("tiny-rwkv-7v0-834K", "7.0", [12, 64, 256, 256, 1, 64]),
    ];
    let mut seen = 0;
    for folder in ["models", "hf", "rwkv_cpp"] {
        for entry in std::fs::read_dir(data.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let Some((_, version, sizes)) = expected.iter().find(|(stem, ..)| name.starts_with(stem)) else {
                assert!(name.starts_with("expected-logits"), "{name} is new: say what it is");
                continue;
            };
            let model = summary(&path);
            assert_eq!(model["version"], *version, "{name}");
            let keys = ["n_layer", "n_embd", "n_ffn", "n_vocab", "n_head", "head_size"];
            assert_eq!(keys.map(|k| model[k].as_u64().unwrap()), *sizes, "{name}");
            seen += 1;
        }
    }
    assert!(seen >= 20, "only {seen} models");
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn containers_and_namings_agree() {
    let data = shared_data();
    for (a, b) in [
        ("models/tiny-rwkv7-834K.bf16.pth", "models/tiny-rwkv7-834K.bf16.safetensors"),
        ("models/tiny-rwkv7-834K.bf16.pth", "hf/tiny-rwkv7-834K-hf"),
        ("models/tiny-rwkv7-834K.bf16.pth", "rwkv_cpp/tiny-rwkv-7v0-834K-FP32.bin"),
        ("models/tiny-rwkv6-1m.fp32.pth", "hf/tiny-rwkv6-1m-hf"),
        ("models/tiny-rwkv6-1m.bf16.pth", "models/tiny-rwkv6-1m.bf16.safetensors"),
        ("models/tiny-rwkv5.2-730K.fp32.pth", "hf/tiny-rwkv5.2-730K-hf"),
        ("models/rwkv7-reverse-54K.fp32.pth", "models/rwkv7-reverse-54K.fp32.legacy.pth"),
    ] {
        let (a, b) = (data.join(a), data.join(b));
        let diff = json(["diff", "--format", "json", a.to_str().unwrap(), b.to_str().unwrap()]);
        assert_eq!(diff["identical"], true, "{} and {}", a.display(), b.display());
    }
    // rwkv.cpp stores exp(-exp(decay)) of version 5, from which the decay comes back but for rounding.
    let (a, b) =
        (data.join("models/tiny-rwkv5.2-730K.fp32.pth"), data.join("rwkv_cpp/tiny-rwkv-5v2-730K-FP32.bin"));
    ok(["diff", a.to_str().unwrap(), b.to_str().unwrap(), "--max-relative", "1e-6"]);
}

#[test]
#[ignore = "needs the models of RWKV_QUANT_DATA"]
fn a_shard_opens_the_whole_set() {
    let data = shared_data();
    let folder = data.join("hf/tiny-rwkv6-1m-hf");
    let whole = summary(&folder);
    for part in [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ] {
        assert_eq!(summary(&folder.join(part)), whole, "{part}");
    }
}

#[test]
fn gguf_files_read_back_as_the_model_they_were_made_from() {
    let dir = tempfile::tempdir().unwrap();
    for (model, kind, limit) in [
        ("rwkv6-bytes.pth", "f32", "0"),
        ("rwkv7-bytes.pth", "f32", "0"),
        ("rwkv7-bytes.pth", "bf16", "0"),
        ("rwkv7-bytes.pth", "q8_0", "0.01"),
        ("rwkv6-bytes.pth", "q4_0", "0.12"),
    ] {
        let (source, out) = (testdata(model), dir.path().join(format!("{model}.{kind}.gguf")));
        let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
        ok(["convert", source, out, "--type", kind]);
        ok(["verify", out]);
        ok(["diff", source, out, "--max-relative", limit]);
        if limit != "0" {
            assert_eq!(run(["diff", source, out, "--max-relative", "0"]).status, 3);
        }
        // And again from the GGUF file: nothing is lost on the way.
        let again = format!("{out}.again.gguf");
        ok(["convert", out, &again, "--type", kind, "--name", model.strip_suffix(".pth").unwrap()]);
        assert_eq!(std::fs::read(out).unwrap(), std::fs::read(again).unwrap(), "{model} {kind}");
    }
}

#[test]
fn a_longer_search_is_never_worse() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rwkv7-bytes.pth");
    let source = source.to_str().unwrap();
    for kind in ["q4_k_m", "q8_0", "q2_k"] {
        let errors = ["standard", "best"].map(|search| {
            let out = dir.path().join(format!("{kind}.{search}.gguf"));
            let out = out.to_str().unwrap();
            ok(["convert", source, out, "--type", kind, "--search", search]);
            let diff = json(["diff", "--format", "json", source, out]);
            let rows = diff["tensors"].as_array().unwrap().iter();
            rows.map(|t| t["rms"].as_f64().unwrap()).collect::<Vec<f64>>()
        });
        assert!(errors[0].iter().zip(&errors[1]).all(|(standard, best)| best <= standard), "{kind}");
        assert!(errors[1].iter().sum::<f64>() < errors[0].iter().sum::<f64>(), "{kind}");
    }
}

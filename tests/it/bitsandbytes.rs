//! Hugging Face folders whose matrices bitsandbytes loads without quantizing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use formats::{Container, Limits, Tensor, open};
use quant::{Codec, Encoding, Rows, codec, nf4};

use crate::run::{json, ok, run, testdata};

fn convert(source: &Path, out: &Path, more: &[&str]) {
    let args = ["--format", "quiet", "convert", source.to_str().unwrap(), out.to_str().unwrap()];
    ok(args.iter().chain(more));
}

fn read(path: &Path) -> Container {
    open(path, &Limits::default()).unwrap()
}

fn decoded(container: &Container, t: &Tensor) -> Vec<f32> {
    let mut out = vec![0.0; t.elements() as usize];
    codec(t.encoding).unwrap().decode(&container.blocks(t, 0..usize::MAX), &mut out);
    out
}

/// The values of every tensor, in the shape of its file.
fn values(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let container = read(path);
    container.tensors().iter().map(|t| (t.name.clone(), decoded(&container, t))).collect()
}

fn nll(model: &Path) -> f64 {
    let text = testdata("heldout.txt");
    let args =
        ["--format", "json", "eval-ppl", model.to_str().unwrap(), text.to_str().unwrap(), "--windows", "2"];
    json(args)["model"]["perplexity"]["value"].as_f64().unwrap().ln()
}

#[test]
fn matrices_of_blocks_are_those_of_the_codec_and_all_else_is_kept() {
    for (model, matrices) in
        [("rwkv4-bytes.pth", 14), ("rwkv5.2-bytes.pth", 16), ("rwkv6-bytes.pth", 16), ("rwkv7-bytes.pth", 12)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (plain, four, parts) =
            (dir.path().join("plain"), dir.path().join("four"), dir.path().join("parts"));
        convert(&testdata(model), &plain, &["--to", "hf"]);
        convert(&testdata(model), &four, &["--to", "hf", "-t", "nf4", "--threads", "1"]);
        convert(&testdata(model), &parts, &["--to", "hf", "-t", "nf4", "--split-max-size", "300kB"]);
        let (plain, found) = (read(&plain), read(&four));
        assert_eq!(found.tensors().len(), plain.tensors().len(), "{model}");
        let mut count = 0;
        for t in found.tensors() {
            let source = plain.tensor(&t.name).unwrap();
            assert_eq!(t.shape, source.shape, "{model} {}", t.name);
            let exact = decoded(&plain, source);
            if t.encoding != Encoding::Nf4 {
                assert_eq!(decoded(&found, t), exact, "{model} {}", t.name);
                continue;
            }
            count += 1;
            let mut bytes = vec![0; exact.len() / 64 * 36];
            nf4::NF4.encode(Rows::new(&exact, t.shape[1]), &mut bytes).unwrap();
            assert!(found.blocks(t, 0..usize::MAX) == bytes, "{model} {}", t.name);
            assert_eq!(found.codebook(t), Some(quant::codebook::NF4));
        }
        assert_eq!(count, matrices, "{model}");
        assert!(fs::read_dir(&parts).unwrap().count() > 4, "{model}");
        assert!(values(&parts) == values(&four), "{model} in several files");
        let config = found.config().unwrap();
        let said = &config["quantization_config"];
        assert_eq!(
            (&said["quant_method"], &said["bnb_4bit_quant_type"]),
            (&"bitsandbytes".into(), &"nf4".into())
        );
        assert!(config.get("rescale_every").is_none_or(|v| v == 0), "{model}");
    }
}

#[test]
fn such_a_folder_is_a_model_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let source = testdata("rwkv4-bytes.pth");
    convert(&source, &at("four"), &["--to", "hf", "-t", "nf4"]);
    let folder = at("four").to_str().unwrap().to_owned();
    assert!(ok(["inspect", &folder]).stdout.contains("nf4"), "tensors of that encoding");
    ok(["verify", &folder]);
    let (four, whole) = (nll(&at("four")), nll(&source));
    assert!(four > whole && four < whole + 0.05, "{four} {whole}");
    // Decoded into other files it is the same model.
    convert(&at("four"), &at("f32"), &["--to", "hf", "-t", "f32"]);
    assert_eq!(nll(&at("f32")), four);
    assert!(values(&at("f32")) == values(&at("four")));
    assert!(read(&at("f32")).config().unwrap().get("quantization_config").is_none());
    // Once more in 4 bits it keeps its bytes.
    convert(&at("four"), &at("again"), &["--to", "hf", "-t", "nf4"]);
    let weights = |folder: &str| fs::read(at(folder).join("model.safetensors")).unwrap();
    assert!(weights("again") == weights("four"));
    // With a longer search the weights are nearer.
    convert(&source, &at("best"), &["--to", "hf", "-t", "nf4", "--search", "best"]);
    assert!(values(&at("best")) != values(&at("four")));
    let off = |name: &str| {
        let (exact, found) = (values(&at("f32-exact")), values(&at(name)));
        exact
            .iter()
            .flat_map(|(k, v)| v.iter().zip(&found[k]))
            .map(|(a, b)| f64::from(a - b).powi(2))
            .sum::<f64>()
    };
    convert(&source, &at("f32-exact"), &["--to", "hf", "-t", "f32"]);
    assert!(off("best") < 0.97 * off("four"), "{} {}", off("best"), off("four"));
}

#[test]
fn it_becomes_a_gguf_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    convert(&testdata("rwkv7-bytes.pth"), &at("four"), &["--to", "hf", "-t", "nf4"]);
    convert(&at("four"), &at("q8.gguf"), &["-t", "q8_0"]);
    convert(&at("four"), &at("f32.gguf"), &["-t", "f32"]);
    convert(&at("f32.gguf"), &at("f32"), &["--to", "hf", "-t", "f32"]);
    assert!(values(&at("f32")) == values(&at("four")));
    // And a quantized file becomes such a folder.
    convert(&at("q8.gguf"), &at("of-gguf"), &["--to", "hf", "-t", "nf4"]);
    let container = read(&at("of-gguf"));
    let head = container.tensor("lm_head.weight").unwrap();
    assert_eq!(head.encoding, Encoding::BF16);
    assert_eq!(container.config().unwrap()["torch_dtype"], "bfloat16");
}

#[test]
fn what_bitsandbytes_has_no_form_for_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let source = testdata("rwkv4-bytes.pth");
    for (file_type, help) in [
        ("int8", "int8 is one of .prefab (web-rwkv, Ai00, RWKV App)"),
        ("q4_0", "the types are source, f32, f16, bf16, nf4; q4_0 is one of .bin"),
    ] {
        let args =
            ["convert", source.to_str().unwrap(), out.to_str().unwrap(), "--to", "hf", "-t", file_type];
        let ran = run(args);
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(help), "{}", ran.stderr);
    }
    assert!(!out.exists());
}

//! Checkpoints that hold more, or something else, than a model's plain weights.

use std::fs;
use std::path::Path;

use formats::{Planned, safetensors};
use quant::Encoding;

use crate::run::{ok, run, testdata};

/// A folder of a model.safetensors of these tensors, and a config.json.
fn folder(path: &Path, tensors: &[(&str, Encoding, &[usize])], config: &str) {
    fs::create_dir_all(path).unwrap();
    let planned = |(name, encoding, shape): &(&str, Encoding, &[usize])| Planned {
        name: (*name).to_owned(),
        encoding: *encoding,
        shape: shape.to_vec(),
    };
    let planned: Vec<Planned> = tensors.iter().map(planned).collect();
    let placement = safetensors::place(&Vec::new(), &planned).unwrap();
    let mut bytes = placement.head;
    bytes.resize(placement.total_bytes as usize, 0);
    fs::write(path.join("model.safetensors"), bytes).unwrap();
    fs::write(path.join("config.json"), config).unwrap();
}

/// Weights whose scales stand beside them are refused by the name of the method, and no advice ever leaves the scales out
/// (case fp8-scale-advice).
#[test]
fn quantized_checkpoints_are_refused_by_their_method() {
    use Encoding::{F8E4M3, F32, I8, I32, U8};
    let dir = tempfile::tempdir().unwrap();
    let weight = ("model.layers.0.attn.r_proj.weight", F8E4M3, &[128, 128][..]);
    let name = |part: &str| format!("model.layers.0.attn.r_proj.{part}");
    let method = |config: &str| format!("{{\"quantization_config\": {{{config}}}}}");
    for (n, (part, encoding, shape, config, said)) in [
        (
            "weight_scale",
            F32,
            &[1][..],
            method(r#""quant_method": "compressed-tensors", "format": "float-quantized""#),
            "compressed-tensors (\"float-quantized\")",
        ),
        ("weight_scale", F32, &[128, 1], "{}".to_owned(), "scales of tensors or rows (weight_scale)"),
        ("weight_scale_inv", F32, &[1, 1], method(r#""quant_method": "fp8""#), "FP8 in blocks"),
        ("weight_scale_inv", F32, &[1, 1], "{}".to_owned(), "a scale for each block (weight_scale_inv)"),
        ("weight_scale", F32, &[], method(r#""quant_method": "modelopt""#), "TensorRT Model Optimizer"),
        ("input_scale", F32, &[1], "{}".to_owned(), "scales of activations"),
        ("qzeros", I32, &[1, 16], method(r#""quant_method": "awq""#), "AWQ"),
        ("g_idx", I32, &[128], method(r#""quant_method": "gptq""#), "GPTQ"),
        ("g_idx", I32, &[128], "{}".to_owned(), "GPTQ"),
        ("qweight", I32, &[16, 128], "{}".to_owned(), "GPTQ or AWQ"),
        ("scales", F32, &[1, 128], "{}".to_owned(), "scales of groups"),
        ("weight_packed", I32, &[128, 16], "{}".to_owned(), "compressed-tensors"),
        ("bias", F32, &[128], method(r#""quant_method": "fbgemm_fp8""#), "FBGEMM FP8"),
    ]
    .into_iter()
    .enumerate()
    {
        let source = dir.path().join(n.to_string());
        folder(&source, &[weight, (&name(part), encoding, shape)], &config);
        let out = dir.path().join("o.gguf");
        let path = source.to_str().unwrap();
        for more in [&[][..], &["--drop", "*scale*"]] {
            let ran = run(["convert", path, out.to_str().unwrap(), "-t", "q8_0"].iter().chain(more));
            assert_eq!(ran.status, 1, "{part}: {}", ran.stderr);
            assert!(ran.stderr.contains(said), "{part}: {}", ran.stderr);
            assert!(!ran.stderr.contains("--drop") && !out.exists(), "{part}: {}", ran.stderr);
        }
        let shown = ok(["inspect", path]).stdout;
        assert!(shown.contains("model     none:") && shown.contains(said), "{shown}");
    }
    // 8-bit matrices of bitsandbytes.
    let source = dir.path().join("int8");
    let scb = ("model.layers.0.attn.r_proj.SCB", F32, &[128][..]);
    for codes in [I8, U8] {
        folder(&source, &[("model.layers.0.attn.r_proj.weight", codes, &[128, 128]), scb], "{}");
        let ran = run(["convert", source.to_str().unwrap(), "o.gguf", "-t", "q8_0", "--dry-run"]);
        assert!(ran.status == 1 && ran.stderr.contains("LLM.int8 of bitsandbytes"), "{}", ran.stderr);
    }
}

/// A vocabulary with the largest id there is (case vocab-overflow).
#[test]
fn absurd_ids_are_refused_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let lines = dir.path().join("v.txt");
    fs::write(&lines, "1 'a' 1\n2 'b' 1\n18446744073709551615 'c' 1\n").unwrap();
    let json = dir.path().join("v.json");
    fs::write(&json, "{\"18446744073709551615\": \"a\"}").unwrap();
    let hf = dir.path().join("hf");
    let model = testdata("rwkv7-bytes.pth");
    ok(["convert", model.to_str().unwrap(), hf.to_str().unwrap(), "--to", "hf", "--type", "bf16"]);
    fs::copy(&lines, hf.join("rwkv_vocab_v20230424.txt")).unwrap();
    let out = dir.path().join("o.gguf");
    let (lines, json, hf, out) =
        (lines.to_str().unwrap(), json.to_str().unwrap(), hf.to_str().unwrap(), out.to_str().unwrap());
    let text = testdata("heldout.txt");
    for (args, line) in [
        (vec!["tokenize", "hello", "--vocab", lines], "line 3: "),
        (vec!["tokenize", "hello", "--vocab", json], "at line 1"),
        (vec!["convert", hf, out, "--type", "q8_0"], "line 3: "),
        (vec!["eval-ppl", hf, text.to_str().unwrap(), "--windows", "1"], "line 3: "),
    ] {
        let ran = run(&args);
        assert_eq!(ran.status, 1, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("the id 18446744073709551615 exceeds the limit"), "{}", ran.stderr);
        assert!(ran.stderr.contains(line), "{}", ran.stderr);
    }
}

/// Two models in one file, told apart by a prefix (case two-dicts).
#[test]
fn a_second_set_of_weights_behind_a_prefix_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one.safetensors");
    let model = testdata("rwkv7-bytes.pth");
    ok(["convert", model.to_str().unwrap(), one.to_str().unwrap(), "--type", "f32"]);
    let read = formats::open(&one, &formats::Limits::default()).unwrap();
    let both =
        ["model.", "ref_model."].iter().flat_map(|prefix| read.tensors().iter().map(move |t| (prefix, t)));
    let both: Vec<_> = both.collect();
    let planned: Vec<Planned> = both
        .iter()
        .map(|(prefix, t)| Planned {
            name: format!("{prefix}{}", t.name),
            encoding: t.encoding,
            shape: t.shape.clone(),
        })
        .collect();
    let placement = safetensors::place(&Vec::new(), &planned).unwrap();
    let mut bytes = placement.head;
    bytes.resize(placement.total_bytes as usize, 0);
    for ((_, t), offset) in both.iter().zip(&placement.offsets) {
        bytes[*offset as usize..][..t.bytes as usize].copy_from_slice(read.bytes(t));
    }
    let two = dir.path().join("two.safetensors");
    fs::write(&two, bytes).unwrap();
    let out = dir.path().join("o.gguf");
    let (two, out) = (two.to_str().unwrap(), out.to_str().unwrap());
    let ran = run(["convert", two, out, "--type", "q8_0"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("a second set of weights, behind the prefix \"ref_model.\""),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("--drop 'ref_model.*'"), "{}", ran.stderr);
    ok(["convert", two, out, "--type", "q8_0", "--drop", "ref_model.*"]);
}

//! Round trips, and folders that are damaged, made otherwise or made to do harm.

use std::path::Path;

use proptest::prelude::*;
use quant::Encoding;

use super::{place, stored};
use crate::{
    Container, Error, Limits, Metadata, Placement, Planned, Result, Value, index, open, safetensors,
};

fn planned(name: &str, encoding: Encoding, shape: &[usize]) -> Planned {
    Planned { name: name.into(), encoding, shape: shape.to_vec() }
}

fn sample() -> Vec<Planned> {
    vec![
        planned("a.weight", Encoding::Nf4, &[6, 64]),
        planned("b.weight", Encoding::Nf4, &[4, 16]),
        planned("norm", Encoding::F32, &[3]),
        planned("head.weight", Encoding::BF16, &[2, 5]),
    ]
}

/// The file of a placement, with a different byte everywhere in the data.
fn file(placement: &Placement) -> Vec<u8> {
    let mut bytes = placement.head.clone();
    let data = placement.total_bytes as usize - bytes.len();
    bytes.extend((0..data).map(|i| i as u8));
    for (offset, known) in &placement.between {
        bytes[*offset as usize..][..known.len()].copy_from_slice(known);
    }
    bytes
}

fn read(bytes: &[u8]) -> Result<Container> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    open(&path, &Limits::default())
}

/// Tensors that bitsandbytes would save for a matrix `m` of `shape` with this JSON.
fn parts(shape: &[usize], json: &str) -> Vec<(Planned, Vec<u8>)> {
    let n: usize = shape.iter().product();
    let part = |suffix: &str, encoding, shape: &[usize]| {
        let t = planned(&format!("m{suffix}"), encoding, shape);
        let bytes = vec![1; t.bytes().unwrap() as usize];
        (t, bytes)
    };
    let mut state = part(".quant_state.bitsandbytes__nf4", Encoding::U8, &[json.len()]);
    state.1 = json.as_bytes().to_vec();
    vec![
        part(".absmax", Encoding::F32, &[n / 64]),
        part(".quant_map", Encoding::F32, &[16]),
        part("", Encoding::U8, &[n / 2, 1]),
        state,
    ]
}

const JSON: &str = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [4, 64]}"#;

/// A file of these tensors.
fn written(parts: &[(Planned, Vec<u8>)]) -> Vec<u8> {
    let tensors: Vec<Planned> = parts.iter().map(|(t, _)| t.clone()).collect();
    let placement = safetensors::place(&Metadata::new(), &tensors).unwrap();
    let mut bytes = placement.head.clone();
    parts.iter().for_each(|(_, data)| bytes.extend(data));
    bytes
}

#[track_caller]
fn refused(parts: &[(Planned, Vec<u8>)], text: &str) -> Error {
    let error = read(&written(parts)).expect_err("this must be refused");
    assert!(error.to_string().contains(text), "{error:.300}");
    assert!(error.to_string().len() < 1000, "a message of {} bytes", error.to_string().len());
    error
}

#[test]
fn what_is_placed_is_read_back() {
    let tensors = sample();
    let placement = place(&vec![("format".to_owned(), Value::from("pt"))], &tensors, "bfloat16").unwrap();
    let container = read(&file(&placement)).unwrap();
    assert_eq!(container.tensors().len(), tensors.len());
    for (i, t) in tensors.iter().enumerate() {
        let found = container.tensor(&t.name).unwrap();
        assert_eq!((found.encoding, &found.shape), (t.encoding, &t.shape));
        assert_eq!((found.offset, found.split), (placement.offsets[i], placement.splits.get(&i).copied()));
        assert_eq!(Some(container.blocks(found, 0..1000).len() as u64), t.bytes(), "{}", t.name);
        assert_eq!(container.codebook(found).is_some(), t.encoding == Encoding::Nf4);
    }
}

#[test]
fn parts_lie_as_the_crate_safetensors_puts_them() {
    let all = stored(&sample(), "float16");
    let names: Vec<&str> = all.iter().map(|t| t.name.as_str()).collect();
    let state = |of: &str| format!("{of}.quant_state.bitsandbytes__nf4");
    assert_eq!(
        names,
        [
            "a.weight.absmax",
            "a.weight.quant_map",
            "b.weight.absmax",
            "b.weight.quant_map",
            "norm",
            "head.weight",
            "a.weight",
            &state("a.weight"),
            "b.weight",
            &state("b.weight")
        ]
    );
    let placement = place(&Metadata::new(), &sample(), "float16").unwrap();
    let json = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [6, 64]}"#;
    assert_eq!(placement.between[0].1, json.as_bytes());
    assert!(place(&Metadata::new(), &[planned("a", Encoding::Nf4, &[3, 7])], "float16").is_err());
}

#[test]
fn matrices_of_bitsandbytes_are_one_tensor_each() {
    let container = read(&written(&parts(&[4, 64], JSON))).unwrap();
    let [t] = container.tensors() else { panic!("{:?}", container.tensors()) };
    assert_eq!((t.name.as_str(), t.encoding, t.shape.as_slice()), ("m", Encoding::Nf4, &[4, 64][..]));
    // Codes may be kept in any type.
    let mut other = parts(&[4, 64], JSON);
    other[2].0 = planned("m", Encoding::BF16, &[64, 1]);
    assert!(read(&written(&other)).is_ok());
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let all = || parts(&[4, 64], JSON);
    for (missing, text) in
        [(0, "no absmax"), (1, "no quant_map"), (2, "no codes"), (3, "without the quant_state")]
    {
        let mut parts = all();
        parts.remove(missing);
        refused(&parts, text);
    }
    for (part, encoding, shape, text) in [
        (0, Encoding::F32, vec![3], "its absmax should take 16 bytes, and are 12 bytes of f32"),
        (0, Encoding::U8, vec![16], "its absmax should take 16 bytes, and are 16 bytes of u8"),
        (1, Encoding::F32, vec![15], "its quant_map should take 64 bytes"),
        (2, Encoding::U8, vec![127, 1], "its codes should take 128 bytes"),
        (3, Encoding::U8, vec![1 << 17], "bytes of quant_state, more than the limit"),
    ] {
        let mut parts = all();
        let t = planned(&parts[part].0.name, encoding, &shape);
        parts[part] = (t.clone(), vec![b' '; t.bytes().unwrap() as usize]);
        refused(&parts, text);
    }
    for (json, text) in [
        ("", "its quant_state is broken"),
        ("[]", "its quant_state is broken"),
        ("{\"quant_type\": \"nf4\"}", "missing field"),
        (&JSON.replace("64]", "-64]"), "its quant_state is broken"),
        (&JSON.replace("[4, 64]", "[18446744073709551615, 64]"), "is absurd"),
        (&JSON.replace("[4, 64]", "[4, 128]"), "its codes should take 256 bytes"),
        (&JSON.replace("[4, 64]", "[1,1,1,1,1,1,1,1,256]"), "9 dimensions"),
        (&JSON.replace("[4, 64]", &format!("[{}]", "[".repeat(10_000))), "its quant_state is broken"),
    ] {
        refused(&parts(&[4, 64], json), text);
    }
}

#[test]
fn other_quantizations_are_refused_by_name() {
    let other = |from: &str, to: &str| parts(&[4, 64], &JSON.replace(from, to));
    let error = refused(&other("64,", "128,"), "\"nf4\" of bitsandbytes in blocks of 128");
    assert!(error.help().unwrap().contains("model.dequantize()"), "{:?}", error.help());
    refused(&other("\"nf4\"", "\"fp4\""), "\"fp4\" of bitsandbytes in blocks of 64");
    refused(&other("64]", "65]"), "260 weights of bitsandbytes, no whole blocks of 64");
    let nested = "\"nested_blocksize\": 256, \"blocksize\"";
    refused(&other("\"blocksize\"", nested), "scales that bitsandbytes quantized once more");
    let mut fp4 = parts(&[4, 64], JSON);
    fp4[3].0.name = "m.quant_state.bitsandbytes__fp4".to_owned();
    refused(&fp4, "\"fp4\", a quantization of bitsandbytes");
    let int8 = [
        (planned("m.SCB", Encoding::F32, &[4]), vec![0; 16]),
        (planned("m.weight", Encoding::I8, &[4, 2]), vec![0; 8]),
    ];
    refused(&int8, "LLM.int8 of bitsandbytes");
}

/// Writes tensors as one file of a set in `folder`.
fn write(folder: &Path, name: &str, tensors: &[(Planned, Vec<u8>)]) {
    std::fs::write(folder.join(name), written(tensors)).unwrap();
}

#[test]
fn folders_with_an_index_are_read_if_the_parts_are_together() {
    let all = parts(&[4, 64], JSON);
    for (cut, is_read) in [(4, true), (2, false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut other = vec![(planned("x", Encoding::F32, &[1]), vec![0; 4])];
        other.extend_from_slice(&all[cut..]);
        write(dir.path(), "model-00001-of-00002.safetensors", &all[..cut]);
        write(dir.path(), "model-00002-of-00002.safetensors", &other);
        let tensors = |all: &[(Planned, Vec<u8>)]| all.iter().map(|(t, _)| t.clone()).collect::<Vec<_>>();
        let (first, second) = (tensors(&all[..cut]), tensors(&other));
        let text = index([
            ("model-00001-of-00002.safetensors", &*first),
            ("model-00002-of-00002.safetensors", &*second),
        ]);
        std::fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
        match open(dir.path(), &Limits::default()) {
            Ok(container) => assert!(is_read && container.tensors().len() == 2),
            Err(error) => {
                assert!(!is_read && error.to_string().contains("their scales in another"), "{error}");
                assert!(error.help().unwrap().contains("max_shard_size"));
            }
        }
    }
}

proptest! {
    #[test]
    fn flipped_bytes_do_not_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = written(&parts(&[4, 64], JSON));
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(container) = read(&bytes) {
            for t in container.tensors() {
                let _ = (container.blocks(t, 0..100), container.codebook(t));
            }
        }
    }
}

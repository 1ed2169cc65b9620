//! Files for web-rwkv: our prefabs are, byte for byte, those that it saves, and what it would compute wrong is padded or
//! refused.
//!
//! The records are made by `tests/clients/check_web_rwkv.py --record`; that script also runs the files in web-rwkv.

use std::path::Path;

use formats::{Limits, Metadata};

use crate::messages::{Part, parts, safetensors};
use crate::run::{json, ok, run, sha256, testdata};
use crate::synthetic::{Shape, tensors};

const MODELS: [&str; 4] = ["rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes"];

fn convert(from: &Path, to: &Path, flags: &[&str]) {
    let paths = [from.to_str().unwrap(), to.to_str().unwrap()];
    ok(["--format", "quiet", "convert"].iter().chain(&paths).chain(flags));
}

/// Name, shape and values of every tensor of a file.
fn values(path: &Path) -> Vec<Part> {
    let container = formats::open(path, &Limits::default()).unwrap();
    let values = |t: &formats::Tensor| {
        let mut out = vec![0.0; t.elements() as usize];
        let blocks = container.blocks(t, 0..usize::MAX);
        quant::codec(t.encoding).unwrap().decode(&blocks, &mut out);
        (t.name.clone(), t.shape.clone(), out)
    };
    container.tensors().iter().map(values).collect()
}

/// The bytes of a prefab; the decays of versions 4 and 5, exponentials that every GPU rounds in its own way, zeroed.
fn without_decays(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let container = formats::open(path, &Limits::default()).unwrap();
    let is_decay =
        |t: &&formats::Tensor| t.name.ends_with("att.time_decay") && t.encoding == quant::Encoding::F32;
    for t in container.tensors().iter().filter(is_decay) {
        bytes[t.offset as usize..][..t.bytes as usize].fill(0);
    }
    bytes
}

#[test]
fn prefabs_are_those_that_web_rwkv_saves() {
    let record = std::fs::read(testdata("golden/web_rwkv/prefabs.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.prefab");
    for model in MODELS {
        let source = testdata(&format!("{model}.pth"));
        let recorded = &record["models"][model];
        let made_from = sha256(&std::fs::read(&source).unwrap());
        assert_eq!(
            recorded["source_sha256"],
            made_from.as_str(),
            "the record is of another model: make it again"
        );
        for kind in ["f16", "int8", "nf4", "sf4"] {
            convert(&source, &out, &["-t", kind, "--mix", "web-rwkv", "--force"]);
            assert_eq!(recorded[kind], sha256(&without_decays(&out)).as_str(), "{model} {kind}");
        }
    }
}

#[test]
fn st_files_hold_the_checkpoint_and_read_back_as_it() {
    let dir = tempfile::tempdir().unwrap();
    let (st, back, direct) =
        (dir.path().join("a.st"), dir.path().join("b.safetensors"), dir.path().join("c.safetensors"));
    for model in MODELS {
        let source = testdata(&format!("{model}.pth"));
        convert(&source, &st, &["--force"]);
        convert(&st, &back, &["--force"]);
        convert(&source, &direct, &["-t", "f16", "--force"]);
        let unread = |p: &Part| !p.0.starts_with("blocks.0.att.v");
        let expected: Vec<Part> = values(&direct).into_iter().filter(unread).collect();
        let found: Vec<Part> = values(&back).into_iter().filter(unread).collect();
        assert!(found == expected, "{model}");
        let container = formats::open(&st, &Limits::default()).unwrap();
        assert!(container.tensors().iter().all(|t| t.encoding.name() == "f16" && t.offset % 8 == 0));
    }
}

#[test]
fn prefabs_read_back_as_the_weights_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    let (prefab, st) = (dir.path().join("a.prefab"), dir.path().join("a.st"));
    for model in MODELS {
        let source = testdata(&format!("{model}.pth"));
        convert(&source, &prefab, &["-t", "f16", "--force", "--rescale", "1"]);
        convert(&source, &st, &["--force"]);
        let diff = json(["--format", "json", "diff", st.to_str().unwrap(), prefab.to_str().unwrap()]);
        for t in diff["tensors"].as_array().unwrap() {
            // Decays come back through a logarithm; halved weights may fall below the normal numbers of f16.
            let limit = if t["name"].as_str().unwrap().ends_with("time_decay") { 2e-5 } else { 6e-8 };
            assert!(t["max"].as_f64().unwrap() <= limit, "{model}: {t}");
        }
        assert!(
            diff["only_a"].as_array().unwrap().is_empty() && diff["only_b"].as_array().unwrap().is_empty()
        );
    }
}

#[test]
fn ranks_are_padded_with_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = parts("rwkv7-bytes.pth");
    // The gate has another rank in each block, none of them a multiple of 4.
    for (name, shape, values) in &mut model {
        let layer: usize = name.split('.').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        let rank = [30, 57][layer.min(1)];
        if name.ends_with("att.g1") {
            *values = values.chunks(shape[1]).flat_map(|row| row[..rank].to_vec()).collect();
            shape[1] = rank;
        } else if name.ends_with("att.g2") {
            values.truncate(rank * shape[1]);
            shape[0] = rank;
        }
    }
    let source = dir.path().join("model.safetensors");
    std::fs::write(&source, safetensors(&model)).unwrap();
    let st = dir.path().join("a.st");
    convert(&source, &st, &[]);
    for (name, shape, values) in values(&st) {
        let Some((_, _, original)) = model.iter().find(|p| p.0 == name) else { continue };
        let layer: usize = name.split('.').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        let rank = [30, 57][layer.min(1)];
        let embd = original.len() / rank;
        if name.ends_with("att.g1") {
            assert_eq!(shape, [60, embd]);
            for (r, row) in values.chunks(embd).enumerate() {
                let is_right =
                    |(c, v): (usize, &f32)| *v == if r < rank { half(original[c * rank + r]) } else { 0.0 };
                assert!(row.iter().enumerate().all(is_right), "{name}, row {r}");
            }
        } else if name.ends_with("att.g2") {
            assert_eq!(shape, [embd, 60]);
            for (c, row) in values.chunks(60).enumerate() {
                let is_right =
                    |(r, v): (usize, &f32)| *v == if r < rank { half(original[r * embd + c]) } else { 0.0 };
                assert!(row.iter().enumerate().all(is_right), "{name}, row {c}");
            }
        }
    }
    // Five ranks in one matrix.
    let mut model = parts("rwkv6-bytes.pth");
    for (name, shape, values) in &mut model {
        if name.ends_with("time_maa_w1") {
            let embd = shape[0];
            let branch = |row: &[f32]| row.chunks(32).flat_map(|b| b[..29].to_vec()).collect::<Vec<_>>();
            *values = values.chunks(160).flat_map(branch).collect();
            *shape = vec![embd, 5 * 29];
        } else if name.ends_with("time_maa_w2") {
            let embd = shape[2];
            *values = values.chunks(32 * embd).flat_map(|b| b[..29 * embd].to_vec()).collect();
            *shape = vec![5, 29, embd];
        }
    }
    std::fs::write(&source, safetensors(&model)).unwrap();
    convert(&source, &st, &["--force"]);
    let padded = values(&st);
    let of = |name: &str| padded.iter().find(|p| p.0 == name).unwrap();
    let (_, shape, w1) = of("blocks.1.att.time_mix_w1");
    assert_eq!(shape, &[160, 256]);
    let original = &model.iter().find(|p| p.0 == "blocks.1.att.time_maa_w1").unwrap().2;
    for (row, values) in w1.chunks(256).enumerate() {
        let (branch, r) = (row / 32, row % 32);
        let is_right = |(c, v): (usize, &f32)| {
            *v == if r < 29 { half(original[c * 145 + branch * 29 + r]) } else { 0.0 }
        };
        assert!(values.iter().enumerate().all(is_right), "row {row}");
    }
    let (_, shape, w2) = of("blocks.1.att.time_mix_w2");
    assert_eq!(shape, &[5, 256, 32]);
    assert!(w2.chunks(32).all(|row| row[29..] == [0.0; 3] && row[28] != 0.0));
}

fn half(x: f32) -> f32 {
    quant::float::round_to_f16(x)
}

#[test]
fn version_5_1_becomes_5_2() {
    let dir = tempfile::tempdir().unwrap();
    let (mut fine, mut real, mut log) = (parts("rwkv5.2-bytes.pth"), Vec::new(), Vec::new());
    for (name, shape, values) in &mut fine {
        if name.ends_with("time_decay") || name.ends_with("time_faaaa") {
            let heads: Vec<f32> = values.chunks(shape[1]).map(|head| half(head[0].abs())).collect();
            values.chunks_mut(shape[1]).zip(&heads).for_each(|(head, v)| head.fill(*v));
            real.push((name.clone(), vec![shape[0]], heads.clone()));
            let (name, heads) = match name.strip_suffix("time_faaaa") {
                Some(before) => (format!("{before}time_first"), heads.iter().map(|u| u.ln()).collect()),
                None => (name.clone(), heads),
            };
            log.push((name, vec![shape[0]], heads));
        } else {
            real.push((name.clone(), shape.clone(), values.clone()));
            log.push((name.clone(), shape.clone(), values.clone()));
        }
    }
    let made: Vec<Vec<Part>> = [fine, real, log]
        .iter()
        .enumerate()
        .map(|(i, model)| {
            let source = dir.path().join(format!("{i}.safetensors"));
            std::fs::write(&source, safetensors(model)).unwrap();
            let st = source.with_extension("st");
            convert(&source, &st, &[]);
            values(&st)
        })
        .collect();
    assert!(made[0] == made[1] && made[0] == made[2]);
    assert!(made[0].iter().any(|p| p.0 == "blocks.1.att.time_first" && p.1 == [4, 64]));
}

#[test]
fn our_nf4_is_smaller_than_that_of_web_rwkv() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("1.5b.safetensors"), dir.path().join("out.prefab"));
    // A file of holes: a dry run reads no weights.
    let shape = Shape { layers: 24, embd: 2048, vocab: 65536 };
    let placement = formats::safetensors::place(&Metadata::new(), &tensors(shape)).unwrap();
    std::fs::write(&source, &placement.head).unwrap();
    std::fs::File::options().write(true).open(&source).unwrap().set_len(placement.total_bytes).unwrap();
    let bytes = |flags: &[&str]| {
        let paths = [source.to_str().unwrap(), out.to_str().unwrap()];
        let args = ["--format", "json", "convert", "--dry-run"];
        let plan = json(args.iter().chain(&paths).chain(flags));
        plan["bytes"].as_u64().unwrap() as f64
    };
    let theirs = bytes(&["-t", "nf4", "--mix", "web-rwkv"]);
    let (small, large) = (bytes(&["-t", "nf4"]), bytes(&["-t", "nf4_l"]));
    println!("nf4 {:.4}, nf4_l {:.4} of {theirs} bytes", small / theirs, large / theirs);
    assert!(small <= 0.82 * theirs && large <= 0.88 * theirs);
}

#[test]
fn blocks_may_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.prefab");
    convert(&testdata("rwkv7-bytes.pth"), &out, &["-t", "int8", "--layers", "1"]);
    let container = formats::open(&out, &Limits::default()).unwrap();
    let encoding = |name: &str| container.tensor(name).unwrap().encoding.name();
    assert_eq!(encoding("layers.0.att.w_k"), "int8");
    assert_eq!(encoding("layers.1.att.w_k"), "f16");
    assert_eq!(encoding("head.w"), "int8");
}

#[test]
fn what_web_rwkv_would_compute_wrong_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("model.safetensors");
    let refused = |model: &[Part], to: &str, flags: &[&str], text: &str, help: &str| {
        std::fs::write(&source, safetensors(model)).unwrap();
        let out = dir.path().join(to);
        let paths = [source.to_str().unwrap(), out.to_str().unwrap()];
        let ran = run(["convert"].iter().chain(&paths).chain(flags));
        assert!(ran.status != 0 && !out.exists(), "{text}");
        assert!(ran.stderr.contains(text) && ran.stderr.contains(help), "{}", ran.stderr);
    };
    let seven = parts("rwkv7-bytes.pth");
    let one: Vec<Part> = seven.iter().filter(|p| !p.0.starts_with("blocks.1.")).cloned().collect();
    refused(&one, "a.st", &[], "has one block", ".gguf");

    let mut fewer = seven.clone();
    for (name, shape, values) in &mut fewer {
        if matches!(name.as_str(), "emb.weight" | "head.weight") {
            values.truncate(250 * shape[1]);
            shape[0] = 250;
        }
    }
    let text = "has 250 tokens, no multiple of 8, so web-rwkv adds 6 that do not exist";
    refused(&fewer, "a.st", &[], text, "--force-target");
    refused(&fewer, "a.prefab", &["-t", "nf4"], text, "--force-target");
    let prefab = dir.path().join("forced.prefab");
    convert(&source, &prefab, &["-t", "nf4", "--force-target"]);
    let inspected = json(["--format", "json", "inspect", prefab.to_str().unwrap()]);
    assert_eq!(inspected["model"]["n_vocab"], 250);

    // Version 5.0 has no gate.
    let gated = |p: &&Part| !(p.0.ends_with("gate.weight") || p.0.ends_with("time_mix_g"));
    let mut old: Vec<Part> = parts("rwkv5.2-bytes.pth").iter().filter(gated).cloned().collect();
    for (name, shape, values) in &mut old {
        if name.ends_with("time_decay") || name.ends_with("time_faaaa") {
            *values = values.chunks(shape[1]).map(|head| head[0]).collect();
            shape.truncate(1);
            *name = name.replace("time_faaaa", "time_first");
        }
    }
    refused(&old, "a.st", &[], "RWKV-5.0", ".pth");
    refused(&old, "a.prefab", &["-t", "int8"], "RWKV-5.0", ".pth");

    let mut large = seven.clone();
    let (name, _, values) = large.iter_mut().find(|p| p.0.ends_with("ffn.key.weight")).unwrap();
    values[5] = 70_000.0;
    let name = name.clone();
    refused(&large, "a.st", &[], &name, ".safetensors --type f32 or bf16");
    refused(
        &large,
        "a.st",
        &[],
        "the weight 70000 at index 5 does not fit in f16",
        ".safetensors --type f32 or bf16",
    );
    refused(&seven, "a.st", &["-t", "bf16"], "there are no web-rwkv .st files of the type bf16", "f16");
    refused(
        &seven,
        "a.gguf",
        &["-t", "q8_0", "--rescale", "6"],
        "--rescale means nothing for GGUF",
        ".prefab",
    );
}

/// A recipe gives single matrices another type, and the rest stays as the file type says.
#[test]
fn recipes_mix_types_of_matrices() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (recipe, out) = (place("recipe.toml"), place("mixed.prefab"));
    std::fs::write(
        &recipe,
        "type = \"nf4\"\n[tensors]\n\"layers.0.ffn.w_k\" = \"int8\"\n\"layers.1.att.w_o\" = \"f16\"\n",
    )
    .unwrap();
    let source = testdata("rwkv7-bytes.pth");
    let done = json(["--format", "json", "convert", source.to_str().unwrap(), &out, "--recipe", &recipe]);
    let encoding = |name: &str| {
        let tensors = done["tensors"].as_array().unwrap();
        tensors.iter().find(|t| t["name"] == name).unwrap()["encoding"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        ["layers.0.ffn.w_k", "layers.1.att.w_o", "layers.1.ffn.w_k"].map(encoding),
        ["int8", "f16", "fp4"]
    );
    ok(["verify", &out]);
    std::fs::write(&recipe, "type = \"nf4\"\n[tensors]\n\"layers.0.ffn.w_k\" = \"q4_k\"\n").unwrap();
    let refused = run(["convert", source.to_str().unwrap(), &out, "-f", "--recipe", &recipe]);
    assert!(refused.status == 2 && refused.stderr.contains("prefab files cannot"), "{}", refused.stderr);
}

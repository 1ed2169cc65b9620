//! Merged values against the formulas in f64.

use std::path::PathBuf;

use formats::{Metadata, Planned};
use quant::Encoding;

use super::*;

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// A file with these tensors as f32.
fn file(folder: &tempfile::TempDir, name: &str, tensors: &Tensors) -> PathBuf {
    let plan = |(name, shape, _): &(String, Vec<usize>, Vec<f32>)| Planned {
        name: name.clone(),
        shape: shape.clone(),
        encoding: Encoding::F32,
    };
    let planned: Vec<Planned> = tensors.iter().map(plan).collect();
    let placement = formats::safetensors::place(&Metadata::new(), &planned).unwrap();
    let mut bytes = placement.head.clone();
    for (offset, (_, _, values)) in placement.offsets.iter().zip(tensors) {
        bytes.resize(*offset as usize, 0);
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn model(name: &str) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    Model::detect(formats::open(&path, &Limits::default()).unwrap(), &[]).unwrap()
}

/// Values without a pattern, of both signs, up to `scale`.
fn noise(seed: u32, n: usize, scale: f32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / (1u32 << 24) as f32 * 2.0 - 1.0
    };
    (0..n).map(|_| next() * scale).collect()
}

fn tensor(name: &str, shape: &[usize], seed: u32, scale: f32) -> (String, Vec<usize>, Vec<f32>) {
    (name.to_owned(), shape.to_vec(), noise(seed, shape.iter().product(), scale))
}

/// A tensor of the model, whole and, as a conversion reads it, in runs of a few rows.
fn values(model: &Model, name: &str) -> Vec<f32> {
    let held = model.tensors.iter().find(|t| t.name() == name).unwrap();
    let whole = read(&model.container, &held.values);
    let (rows, cols) = (held.values.rows(), held.values.cols());
    let mut pieces = vec![0.0; whole.len()];
    for (i, piece) in pieces.chunks_mut(7 * cols).enumerate() {
        held.values.read(&model.container, i * 7..(i * 7 + 7).min(rows), piece);
    }
    assert_eq!(whole, pieces, "{name}");
    whole
}

/// Checks that the merged tensor is what `expected(row, column, original row)` says.
#[track_caller]
fn merged(model: &Model, plain: &Model, name: &str, expected: impl Fn(usize, usize, &[f32]) -> f64) {
    let (after, before) = (values(model, name), values(plain, name));
    let cols = plain.tensors.iter().find(|t| t.name() == name).unwrap().values.cols();
    let mut moved = 0.0f64;
    for (i, after) in after.iter().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let expected = expected(row, col, &before[row * cols..][..cols]);
        assert!(
            (f64::from(*after) - expected).abs() < 1e-6,
            "{name} [{row}, {col}]: {after}, not {expected}"
        );
        moved += (expected - f64::from(before[i])).abs();
    }
    assert!(moved / after.len() as f64 > 1e-4, "{name} hardly changed");
}

/// (B A)[row, col].
fn product(b: &[f32], a: &[f32], rank: usize, row: usize, col: usize) -> f64 {
    let cols = a.len() / rank;
    (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * cols + col])).sum()
}

#[test]
fn a_lora_is_added_times_alpha_over_rank_and_whole_tensors_stand_in() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = vec![
        tensor("blocks.1.att.key.lora_A", &[4, 256], 1, 0.5),
        tensor("blocks.1.att.key.lora_B", &[256, 4], 2, 0.05),
        tensor("module.blocks.0.ffn.value.lora_A.weight", &[2, 1024], 3, 0.5),
        tensor("module.blocks.0.ffn.value.lora_B.weight", &[256, 2], 4, 0.05),
        tensor("head.lora_A", &[1, 256], 5, 0.5),
        tensor("head.lora_B", &[256, 1], 6, 0.05),
        tensor("blocks.0.ln1.weight", &[256], 7, 1.0),
        tensor("blocks.1.att.x_r", &[256], 8, 1.0),
        tensor("blocks.1.att.w1", &[256, 32], 9, 1.0),
    ];
    let path = file(&folder, "lora.safetensors", &tensors);
    let (plain, mut model) = (model("rwkv7-bytes.pth"), model("rwkv7-bytes.pth"));
    let adapter = Adapter::read(&path, &model, Options { alpha: Some(8.0), ..Options::default() }).unwrap();
    assert_eq!(adapter.about(), "LoRA of rank 1, 2, 4 for 3 matrices, alpha 8, 3 whole tensors");
    adapter.merge(&mut model);
    let pair = |k: usize| (&tensors[k + 1].2, &tensors[k].2, tensors[k].1[0]);
    for (name, k) in [("blocks.1.att.key.weight", 0), ("blocks.0.ffn.value.weight", 2), ("head.weight", 4)] {
        let (b, a, rank) = pair(k);
        merged(&model, &plain, name, |row, col, w| {
            f64::from(w[col]) + product(b, a, rank, row, col) * 8.0 / rank as f64
        });
    }
    for (name, k) in [("blocks.0.ln1.weight", 6), ("blocks.1.att.x_r", 7), ("blocks.1.att.w1", 8)] {
        assert_eq!(values(&model, name), tensors[k].2);
    }
    assert_eq!(values(&model, "blocks.0.att.key.weight"), values(&plain, "blocks.0.att.key.weight"));
}

#[test]
fn a_lora_for_web_rwkv_is_the_same_lora() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (noise(1, 4 * 256, 0.5), noise(2, 256 * 4, 0.05));
    let turned = (0..256 * 4).map(|i| a[i % 4 * 256 + i / 4]).collect();
    let ours = vec![
        ("blocks.1.att.key.lora_A".to_owned(), vec![4, 256], a),
        ("blocks.1.att.key.lora_B".to_owned(), vec![256, 4], b.clone()),
        tensor("blocks.0.att.time_faaaa", &[4, 64], 3, 1.0),
        tensor("blocks.0.att.time_maa_k", &[1, 1, 256], 4, 1.0),
    ];
    let theirs = vec![
        ("blocks.1.att.key.lora.0".to_owned(), vec![256, 4], turned),
        ("blocks.1.att.key.lora.1".to_owned(), vec![256, 4], b),
        tensor("blocks.0.att.time_first", &[4, 64], 3, 1.0),
        tensor("blocks.0.att.time_mix_k", &[256], 4, 1.0),
    ];
    let merge = |name: &str, tensors: &Tensors| {
        let mut model = model("rwkv6-bytes.pth");
        let path = file(&folder, name, tensors);
        Adapter::read(&path, &model, Options { alpha: Some(4.0), ..Options::default() })
            .unwrap()
            .merge(&mut model);
        model
    };
    let (ours, theirs) = (merge("a.safetensors", &ours), merge("b.safetensors", &theirs));
    for held in &ours.tensors {
        assert_eq!(values(&ours, &held.name()), values(&theirs, &held.name()));
    }
}

#[test]
fn a_pissa_replaces_the_product_that_it_started_from() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = vec![
        tensor("blocks.0.att.output.lora_A", &[8, 256], 1, 0.3),
        tensor("blocks.0.att.output.lora_B", &[256, 8], 2, 0.1),
    ];
    let start = vec![
        tensor("model.blocks.0.att.output.init_lora_A", &[8, 256], 3, 0.3),
        tensor("model.blocks.0.att.output.init_lora_B", &[256, 8], 4, 0.1),
    ];
    let path = file(&folder, "pissa.safetensors", &tensors);
    let init = file(&folder, "init.safetensors", &start);
    let (plain, mut model) = (model("rwkv5.2-bytes.pth"), model("rwkv5.2-bytes.pth"));
    let adapter =
        Adapter::read(&path, &model, Options { alpha: None, init: Some(&init), unscaled: false }).unwrap();
    assert_eq!(adapter.about(), "PiSSA of rank 8 for 1 matrix");
    adapter.merge(&mut model);
    merged(&model, &plain, "blocks.0.att.output.weight", |row, col, w| {
        f64::from(w[col]) - product(&start[1].2, &start[0].2, 8, row, col)
            + product(&tensors[1].2, &tensors[0].2, 8, row, col)
    });
}

#[test]
fn a_disha_shares_its_rows_among_the_columns() {
    let folder = tempfile::tempdir().unwrap();
    // 896 columns are no multiple of 60.
    let tensors = vec![
        tensor("blocks.0.att.key.disha", &[64, 256], 1, 0.1),
        tensor("blocks.1.ffn.value.disha", &[60, 256], 2, 0.1),
    ];
    let path = file(&folder, "disha.safetensors", &tensors);
    let (plain, mut model) = (model("rwkv5.2-bytes.pth"), model("rwkv5.2-bytes.pth"));
    let adapter = Adapter::read(&path, &model, Options::default()).unwrap();
    assert_eq!(adapter.about(), "DiSHA of rank 60, 64 for 2 matrices");
    adapter.merge(&mut model);
    for (name, k) in [("blocks.0.att.key.weight", 0), ("blocks.1.ffn.value.weight", 1)] {
        let (rank, d) = (tensors[k].1[0], &tensors[k].2);
        merged(&model, &plain, name, |row, col, w| f64::from(w[col]) + f64::from(d[col % rank * 256 + row]));
    }
}

#[test]
fn a_bone_works_on_square_blocks() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["bone", "disha"] {
        let tensors = vec![tensor(&format!("blocks.1.ffn.key.{name}"), &[8, 32, 32], 1, 0.1)];
        let path = file(&folder, "bone.safetensors", &tensors);
        let (plain, mut model) = (model("rwkv7-bytes.pth"), model("rwkv7-bytes.pth"));
        let adapter = Adapter::read(&path, &model, Options::default()).unwrap();
        assert_eq!(adapter.about(), "Bone of rank 32 for 1 matrix");
        adapter.merge(&mut model);
        let d = |b: usize, i: usize, j: usize| f64::from(tensors[0].2[(b * 32 + i) * 32 + j]);
        merged(&model, &plain, "blocks.1.ffn.key.weight", |row, col, w| {
            let (b, j) = (col / 32, col % 32);
            let product: f64 = (0..32).map(|k| f64::from(w[b * 32 + k]) * d(b, k, j)).sum();
            f64::from(w[col]) + product + d(b, row % 32, j)
        });
    }
}

#[test]
fn what_does_not_belong_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("rwkv7-bytes.pth");
    let refused = |tensors: Tensors, alpha: Option<f32>| {
        let path = file(&folder, "x.safetensors", &tensors);
        Adapter::read(&path, &model, Options { alpha, ..Options::default() }).unwrap_err().to_string()
    };
    let lora = |matrix: &str, a: &[usize], b: &[usize]| {
        vec![tensor(&format!("{matrix}.lora_A"), a, 1, 1.0), tensor(&format!("{matrix}.lora_B"), b, 2, 1.0)]
    };
    let key = "blocks.0.att.key";
    for (tensors, alpha, text) in [
        (lora(key, &[4, 256], &[256, 4]), None, "is a LoRA, whose scale its file does not hold"),
        (
            lora(key, &[4, 256], &[256, 4]),
            Some(1e6),
            "the alpha 1000000 would multiply the adapter by 250000",
        ),
        (lora(key, &[4, 255], &[256, 4]), Some(4.0), "do not make the 256 x 256 of blocks.0.att.key.weight"),
        (lora(key, &[4, 256], &[256, 3]), Some(4.0), "has the shape [4, 256] and its counterpart [256, 3]"),
        (lora("blocks.2.att.key", &[4, 256], &[256, 4]), Some(4.0), "belongs to no matrix of the model"),
        (lora("blocks.0.att.w1", &[4, 32], &[256, 4]), Some(4.0), "belongs to no matrix of the model"),
        (lora(key, &[4, 256], &[256, 4])[..1].to_vec(), Some(4.0), "has no counterpart"),
        (vec![tensor("blocks.0.att.key.bone", &[8, 32, 31], 1, 1.0)], None, "is not [256 / r, r, r]"),
        (vec![tensor("blocks.0.att.key.disha", &[32, 255], 1, 1.0)], None, "is not [r, 256]"),
        (vec![tensor("blocks.0.ln1.weight", &[255], 1, 1.0)], None, "where the model has [256]"),
        (vec![tensor("blocks.0.ln9.weight", &[256], 1, 1.0)], None, "belongs to no tensor of the model"),
        (vec![tensor("emb.weight", &[256, 256], 1, 1.0)], None, "is no adapter"),
    ] {
        let error = refused(tensors, alpha);
        assert!(error.contains(text), "{error}");
    }
}

/// Case lora-b-without-a (RWKV/rwkv.cpp#51, mflux#629): a B whose A was lost changed nothing, without a word.
#[test]
fn a_lonely_factor_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("rwkv7-bytes.pth");
    let (a, b) = ([4, 256], [256, 4]);
    for (first, second) in [
        (".lora_A", ".lora_B"),
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora.0", ".lora.1"),
    ] {
        let (matrix, other) = ("blocks.0.att.receptance", "base_model.model.blocks.1.att.key");
        let a = if first == ".lora.0" { b } else { a };
        let whole = vec![
            tensor(&format!("{matrix}{first}"), &a, 1, 0.1),
            tensor(&format!("{matrix}{second}"), &b, 2, 0.1),
            tensor(&format!("{other}{first}"), &a, 3, 0.1),
            tensor(&format!("{other}{second}"), &b, 4, 0.1),
        ];
        let read = |tensors: &Tensors| {
            let path = file(&folder, "x.safetensors", tensors);
            Adapter::read(&path, &model, Options { alpha: Some(4.0), ..Options::default() })
        };
        assert_eq!(read(&whole).unwrap().parts.len(), 2, "{first}");
        for lost in 0..4 {
            let mut part = whole.clone();
            let lost = part.remove(lost).0;
            let error = read(&part).unwrap_err().to_string();
            assert!(error.contains(&format!("has no counterpart {lost:?}")), "{error}");
        }
    }
}

#[test]
fn no_tensor_is_changed_twice_and_what_is_not_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("rwkv7-bytes.pth");
    let lora = |name: &str, a: &str, b: &str| {
        let (a, b) = (format!("{name}{a}"), format!("{name}{b}"));
        vec![tensor(&a, &[4, 256], 1, 0.1), tensor(&b, &[256, 4], 2, 0.1)]
    };
    let read = |tensors: Tensors| {
        let path = file(&folder, "x.safetensors", &tensors);
        Adapter::read(&path, &model, Options { alpha: Some(4.0), ..Options::default() })
    };
    let key = "blocks.1.att.key";
    let plain = lora(key, ".lora_A", ".lora_B");
    for more in [
        lora(key, ".lora_A.default.weight", ".lora_B.default.weight"),
        vec![tensor(&format!("{key}.disha"), &[32, 256], 3, 0.1)],
        vec![tensor(&format!("module.{key}.weight"), &[256, 256], 3, 0.1)],
    ] {
        let error = read([plain.clone(), more].concat()).unwrap_err().to_string();
        assert!(error.contains("changes the same tensor of the model as"), "{error}");
    }
    for (unknown, shape) in [(".lora_magnitude_vector", 256), (".lora_A.other.weight", 1024)] {
        let unknown = vec![tensor(&format!("{key}{unknown}"), &[shape], 3, 0.1)];
        let error = read([plain.clone(), unknown].concat()).unwrap_err().to_string();
        assert!(error.contains("belongs to no tensor of the model"), "{error}");
    }
    let unread =
        vec![tensor("blocks.0.att.v0", &[256], 3, 0.1), tensor("blocks.0.att.v1", &[256, 8], 3, 0.1)];
    let about = read([plain, unread].concat()).map(|a| a.about());
    if !model.tensors.iter().any(|t| t.name() == "blocks.0.att.v0") {
        let said = "LoRA of rank 4 for 1 matrix, alpha 4, not used, as block 0 never reads it: blocks.0.att.v0 and 1 more";
        assert_eq!(about.unwrap(), said);
    }
}

#[test]
fn a_start_of_a_pissa_without_its_part_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("rwkv5.2-bytes.pth");
    let tensors = vec![
        tensor("blocks.0.att.output.lora_A", &[8, 256], 1, 0.3),
        tensor("blocks.0.att.output.lora_B", &[256, 8], 2, 0.1),
    ];
    let start = |block: usize| {
        vec![
            tensor(&format!("blocks.{block}.att.output.init_lora_A"), &[8, 256], 3, 0.3),
            tensor(&format!("blocks.{block}.att.output.init_lora_B"), &[256, 8], 4, 0.1),
        ]
    };
    let path = file(&folder, "pissa.safetensors", &tensors);
    let read = |start: Tensors| {
        let init = file(&folder, "init.safetensors", &start);
        let options = Options { init: Some(&init), ..Options::default() };
        Adapter::read(&path, &model, options).map(|a| a.about()).map_err(|e| e.to_string())
    };
    assert_eq!(read(start(0)).unwrap(), "PiSSA of rank 8 for 1 matrix");
    let error = read([start(0), start(1)].concat()).unwrap_err();
    assert!(error.contains("\"blocks.1.att.output.init_lora_A\" is the start of nothing in "), "{error}");
    assert!(
        read(start(0)[1..].to_vec()).unwrap_err().contains("\"blocks.0.att.output.init_lora_A\" is missing")
    );
}

/// An adapter as PEFT's `save_pretrained` writes it: a folder, names of modules, alpha in adapter_config.json.
fn peft(config: &str, names: [&str; 2], rank: usize) -> (tempfile::TempDir, Tensors) {
    let folder = tempfile::tempdir().unwrap();
    let tensors = vec![
        tensor(&format!("base_model.model.{}", names[0]), &[rank, 256], 1, 0.5),
        tensor(&format!("base_model.model.{}", names[1]), &[256, rank], 2, 0.05),
    ];
    file(&folder, "adapter_model.safetensors", &tensors);
    std::fs::write(folder.path().join("adapter_config.json"), config).unwrap();
    (folder, tensors)
}

#[test]
fn adapters_of_peft_say_their_alpha_and_have_the_names_of_hugging_face() {
    let blinkdl = ["blocks.1.att.key.lora_A.weight", "blocks.1.att.key.lora_B.weight"];
    let fla = ["model.layers.1.attn.k_proj.lora_A.weight", "model.layers.1.attn.k_proj.lora_B.weight"];
    let raw = ["blocks.1.att.key.lora_A.default.weight", "blocks.1.att.key.lora_B.default.weight"];
    let rank: usize = 4;
    for (names, config, alpha, scale, about) in [
        (blinkdl, r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 16}"#, None, 4.0, ", alpha 16"),
        (fla, r#"{"r": 4, "lora_alpha": 16, "use_rslora": false}"#, None, 4.0, ", alpha 16"),
        (
            raw,
            r#"{"r": 4, "lora_alpha": 6, "use_rslora": true}"#,
            None,
            3.0,
            ", alpha 6, scaled by alpha / sqrt(rank) (rsLoRA)",
        ),
        (fla, r#"{"r": 8, "rank_pattern": {"k_proj": 4}, "lora_alpha": 2}"#, None, 0.5, ", alpha 2"),
        (
            fla,
            r#"{"lora_alpha": 2, "alpha_pattern": {"model.layers.1.attn.k_proj": 8, "v_proj": 3}}"#,
            None,
            2.0,
            ", alpha 2",
        ),
        (
            blinkdl,
            r#"{"r": 4, "lora_alpha": 16, "init_lora_weights": true}"#,
            Some(8.0),
            2.0,
            ", alpha 8, in place of the alpha 16 that stands in its file",
        ),
    ] {
        let (folder, tensors) = peft(config, names, rank);
        let (plain, mut model) = (model("rwkv7-bytes.pth"), model("rwkv7-bytes.pth"));
        let options = Options { alpha, ..Options::default() };
        // The folder, or the file in it.
        let file = folder.path().join("adapter_model.safetensors");
        assert_eq!(Adapter::read(&file, &model, options).unwrap().parts.len(), 1);
        let adapter = Adapter::read(folder.path(), &model, options).unwrap();
        assert_eq!(adapter.about(), format!("LoRA of rank 4 for 1 matrix{about}"));
        adapter.merge(&mut model);
        merged(&model, &plain, "blocks.1.att.key.weight", |row, col, w| {
            f64::from(w[col]) + product(&tensors[1].2, &tensors[0].2, rank, row, col) * scale
        });
    }
}

#[test]
fn adapters_of_peft_that_are_more_than_a_product_are_refused() {
    let names = ["blocks.1.att.key.lora_A.weight", "blocks.1.att.key.lora_B.weight"];
    let model = model("rwkv7-bytes.pth");
    for (config, text) in [
        (r#"{"r": 8, "lora_alpha": 16}"#, "has the rank 4, and adapter_config.json says 8"),
        (r#"{"lora_alpha": 16, "use_dora": true}"#, "is that of a DoRA"),
        (r#"{"lora_alpha": 16, "peft_type": "IA3"}"#, "an adapter of the kind \"IA3\""),
        (
            r#"{"lora_alpha": 16, "init_lora_weights": "pissa_niter_4"}"#,
            "changed the model's own weights too",
        ),
        (r#"{"lora_alpha": 16, "fan_in_fan_out": true}"#, "fan_in_fan_out"),
        (r#"{"lora_alpha": 16, "alpha_pattern": {".*key": 2}}"#, "the regular expression"),
        (r#"{"lora_alpha": "x"}"#, "adapter_config.json cannot be understood"),
        (r#"{"r": 4}"#, "is a LoRA, whose scale its file does not hold"),
    ] {
        let (folder, _) = peft(config, names, 4);
        let error = Adapter::read(folder.path(), &model, Options::default()).unwrap_err().to_string();
        assert!(error.contains(text), "{config}: {error}");
    }
    let empty = tempfile::tempdir().unwrap();
    let error = Adapter::read(empty.path(), &model, Options::default()).unwrap_err().to_string();
    assert!(error.contains("has no adapter_model.safetensors or adapter_model.bin"), "{error}");
}

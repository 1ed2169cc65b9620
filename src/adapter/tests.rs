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

/// That the merged tensor is what `expected(row, column, original row)` says.
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

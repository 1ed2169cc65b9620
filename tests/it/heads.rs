//! Other output layers: `--head` and `cluster-head`.

use std::path::Path;

use quant::{Encoding, codec};
use rwkv_quant::model::Model;
use rwkv_quant::runner::{Head, HeadChoice, Options, Rows, Runner};
use serde_json::Value;

use crate::run::{json, ok, run, testdata};

const MODELS: [&str; 4] = ["rwkv4-bytes.pth", "rwkv5.2-bytes.pth", "rwkv6-bytes.pth", "rwkv7-bytes.pth"];

fn path(name: &str) -> String {
    testdata(name).to_str().unwrap().to_owned()
}

fn runner(path: &Path) -> Runner {
    Runner::new(Model::open(path, &[]).unwrap(), Options::default()).unwrap()
}

fn heldout(bytes: usize) -> Vec<u32> {
    std::fs::read(testdata("heldout.txt")).unwrap()[..bytes].iter().map(|b| u32::from(*b)).collect()
}

/// What a head says after every token of one run: the full logits, the head's, and the rows that it read.
fn both(runner: &Runner, head: &dyn Head, tokens: &[u32]) -> Vec<(Vec<f32>, Vec<f32>, Rows)> {
    let mut found = Vec::new();
    for window in tokens.chunks(512) {
        let hidden = runner.run(&[window], &mut [runner.start()]).unwrap();
        let rows: Vec<usize> = (0..window.len()).collect();
        for rows in rows.chunks(128) {
            let full = runner.logits(&hidden, rows).unwrap();
            let (other, readings) = runner.logits_by(head, &hidden, rows).unwrap();
            let all = readings.into_iter().enumerate();
            found.extend(all.map(|(i, r)| (full.row(i).to_vec(), other.row(i).to_vec(), r.rows)));
        }
    }
    found
}

/// Numbers of the greatest, of equal ones the first.
fn best(logits: &[f32], k: usize) -> Vec<(usize, u32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap().then(a.cmp(b)));
    order.iter().take(k).map(|i| (*i, logits[*i].to_bits())).collect()
}

#[test]
fn the_best_tokens_of_a_certified_head_are_those_of_the_full_one() {
    for name in MODELS {
        let runner = runner(&testdata(name));
        for k in [1, 10] {
            let head = HeadChoice::Certified(k).make(&runner).unwrap();
            assert_eq!((head.exact(), head.name()), (k, format!("certified:{k}")));
            for (full, other, rows) in both(&runner, head.as_ref(), &heldout(8 << 10)) {
                assert_eq!(best(&full, k), best(&other, k), "{name}");
                // What was read is there to the last bit, the best among it.
                let Rows::Some(rows) = rows else { panic!("all rows of {name} were read") };
                assert!(rows.iter().all(|i| full[*i as usize].to_bits() == other[*i as usize].to_bits()));
                assert!(best(&full, k).iter().all(|(i, _)| rows.contains(&(*i as u32))));
            }
        }
    }
}

/// Version 7 of the test data with so many tokens: rows that differ little from trained ones, so that many are nearly
/// the best.
fn large(file: &Path, vocab: usize) {
    let source = Model::open(&testdata("rwkv7-bytes.pth"), &[]).unwrap();
    let mut state = 7u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut tensors = Vec::new();
    for held in &source.tensors {
        let (name, mut shape) = (held.name(), held.values.shape().to_vec());
        let mut values = vec![0.0; held.values.elements()];
        held.values.read(&source.container, 0..held.values.rows(), &mut values);
        if ["emb.weight", "head.weight"].contains(&name.as_str()) {
            let size = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
            values = (0..vocab * shape[1]).map(|i| values[i % values.len()] + size * 0.1 * noise()).collect();
            shape[0] = vocab;
        }
        let mut bytes = vec![0; 2 * values.len()];
        codec(Encoding::BF16).unwrap().encode(quant::Rows::new(&values, values.len()), &mut bytes).unwrap();
        tensors.push((formats::Planned { name, encoding: Encoding::BF16, shape }, bytes));
    }
    let planned: Vec<formats::Planned> = tensors.iter().map(|t| t.0.clone()).collect();
    let placement = formats::safetensors::place(&formats::Metadata::new(), &planned).unwrap();
    let mut out = placement.head.clone();
    for (offset, (_, bytes)) in placement.offsets.iter().zip(&tensors) {
        out.resize(*offset as usize, 0);
        out.extend(bytes);
    }
    std::fs::write(file, out).unwrap();
}

#[test]
fn a_certified_head_of_65536_rows_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.safetensors");
    large(&file, 65536);
    let runner = runner(&file);
    for k in [1, 40] {
        let head = HeadChoice::Certified(k).make(&runner).unwrap();
        let found = both(&runner, head.as_ref(), &heldout(256));
        for (full, other, _) in &found {
            assert_eq!(best(full, k), best(other, k));
        }
        let rows: usize = found.iter().map(|f| f.2.count()).sum();
        assert!(rows / found.len() < 65536 / 4, "{rows} rows for {} tokens", found.len());
    }
}

fn number(value: &Value, at: &str) -> f64 {
    value.pointer(at).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {at} in {value}"))
}

fn probabilities(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let all: Vec<f64> = logits.iter().map(|v| f64::from(v - most).exp()).collect();
    let sum: f64 = all.iter().sum();
    all.iter().map(|v| v / sum).collect()
}

#[test]
fn what_is_said_of_a_clustered_head_is_so() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, &std::fs::read(testdata("heldout.txt")).unwrap()[..8 << 10]).unwrap();
    let file = folder.path().join("head.safetensors");
    let (text, file) = (text.to_str().unwrap(), file.to_str().unwrap());
    let calib = folder.path().join("calib.txt");
    std::fs::write(&calib, &std::fs::read(testdata("heldout.txt")).unwrap()[150_000..]).unwrap();
    for name in ["rwkv4-bytes.pth", "rwkv7-bytes.pth"] {
        let model = path(name);
        let make = ["--format", "json", "cluster-head", &model, "-o", file, "--share", "0.9", "--force"];
        let made = json(make.into_iter().chain(["--clusters", "24", "--calib", calib.to_str().unwrap()]));
        assert_eq!((number(&made, "/clusters"), number(&made, "/rows")), (24.0, 256.0));
        let first = std::fs::read(file).unwrap();
        ok(make.into_iter().chain([
            "--clusters",
            "24",
            "--calib",
            calib.to_str().unwrap(),
            "--threads",
            "1",
        ]));
        assert_eq!(std::fs::read(file).unwrap(), first, "the same clusters for any number of threads");
        for head in [file, "clustered:24,0.9"] {
            let found = json(["--format", "json", "eval-ppl", &model, text, "--head", head]);
            let (runner, choice) = (runner(Path::new(&model)), head.parse::<HeadChoice>().unwrap());
            let head = choice.make(&runner).unwrap();
            assert_eq!(head.exact(), 0);
            let [mut kl, mut same, mut missed, mut read, mut n] = [0.0; 5];
            for (i, (full, other, rows)) in both(&runner, head.as_ref(), &heldout(8 << 10)).iter().enumerate()
            {
                // The last prediction of a window is of nothing that was scored.
                if i % 512 == 511 {
                    continue;
                }
                let (p, q) = (probabilities(full), probabilities(other));
                kl += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
                same += f64::from(u8::from(best(full, 1)[0].0 == best(other, 1)[0].0));
                let Rows::Some(rows) = rows else { panic!("all rows") };
                missed += f64::from(u8::from(!rows.contains(&(best(full, 1)[0].0 as u32))));
                read += rows.len() as f64;
                n += 1.0;
                assert!(rows.iter().all(|i| full[*i as usize].to_bits() == other[*i as usize].to_bits()));
                // The greedy choice was read.
                assert!(rows.contains(&(best(other, 1)[0].0 as u32)));
            }
            let near = |at: &str, v: f64| {
                let said = number(&found, at);
                assert!((said - v / n).abs() < 1e-6 * (1.0 + said), "{name} {at}: {said} and not {}", v / n);
            };
            near("/candidates/0/against/kl/value", kl);
            near("/candidates/0/against/top1/value", same);
            near("/candidates/0/head/missed/value", missed);
            near("/candidates/0/head/rows/value", read);
            assert_eq!(number(&found, "/scored/tokens"), n);
            assert!(read / n < 200.0 && missed / n < 0.2, "{} rows, {} missed", read / n, missed / n);
        }
    }
    // A file of clusters is no model, and fits no other head.
    let convert = run(["convert", file, "out.gguf", "--type", "f32"]);
    assert!(
        convert.status == 1 && convert.stderr.contains("no runtime that we write for"),
        "{}",
        convert.stderr
    );
    let large_file = folder.path().join("large.safetensors");
    large(&large_file, 512);
    let other = HeadChoice::Stored(file.into()).make(&runner(&large_file)).unwrap_err();
    assert!(other.to_string().contains("as this model's head needs"), "{other}");
}

#[test]
fn all_clusters_are_the_full_head() {
    let runner = runner(&testdata("rwkv6-bytes.pth"));
    let head = "clustered:16,1".parse::<HeadChoice>().unwrap().make(&runner).unwrap();
    for (full, other, rows) in both(&runner, head.as_ref(), &heldout(600)) {
        assert_eq!((full, rows.count()), (other, 256));
    }
}

#[test]
fn a_certified_head_writes_the_same_text() {
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS {
        let model = path(name);
        let tokens = |more: &[&str]| {
            let args = ["--format", "json", "generate", &model, "-p", "/// Returns the ", "-n", "60"];
            let found = json(args.iter().chain(more));
            (found["tokens"].clone(), number(&found, "/head/rows") / number(&found, "/head/times"))
        };
        let (greedy, rows) = tokens(&["--greedy"]);
        let (certified, fewer) = tokens(&["--greedy", "--head", "certified"]);
        assert_eq!(greedy, certified);
        let stored = folder.path().join(format!("{name}.rwkvz")).to_str().unwrap().to_owned();
        ok(["certify-head", &model, "-o", &stored]);
        ok(["verify", &stored]);
        assert_eq!(tokens(&["--greedy", "--head", &stored]), (greedy, fewer));
        let free = run(["generate", &model, "-p", "fn", "--head", &stored]);
        assert!(free.status == 2 && free.stderr.contains("depends on all logits"), "{}", free.stderr);
        assert!(rows == 256.0 && fewer < 64.0, "{rows} {fewer}");
        let sampled = ["--top-k", "12", "--seed", "3", "--temperature", "0.9", "--top-p", "0.95"];
        let certified = [&sampled[..], &["--head", "certified:12"]].concat();
        assert_eq!(tokens(&sampled).0, tokens(&certified).0);
    }
    // What is not proven is not done.
    let model = path("rwkv7-bytes.pth");
    let args = ["generate", &model, "-p", "fn", "--head", "certified"];
    let all = run(args);
    assert!(all.status == 2 && all.stderr.contains("depends on all logits"), "{}", all.stderr);
    let few = run(args.iter().chain(&["--top-k", "5"]));
    assert!(few.status == 2 && few.stderr.contains("--head certified:5"), "{}", few.stderr);
    let wrong = run(["generate", &model, "-p", "fn", "--head", "certain"]);
    assert!(wrong.status == 2 && wrong.stderr.contains("heads are full, certified[:K]"), "{}", wrong.stderr);
}

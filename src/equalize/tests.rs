use std::path::{Path, PathBuf};

use formats::Limits;
use quant::Encoding;

use super::*;
use crate::convert::Request;
use crate::model::VERSIONS;
use crate::pipeline::{Silent, Stop};
use crate::recipe::FileType;
use crate::runner::{Options, Runner};
use crate::targets::{Content, TARGETS};

const MODELS: [&str; 4] = ["rwkv4-bytes", "rwkv5.2-bytes", "rwkv6-bytes", "rwkv7-bytes"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.pth"))
}

fn open(path: &Path) -> Model {
    Model::detect(formats::open(path, &Limits::default()).unwrap(), &[]).unwrap()
}

fn logits(model: Model) -> Vec<f32> {
    let runner = Runner::new(model, Options::default()).unwrap();
    let tokens: Vec<u32> = b"fn main() {\n    let x".iter().map(|b| u32::from(*b)).collect();
    let hidden = runner.run(&[&tokens], &mut [runner.start()]).unwrap();
    let rows: Vec<usize> = (0..hidden.rows()).collect();
    let logits = runner.logits(&hidden, &rows).unwrap();
    rows.iter().flat_map(|row| logits.row(*row).to_vec()).collect()
}

/// Exponents from -4 to 4 that look random, for the channels of some pairs in all blocks.
pub(crate) fn anything(model: &Model, wanted: impl Fn(&ChannelPair) -> bool) -> Equalization {
    let mut state = 0x2545_f491_u32;
    let mut all = Equalization::default();
    for pair in ChannelPair::of(model.version).iter().filter(|pair| wanted(pair)) {
        for layer in 0..if pair.in_blocks() { model.dims.layers } else { 1 } {
            let gives = |h: &&ModelTensor| {
                h.layer == layer && pair.gives.contains(&h.spec.short_name()) && !h.is_unread()
            };
            let gives = model.tensors.iter().find(gives).unwrap();
            let one = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 24) % 9) as i8 - 4
            };
            let channels = gives.values.shape()[pairs::outputs(gives.spec)];
            all = all.with(pair, layer, (0..channels).map(one).collect());
        }
    }
    all
}

#[test]
fn every_pair_names_tensors_of_its_versions_and_no_matrix_is_taken_twice() {
    for version in VERSIONS {
        let pairs = ChannelPair::of(version);
        for (i, pair) in pairs.iter().enumerate() {
            let find = |name: &&&str| version.specs().find(|s| s.short_name() == **name);
            assert!(pair.gives.iter().filter_map(|n| find(&n)).count() > 0);
            for name in pair.takes {
                let elsewhere = pairs[i + 1..].iter().any(|p| p.takes.contains(name));
                assert!(!elsewhere, "{} {name}", version.name);
            }
        }
    }
}

/// Powers of two change no bit of any logit: in every pair by itself, and in all together.
#[test]
fn logits_are_the_same_to_the_last_bit() {
    for name in MODELS {
        let plain = logits(open(&path(name)));
        let pairs = ChannelPair::of(open(&path(name)).version);
        assert_eq!(pairs.len(), 5);
        let alone = pairs.iter().map(|p| p.name).map(Some);
        for only in alone.chain([None]) {
            let mut model = open(&path(name));
            let rescaling = anything(&model, |p| only.is_none_or(|o| o == p.name));
            let before: Vec<TensorView> = model.tensors.iter().map(|h| h.values.clone()).collect();
            model.rescale(&rescaling).unwrap();
            let changed = model.tensors.iter().zip(&before).filter(|(h, b)| h.values != **b).count();
            assert!(changed > 1, "{name} {only:?}");
            assert!(logits(model) == plain, "{name} {only:?}");
        }
    }
}

/// One factor that is applied on one side only is seen.
#[test]
fn a_half_of_a_pair_changes_the_logits() {
    for name in MODELS {
        let mut model = open(&path(name));
        let rescaling = anything(&model, |_| true);
        let before: Vec<TensorView> = model.tensors.iter().map(|h| h.values.clone()).collect();
        model.rescale(&rescaling).unwrap();
        let last = model.tensors.iter().position(|h| h.spec.short_name() == "ffn.value.weight").unwrap();
        model.tensors[last].values = before[last].clone();
        assert!(logits(model) != logits(open(&path(name))), "{name}");
    }
}

/// Rescaled models are the same model, whatever target they are written for.
#[test]
fn rescaled_models_can_be_written_for_every_target() {
    let folder = tempfile::tempdir().unwrap();
    let mut written = 0;
    for name in MODELS {
        for target in TARGETS.iter().filter(|t| t.content() == Content::Model) {
            let file_type = FileType::named("f32").unwrap();
            let file_type = if target.holds(file_type) { file_type } else { FileType::named("f16").unwrap() };
            let mut model = open(&path(name));
            if !target.takes(model.version) {
                continue;
            }
            let output = |kind: &str| {
                let extension = target.extensions().first().copied().unwrap_or("folder");
                folder.path().join(format!("{name}-{}-{kind}.{extension}", target.id()))
            };
            let write = |model: Model, kind: &str| {
                let output = output(kind);
                let mut request = Request { output: output.clone(), ..Request::default() };
                request.recipe.force_target = true;
                request.recipe.metadata.vocab = Some("bytes".into());
                let mut prepared = request.plan(model, *target, file_type, &Silent, &Stop::new()).unwrap();
                prepared.write(false, &Silent, &Stop::new()).unwrap();
                logits(open(&prepared.to_open()))
            };
            let plain = write(open(&path(name)), "plain");
            let rescaling = anything(&model, |_| true);
            model.rescale(&rescaling).unwrap();
            let rescaled = write(model, "rescaled");
            let largest = plain.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let worst = plain.iter().zip(&rescaled).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
            // f16 rounds what a factor moves below its normal numbers.
            let most = if file_type.name == "f32" { 0.0 } else { 1e-3 * largest };
            assert!(worst <= most, "{name} as {}: {worst} of {largest}", target.name());
            written += 1;
        }
    }
    assert!(written >= 20, "{written}");
}

/// The channel whose activation is huge gets a smaller one, and the rest stay about as they are.
#[test]
fn the_search_shrinks_a_massive_channel() {
    let mut model = open(&path("rwkv7-bytes"));
    let pair = ChannelPair::of(model.version).iter().find(|p| p.name == "g2").unwrap();
    let channels = model.dims.embd;
    let mut exponents = vec![0; channels];
    exponents[5] = 11;
    model.rescale(&Equalization::default().with(pair, 0, exponents)).unwrap();
    let moments = |held: &ModelTensor| {
        let massive = held.spec.short_name() == "att.output.weight" && held.layer == 0;
        let mut moments = vec![1.0; channels];
        moments[5] = 2.0_f32.powi(22);
        massive.then_some(moments)
    };
    let q4 =
        |held: &ModelTensor| Some(if held.spec.role.is_large() { Encoding::Q4_0 } else { Encoding::F32 });
    let found = Equalization::search(&model, &moments, &q4).unwrap();
    assert_eq!(found.pairs(&model), ["g2"]);
    let found = found.of(pair, 0).unwrap();
    assert!((-11..=-5).contains(&found[5]), "{found:?}");
    assert!(found.iter().enumerate().all(|(i, e)| i == 5 || *e == 0), "{found:?}");
    // Nothing is gained where nothing is quantized, or nothing stands out.
    let plain = Equalization::search(&model, &moments, &|_| Some(Encoding::BF16)).unwrap();
    let even = Equalization::search(&model, &|_| Some(vec![1.0; channels]), &q4);
    assert!(plain.is_empty());
    assert!(even.is_err(), "ffn.value has other inputs");
}

#[test]
fn factors_of_another_model_are_refused() {
    let mut model = open(&path("rwkv7-bytes"));
    let pair = &ChannelPair::of(model.version)[0];
    let rescaling = Equalization::default().with(pair, 1, vec![1; 3]);
    let error = model.rescale(&rescaling).unwrap_err().to_string();
    assert!(error.contains("3 factors"), "{error}");
    assert!(logits(model) == logits(open(&path("rwkv7-bytes"))));
}

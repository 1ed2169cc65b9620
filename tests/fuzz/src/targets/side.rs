//! Files beside a model: vocabularies, configs, cards, recipes, job files, adapters, statistics, shards, results.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use formats::{Metadata, Planned, Value, safetensors};
use quant::Encoding;
use rwkv_quant::metadata::{self, ModelMetadata};
use rwkv_quant::model::adapter::{Adapter, Layout, Options, TunedState};
use rwkv_quant::batch::{Job, Summary};
use rwkv_quant::calibrate::Stats;
use rwkv_quant::eval::Corpus;
use rwkv_quant::scheme::Importance;
use rwkv_quant::model::Model;
use rwkv_quant::report;
use rwkv_quant::pipeline::Stop;
use rwkv_quant::recipe::Recipe;
use rwkv_quant::vocab::{Coder, Vocab};

use crate::{Scratch, Target, words};

/// Bytes that any input may make these targets allocate: what is read, and what they start from.
const BASE_BYTES: usize = 64 << 20;

const fn target(
    name: &'static str,
    seeds: fn() -> Vec<Vec<u8>>,
    run: fn(&Scratch, &[u8]) -> String,
) -> Target {
    Target { name, seeds, run, base_bytes: BASE_BYTES }
}

/// All of them.
pub static TARGETS: [Target; 16] = [
    target("imatrix", imatrices, |s, b| ended(Importance::load(&s.file("input", b)))),
    target("vocabulary", vocabularies, vocabulary),
    target("tokenizer-json", || vec![testdata("golden/tokenizers/pile.json")], vocabulary),
    target("qwen2-vocab-json", || vec![testdata("hybrids/arwkv7/vocab.json")], |s, b| hybrid(s, "vocab.json", b)),
    target("qwen2-merges", || vec![testdata("hybrids/arwkv7/merges.txt")], |s, b| hybrid(s, "merges.txt", b)),
    target("tokenizer-config", || vec![testdata("hybrids/arwkv7/tokenizer_config.json")], |s, b| {
        hybrid(s, "tokenizer_config.json", b)
    }),
    target("hf-config", || vec![testdata("hybrids/arwkv7/config.json")], |s, b| hybrid(s, "config.json", b)),
    target("hf-index", indexes, index),
    target("card", cards, |s, b| hybrid(s, "README.md", b)),
    target("recipe", recipes, |s, b| ended(Recipe::load(&s.file("input.toml", b)))),
    target("job", || vec![testdata("release.toml")], |s, b| ended(Job::read(&s.file("input.toml", b)))),
    target("adapter", adapters, adapter),
    target("state", states, |s, b| ended(TunedState::read(&s.file("input", b), model(), Layout::ValueKey))),
    target("statistics", statistics, |s, b| ended(Stats::open(&s.file("input", b), model()))),
    target("shard", shards, shard),
    target("results", results, result),
];

/// Texts and tokens to calibrate and measure on.
pub static CORPORA: [Target; 3] = [
    target("text-jsonl", || vec![b"{\"text\": \"ab\"}\n\"cd\"\n".to_vec()], |s, b| corpus(s, "input.jsonl", b)),
    target("tokens-npy", npy, |s, b| corpus(s, "input.npy", b)),
    target("tokens-ids", || vec![b"1 2 3\n255 0".to_vec()], |s, b| corpus(s, "input.ids", b)),
];

fn testdata_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn testdata(name: &str) -> Vec<u8> {
    std::fs::read(testdata_path(name)).expect("testdata is there")
}

/// The model that adapters and states are for.
fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::open(&testdata_path("rwkv7-bytes.pth"), &[]).expect("testdata is sound"))
}

fn ended<T>(result: rwkv_quant::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => {
            error.help();
            words(&error.to_string(), 8)
        }
    }
}

/// A safetensors file of zeros.
fn zeros(metadata: &[(&str, &str)], tensors: &[(&str, Encoding, &[usize])]) -> Vec<u8> {
    let metadata: Metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
    let planned = |(name, encoding, shape): &(&str, Encoding, &[usize])| Planned {
        name: (*name).to_owned(),
        encoding: *encoding,
        shape: shape.to_vec(),
    };
    let tensors: Vec<Planned> = tensors.iter().map(planned).collect();
    let placement = safetensors::place(&metadata, &tensors).expect("the seeds are sound");
    let mut bytes = placement.head;
    bytes.resize(placement.total_bytes as usize, 0);
    bytes
}

fn imatrices() -> Vec<Vec<u8>> {
    let entries = [("blk.0.attn_k.weight".to_owned(), vec![1.0; 8]), ("output.weight".to_owned(), vec![0.5; 4])];
    let matrix = formats::Imatrix { entries: entries.into(), datasets: vec!["text".to_owned()], chunks: 3 };
    matrix.to_gguf(96, 32).into_iter().chain([matrix.to_dat()]).collect()
}

fn vocabularies() -> Vec<Vec<u8>> {
    vec![
        b"1 'a' 1\n2 b'\\xff\\x00' 2\n3 '\\n' 1\n4 \"it's\" 4\n65529 'zz' 2\n".to_vec(),
        br#"{"1": "a", "2": [255, 0], "3": "\u00e9"}"#.to_vec(),
        b"a\nb\n<s>\n\\x00\n".to_vec(),
    ]
}

fn vocabulary(scratch: &Scratch, bytes: &[u8]) -> String {
    let coder = Coder::load(&scratch.file("input", bytes));
    if let Ok(coder) = &coder {
        let ids = coder.encode("let a = b'\\xff'; // \u{e9}\n".as_bytes()).unwrap_or_default();
        coder.decode(&ids);
    }
    ended(coder)
}

/// A folder of a hybrid in which one file is the input: opened, its tokenizer built and used, its card read.
fn hybrid(scratch: &Scratch, name: &str, bytes: &[u8]) -> String {
    let folder = scratch.folder_of(&testdata_path("hybrids/arwkv7"));
    let path = folder.join(name);
    let before = std::fs::read(&path).ok();
    std::fs::write(&path, bytes).expect("the scratch folder takes a file");
    let said = ended(Model::open(&folder, &[]).and_then(|model| {
        // Making a tokenizer takes a hundred times as long as the rest, and no card changes it.
        if name != "README.md" {
            metadata::coder(&model, None)?.encode(b"some text").ok();
        }
        ModelMetadata::stated(&model, true)
    }));
    match before {
        Some(before) => std::fs::write(&path, before).expect("the scratch folder takes a file"),
        None => std::fs::remove_file(&path).expect("the file was just written"),
    }
    said
}

fn indexes() -> Vec<Vec<u8>> {
    vec![
        br#"{"metadata": {"total_size": 40}, "weight_map": {"a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors"}}"#
            .to_vec(),
    ]
}

fn index(scratch: &Scratch, bytes: &[u8]) -> String {
    let part = |name: &str, tensor| scratch.file(name, &zeros(&[], &[(tensor, Encoding::F32, &[5])]));
    part("m-00001-of-00002.safetensors", "a");
    part("m-00002-of-00002.safetensors", "b");
    let path = scratch.file("m.safetensors.index.json", bytes);
    ended(formats::open(&path, &formats::Limits::default()).map_err(rwkv_quant::Error::from))
}

fn cards() -> Vec<Vec<u8>> {
    let card = "---\nlicense: apache-2.0\nlanguage: [en, zh]\nbase_model: a/b\ntags:\n- rwkv\ndatasets:\n- c/d\nname: no\n\
                model_creator: somebody\nlicense_link: https://e.org\nsize: 1e3\nx: {y: [1, 2.5, null, true]}\n---\n# Text\n";
    vec![card.as_bytes().to_vec(), b"---\na: &b [1]\nc: *b\n---\n".to_vec()]
}

fn recipes() -> Vec<Vec<u8>> {
    vec![
        b"type = \"q4_k_m\"\n[tensors]\n\"blocks.*.att.key.weight\" = \"q6_k\"\n\"head.weight\" = \"q8_0\"\n".to_vec(),
        b"type = \"coded\"\n[tensors]\n\"emb.weight\" = 3.5\n".to_vec(),
        b"preset = \"balanced\"\ntarget_bpw = 3.0\n[calibration]\ntexts = [\"a.txt\"]\ntokens = 64\n[adapters]\nlora = \"b\"\n[metadata]\nname = \"c\"\n".to_vec(),
    ]
}

fn adapters() -> Vec<Vec<u8>> {
    let pair = |a: &str, b: &str| zeros(&[], &[(a, Encoding::F16, &[2, 256]), (b, Encoding::F16, &[256, 2])]);
    vec![
        pair("blocks.0.att.key.lora_A", "blocks.0.att.key.lora_B"),
        pair("blocks.0.att.key.weight.lora.0", "blocks.0.att.key.weight.lora.1"),
        zeros(&[], &[("blocks.0.att.key.disha", Encoding::F16, &[4, 256])]),
        zeros(&[], &[("blocks.0.att.x_k", Encoding::F16, &[1, 1, 256])]),
    ]
}

fn adapter(scratch: &Scratch, bytes: &[u8]) -> String {
    let options = Options { alpha: Some(2.0), ..Options::default() };
    ended(Adapter::read(&scratch.file("input", bytes), model(), options))
}

fn states() -> Vec<Vec<u8>> {
    let names = ["blocks.0.att.time_state", "blocks.1.att.time_state"];
    vec![zeros(&[], &names.map(|name| (name, Encoding::F16, &[4usize, 64, 64][..])))]
}

fn statistics() -> Vec<Vec<u8>> {
    let metadata = [("rwkv-quant.kind", "statistics"), ("rwkv-quant.model", "x")];
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/statistics.safetensors");
    std::fs::read(corpus).into_iter().chain([zeros(&metadata, &[("tokens", Encoding::F32, &[4])])]).collect()
}

fn shards() -> Vec<Vec<u8>> {
    let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/shard.safetensors"));
    whole.into_iter().chain([zeros(&[("rwkv-quant.shard", "{}")], &[("frame.0", Encoding::U8, &[9])])]).collect()
}

fn shard(scratch: &Scratch, bytes: &[u8]) -> String {
    let folder = scratch.empty_folder("shards");
    std::fs::write(folder.join("o.gguf.shard-1of1"), bytes).expect("the scratch folder takes a file");
    ended(rwkv_quant::shards::merge(&folder.join("o.gguf"), true, &rwkv_quant::pipeline::Silent, &Stop::new()))
}

fn results() -> Vec<Vec<u8>> {
    ["eval", "diff", "convert", "summary"]
        .iter()
        .filter_map(|name| {
            std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("seeds/{name}.json"))).ok()
        })
        .chain([b"{}".to_vec()])
        .collect()
}

fn result(scratch: &Scratch, bytes: &[u8]) -> String {
    let path = scratch.file("input.json", bytes);
    let _ = Summary::read(&path);
    ended(report::page(&path).and_then(|page| page.html()))
}

fn npy() -> Vec<Vec<u8>> {
    let mut head = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<u2', 'fortran_order': False, 'shape': (4,), }".to_vec();
    head.resize(127, b' ');
    vec![[&head[..], b"\n\x01\x00\x02\x00\x03\x00\x04\x00"].concat()]
}

fn corpus(scratch: &Scratch, name: &str, bytes: &[u8]) -> String {
    static CODER: OnceLock<Coder> = OnceLock::new();
    let coder = CODER.get_or_init(|| Coder::greedy(Vocab::bytes()));
    ended(Corpus::read(&[scratch.file(name, bytes)], coder, true))
}

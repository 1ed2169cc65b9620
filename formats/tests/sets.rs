//! Models in several files, and folders.
#![allow(clippy::unwrap_used)] // in functions that tests share

use std::fs;
use std::path::{Path, PathBuf};

use formats::{Container, Error, Limits, Metadata, Placement, Planned, Result, Value, gguf, safetensors};
use proptest::prelude::*;
use quant::Encoding;
use tempfile::TempDir;

const F32: Encoding = Encoding::F32;

fn open(path: &Path) -> Result<Container> {
    formats::open(path, &Limits::default())
}

fn planned(names: &[&str]) -> Vec<Planned> {
    names.iter().map(|name| Planned { name: (*name).into(), encoding: F32, shape: vec![2] }).collect()
}

fn write(path: PathBuf, placement: Placement) -> PathBuf {
    let mut bytes = placement.head;
    bytes.resize(placement.total_bytes as usize, 1);
    fs::write(&path, bytes).unwrap();
    path
}

/// A safetensors file with these tensors.
fn st(dir: &TempDir, name: &str, tensors: &[&str]) -> PathBuf {
    let metadata = vec![("format".to_owned(), Value::from("pt"))];
    write(dir.path().join(name), safetensors::place(&metadata, &planned(tensors)).unwrap())
}

/// A part of a split GGUF file.
fn split(dir: &TempDir, name: &str, tensors: &[&str], no: u16, count: u16, total: i32) -> PathBuf {
    let mut metadata: Metadata = vec![
        ("split.no".into(), Value::U16(no)),
        ("split.count".into(), Value::U16(count)),
        ("split.tensors.count".into(), Value::I32(total)),
    ];
    if no == 0 {
        metadata.insert(0, ("general.architecture".into(), Value::from("rwkv7")));
    }
    write(dir.path().join(name), gguf::place(&metadata, &planned(tensors)).unwrap())
}

fn text(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// An index of these tensors and files.
fn index(dir: &TempDir, name: &str, map: &[(&str, &str)]) -> PathBuf {
    let entries: Vec<String> = map.iter().map(|(t, f)| format!("{t:?}: {f:?}")).collect();
    text(
        dir,
        name,
        &format!("{{\"metadata\": {{\"total_size\": 16}}, \"weight_map\": {{{}}}}}", entries.join(", ")),
    )
}

fn names(container: &Container) -> Vec<&str> {
    container.tensors().iter().map(|t| t.name.as_str()).collect()
}

#[track_caller]
fn refused(path: &Path, text: &str) -> Error {
    let error = open(path).expect_err("this must be refused");
    assert!(error.to_string().contains(text), "{error}");
    error
}

const INDEX: &str = "model.safetensors.index.json";
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

/// The files of a sharded Hugging Face model, with a config.
fn hf() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    st(&dir, ONE, &["a"]);
    st(&dir, TWO, &["b"]);
    index(&dir, INDEX, &[("b", TWO), ("a", ONE)]);
    text(&dir, "config.json", r#"{"model_type": "rwkv7"}"#);
    dir
}

#[test]
fn folder_index_and_part_open_the_same_model() {
    let dir = hf();
    let ways = [dir.path().to_owned(), dir.path().join(INDEX), dir.path().join(ONE), dir.path().join(TWO)];
    for path in ways {
        let model = open(&path).unwrap();
        assert_eq!(names(&model), ["a", "b"]);
        assert_eq!(model.path(), path);
        assert_eq!(model.format().name(), "safetensors");
        assert_eq!(model.files().len(), 2);
        assert_eq!(model.bytes(model.tensor("b").unwrap()), [1; 8]);
        assert_eq!(model.config().unwrap()["model_type"], "rwkv7");
        assert_eq!(model.metadata(), &vec![("format".to_owned(), Value::from("pt"))]);
    }
}

#[test]
fn parts_open_without_an_index_too() {
    let dir = hf();
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    for path in [dir.path().to_owned(), dir.path().join(TWO)] {
        assert_eq!(names(&open(&path).unwrap()), ["a", "b"]);
    }
    // Numbered from zero.
    let dir = tempfile::tempdir().unwrap();
    st(&dir, "模型 x-0-of-2.st", &["a"]);
    let last = st(&dir, "模型 x-1-of-2.st", &["b"]);
    assert_eq!(names(&open(&last).unwrap()), ["a", "b"]);
    assert!(open(&last).unwrap().config().is_none());
    st(&dir, "模型 x-2-of-2.st", &["c"]);
    refused(&last, "a part 0 and also a part 2 of 2");
    let wrong = st(&dir, "y-7-of-3.st", &["b"]);
    refused(&wrong, "its name says that it is part 7 of 3");
}

#[test]
fn a_missing_file_is_named() {
    for keep_index in [true, false] {
        let dir = hf();
        fs::remove_file(dir.path().join(ONE)).unwrap();
        if !keep_index {
            fs::remove_file(dir.path().join(INDEX)).unwrap();
        }
        for path in [dir.path().to_owned(), dir.path().join(TWO)] {
            match open(&path).unwrap_err() {
                Error::MissingShard { missing, count, .. } => {
                    assert_eq!((missing, count), (dir.path().join(ONE), 2));
                }
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn the_index_and_the_files_must_agree() {
    let dir = hf();
    index(&dir, INDEX, &[("a", ONE), ("b", TWO), ("c", TWO)]);
    refused(dir.path(), "\"model-00002-of-00002.safetensors\" does not hold what it lists, in tensor \"c\"");
    index(&dir, INDEX, &[("a", TWO), ("b", ONE)]);
    refused(dir.path(), "holds what it puts into \"model-00002-of-00002.safetensors\", in tensor \"a\"");
    index(&dir, INDEX, &[("a", ONE)]);
    refused(dir.path().join(TWO).as_path(), "it does not list \"model-00002-of-00002.safetensors\"");
    st(&dir, ONE, &["a", "x"]);
    refused(dir.path(), "holds what it does not list, in tensor \"x\"");
    st(&dir, ONE, &["a", "b"]);
    index(&dir, INDEX, &[("a", ONE), ("b", TWO)]);
    refused(dir.path(), "holds what it puts into");
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    refused(&dir.path().join(ONE), "two tensors have the same name, in tensor \"b\"");
    index(&dir, INDEX, &[("a", ONE), ("a", ONE)]);
    refused(dir.path(), "\"a\" stands twice at line 1 column");
}

#[test]
fn an_index_stays_in_its_folder() {
    let dir = hf();
    for bad in
        ["../x.st", "/etc/passwd", "sub/x.st", "..", ".", "", "C:x.st", "a\\b.st", "./model.st", "x.st/"]
    {
        index(&dir, INDEX, &[("a", bad)]);
        refused(dir.path(), "is not the name of a file beside it");
    }
}

#[test]
fn a_broken_index_names_the_place() {
    let dir = hf();
    text(&dir, INDEX, "{\n \"weight_map\": {,}\n}");
    refused(dir.path(), "no valid index file: key must be a string at line 2 column 17");
    text(&dir, INDEX, "{}");
    refused(dir.path(), "missing field `weight_map`");
    text(&dir, INDEX, r#"{"weight_map": {}}"#);
    refused(dir.path(), "the set names no files");
    text(&dir, INDEX, r#"{"weight_map": {}, "weight_map": {}}"#);
    refused(dir.path(), "duplicate field");
    text(&dir, INDEX, "");
    refused(dir.path(), "is empty, not a model");
    text(&dir, INDEX, &format!(r#"{{"weight_map": {{"a": "{}"}}}}"#, "x".repeat(1 << 20)));
    assert!(refused(dir.path(), "is not the name of a file").to_string().len() < 1000);
}

#[test]
fn a_wrong_total_size_is_kept_and_no_error() {
    let dir = hf();
    let map = format!(r#""weight_map": {{"a": "{ONE}", "b": "{TWO}"}}"#);
    let total = |metadata: &str| {
        text(&dir, INDEX, &format!("\u{feff}{{{metadata}{map}}}"));
        open(dir.path()).unwrap().value("index.total_size").cloned()
    };
    assert_eq!(total(r#""metadata": {"total_size": 17},"#), Some(Value::U64(17)));
    for fine in
        [r#""metadata": {"total_size": 16},"#, r#""metadata": {"total_size": "?"},"#, r#""metadata": 1,"#, ""]
    {
        assert_eq!(total(fine), None, "{fine}");
    }
}

#[test]
fn any_index_opens_by_its_content() {
    let dir = hf();
    let copy = dir.path().join("renamed.txt");
    fs::rename(dir.path().join(INDEX), &copy).unwrap();
    assert_eq!(names(&open(&copy).unwrap()), ["a", "b"]);
    let other = refused(&dir.path().join("config.json"), "is a JSON file, not a model");
    assert!(other.help().unwrap().starts_with("open the folder"));
}

#[test]
fn names_of_torch_files_work_the_same() {
    // What is in the files is told by their content.
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin");
    st(&dir, one, &["a"]);
    let part = st(&dir, two, &["b"]);
    index(&dir, "pytorch_model.bin.index.json", &[("a", one), ("b", two)]);
    text(&dir, "config.json", "{}");
    for path in [dir.path(), part.as_path()] {
        let model = open(path).unwrap();
        assert_eq!(names(&model), ["a", "b"]);
        assert!(model.config().is_some());
    }
}

#[test]
fn parts_of_different_formats_are_no_set() {
    let dir = tempfile::tempdir().unwrap();
    st(&dir, "x-1-of-2.gguf", &["a"]);
    let two = split(&dir, "x-2-of-2.gguf", &["b"], 1, 2, 2);
    refused(&two, "the first file of its set is of the format safetensors");
}

#[test]
fn gguf_splits_open_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = ("x-00001-of-00002.gguf", "x-00002-of-00002.gguf");
    split(&dir, one, &["a"], 0, 2, 3);
    let part = split(&dir, two, &["b", "c"], 1, 2, 3);
    for path in [part.as_path(), dir.path()] {
        let model = open(path).unwrap();
        assert_eq!(names(&model), ["a", "b", "c"]);
        assert_eq!(model.metadata(), &vec![("general.architecture".to_owned(), Value::from("rwkv7"))]);
    }
    split(&dir, two, &["b", "c"], 0, 2, 3);
    refused(&part, "split.no is 0, and 1 in the set of");
    split(&dir, two, &["b", "c"], 1, 3, 3);
    refused(&part, "split.count is 3, and 2 in");
    split(&dir, two, &["b"], 1, 2, 3);
    refused(&part, "split.tensors.count is 3, and 2 in");
    st(&dir, "y-00001-of-00001.gguf", &["a"]);
    let renamed = dir.path().join("renamed.gguf");
    fs::rename(dir.path().join(one), &renamed).unwrap();
    let error = refused(&renamed, "a name that does not say which of the 2 parts of a model it is");
    assert!(error.help().unwrap().contains("NAME-00001-of-00003.gguf"));
    refused(&part, "x-00001-of-00002.gguf is missing");
}

#[test]
fn a_folder_holds_one_model() {
    let dir = tempfile::tempdir().unwrap();
    text(&dir, "README.md", "# model");
    text(&dir, "training_args.bin", "x");
    text(&dir, ".hidden.pth", "x");
    fs::create_dir(dir.path().join("x.safetensors")).unwrap();
    let error = refused(dir.path(), "holds no model");
    assert!(error.help().unwrap().contains("*.pth"));
    st(&dir, "RWKV 模型.ST", &["a"]);
    let model = open(dir.path()).unwrap();
    assert_eq!((names(&model), model.path()), (vec!["a"], dir.path()));
    // A set counts once, its index or not.
    st(&dir, "other-1-of-2.st", &["a"]);
    st(&dir, "other-2-of-2.st", &["b"]);
    index(&dir, "third.st.index.json", &[]);
    let error = refused(dir.path(), "holds 3 models: RWKV 模型.ST, other-1-of-2.st, third.st.index.json");
    assert_eq!(error.help().unwrap(), "name one of them instead of the folder");
    for i in 0..20 {
        text(&dir, &format!("m{i:02}.pth"), "x");
    }
    refused(
        dir.path(),
        "holds 23 models: RWKV 模型.ST, m00.pth, m01.pth, m02.pth, m03.pth, m04.pth, m05.pth, \
        m06.pth, m07.pth, m08.pth and 13 more",
    );
    // The names of Hugging Face's tools come first.
    st(&dir, "model.safetensors", &["hf"]);
    assert_eq!(names(&open(dir.path()).unwrap()), ["hf"]);
}

#[test]
fn config_is_a_bounded_object() {
    let dir = hf();
    text(&dir, "config.json", "{\n\"a\": 1,\n}");
    refused(dir.path(), "config.json is no valid JSON file: trailing comma at line 3 column 1");
    text(&dir, "config.json", "[1]");
    refused(dir.path(), "expected a map at line 1 column");
    text(&dir, "config.json", "");
    refused(dir.path(), "EOF while parsing");
    text(&dir, "config.json", &"[".repeat(1 << 20));
    refused(dir.path(), "config.json asks for");
    text(&dir, "config.json", &"[".repeat(1000));
    refused(dir.path(), "config.json is no valid JSON file");
    text(&dir, "config.json", &format!("{{\"a\": {:?}}}", "x".repeat(5 << 20)));
    assert!(matches!(open(dir.path()), Err(Error::Limit { what: "bytes of config", .. })));
    // A part alone has no business with a config of another model.
    let other = st(&dir, "other.safetensors", &["x"]);
    assert!(open(&other).unwrap().config().is_none());
}

#[test]
fn limits_hold_for_sets() {
    let dir = hf();
    let mut limits = Limits::default();
    limits.shards = 1;
    for path in [dir.path().to_owned(), dir.path().join(ONE)] {
        assert!(matches!(formats::open(&path, &limits), Err(Error::Limit { what: "files", value: 2, .. })));
    }
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    assert!(matches!(formats::open(&dir.path().join(ONE), &limits), Err(Error::Limit { what: "files", .. })));
    let mut limits = Limits::default();
    limits.tensors = 1;
    let error = formats::open(&dir.path().join(ONE), &limits).unwrap_err();
    assert!(matches!(error, Error::Limit { value: 2, limit: 1, .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn links_into_a_cache_are_followed() {
    // Hugging Face's cache holds the files under other names and links to them.
    let cache = hf();
    let dir = tempfile::tempdir().unwrap();
    for name in [ONE, TWO, INDEX, "config.json"] {
        let blob = cache.path().join(format!("blob of {name}"));
        fs::rename(cache.path().join(name), &blob).unwrap();
        std::os::unix::fs::symlink(blob, dir.path().join(name)).unwrap();
    }
    for path in [dir.path().to_owned(), dir.path().join(TWO)] {
        let model = open(&path).unwrap();
        assert_eq!(names(&model), ["a", "b"]);
        assert!(model.config().is_some());
    }
    fs::remove_file(cache.path().join(format!("blob of {ONE}"))).unwrap();
    let error = refused(&dir.path().join(TWO), "model-00001-of-00002.safetensors is missing");
    assert!(error.help().unwrap().contains("the missing file"));
}

proptest! {
    #[test]
    fn a_damaged_index_does_not_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let dir = hf();
        let mut bytes = fs::read(dir.path().join(INDEX)).unwrap();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(dir.path().join(INDEX), bytes).unwrap();
        // What still opens is the whole model.
        if let Ok(model) = open(dir.path()) {
            prop_assert_eq!(names(&model), ["a", "b"]);
        }
    }
}

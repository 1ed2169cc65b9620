//! Round trips, and files that are damaged or were made to do harm.

use proptest::prelude::*;
use quant::Encoding;

use crate::{Container, Error, Limits, Metadata, Planned, Result, Value, open, safetensors::place};

fn planned(name: &str, encoding: Encoding, shape: &[usize]) -> Planned {
    Planned { name: name.into(), encoding, shape: shape.to_vec() }
}

fn sample() -> (Metadata, Vec<Planned>) {
    let metadata = vec![
        ("format".to_owned(), Value::from("pt")),
        ("author".to_owned(), Value::from("a \"quoted\"\n模型")),
    ];
    let tensors = vec![
        planned("z.weight", Encoding::F32, &[2, 3]),
        planned("a \"b\" é", Encoding::BF16, &[5]),
        planned("scalar", Encoding::I64, &[]),
        planned("empty", Encoding::F16, &[0, 4]),
        planned("bytes", Encoding::U8, &[3]),
    ];
    (metadata, tensors)
}

/// The file of a placement, with a different byte everywhere in the data.
fn file(metadata: &Metadata, tensors: &[Planned]) -> Vec<u8> {
    let placement = place(metadata, tensors).unwrap();
    let mut bytes = placement.head;
    let data = placement.total_bytes as usize - bytes.len();
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

fn read(bytes: &[u8]) -> Result<Container> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    open(&path, &Limits::default())
}

/// A file with this header and so many bytes of data.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn error(bytes: &[u8]) -> Error {
    read(bytes).expect_err("this must be refused")
}

#[track_caller]
fn refused(header: &str, data: usize, text: &str) {
    let error = error(&with_header(header, data)).to_string();
    assert!(error.contains(text), "{error:.300}");
    assert!(error.len() < 1000, "a message of {} bytes", error.len());
}

#[test]
fn what_is_placed_is_read_back() {
    let (metadata, tensors) = sample();
    let placement = place(&metadata, &tensors).unwrap();
    assert_eq!(placement.head.len() % 8, 0);
    let read = read(&file(&metadata, &tensors)).unwrap();
    assert_eq!(read.format().name(), "safetensors");
    assert_eq!(read.file_bytes(), placement.total_bytes);
    let mut sorted = metadata;
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(read.metadata(), &sorted);
    for (planned, offset) in tensors.iter().zip(&placement.offsets) {
        let found = read.tensor(&planned.name).unwrap();
        assert_eq!((found.encoding, &found.shape), (planned.encoding, &planned.shape));
        assert_eq!((found.offset, Some(found.bytes)), (*offset, planned.bytes()));
        assert_eq!(read.bytes(found).len() as u64, found.bytes);
    }
    let order: Vec<&str> = read.tensors().iter().map(|t| t.name.as_str()).collect();
    // An empty tensor lies where its neighbour starts.
    assert_eq!(order, ["z.weight", "a \"b\" é", "scalar", "empty", "bytes"]);
}

#[test]
fn the_head_is_that_of_the_crate_safetensors() {
    use ::safetensors::{Dtype, tensor::TensorView};
    // In the order that the crate would choose: larger types first, then by name.
    let tensors = [
        planned("b", Encoding::F32, &[2, 3]),
        planned("c", Encoding::F32, &[1]),
        planned("a", Encoding::F16, &[3]),
    ];
    let ours = file(&vec![("format".to_owned(), Value::from("pt"))], &tensors);
    let read = ::safetensors::SafeTensors::deserialize(&ours).unwrap();
    assert_eq!(read.tensor("b").unwrap().shape(), [2, 3]);
    assert_eq!(read.tensor("a").unwrap().dtype(), Dtype::F16);
    let views: Vec<(&str, TensorView<'_>)> =
        tensors.iter().map(|t| (t.name.as_str(), read.tensor(&t.name).unwrap())).collect();
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    assert_eq!(::safetensors::serialize(views, Some(metadata)).unwrap(), ours);
}

#[test]
fn the_same_input_makes_the_same_bytes() {
    let (mut metadata, tensors) = sample();
    let first = place(&metadata, &tensors).unwrap();
    metadata.reverse();
    assert_eq!(place(&metadata, &tensors).unwrap(), first);
    assert_eq!(place(&Metadata::new(), &[]).unwrap().head, b"\x08\0\0\0\0\0\0\0{}      ");
}

#[test]
fn what_safetensors_cannot_hold_is_refused() {
    let text = vec![("a".to_owned(), Value::from("x"))];
    let number = vec![("a".to_owned(), Value::from(1))];
    let twice = [text.clone(), text.clone()].concat();
    let a = || planned("a", Encoding::F32, &[3]);
    for (metadata, tensors) in [
        (&number, vec![]),
        (&twice, vec![]),
        (&text, vec![a(), a()]),
        (&text, vec![planned("__metadata__", Encoding::F32, &[3])]),
        (&text, vec![planned("a", Encoding::Q8_0, &[32])]),
        (&text, vec![planned("a", Encoding::F32, &[usize::MAX / 2, 8])]),
        (&text, vec![planned("a", Encoding::U8, &[usize::MAX]), planned("b", Encoding::U8, &[9])]),
        (&text, vec![planned("a", Encoding::U8, &[usize::MAX])]),
    ] {
        assert!(matches!(place(metadata, &tensors), Err(Error::CannotHold { .. })), "{tensors:?}");
    }
}

#[test]
fn every_cut_and_every_rest_is_an_error() {
    let (metadata, tensors) = sample();
    let mut bytes = file(&metadata, &tensors);
    for cut in 0..bytes.len() {
        error(&bytes[..cut]);
    }
    bytes.push(0);
    assert!(error(&bytes).to_string().contains("1 bytes at its end belong to no tensor"));
}

#[test]
fn names_stand_once() {
    let a = r#""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    let b = r#""\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}"#;
    refused(&format!("{{{a},{b}}}"), 2, "two tensors have the same name, in tensor \"a\"");
    refused(&format!("{{{a},{a}}}"), 1, "two tensors have the same name");
    refused(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0, "\"k\" stands twice");
    refused(r#"{"__metadata__":{},"__metadata__":{}}"#, 0, "\"__metadata__\" stands twice");
    let fields = r#"{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#;
    refused(fields, 1, "duplicate field `dtype`");
}

#[test]
fn offsets_cover_the_data() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        let entry =
            |o: [u64; 2]| format!(r#"{{"dtype":"U8","shape":[{}],"data_offsets":{o:?}}}"#, o[1] - o[0]);
        format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b))
    };
    assert!(read(&with_header(&two([4, 8], [0, 4]), 8)).is_ok());
    refused(&two([0, 4], [2, 6]), 6, "the data overlaps that of \"a\", in tensor \"b\"");
    refused(&two([0, 4], [0, 4]), 4, "overlaps");
    refused(&two([0, 4], [5, 8]), 8, "1 bytes before the data belong to no tensor");
    refused(&two([0, 4], [4, 8]), 7, "it is cut off: 8 bytes of data are announced, 7 are there");
    refused(&two([0, 4], [4, u64::MAX]), 8, "is cut off");
}

#[test]
fn entries_make_sense() {
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"x":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    assert!(read(&with_header(&entry("\"F8_E4M3\"", "[2]", "[0,2]"), 2)).is_ok());
    refused(&entry("\"F4\"", "[2]", "[0,1]"), 1, "uses the dtype \"F4\", in tensor \"x\"");
    refused(&entry("\"Q9\"", "[2]", "[0,1]"), 1, "uses the dtype \"Q9\"");
    refused(&entry("1", "[2]", "[0,1]"), 1, "invalid type: integer `1`, expected a string");
    refused(&entry("\"U8\"", "[-1]", "[0,1]"), 1, "invalid value: integer `-1`");
    refused(&entry("\"U8\"", "[1.0]", "[0,1]"), 1, "invalid type: floating point");
    refused(&entry("\"U8\"", "[1]", "[-1,0]"), 1, "integer `-1`");
    refused(&entry("\"U8\"", "[1]", "[0,1.5]"), 1, "floating point `1.5`");
    refused(&entry("\"U8\"", "[1]", "[NaN,1]"), 1, "at line 1 column");
    refused(&entry("\"U8\"", "[1]", "[0,1,2]"), 1, "the header is broken");
    refused(&entry("\"U8\"", "[1]", "[0]"), 1, "the header is broken");
    refused(&entry("\"U8\"", "[1]", "[1,0]"), 1, "the data ends (0) before it starts (1)");
    refused(&entry("\"U8\"", "[1]", "[0,99999999999999999999]"), 1, "the header is broken");
    refused(&entry("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "is absurd");
    refused(&entry("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, "is absurd");
    refused(&entry("\"F32\"", "[2]", "[0,4]"), 4, "[2] f32 needs 8 bytes but has 4");
    refused(&entry("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, "9 dimensions, more than the limit of 8");
}

#[test]
fn the_header_is_bounded_json() {
    refused("{", 0, "EOF while parsing");
    refused("{}x", 0, "trailing characters");
    refused("{\"a\":\"\u{1}\"}", 0, "at line 1 column");
    refused(&format!("{{\"a\":{}", "[".repeat(100_000)), 0, "the header is broken");
    refused(&format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000)), 0, "the header is broken");
    refused(&format!("{{\"{}\":1}}", "x".repeat(1 << 20)), 0, "1048576 bytes of name");
    refused(&format!("{{\"a\":{{\"dtype\":\"{}\"}}}}", "x".repeat(1 << 20)), 0, "missing field");
    refused(&format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20)), 0, "xxx… at line 1 column");
    refused(r#"{"__metadata__":{"a":1}}"#, 0, "expected a string");

    let mut bytes = with_header("{}", 0);
    bytes[0] = 3;
    assert!(error(&bytes).to_string().contains("it ends within the header (3 bytes needed, 2 left)"));
    bytes[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(matches!(error(&bytes), Error::Limit { what: "bytes of header", .. }));
    let mut bytes = with_header("{\"aé\":1}", 0);
    let at = bytes.iter().position(|b| *b == 0xc3).unwrap();
    bytes[at] = 0xff;
    assert!(error(&bytes).to_string().contains("invalid unicode"), "{}", error(&bytes));
}

#[test]
fn errors_name_the_byte() {
    let bytes = with_header("{\n\"a\":{\"dtype\":?", 0);
    assert!(
        error(&bytes).to_string().ends_with("line 2 column 14, in tensor \"a\", at byte 23"),
        "{}",
        error(&bytes)
    );
    assert_eq!(bytes[23], b'?');
}

#[test]
fn empty_metadata_and_spaces_are_fine() {
    for header in ["{}", "{ \n }   ", r#"{"__metadata__":null}"#, r#"{"__metadata__":{}}"#] {
        assert!(read(&with_header(header, 0)).unwrap().tensors().is_empty(), "{header}");
    }
}

proptest! {
    #[test]
    fn flipped_bytes_do_not_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let (metadata, tensors) = sample();
        let mut bytes = file(&metadata, &tensors);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(container) = read(&bytes) {
            for t in container.tensors() {
                prop_assert_eq!(container.bytes(t).len() as u64, t.bytes);
            }
        }
    }
}

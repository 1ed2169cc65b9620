//! Compact files: what is written is read back, and what is damaged or hostile is refused.

use quant::cancellation::Design;
use quant::coding::{Coding, Decoder, tile_rows};
use quant::{Encoding, Rows};
use sha2::{Digest, Sha256};

use super::{HEAD_BYTES, Section, Storage, Tiles, place, section};
use crate::{Checksums, Coded, Container, Error, Layout, Limits, Metadata, Planned, Sum, Value, open};

const ROWS: usize = 3000;
const COLS: usize = 64;

/// A file with a section of each kind, its metadata, and what is in its sections.
fn sample() -> (Layout, Metadata, Vec<Vec<u8>>) {
    let values: Vec<f32> = (0..ROWS * COLS).map(|i| ((i * 37 % 1009) as f32 - 500.0) / 512.0).collect();
    let design = Design::fit(Rows::new(&values, COLS), ROWS, None, 4.0).unwrap();
    let tiles = |encode: &dyn Fn(&[f32], &mut Vec<u8>)| -> Vec<Vec<u8>> {
        let tile = |values: &[f32]| {
            let mut tile = Vec::new();
            encode(values, &mut tile);
            tile
        };
        values.chunks(tile_rows(COLS) * COLS).map(tile).collect()
    };
    let codes = tiles(&|values, out| design.encode(values, None, out).unwrap());
    let exact = tiles(&|values, out| {
        let bf16: Vec<u8> =
            values.iter().flat_map(|v| (v.to_bits() >> 16).to_le_bytes()[..2].to_vec()).collect();
        quant::lossless::encode(&bf16, out);
    });
    assert!(codes.len() > 1);
    let vector: Vec<u8> = (0..100u8).flat_map(|i| f32::from(i / 8).to_le_bytes()).collect();
    let data = vec![
        section(design.head(), &codes).unwrap(),
        section(&[], &exact).unwrap(),
        zstd::bulk::compress(&vector, 3).unwrap(),
        (0..68).collect(),
        Vec::new(),
    ];
    let planned =
        |name: &str, encoding, shape: &[usize]| Planned { name: name.into(), encoding, shape: shape.into() };
    let tiled =
        |coding, n: usize| Storage::Tiled(Tiles { coding, rows: tile_rows(COLS) }, data[n].len() as u64);
    let sections = [
        (planned("codes", Encoding::F32, &[ROWS, COLS]), tiled(Coding::Codes, 0)),
        (planned("exact", Encoding::BF16, &[2, ROWS / 2, COLS]), tiled(Coding::Lossless, 1)),
        (planned("vector", Encoding::F32, &[100]), Storage::Zstd(data[2].len() as u64)),
        (planned("blocks", Encoding::Q8_0, &[2, 32]), Storage::Plain),
        (planned("nothing", Encoding::F32, &[0, 4]), Storage::Plain),
    ];
    let sections = sections.map(|(planned, storage)| Section { planned, storage });
    let text = |s: &str| Value::from(s);
    let metadata = vec![
        ("text".to_owned(), text("a \"b\" \u{1f600}")),
        ("numbers".to_owned(), Value::from(vec![-1i32, 7])),
        ("words".to_owned(), Value::strings(["x", ""])),
        ("float".to_owned(), Value::F32(0.1)),
        ("large".to_owned(), Value::U64(u64::MAX)),
        ("flag".to_owned(), Value::Bool(true)),
        ("floats".to_owned(), Value::from(vec![1e-300f64])),
    ];
    (place(&metadata, &sections).unwrap().into(), metadata, data)
}

fn file() -> Vec<u8> {
    let (layout, _, data) = sample();
    let mut file = vec![0; layout.total_bytes() as usize];
    let sum = |data: &Vec<u8>| Sum { crc32: 0, sha256: Sha256::digest(data).into() };
    let sums: Vec<Sum> = data.iter().map(sum).collect();
    let pieces = layout.finish(&sums).into_iter().chain(layout.offsets().iter().copied().zip(data));
    for (offset, bytes) in pieces {
        file[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    file
}

fn opened(bytes: &[u8]) -> Result<Container, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.rwkvz");
    std::fs::write(&path, bytes).unwrap();
    open(&path, &Limits::default())
}

fn verified(container: &Container) -> Result<Checksums, Error> {
    container.format().verify_checksums(container, &Limits::default())
}

#[test]
fn what_is_placed_is_read_back() {
    let (layout, metadata, data) = sample();
    let container = opened(&file()).unwrap();
    assert_eq!(container.metadata(), &metadata);
    assert_eq!(container.file_bytes(), layout.total_bytes());
    assert_eq!(verified(&container).unwrap(), Checksums::Match(5));
    for (name, coding) in [("codes", Coding::Codes), ("exact", Coding::Lossless)] {
        let tensor = container.tensor(name).unwrap();
        let tiled = container.tiled(tensor).unwrap();
        assert_eq!((tensor.encoding, tiled.tiles.coding, tensor.rows()), (coding.decoded(), coding, ROWS));
        assert_eq!(tiled.count(), ROWS.div_ceil(tile_rows(COLS)));
        let decoder = Decoder::new(coding, tiled.head, COLS).unwrap();
        let last = ROWS - (tiled.count() - 1) * tile_rows(COLS);
        let tiles: Vec<&[u8]> = tiled.from(tiled.count() - 1).collect();
        decoder.decode(tiles[0], &mut vec![0.0; last * COLS]).unwrap();
        assert_eq!(tiles.len(), 1);
    }
    let vector = container.tensor("vector").unwrap();
    assert_eq!(vector.coded, Some(Coded::Zstd));
    assert_eq!(container.bytes(vector)[4 * 99..], 12f32.to_le_bytes());
    assert_eq!(container.bytes(container.tensor("blocks").unwrap()), data[3]);
    assert!(container.bytes(container.tensor("nothing").unwrap()).is_empty());
}

#[test]
fn held_values_stand_for_tiles() {
    let mut container = opened(&file()).unwrap();
    container.hold("exact", vec![1; ROWS * COLS * 2]);
    let tensor = container.tensor("exact").unwrap();
    assert!(container.tiled(tensor).is_none());
    assert_eq!(container.blocks(tensor, 3..5).as_ref(), [1; 4]);
}

#[test]
fn every_cut_is_an_error() {
    let file = file();
    for cut in (0..file.len()).step_by(file.len() / 200).chain(file.len() - 100..file.len()) {
        let error = opened(&file[..cut]).unwrap_err();
        assert!(!matches!(error, Error::Io { .. }), "{cut}: {error}");
    }
    let mut longer = file.clone();
    longer.push(0);
    assert!(opened(&longer).is_err());
}

#[test]
fn a_flipped_bit_is_found_in_the_section_where_it_is() {
    let (layout, _, data) = sample();
    let file = file();
    for (n, name) in ["codes", "exact", "vector", "blocks"].into_iter().enumerate() {
        for at in [0, data[n].len() / 2, data[n].len() - 1] {
            let mut damaged = file.clone();
            damaged[layout.offsets()[n] as usize + at] ^= 4;
            // Some damage is seen at once: lengths that do not add up, a frame that cannot be unpacked.
            let found = opened(&damaged).and_then(|container| verified(&container));
            let error = found.unwrap_err().to_string();
            assert!(error.contains(&format!("in tensor {name:?}")), "{name} {at}: {error}");
        }
    }
    // Head, what lies between it and the first section, index, sums and footer.
    let tail = layout.offsets()[4] as usize + data[4].len();
    for at in (0..layout.offsets()[0] as usize).chain(tail..file.len()) {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        let found = opened(&damaged).and_then(|container| verified(&container));
        assert!(found.is_err(), "byte {at} of {}", file.len());
    }
}

#[test]
fn other_versions_are_named() {
    let mut newer = file();
    newer[8] = 2;
    let error = opened(&newer).unwrap_err();
    assert!(error.to_string().contains("version 2 of this format"), "{error}");
    assert!(error.help().unwrap().contains("newer rwkv-quant"));
}

/// A file with this index, and two sections of 64 bytes.
fn with_index(json: &str) -> Vec<u8> {
    let mut file = b"RWKVZ\0\r\n\x01\0\0\0\0\0\0\0".to_vec();
    assert_eq!(file.len() as u64, HEAD_BYTES);
    file.resize(192, 7);
    let index = zstd::bulk::compress(json.as_bytes(), 3).unwrap();
    let mut tail = index.clone();
    tail.extend([0; 64]);
    let sum = Sha256::digest(&tail);
    for field in [192, index.len() as u64, json.len() as u64, 2] {
        tail.extend(u64::to_le_bytes(field));
    }
    tail.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    tail.extend(sum);
    tail.extend(b"RWKVZEND");
    file.extend(tail);
    file
}

#[test]
fn a_hostile_index_is_refused() {
    let entry = |name: &str, rest: &str| format!(r#"{{"name": "{name}", "values": "f32", {rest}}}"#);
    let good = entry("a", r#""shape": [16], "offset": 64, "bytes": 64"#);
    let index =
        |second: &str| format!(r#"{{"requires": [], "metadata": [], "sections": [{good}, {second}]}}"#);
    let b = |rest: &str| index(&entry("b", rest));
    assert!(opened(&with_index(&b(r#""shape": [16], "offset": 128, "bytes": 64"#))).is_ok());
    // What is not known and not required is skipped.
    assert!(opened(&with_index(&b(r#""shape": [16], "offset": 128, "bytes": 64, "colour": "red""#))).is_ok());
    for (bad, what) in [
        (b(r#""shape": [16], "offset": 64, "bytes": 64"#), "lie where they cannot"),
        (b(r#""shape": [16], "offset": 130, "bytes": 60"#), "lie where they cannot"),
        (b(r#""shape": [17], "offset": 128, "bytes": 68"#), "lie where they cannot"),
        (b(r#""shape": [16], "offset": 128, "bytes": 18446744073709551615"#), "lie where they cannot"),
        (b(r#""shape": [17], "offset": 128, "bytes": 64"#), "needs 68 bytes"),
        (b(r#""shape": [4294967296, 4294967296, 16], "offset": 128, "bytes": 64"#), "absurd"),
        (b(r#""shape": [16], "offset": 128, "bytes": 64, "coding": "zip""#), "the coding \"zip\""),
        (b(r#""shape": [16], "offset": 128, "bytes": 64, "coding": "zstd""#), "frame"),
        (b(r#""shape": [1099511627776], "offset": 128, "bytes": 64, "coding": "zstd""#), "packed tensors"),
        (b(r#""shape": [16], "offset": 128, "bytes": 64, "coding": "codes""#), "without tiles"),
        (b(r#""shape": [16], "offset": 128, "bytes": 64, "coding": "codes", "tile_rows": 0"#), "no rows"),
        (b(r#""shape": [16], "offset": 128, "bytes": 64, "coding": "codes", "tile_rows": 1"#), "do not end"),
        (
            b(
                r#""shape": [1152921504606846976], "offset": 128, "bytes": 64, "coding": "codes", "tile_rows": 1"#,
            ),
            "its tiles would have 1152921504606846976 values",
        ),
        (
            b(r#""shape": [16], "offset": 128, "bytes": 64, "coding": "lossless", "tile_rows": 1"#),
            "cannot be coded",
        ),
        (b(r#""shape": [16], "offset": 128, "bytes": 64, "tile_rows": 1"#), "its coding has none"),
        (b(r#""shape": [1,1,1,1,1,1,1,1,16], "offset": 128, "bytes": 64"#), "dimensions"),
        (index(&good.replace("64, \"bytes\"", "128, \"bytes\"")), "the same name"),
        (
            b(r#""shape": [16], "offset": 128, "bytes": 64"#).replacen("\"f32\"", "\"q99\"", 1),
            "encoding \"q99\"",
        ),
        (index("{}"), "missing field"),
        (
            format!(r#"{{"requires": ["x"], "metadata": [], "sections": [{good}, {good}]}}"#),
            "the feature \"x\"",
        ),
        (r#"{"requires": ["x"], "sections": 7}"#.to_owned(), "the feature \"x\""),
        (r#"{"metadata": [], "sections": []}"#.to_owned(), "0 sections, not 2"),
        ("[".repeat(100_000), "broken"),
    ] {
        let error = opened(&with_index(&bad)).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
    let second = entry("b", r#""shape": [16], "offset": 128, "bytes": 64"#);
    let array =
        format!(r#"{{"metadata": [["k", {{"array": ["u8", [256]]}}]], "sections": [{good}, {second}]}}"#);
    let error = opened(&with_index(&array)).unwrap_err().to_string();
    assert!(error.contains("an array holds values of another type at line 1"), "{error}");
}

#[test]
fn what_a_compact_file_cannot_hold_is_refused() {
    let plain = |name: &str, encoding, shape: &[usize]| Section {
        planned: Planned { name: name.into(), encoding, shape: shape.into() },
        storage: Storage::Plain,
    };
    let tiled = Section {
        storage: Storage::Tiled(Tiles { coding: Coding::Codes, rows: 1 }, 5),
        ..plain("a", Encoding::BF16, &[2])
    };
    for bad in [
        vec![plain("a", Encoding::F32, &[1]), plain("a", Encoding::F32, &[1])],
        vec![plain("a", Encoding::Q8_0, &[33])],
        vec![plain("a", Encoding::F32, &[usize::MAX / 2, 8])],
        vec![tiled],
    ] {
        assert!(matches!(place(&Metadata::new(), &bad), Err(Error::CannotHold { .. })), "{bad:?}");
    }
    for value in [Value::F32(f32::NAN), Value::from(vec![0.5, f64::INFINITY])] {
        assert!(place(&vec![("k".to_owned(), value)], &[]).is_err());
    }
}

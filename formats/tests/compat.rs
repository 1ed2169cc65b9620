//! Compact files of every released version are read for ever, to the same values.

#![allow(clippy::unwrap_used)] // a test that cannot run should panic

use std::path::Path;

use formats::{Checksums, Container, Limits, Tensor, Value, open};
use quant::codec;
use quant::coding::Decoder;
use sha2::{Digest, Sha256};

/// Every value as f32.
fn values(container: &Container, tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.elements() as usize];
    let Some(tiled) = container.tiled(tensor) else {
        codec(tensor.encoding).unwrap().decode(container.bytes(tensor), &mut values);
        return values;
    };
    let cols = *tensor.shape.last().unwrap();
    let decoder = Decoder::new(tiled.tiles.coding, tiled.head, cols).unwrap();
    for (out, tile) in values.chunks_mut(tiled.tiles.rows * cols).zip(tiled.from(0)) {
        decoder.decode(tile, out).unwrap();
    }
    values
}

/// A line a tensor: what it is, and the SHA-256 of its values; before them that of the metadata.
fn summary(container: &Container) -> String {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let entry = |(key, value): &(String, Value)| match value {
        // As when the records were made: the kind, and every value with its type.
        Value::Array(array) => {
            format!("({key:?}, Array({:?}, {:?}))", array.kind(), array.iter().collect::<Vec<_>>())
        }
        other => format!("({key:?}, {other:?})"),
    };
    let metadata = format!("[{}]", container.metadata().iter().map(entry).collect::<Vec<_>>().join(", "));
    let mut text = format!("metadata {}\n", hex(&Sha256::digest(metadata.as_bytes())));
    for tensor in container.tensors() {
        let bytes: Vec<u8> = values(container, tensor).iter().flat_map(|v| v.to_le_bytes()).collect();
        let Tensor { name, shape, .. } = tensor;
        text += &format!("{name} {shape:?} {} {}\n", tensor.stored_as(), hex(&Sha256::digest(&bytes)));
    }
    text
}

#[test]
fn compact_files_of_every_version_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/compat");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "rwkvz") {
            let container = open(&path, &Limits::default()).unwrap();
            let sums = container.format().verify_checksums(&container, &Limits::default()).unwrap();
            assert_eq!(sums, Checksums::Match(container.tensors().len()));
            let recorded = std::fs::read_to_string(path.with_extension("txt")).unwrap();
            assert_eq!(summary(&container), recorded, "{}", path.display());
            count += 1;
        }
    }
    assert!(count > 0);
}

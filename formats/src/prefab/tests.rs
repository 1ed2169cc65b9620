use proptest::prelude::*;
use quant::Encoding;

use super::place;
use crate::{Container, Error, Limits, Metadata, Planned, Value, open};

fn planned(name: &str, encoding: Encoding, shape: &[usize]) -> Planned {
    Planned { name: name.to_owned(), encoding, shape: shape.to_vec() }
}

fn is_matrix(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|field| field.starts_with("w_"))
}

fn keys() -> Metadata {
    vec![
        ("context".into(), Value::from(Vec::<u8>::new())),
        ("info.version".into(), "V7".into()),
        ("info.num_layer".into(), Value::U64(300)),
        ("info.custom.V7.w".into(), Value::U64(70_000)),
        ("rescale".into(), Value::U64(1 << 40)),
        ("made.from".into(), "sha256:0".into()),
    ]
}

fn sample() -> Vec<Planned> {
    vec![
        planned("embed.b", Encoding::F16, &[5, 8]),
        planned("layers.0.w_k", Encoding::Fp4, &[4, 96]),
        planned("layers.0.decay", Encoding::F32, &[5, 7, 3]),
        planned("layers.1.w_k", Encoding::F16, &[16]),
        planned("layers.1.w_v", Encoding::Int8, &[2, 2, 32]),
    ]
}

/// A file whose data are the numbers of the tensors.
fn file(tensors: &[Planned]) -> Vec<u8> {
    let placement = place(&keys(), tensors, is_matrix).unwrap();
    let mut bytes = placement.head;
    bytes.resize(placement.total_bytes as usize, 0);
    for (offset, piece) in &placement.between {
        bytes[*offset as usize..][..piece.len()].copy_from_slice(piece);
    }
    for (i, offset) in placement.offsets.iter().enumerate() {
        bytes[*offset as usize] = i as u8 + 1;
        if let Some(split) = placement.splits.get(&i) {
            bytes[split.scales as usize] = i as u8 + 101;
        }
    }
    bytes
}

fn read(bytes: &[u8]) -> crate::Result<Container> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.prefab");
    std::fs::write(&path, bytes).unwrap();
    open(&path, &Limits::default())
}

#[test]
fn what_is_placed_is_read_back() {
    let tensors = sample();
    let placement = place(&keys(), &tensors, is_matrix).unwrap();
    let read = read(&file(&tensors)).unwrap();
    assert_eq!(read.format().name(), "prefab");
    let mut metadata = read.metadata().clone();
    metadata[0].1 = Value::from(Vec::<u8>::new());
    assert_eq!(metadata, keys());
    assert_eq!(read.tensors().len(), tensors.len());
    for (i, (found, planned)) in read.tensors().iter().zip(&tensors).enumerate() {
        assert_eq!((&found.name, &found.shape), (&planned.name, &planned.shape));
        assert_eq!(found.encoding, planned.encoding);
        assert_eq!((found.offset, found.split), (placement.offsets[i], placement.splits.get(&i).copied()));
        assert_eq!(read.bytes(found)[0], i as u8 + 1);
        let blocks = read.blocks(found, 0..usize::MAX);
        assert_eq!(Some(blocks.len() as u64), planned.bytes());
        if found.split.is_some() {
            assert_eq!(blocks[found.encoding.code_bytes()], i as u8 + 101);
        }
    }
    // A codebook is 16 levels.
    assert_eq!(read.codebook(&read.tensors()[1]), Some([0.0; 16]));
    assert_eq!(read.tensors()[1].stored_bytes(), 6 * 34 + 64);
}

#[test]
fn cuts_and_additions_are_errors() {
    let bytes = file(&sample());
    for cut in 0..bytes.len() {
        assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(read(&longer).unwrap_err().to_string().contains("1 bytes behind its end"));
}

#[test]
fn what_is_wrong_is_named() {
    let bytes = file(&sample());
    let at = |text: &str| bytes.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
    let refused = |at: usize, new: &[u8], text: &str| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        let error = read(&bytes).expect_err(text).to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(at("shape"), b"sharp", "data without a shape");
    refused(at("shape") + 5, &[0x85], "a shape of other than 4 numbers");
    refused(at("shape") + 6, &[9], "is no shape of 80 bytes of f16 or f32, in tensor \"embed.b\"");
    refused(at("shape") + 6, &[0x20], "a shape of other than 4 numbers");
    refused(at("data") + 4, &[0x78], "data that is no byte string");
    refused(at("info") + 4, &[0xbf], "an item of length code 31");
    refused(at("info") + 4, &[0xc0], "a tagged item");
    refused(at("rescale") - 1, &[0x27], "a key that is no text");
    let q = at("aq") + 1;
    assert_eq!(bytes[q], b'q');
    refused(q, b"x", "a matrix with the part \"x\", in tensor \"layers.0.w_k\"");
    refused(q, b"w", "the part \"w\" stands twice");
    refused(q, b"m", "stands twice");
}

#[test]
fn nesting_and_counts_are_bounded() {
    let nested = |n: usize| [b"\xa1\x64info".to_vec(), vec![0x81; n], vec![0]].concat();
    assert!(read(&nested(100_000)).unwrap_err().to_string().contains("nested more than 16 deep"));
    assert!(read(&nested(10)).is_ok());
    // Counts that no file could have.
    for start in [0x9bu8, 0xbb] {
        let absurd = [&b"\xa1\x64info"[..], &[start], &[0xff; 8], &[0; 20]].concat();
        assert!(read(&absurd).is_err());
    }
}

#[test]
fn what_a_prefab_cannot_hold_is_refused() {
    for bad in [
        vec![planned("a", Encoding::F32, &[3]), planned("a", Encoding::F32, &[3])],
        vec![planned("a", Encoding::F32, &[3]), planned("a.b", Encoding::F32, &[3])],
        vec![planned("a.1", Encoding::F32, &[3]), planned("a.1.b", Encoding::F32, &[3])],
        vec![planned("a", Encoding::BF16, &[3])],
        vec![planned("a", Encoding::Int8, &[128])],
        vec![planned("w_a", Encoding::F32, &[128])],
        vec![planned("w_a", Encoding::Int8, &[127])],
        vec![planned("a", Encoding::F16, &[1; 5])],
        vec![planned("a", Encoding::F32, &[u32::MAX as usize, u32::MAX as usize])],
    ] {
        assert!(matches!(place(&keys(), &bad, is_matrix), Err(Error::CannotHold { .. })), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn flipped_bytes_do_not_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = file(&sample());
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(container) = read(&bytes) {
            for t in container.tensors() {
                prop_assert_eq!(container.bytes(t).len() as u64, t.bytes);
                let _ = (container.blocks(t, 0..usize::MAX), container.codebook(t));
            }
        }
    }
}

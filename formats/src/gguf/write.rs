//! Placing a GGUF file: its head and the offset of every tensor.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::gguf::{ALIGNMENT, MAGIC, VERSION, types};
use crate::placement::{Placement, Planned};
use crate::value::{Metadata, Value};

/// Longest tensor name that ggml holds (it keeps 64 bytes, the last a zero).
const NAME_BYTES: usize = 63;
/// Most dimensions that ggml holds.
const DIMS: usize = 4;

/// Lays out a GGUF file with these keys and tensors, in the order given.
///
/// The tensors' data must fill their [`Planned::bytes`] at the offsets returned; the gaps between them are
/// zero bytes.
///
/// # Errors
/// [`Error::CannotHold`] if a name is too long or used twice, a shape has too many dimensions, or an
/// encoding has no number in ggml.
pub fn place(metadata: &Metadata, tensors: &[Planned]) -> Result<Placement> {
    let mut head = Vec::new();
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    head.extend_from_slice(&(metadata.len() as u64).to_le_bytes());

    let mut seen = BTreeSet::new();
    for (key, value) in metadata {
        if !seen.insert(key.as_str()) {
            return Err(cannot(format!("the key {key:?} stands twice"), None));
        }
        put_text(&mut head, key);
        head.extend_from_slice(&(value.kind() as u32).to_le_bytes());
        put_value(&mut head, value);
    }

    let mut seen = BTreeSet::new();
    let mut offsets = Vec::new();
    let mut end = 0u64;
    for t in tensors {
        let cannot = |what: String| cannot(what, Some(t.name.clone()));
        let absurd = || cannot("the file would be absurdly large".to_owned());
        if !seen.insert(t.name.as_str()) {
            return Err(cannot("two tensors have this name".to_owned()));
        }
        if t.name.len() > NAME_BYTES {
            return Err(cannot(format!("the name is longer than {NAME_BYTES} bytes")));
        }
        if t.shape.len() > DIMS {
            return Err(cannot(format!("{} dimensions, and at most {DIMS} are possible", t.shape.len())));
        }
        let id = types::type_id(t.encoding)
            .ok_or_else(|| cannot(format!("the type {} has no number in ggml", t.encoding)))?;
        let bytes = t.bytes().ok_or_else(|| {
            cannot(format!("rows of {:?} values are no whole blocks of {}", t.shape.last(), t.encoding))
        })?;
        put_text(&mut head, &t.name);
        head.extend_from_slice(&(t.shape.len() as u32).to_le_bytes());
        for dim in t.shape.iter().rev() {
            head.extend_from_slice(&(*dim as u64).to_le_bytes());
        }
        head.extend_from_slice(&id.to_le_bytes());
        head.extend_from_slice(&end.to_le_bytes());
        offsets.push(end);
        end =
            end.checked_add(bytes).and_then(|e| e.checked_next_multiple_of(ALIGNMENT)).ok_or_else(absurd)?;
    }

    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    let base = head.len() as u64;
    for offset in &mut offsets {
        *offset += base;
    }
    let total_bytes =
        end.checked_add(base).ok_or_else(|| cannot("the file would be absurdly large".to_owned(), None))?;
    Ok(Placement { head, offsets, between: Vec::new(), splits: BTreeMap::new(), total_bytes })
}

fn cannot(what: String, tensor: Option<String>) -> Error {
    Error::CannotHold { format: "GGUF", what, tensor }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(text) => put_text(out, text),
        Value::Array(array) => {
            out.extend_from_slice(&(array.kind() as u32).to_le_bytes());
            out.extend_from_slice(&(array.len() as u64).to_le_bytes());
            array.iter().for_each(|item| put_value(out, &item));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, open};
    use quant::Encoding;

    fn sample() -> (Metadata, Vec<Planned>) {
        let metadata = vec![
            ("general.architecture".to_owned(), Value::from("rwkv7")),
            ("a.float".to_owned(), Value::F32(1e-5)),
            ("a.flag".to_owned(), Value::Bool(true)),
            ("a.list".to_owned(), Value::strings(["x".to_owned(), "é".to_owned()])),
        ];
        let tensors = vec![
            Planned { name: "one".into(), encoding: Encoding::F32, shape: vec![3] },
            Planned { name: "two".into(), encoding: Encoding::Q8_0, shape: vec![2, 64] },
        ];
        (metadata, tensors)
    }

    #[test]
    fn what_is_placed_is_read_back() {
        let (metadata, tensors) = sample();
        let placement = place(&metadata, &tensors).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let mut bytes = placement.head.clone();
        bytes.resize(placement.total_bytes as usize, 0);
        std::fs::write(&path, &bytes).unwrap();
        let read = open(&path, &Limits::default()).unwrap();
        assert_eq!(read.metadata(), &metadata);
        assert_eq!(read.file_bytes(), placement.total_bytes);
        for (i, t) in tensors.iter().enumerate() {
            let found = read.tensor(&t.name).unwrap();
            assert_eq!((found.encoding, &found.shape), (t.encoding, &t.shape));
            assert_eq!(found.offset, placement.offsets[i]);
            assert_eq!(Some(found.bytes), t.bytes());
        }
    }

    #[test]
    fn every_cut_of_a_file_is_an_error_and_no_panic() {
        let (metadata, tensors) = sample();
        let placement = place(&metadata, &tensors).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = placement.head;
        bytes.resize(placement.total_bytes as usize, 0);
        for cut in 0..bytes.len() {
            let path = dir.path().join("cut.gguf");
            std::fs::write(&path, &bytes[..cut]).unwrap();
            // Only the padding behind the last tensor may be missing.
            assert!(open(&path, &Limits::default()).is_err() || bytes.len() - cut < 32, "cut at {cut}");
        }
    }

    #[test]
    fn what_gguf_cannot_hold_is_refused() {
        let tensor = |name: &str, shape: Vec<usize>, encoding| Planned { name: name.into(), encoding, shape };
        let long = "x".repeat(64);
        for bad in [
            vec![tensor("a", vec![3], Encoding::F32), tensor("a", vec![3], Encoding::F32)],
            vec![tensor(&long, vec![3], Encoding::F32)],
            vec![tensor("a", vec![1; 5], Encoding::F32)],
            vec![tensor("a", vec![33], Encoding::Q8_0)],
            vec![tensor("a", vec![3], Encoding::Bool)],
            vec![tensor("a", vec![usize::MAX / 2, 8], Encoding::F32)],
        ] {
            assert!(matches!(place(&Metadata::new(), &bad), Err(Error::CannotHold { .. })), "{bad:?}");
        }
    }
}

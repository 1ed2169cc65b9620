//! GGUF.

use formats::{Metadata, Planned, Value, gguf};
use quant::Encoding;

use crate::{BASE_BYTES, Target};

/// GGUF files.
pub const TARGET: Target = Target { name: "gguf", seeds, run: |scratch, bytes| scratch.open(bytes), base_bytes: BASE_BYTES };

fn seeds() -> Vec<Vec<u8>> {
    let metadata: Metadata = vec![
        ("general.architecture".to_owned(), Value::from("rwkv7")),
        ("general.alignment".to_owned(), Value::U32(32)),
        ("a.float".to_owned(), Value::F32(1e-5)),
        ("a.list".to_owned(), Value::strings(["x".to_owned(), "y".to_owned()])),
    ];
    let tensors = [
        Planned { name: "one".into(), encoding: Encoding::F32, shape: vec![3] },
        Planned { name: "two".into(), encoding: Encoding::Q8_0, shape: vec![2, 64] },
        Planned { name: "three".into(), encoding: Encoding::F16, shape: vec![2, 1, 5] },
    ];
    [(&metadata, &tensors[..]), (&Metadata::new(), &tensors[..1])]
        .into_iter()
        .filter_map(|(metadata, tensors)| {
            let placement = gguf::place(metadata, tensors).ok()?;
            let mut bytes = placement.head;
            bytes.resize(placement.total_bytes as usize, 0);
            Some(bytes)
        })
        .collect()
}

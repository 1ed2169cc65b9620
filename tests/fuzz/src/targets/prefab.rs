//! Prefabs of web-rwkv.

use formats::{Planned, Value, prefab};
use quant::Encoding;

use crate::{BASE_BYTES, Target};

/// web-rwkv's prefabs.
pub const TARGET: Target = Target { name: "prefab", seeds, run: |scratch, bytes| scratch.open(bytes), base_bytes: BASE_BYTES };

fn seeds() -> Vec<Vec<u8>> {
    let keys = vec![("info.version".into(), "V7".into()), ("rescale".into(), Value::U64(1024))];
    let planned = |name: &str, encoding, shape: &[usize]| Planned {
        name: name.to_owned(),
        encoding,
        shape: shape.to_vec(),
    };
    let tensors = [
        planned("embed.w", Encoding::F16, &[2, 64]),
        planned("layers.0.w_k", Encoding::Fp4, &[2, 64]),
        planned("layers.0.w_v", Encoding::Int8, &[2, 64]),
        planned("layers.0.time_decay", Encoding::F32, &[3]),
    ];
    let placement = prefab::place(&keys, &tensors, |name| name.contains("w_")).ok();
    let whole = placement.map(|placement| {
        let mut bytes = placement.head;
        bytes.resize(placement.total_bytes as usize, 0);
        for (offset, piece) in placement.between {
            bytes[offset as usize..offset as usize + piece.len()].copy_from_slice(&piece);
        }
        bytes
    });
    whole.into_iter().collect()
}

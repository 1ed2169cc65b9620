//! safetensors.

use formats::{Metadata, Planned, Value, safetensors};
use quant::Encoding;

use crate::{BASE_BYTES, Target};

/// safetensors files.
pub const TARGET: Target =
    Target { name: "safetensors", seeds, run: |scratch, bytes| scratch.open(bytes), base_bytes: BASE_BYTES };

fn seeds() -> Vec<Vec<u8>> {
    let metadata: Metadata = vec![("format".to_owned(), Value::from("pt"))];
    let tensors = [
        Planned { name: "a.weight".into(), encoding: Encoding::BF16, shape: vec![3, 2] },
        Planned { name: "b".into(), encoding: Encoding::F32, shape: vec![1, 1, 4] },
        Planned { name: "c".into(), encoding: Encoding::U8, shape: vec![] },
    ];
    let placement = safetensors::place(&metadata, &tensors).ok();
    let whole = placement.map(|placement| {
        let mut bytes = placement.head;
        bytes.resize(placement.total_bytes as usize, 0);
        bytes
    });
    whole.into_iter().collect()
}

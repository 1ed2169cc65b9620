//! Files of rwkv.cpp.

use formats::{Planned, rwkv_cpp};
use quant::Encoding;

use crate::{BASE_BYTES, Target};

/// rwkv.cpp files.
pub const TARGET: Target = Target { name: "rwkv_cpp", seeds, run: |scratch, bytes| scratch.open(bytes), base_bytes: BASE_BYTES };

fn seeds() -> Vec<Vec<u8>> {
    let header = rwkv_cpp::Header { n_vocab: 2, n_embed: 32, n_layer: 1, encoding: Encoding::Q5_1 };
    let tensors = [
        Planned { name: "emb.weight".into(), encoding: Encoding::F16, shape: vec![2, 32] },
        Planned { name: "blocks.0.att.key.weight".into(), encoding: Encoding::Q5_1, shape: vec![2, 32] },
        Planned { name: "ln_out.weight".into(), encoding: Encoding::F32, shape: vec![32] },
    ];
    let placement = rwkv_cpp::place(&header, &tensors).ok();
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

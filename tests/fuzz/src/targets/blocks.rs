//! Block decoders: any bytes are blocks of every encoding.

use quant::CODECS;

use crate::{Scratch, Target};

/// All codecs, one after the other; the first byte chooses.
pub const TARGET: Target = Target { name: "blocks", seeds, run, base_bytes: 4 << 20 };

fn seeds() -> Vec<Vec<u8>> {
    (0..CODECS.len()).map(|n| [vec![n as u8], vec![0x5a; 300]].concat()).collect()
}

fn run(_: &Scratch, bytes: &[u8]) -> String {
    let Some((first, bytes)) = bytes.split_first() else { return "empty".to_owned() };
    let codec = CODECS[usize::from(*first) % CODECS.len()];
    let encoding = codec.encoding();
    let blocks = bytes.len() / encoding.block_bytes().max(1);
    let mut values = vec![0.0; blocks * encoding.block_len()];
    codec.decode(&bytes[..blocks * encoding.block_bytes()], &mut values);
    format!("{encoding:?} {}", values.iter().any(|v| !v.is_finite()))
}

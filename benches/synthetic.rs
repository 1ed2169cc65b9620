//! Synthetic RWKV-7 checkpoints of any size: random weights in the shapes of real ones, as a torch file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use formats::pth::{Crc32, place};
use formats::{Metadata, Planned};
use quant::Encoding;

/// The sizes of a model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream; a multiple of the head size 64.
    pub embd: usize,
    /// Vocabulary size.
    pub vocab: usize,
}

/// Ranks (decay, iclr, value, gate) of the released models of this width.
fn ranks(embd: usize) -> [usize; 4] {
    match embd {
        0..=767 => [32, 32, 32, 64],
        768..=1535 => [64, 64, 32, 128],
        1536..=2303 => [96, 96, 64, 256],
        2304..=4095 => [96, 96, 64, 320],
        _ => [128, 128, 96, 480],
    }
}

/// The tensors of such a checkpoint.
pub fn tensors(shape: Shape) -> Vec<Planned> {
    let (c, f, v) = (shape.embd, 4 * shape.embd, shape.vocab);
    let [rw, ra, rv, rg] = ranks(c);
    let mut list = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        list.push(Planned { name, encoding: Encoding::BF16, shape: shape.to_vec() });
    };
    add("emb.weight".into(), &[v, c]);
    for i in 0..shape.layers {
        let mut add = |leaf: &str, shape: &[usize]| add(format!("blocks.{i}.{leaf}"), shape);
        for norm in if i == 0 { &["ln0", "ln1", "ln2"][..] } else { &["ln1", "ln2"] } {
            add(&format!("{norm}.weight"), &[c]);
            add(&format!("{norm}.bias"), &[c]);
        }
        for mix in ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a"] {
            add(&format!("att.{mix}"), &[1, 1, c]);
        }
        for (branch, rank) in [("w", rw), ("a", ra), ("v", rv), ("g", rg)] {
            add(&format!("att.{branch}1"), &[c, rank]);
            add(&format!("att.{branch}2"), &[rank, c]);
        }
        add("att.r_k", &[c / 64, 64]);
        for matrix in ["receptance", "key", "value", "output"] {
            add(&format!("att.{matrix}.weight"), &[c, c]);
        }
        add("att.ln_x.weight", &[c]);
        add("att.ln_x.bias", &[c]);
        add("ffn.x_k", &[1, 1, c]);
        add("ffn.key.weight", &[f, c]);
        add("ffn.value.weight", &[c, f]);
    }
    add("ln_out.weight".into(), &[c]);
    add("ln_out.bias".into(), &[c]);
    add("head.weight".into(), &[v, c]);
    list
}

/// Writes the checkpoint; the same shape always gives the same bytes.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, shape: Shape) -> io::Result<()> {
    let tensors = tensors(shape);
    let placement = place("synthetic", &Metadata::new(), &tensors).map_err(io::Error::other)?;
    let file = File::create(path)?;
    file.set_len(placement.total_bytes)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut buffer = vec![0; 1 << 20];
    let mut crcs = Vec::new();
    for (tensor, offset) in tensors.iter().zip(&placement.offsets) {
        let (mut at, mut crc) = (0, Crc32::new());
        let bytes = tensor.bytes().unwrap_or(0);
        while at < bytes {
            let part = &mut buffer[..(bytes - at).min(1 << 20) as usize];
            random.fill_bf16(part);
            crc.update(part);
            file.write_all_at(part, offset + at)?;
            at += part.len() as u64;
        }
        crcs.push(crc.finalize());
    }
    for (offset, bytes) in placement.finish(&crcs) {
        file.write_all_at(&bytes, offset)?;
    }
    Ok(())
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// bf16 weights, roughly normal with a standard deviation of 0.02: sums of four uniform numbers.
    fn fill_bf16(&mut self, out: &mut [u8]) {
        for bytes in out.chunks_exact_mut(2) {
            let z = self.next();
            let sum: i32 = (0..4).map(|i| (z >> (16 * i)) as u16 as i32 - 0x8000).sum();
            let value = sum as f32 * (0.02 / 37_837.0);
            bytes.copy_from_slice(&((value.to_bits() >> 16) as u16).to_le_bytes());
        }
    }
}

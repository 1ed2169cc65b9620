//! Placing a safetensors file with 4-bit matrices.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use quant::Encoding;

use super::{ABSMAX, BLOCK, NF4, QUANT_MAP, QUANT_STATE};
use crate::container::Split;
use crate::error::{Error, Result};
use crate::placement::{Placement, Planned};
use crate::safetensors;
use crate::value::Metadata;

/// The tensors that a file holds for `tensors`: those in nf4 in their parts, in the order in which the crate
/// `safetensors` writes them (wide types first, then by name). `dtype` is torch's name of what they are decoded to.
pub fn stored(tensors: &[Planned], dtype: &str) -> Vec<Planned> {
    let mut all: Vec<Planned> = tensors.iter().flat_map(|t| parts(t, dtype)).collect();
    all.sort_by(|a, b| order(a).cmp(&order(b)));
    all
}

fn order(t: &Planned) -> (Reverse<usize>, &str) {
    (Reverse(t.encoding.block_bytes()), &t.name)
}

/// A tensor as it is; or codes, scales, levels and JSON of a matrix in nf4.
fn parts(t: &Planned, dtype: &str) -> Vec<Planned> {
    if t.encoding != Encoding::Nf4 {
        return vec![t.clone()];
    }
    let elements: usize = t.shape.iter().product();
    let part = |suffix: &str, encoding, shape: &[usize]| Planned {
        name: format!("{}{suffix}", t.name),
        encoding,
        shape: shape.to_vec(),
    };
    vec![
        part("", Encoding::U8, &[elements / 2, 1]),
        part(ABSMAX, Encoding::F32, &[elements / BLOCK]),
        part(QUANT_MAP, Encoding::F32, &[16]),
        part(&format!("{QUANT_STATE}{NF4}"), Encoding::U8, &[state(&t.shape, dtype).len()]),
    ]
}

/// The JSON of a matrix, as Python writes it.
fn state(shape: &[usize], dtype: &str) -> String {
    format!(
        "{{\"quant_type\": \"{NF4}\", \"blocksize\": {BLOCK}, \"dtype\": \"{dtype}\", \"shape\": {shape:?}}}"
    )
}

/// Lays out a safetensors file with these keys and tensors, those in nf4 as bitsandbytes serializes them (see
/// [`stored`]).
///
/// # Errors
/// As [`safetensors::place`], and if a matrix is no whole number of blocks.
pub fn place(metadata: &Metadata, tensors: &[Planned], dtype: &str) -> Result<Placement> {
    if let Some(t) = tensors.iter().find(|t| t.bytes().is_none()) {
        let what = format!("{:?} is no whole number of blocks of {}", t.shape, t.encoding);
        return Err(Error::CannotHold { format: "safetensors", what, tensor: Some(t.name.clone()) });
    }
    let all = stored(tensors, dtype);
    let whole = safetensors::place(metadata, &all)?;
    let offsets: BTreeMap<&str, u64> =
        all.iter().zip(&whole.offsets).map(|(t, offset)| (t.name.as_str(), *offset)).collect();
    let mut placement = Placement { offsets: Vec::new(), ..whole };
    for (i, t) in tensors.iter().enumerate() {
        // The names are those of `all`.
        let offset = |suffix: &str| offsets.get(&*format!("{}{suffix}", t.name)).copied().unwrap_or(0);
        placement.offsets.push(offset(""));
        if t.encoding == Encoding::Nf4 {
            let split = Split { scales: offset(ABSMAX), codebook: Some(offset(QUANT_MAP)) };
            placement.splits.insert(i, split);
            let json = state(&t.shape, dtype).into_bytes();
            placement.between.push((offset(&format!("{QUANT_STATE}{NF4}")), json));
        }
    }
    Ok(placement)
}

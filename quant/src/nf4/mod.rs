//! 4-bit codes as bitsandbytes has them (QLoRA): blocks of 64 across row ends, and double quantization.
//!
//! ```text
//! codes    4 bits a weight: byte i holds value 2 i (high half) and value 2 i + 1 (low half)
//! absmax   the largest magnitude of each block: f32, or with double quantization
//! nested   u8 codes of `absmax - offset` with the 8-bit dynamic map, one f32 for each 256 of them, and the offset
//! x' = LEVELS[code] * absmax
//! ```
//!
//! 4.5 bits a weight, 4.127 with double quantization. The error is at most half the widest gap of the levels (0.15)
//! times `absmax`. Codes are byte for byte those of bitsandbytes 0.50 on a CPU. [`Blocks`] is the codec of codes and
//! `absmax` without double quantization.

mod blocks;

pub use blocks::{Blocks, NF4};

use crate::codebook::Codebook;
use crate::codec::{EncodeError, check_finite};

/// Weights in a block.
pub const BLOCK: usize = 64;

/// Blocks whose `absmax` share a scale under double quantization.
pub const NESTED_BLOCK: usize = 256;

/// Encodes `values` with the levels of `codebook` (the last block may be short).
///
/// # Errors
/// [`EncodeError::NonFinite`].
///
/// # Panics
/// If `codes` is not `values.len().div_ceil(2)` or `absmax` not `values.len().div_ceil(64)` long.
pub fn encode(
    values: &[f32],
    codebook: &Codebook,
    codes: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), EncodeError> {
    check_finite(values)?;
    assert_eq!(codes.len(), values.len().div_ceil(2));
    assert_eq!(absmax.len(), values.len().div_ceil(BLOCK));
    let bounds = bounds(codebook);
    for ((x, codes), absmax) in values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK / 2)).zip(absmax) {
        *absmax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let mut scaled = [0.0; BLOCK];
        if x.len() == BLOCK {
            let inverse = 1.0 / absmax.max(SMALLEST);
            for (scaled, v) in scaled.iter_mut().zip(x) {
                *scaled = (v * inverse).clamp(-1.0, 1.0);
            }
        } else {
            // The short block at the end is divided, and its absmax is never zero.
            *absmax = absmax.max(SMALLEST);
            for (scaled, v) in scaled.iter_mut().zip(x) {
                *scaled = (v / *absmax).clamp(-1.0, 1.0);
            }
        }
        for (byte, pair) in codes.iter_mut().zip(scaled.as_chunks::<2>().0) {
            *byte = level(pair[0], &bounds) << 4 | level(pair[1], &bounds);
        }
    }
    Ok(())
}

/// Below this magnitude a block is scaled as if this were its largest.
const SMALLEST: f32 = 1e-38;

/// Where a level gives way to the next: in the middle.
fn bounds(codebook: &Codebook) -> [f32; 15] {
    std::array::from_fn(|i| (codebook[i] + codebook[i + 1]) / 2.0)
}

/// The number of bounds below `v`: a value on a bound goes to the lower level.
#[inline(always)]
fn level(v: f32, bounds: &[f32; 15]) -> u8 {
    bounds.iter().map(|b| u8::from(*b < v)).sum()
}

/// Decodes codes of [`encode`].
///
/// # Panics
/// If the lengths do not fit together.
pub fn decode(codes: &[u8], absmax: &[f32], codebook: &Codebook, out: &mut [f32]) {
    assert_eq!(codes.len(), out.len().div_ceil(2));
    assert_eq!(absmax.len(), out.len().div_ceil(BLOCK));
    for ((out, codes), absmax) in out.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2)).zip(absmax) {
        for (i, v) in out.iter_mut().enumerate() {
            let byte = codes[i / 2];
            let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
            *v = codebook[usize::from(code)] * absmax;
        }
    }
}

/// The `absmax` of all blocks after double quantization.
#[derive(Clone, Debug, PartialEq)]
pub struct Nested {
    /// A code of the [dynamic map](dynamic_map) for each block.
    pub codes: Vec<u8>,
    /// The scale of each 256 codes.
    pub absmax: Vec<f32>,
    /// Added to what the codes stand for.
    pub offset: f32,
}

impl Nested {
    /// Quantizes `absmax` with its mean as offset.
    ///
    /// bitsandbytes takes the mean from torch, whose order of summation depends on the processor; ours is the
    /// exact mean rounded, and can differ in the last bit.
    pub fn new(absmax: &[f32]) -> Nested {
        let mean = absmax.iter().map(|v| f64::from(*v)).sum::<f64>() / absmax.len().max(1) as f64;
        Nested::with_offset(absmax, mean as f32)
    }

    /// Quantizes `absmax - offset` in blocks of 256.
    pub fn with_offset(absmax: &[f32], offset: f32) -> Nested {
        let table = nearest_codes(&dynamic_map());
        let mut nested = Nested { codes: Vec::with_capacity(absmax.len()), absmax: Vec::new(), offset };
        for block in absmax.chunks(NESTED_BLOCK) {
            let scale = block.iter().fold(0.0f32, |m, v| m.max((v - offset).abs()));
            nested.absmax.push(scale);
            if scale == 0.0 {
                nested.codes.extend(block.iter().map(|_| 0));
                continue;
            }
            let inverse = 1.0 / scale;
            nested.codes.extend(block.iter().map(|v| {
                let scaled = ((v - offset) * inverse).clamp(-1.0, 1.0);
                table[((scaled + 1.0) * 32767.5 + 0.5) as usize]
            }));
        }
        nested
    }

    /// The `absmax` of the blocks.
    pub fn decode(&self) -> Vec<f32> {
        let map = dynamic_map();
        let value =
            |(i, code): (usize, &u8)| map[usize::from(*code)] * self.absmax[i / NESTED_BLOCK] + self.offset;
        self.codes.iter().enumerate().map(value).collect()
    }
}

/// The signed 8-bit dynamic map (arXiv 1511.04561), ascending: 7 decades, the higher with the finer steps.
pub fn dynamic_map() -> [f32; 256] {
    let mut map = Vec::with_capacity(256);
    for i in 0..7 {
        let scale = 10f64.powi(i - 6) as f32;
        let items = 1usize << i;
        let bounds = linspace(0.1, 1.0, items + 1);
        for pair in bounds.windows(2) {
            let mean = scale * ((pair[0] + pair[1]) / 2.0);
            map.extend([mean, -mean]);
        }
    }
    map.extend([0.0, 1.0]);
    map.sort_by(f32::total_cmp);
    std::array::from_fn(|i| map[i])
}

/// `torch.linspace` of f32: from both ends to the middle, with fused multiply-add.
fn linspace(start: f32, end: f32, steps: usize) -> Vec<f32> {
    let step = (end - start) / (steps - 1) as f32;
    let value = |i: usize| {
        if i < steps / 2 {
            step.mul_add(i as f32, start)
        } else {
            (-step).mul_add((steps - 1 - i) as f32, end)
        }
    };
    (0..steps).map(value).collect()
}

/// The code next to each of 65536 points of `-1..=1`: bitsandbytes looks codes up there, so a value that lies
/// between two codes can get the farther one.
fn nearest_codes(map: &[f32; 256]) -> Vec<u8> {
    let mut code = 0;
    let mut table = Vec::with_capacity(65536);
    for i in 0..65536 {
        let point = i as f32 * 2.0 / 65535.0 - 1.0;
        while code < 255 && (map[code] + map[code + 1]) / 2.0 < point {
            code += 1;
        }
        table.push(code as u8);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codebook::NF4;

    pub(super) fn golden(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/golden/bitsandbytes/");
        std::fs::read(format!("{folder}{name}")).unwrap()
    }

    pub(super) fn floats(name: &str) -> Vec<f32> {
        golden(name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn codes_and_absmax_are_those_of_bitsandbytes() {
        let values = floats("values.f32");
        let (mut codes, mut absmax) =
            (vec![0; values.len().div_ceil(2)], vec![0.0; values.len().div_ceil(BLOCK)]);
        encode(&values, &NF4, &mut codes, &mut absmax).unwrap();
        assert_eq!(codes, golden("nf4.codes"));
        assert_eq!(absmax, floats("nf4.absmax"));
        let mut decoded = vec![0.0; values.len()];
        decode(&codes, &absmax, &NF4, &mut decoded);
        assert_eq!(decoded, floats("nf4.decoded"));
    }

    #[test]
    fn double_quantization_is_that_of_bitsandbytes() {
        let absmax = floats("nf4.absmax");
        let offset = floats("nested.offset")[0];
        let nested = Nested::with_offset(&absmax, offset);
        assert_eq!(nested.codes, golden("nested.codes"));
        assert_eq!(nested.absmax, floats("nested.absmax"));
        assert_eq!(dynamic_map().as_slice(), floats("nested.map"));
        // The exact mean agrees with torch's to a few units in the last place.
        assert!((Nested::new(&absmax).offset - offset).abs() <= offset * 1e-6);
        let worst = nested.decode().iter().zip(&absmax).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(worst <= 0.01 * nested.absmax.iter().copied().fold(0.0, f32::max));
    }

    #[test]
    fn zeros_stay_zeros_and_nan_is_an_error() {
        let (mut codes, mut absmax) = ([0; 32], [1.0; 1]);
        encode(&[0.0; 64], &NF4, &mut codes, &mut absmax).unwrap();
        assert_eq!((codes[0], absmax[0]), (0x77, 0.0));
        let mut values = [0.0; 64];
        values[9] = f32::NAN;
        assert!(matches!(
            encode(&values, &NF4, &mut codes, &mut absmax),
            Err(EncodeError::NonFinite { index: 9, .. })
        ));
    }
}

//! Double quantization (QLoRA, arXiv 2305.14314): the scales of blocks in 8 bits, and tiles of blocks with such scales.
//!
//! ```text
//! tile   f32 offset | f32 absmax[g], one for each 256 blocks | u8 scale[n], one for each block | codes[32 n]
//! absmax of block i = map[scale[i]] * absmax[i / 256] + offset
//! ```
//!
//! What a tile is decoded to are blocks of [`Encoding::Nf4`], with the scales that its own stand for. Of a matrix that is
//! one tile, all parts are those of bitsandbytes (but for the last bit of the offset, see [`Nested::new`]).

use super::blocks::scale_of;
use super::{BLOCK, SCALE_BYTES};
use crate::encoding::Encoding;
use crate::entropy::{EntropyError, Fields};

/// Blocks whose `absmax` share a scale.
pub const GROUP: usize = 256;

const CODE_BYTES: usize = Encoding::Nf4.code_bytes();
const BLOCK_BYTES: usize = Encoding::Nf4.block_bytes();

/// Bits a weight, but for the offset of every tile.
pub const BITS: f64 = (CODE_BYTES as f64 + 1.0 + SCALE_BYTES as f64 / GROUP as f64) * 8.0 / BLOCK as f64;

/// The tile of these blocks.
///
/// # Panics
/// If they are not whole.
pub fn encode(blocks: &[u8]) -> Vec<u8> {
    let (blocks, rest) = blocks.as_chunks::<BLOCK_BYTES>();
    assert!(rest.is_empty());
    let absmax: Vec<f32> = blocks.iter().map(|block| scale_of(block)).collect();
    let nested = Nested::new(&absmax);
    let mut tile = nested.offset.to_le_bytes().to_vec();
    tile.extend(nested.absmax.iter().flat_map(|v| v.to_le_bytes()));
    tile.extend(&nested.codes);
    tile.extend(blocks.iter().flat_map(|block| &block[..CODE_BYTES]));
    tile
}

/// Fills `blocks` with those of a tile.
///
/// # Errors
/// [`EntropyError`] unless `tile` holds as many; `blocks` is then unspecified.
///
/// # Panics
/// If `blocks` is no whole number of them.
pub fn decode(tile: &[u8], blocks: &mut [u8]) -> Result<(), EntropyError> {
    let (blocks, rest) = blocks.as_chunks_mut::<BLOCK_BYTES>();
    assert!(rest.is_empty());
    let mut fields = Fields(tile);
    let offset = f32::from_le_bytes(fields.array("the offset of scales")?);
    let absmax = fields.bytes(blocks.len().div_ceil(GROUP) * SCALE_BYTES, "the scales of scales")?;
    let absmax = absmax.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let scales = fields.bytes(blocks.len(), "the scales")?.to_vec();
    let codes = fields.bytes(blocks.len() * CODE_BYTES, "the codes")?;
    if !fields.0.is_empty() {
        return Err(EntropyError::LeftOver { what: "the codes", bytes: fields.0.len() });
    }
    let scales = Nested { codes: scales, absmax, offset }.decode();
    for ((block, codes), scale) in blocks.iter_mut().zip(codes.chunks(CODE_BYTES)).zip(scales) {
        block[..CODE_BYTES].copy_from_slice(codes);
        block[CODE_BYTES..].copy_from_slice(&scale.to_le_bytes());
    }
    Ok(())
}

/// The `absmax` of blocks after double quantization.
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
        for block in absmax.chunks(GROUP) {
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
        let value = |(i, code): (usize, &u8)| map[usize::from(*code)] * self.absmax[i / GROUP] + self.offset;
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
    use crate::nf4::NF4;
    use crate::nf4::tests::{floats, golden};
    use crate::{Codec, Rows};

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
    fn tiles_hold_what_bitsandbytes_stores() {
        let values = floats("values.f32");
        let values = &values[..values.len() / BLOCK * BLOCK];
        let mut blocks = vec![0; values.len() / BLOCK * BLOCK_BYTES];
        NF4.encode(Rows::new(values, BLOCK), &mut blocks).unwrap();
        let (tile, mut back) = (encode(&blocks), vec![0; blocks.len()]);
        decode(&tile, &mut back).unwrap();
        let absmax: Vec<f32> = blocks.chunks(BLOCK_BYTES).map(scale_of).collect();
        let scales = Nested::new(&absmax).decode();
        for ((block, before), scale) in back.chunks(BLOCK_BYTES).zip(blocks.chunks(BLOCK_BYTES)).zip(scales) {
            assert_eq!(block[..CODE_BYTES], before[..CODE_BYTES]);
            assert_eq!(block[CODE_BYTES..], scale.to_le_bytes());
        }
        assert!(tile.ends_with(&golden("nf4.codes")[..values.len() / 2]));
        let bits = tile.len() as f64 * 8.0 / values.len() as f64;
        assert!((4.125..4.2).contains(&bits), "{bits}");
        for (wrong, what) in [
            (&tile[..2], "the bytes end within the offset of scales"),
            (&tile[..tile.len() - 1], "the bytes end within the codes"),
            (&[tile.as_slice(), &[0]].concat(), "1 bytes are left over behind the codes"),
        ] {
            assert_eq!(decode(wrong, &mut back).unwrap_err().to_string(), what);
        }
    }
}

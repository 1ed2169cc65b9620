//! The codec of bitsandbytes' 4-bit matrices: a block is the codes of 64 values and their scale.
//!
//! ```text
//! nf4    64 values: 4-bit code[64], value 2 i in the high half of byte i | f32 absmax    4.5 bits a weight
//!        x' = level[code] * absmax, 16 f32 levels for the whole matrix
//! ```
//!
//! Blocks run across row ends. In a file the codes of all blocks stand together and the scales elsewhere
//! ([`Encoding::code_bytes`] tells where a block is cut). [`encode`](Codec::encode) makes the bytes that bitsandbytes
//! makes of the same weights in f32, f16 or bf16. Who loads them computes in f16 unless told otherwise, so weights
//! beyond that are errors.

use half::f16;

use super::{BLOCK, SMALLEST, bounds, decode, encode, level};
use crate::codebook::{self, Codebook};
use crate::codec::{Codec, EncodeError, Rows, check_finite, check_importance};
use crate::encoding::Encoding;
use crate::feedback::{self, Feedback, Format, Levels, Solution};
use crate::hessian::Hessian;
use crate::web_rwkv::{Fp4, STEPS};

/// 4-bit codes of a matrix with these 16 levels.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// The levels, ascending if anything is to be encoded.
    pub codebook: Codebook,
}

/// Blocks with the levels of NormalFloat4, which every kernel of bitsandbytes knows.
pub static NF4: Blocks = Blocks { codebook: codebook::NF4 };

const CODE_BYTES: usize = Encoding::Nf4.code_bytes();
const BLOCK_BYTES: usize = Encoding::Nf4.block_bytes();

impl Blocks {
    /// Fp4 codec with these levels, for the scale search in f16.
    fn halves(&self) -> Fp4 {
        Fp4 { codebook: self.codebook }
    }

    /// Tries other scales for the block in `out`, and keeps the one of least error.
    fn improve(&self, x: &[f32], weight: impl Fn(usize) -> f32, out: &mut [u8]) {
        let error = |block: &[u8]| {
            let mut decoded = [0.0; BLOCK];
            self.decode(block, &mut decoded);
            let square = |(i, (x, y)): (usize, (&f32, &f32))| {
                f64::from(weight(i)) * (f64::from(*x) - f64::from(*y)).powi(2)
            };
            x.iter().zip(&decoded).enumerate().map(square).sum::<f64>()
        };
        let bounds = bounds(&self.codebook);
        let absmax = scale_of(out);
        let mut least = error(out);
        let mut tried = [0; BLOCK_BYTES];
        for step in STEPS {
            let scale = absmax * (1.0 + step as f32 / 64.0);
            let inverse = 1.0 / scale.max(SMALLEST);
            for (byte, pair) in tried.iter_mut().zip(x.as_chunks::<2>().0) {
                *byte = level(pair[0] * inverse, &bounds) << 4 | level(pair[1] * inverse, &bounds);
            }
            tried[CODE_BYTES..].copy_from_slice(&scale.to_le_bytes());
            let found = error(&tried);
            if found < least {
                least = found;
                out.copy_from_slice(&tried);
            }
        }
    }
}

impl Codec for Blocks {
    fn encoding(&self) -> Encoding {
        Encoding::Nf4
    }

    fn encode(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        check(rows, out)?;
        let (mut codes, mut absmax) = ([0; CODE_BYTES], [0.0]);
        for (x, out) in rows.values.chunks(BLOCK).zip(out.chunks_mut(BLOCK_BYTES)) {
            encode(x, &self.codebook, &mut codes, &mut absmax)?;
            out[..CODE_BYTES].copy_from_slice(&codes);
            out[CODE_BYTES..].copy_from_slice(&absmax[0].to_le_bytes());
        }
        Ok(())
    }

    fn encode_best(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        self.encode(rows, out)?;
        let blocks = rows.values.chunks(BLOCK).zip(out.chunks_mut(BLOCK_BYTES));
        for (n, (x, out)) in blocks.enumerate() {
            let weight = |i| rows.importance.map_or(1.0, |q| q[(n * BLOCK + i) % rows.cols]);
            self.improve(x, weight, out);
        }
        Ok(())
    }

    fn encode_feedback(
        &self,
        rows: Rows<'_>,
        feedback: &Feedback,
        out: &mut [u8],
    ) -> Result<(), EncodeError> {
        assert_eq!(rows.cols, feedback.n());
        if !rows.cols.is_multiple_of(BLOCK) {
            return self.encode_best(Rows { importance: Some(feedback.diagonal()), ..rows }, out);
        }
        check(Rows::new(rows.values, rows.cols), out)?;
        feedback::encode(self, rows.values, feedback, out);
        Ok(())
    }

    fn polish(&self, rows: Rows<'_>, hessian: &Hessian, bytes: &mut [u8]) {
        assert_eq!(rows.cols, hessian.n());
        if rows.cols.is_multiple_of(BLOCK) {
            feedback::polish(self, self, rows.values, hessian, bytes);
        }
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len() * BLOCK, out.len() * BLOCK_BYTES);
        for (out, block) in out.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK_BYTES)) {
            decode(&block[..CODE_BYTES], &[scale_of(block)], &self.codebook, out);
        }
    }
}

/// With feedback, scales are looked for among those that f16 holds: `d` is the largest magnitude.
impl Format for Blocks {
    fn block_len(&self) -> usize {
        BLOCK
    }

    fn block_bytes(&self) -> usize {
        BLOCK_BYTES
    }

    fn group(&self) -> usize {
        BLOCK
    }

    fn levels(&self) -> Levels {
        self.halves().levels()
    }

    fn search(&self, x: &[[f32; 16]], w: &[[f32; 16]]) -> [Solution; 16] {
        self.halves().search(x, w)
    }

    fn scale(&self, solution: &Solution, group: usize) -> (f32, f32) {
        self.halves().scale(solution, group)
    }

    fn moves(&self) -> usize {
        self.halves().moves()
    }

    fn moved(&self, solution: &Solution, group: usize, which: usize) -> Option<Solution> {
        self.halves().moved(solution, group, which)
    }

    fn unpack(&self, bytes: &[u8]) -> Solution {
        Solution { d: f16::from_f32(scale_of(bytes)).to_bits(), ..Solution::EMPTY }
    }

    fn pack(&self, solution: &Solution, out: &mut [u8]) {
        let (bytes, rest) = out.split_at_mut(CODE_BYTES);
        for (byte, pair) in bytes.iter_mut().zip(solution.codes.as_chunks::<2>().0) {
            *byte = pair[0] << 4 | pair[1];
        }
        rest.copy_from_slice(&f16::from_bits(solution.d).to_f32().to_le_bytes());
    }
}

/// Whole blocks of finite weights that f16 holds.
fn check(rows: Rows<'_>, out: &[u8]) -> Result<(), EncodeError> {
    assert_eq!(rows.values.len() * BLOCK_BYTES, out.len() * BLOCK);
    check_finite(rows.values)?;
    check_importance(rows)?;
    match rows.values.iter().position(|v| f16::from_f32(*v).is_infinite()) {
        None => Ok(()),
        Some(index) => {
            let (value, limit) = (rows.values[index], f16::MAX.to_f32());
            Err(EncodeError::Overflow { index, value, encoding: Encoding::Nf4, limit })
        }
    }
}

/// The scale at the end of a block.
pub(super) fn scale_of(block: &[u8]) -> f32 {
    let bytes = [block[CODE_BYTES], block[CODE_BYTES + 1], block[CODE_BYTES + 2], block[CODE_BYTES + 3]];
    f32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nf4::tests::{floats, golden};

    #[test]
    fn blocks_hold_the_codes_and_scales_of_bitsandbytes() {
        let values = floats("values.f32");
        let whole = values.len() / BLOCK;
        let values = &values[..whole * BLOCK];
        let mut bytes = vec![0xa5; whole * BLOCK_BYTES];
        NF4.encode(Rows::new(values, BLOCK), &mut bytes).unwrap();
        let (codes, absmax) = (golden("nf4.codes"), floats("nf4.absmax"));
        for (n, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            assert_eq!(block[..CODE_BYTES], codes[n * CODE_BYTES..][..CODE_BYTES]);
            assert_eq!(scale_of(block), absmax[n]);
        }
        let mut decoded = vec![0.0; values.len()];
        NF4.decode(&bytes, &mut decoded);
        assert_eq!(decoded, floats("nf4.decoded")[..values.len()]);
    }

    #[test]
    fn what_was_decoded_is_encoded_to_the_same_bytes() {
        let values = &floats("values.f32")[..BLOCK * 8];
        let (mut bytes, mut again) = ([0; BLOCK_BYTES * 8], [1; BLOCK_BYTES * 8]);
        NF4.encode(Rows::new(values, BLOCK), &mut bytes).unwrap();
        let mut decoded = [0.0; BLOCK * 8];
        NF4.decode(&bytes, &mut decoded);
        NF4.encode(Rows::new(&decoded, BLOCK), &mut again).unwrap();
        assert_eq!(bytes, again);
    }
}

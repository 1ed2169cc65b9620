//! The blocks of web-rwkv's quantized matrices (versions 0.8 to 0.10), which its prefab files hold.
//!
//! ```text
//! int8   128 values: u8 code[128] | f16 min, max                                         8.25 bits a weight
//!        x' = code / 255 * (max - min) + min
//! fp4    64 values: 4-bit code[64], value 2 i in the low half of byte i | f16 absmax     4.25 bits a weight
//!        x' = level[code] * absmax, 16 f32 levels for the whole matrix
//! ```
//!
//! Blocks run across row ends. In a file the codes of all blocks stand first and the scales elsewhere
//! ([`Encoding::code_bytes`] tells where a block is cut). The error of int8 is at most `(max - min) / 510`,
//! that of fp4 half the gap of the levels times `absmax`. web-rwkv quantizes f16 weights; weights here are rounded to
//! f16 first, so [`encode`](Codec::encode) makes the bytes that it would make.

use half::f16;

use crate::arch::{self, Kernel, Lanes};
use crate::codebook::{self, Codebook};
use crate::codec::{Codec, EncodeError, Rows, check_finite, check_importance};
use crate::encoding::Encoding;
use crate::feedback::{self, Feedback, Format, Levels, Solution};
use crate::hessian::Hessian;

/// 8-bit codes between the least and the largest value of a block.
#[derive(Clone, Copy, Debug)]
pub struct Int8;

/// 4-bit codes of a matrix with these 16 levels.
#[derive(Clone, Copy, Debug)]
pub struct Fp4 {
    /// The levels, ascending; value and largest magnitude are both `x / absmax`.
    pub codebook: Codebook,
}

/// The levels of NormalFloat4.
pub static NF4: Fp4 = Fp4 { codebook: codebook::NF4 };

/// The levels of Student's t distribution.
pub static SF4: Fp4 = Fp4 { codebook: codebook::SF4 };

/// Scales tried for a block of fp4, in steps of 1/64 around the largest magnitude.
pub(crate) const STEPS: std::ops::RangeInclusive<i32> = -12..=12;

impl Int8 {
    const BLOCK: usize = Encoding::Int8.block_len();
    const CODE_BYTES: usize = Encoding::Int8.code_bytes();
}

impl Fp4 {
    const BLOCK: usize = Encoding::Fp4.block_len();
    const CODE_BYTES: usize = Encoding::Fp4.code_bytes();

    /// Thresholds of the codes: the least value that gets code `i + 1` or a later one instead of `i`.
    fn thresholds(&self) -> [f32; 15] {
        let mut thresholds = [f32::INFINITY; 15];
        for i in 0..15 {
            let (low, high) = (self.codebook[i], self.codebook[i + 1]);
            thresholds[i] = if high > low {
                least_at(low, high, |v| (high - v).abs() <= (low - v).abs())
            } else if i > 0 {
                thresholds[i - 1] // of equal levels the last is taken
            } else {
                f32::NEG_INFINITY
            };
        }
        thresholds
    }

    /// The levels next to `x * inverse` (of two equally near the later), and the scale as it is stored.
    fn pack(x: &[f32; Self::BLOCK], thresholds: &[f32; 15], inverse: f32, scale: f16, out: &mut [u8]) {
        let (bytes, rest) = out.split_at_mut(Self::CODE_BYTES);
        let scaled = x.map(|v| v * inverse);
        let mut codes = [0u32; Self::BLOCK];
        // In a block of zeros the values are NaN, and the codes 0; the absmax of 0 makes them 0 all the same.
        for threshold in thresholds {
            for (code, v) in codes.iter_mut().zip(&scaled) {
                *code += u32::from(v >= threshold);
            }
        }
        for (byte, pair) in bytes.iter_mut().zip(codes.as_chunks::<2>().0) {
            *byte = (pair[0] | pair[1] << 4) as u8;
        }
        rest.copy_from_slice(&scale.to_le_bytes());
    }

    fn blocks(&self, rows: Rows<'_>, out: &mut [u8], best: bool) -> Result<(), EncodeError> {
        check(rows, Encoding::Fp4, out)?;
        let thresholds = self.thresholds();
        let (blocks, _) = rows.values.as_chunks::<{ Self::BLOCK }>();
        for (n, (exact, out)) in blocks.iter().zip(out.chunks_mut(Self::CODE_BYTES + 2)).enumerate() {
            let x = exact.map(|v| f16::from_f32(v).to_f32());
            let absmax = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            Self::pack(&x, &thresholds, 1.0 / absmax, f16::from_f32(absmax), out);
            if best && absmax > 0.0 {
                self.improve(exact, absmax, &thresholds, |i| importance(rows, n * Self::BLOCK + i), out);
            }
        }
        Ok(())
    }

    /// Tries other scales for the block in `out`, and keeps the one of least error.
    fn improve(
        &self,
        x: &[f32; Self::BLOCK],
        absmax: f32,
        thresholds: &[f32; 15],
        weight: impl Fn(usize) -> f32,
        out: &mut [u8],
    ) {
        let error = |block: &[u8]| {
            let mut decoded = [0.0; Self::BLOCK];
            self.decode(block, &mut decoded);
            let square = |(i, (x, y)): (usize, (&f32, &f32))| {
                f64::from(weight(i)) * (f64::from(*x) - f64::from(*y)).powi(2)
            };
            x.iter().zip(&decoded).enumerate().map(square).sum::<f64>()
        };
        let mut least = error(out);
        let mut tried = [0; Self::CODE_BYTES + 2];
        for step in STEPS {
            let scale = f16::from_f32(absmax * (1.0 + step as f32 / 64.0));
            if scale.is_infinite() || scale.to_f32() == 0.0 {
                continue;
            }
            Self::pack(x, thresholds, 1.0 / scale.to_f32(), scale, &mut tried);
            let found = error(&tried);
            if found < least {
                least = found;
                out.copy_from_slice(&tried);
            }
        }
    }
}

/// Encodes with feedback, if blocks end where rows end; else with the mean squares of the inputs as importance.
fn encode_feedback<C: Codec + Format>(
    codec: &C,
    rows: Rows<'_>,
    feedback: &Feedback,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    assert_eq!(rows.cols, feedback.n());
    if !rows.cols.is_multiple_of(codec.block_len()) {
        return codec.encode_best(Rows { importance: Some(feedback.diagonal()), ..rows }, out);
    }
    check(Rows::new(rows.values, rows.cols), codec.encoding(), out)?;
    feedback::encode(codec, rows.values, feedback, out);
    Ok(())
}

fn polish<C: Codec + Format>(codec: &C, rows: Rows<'_>, hessian: &Hessian, bytes: &mut [u8]) {
    assert_eq!(rows.cols, hessian.n());
    if rows.cols.is_multiple_of(codec.block_len()) {
        feedback::polish(codec, codec, rows.values, hessian, bytes);
    }
}

/// Steps of f16 tried when a block is polished.
const MOVES: [i16; 4] = [1, -1, 6, -6];

/// A block with nothing but its two f16.
fn empty(d: f16, dmin: f16) -> Solution {
    Solution { d: d.to_bits(), dmin: dmin.to_bits(), ..Solution::EMPTY }
}

/// `d` is the largest magnitude.
impl Format for Fp4 {
    fn block_len(&self) -> usize {
        Self::BLOCK
    }

    fn block_bytes(&self) -> usize {
        Self::CODE_BYTES + 2
    }

    fn group(&self) -> usize {
        Self::BLOCK
    }

    fn levels(&self) -> Levels {
        Levels::Table(self.codebook, self.thresholds())
    }

    fn search(&self, x: &[[f32; 16]], w: &[[f32; 16]]) -> [Solution; 16] {
        let Levels::Table(levels, bounds) = self.levels() else { return [empty(f16::ZERO, f16::ZERO); 16] };
        arch::dispatch(SearchFp4 { levels, bounds, x, w })
    }

    fn scale(&self, solution: &Solution, _: usize) -> (f32, f32) {
        (f16::from_bits(solution.d).to_f32(), 0.0)
    }

    fn moves(&self) -> usize {
        MOVES.len()
    }

    fn moved(&self, solution: &Solution, _: usize, which: usize) -> Option<Solution> {
        solution.with_other_d(MOVES[which])
    }

    fn unpack(&self, bytes: &[u8]) -> Solution {
        Solution { d: half_at(bytes, Self::CODE_BYTES).to_bits(), ..Solution::EMPTY }
    }

    fn pack(&self, solution: &Solution, out: &mut [u8]) {
        let (bytes, rest) = out.split_at_mut(Self::CODE_BYTES);
        for (byte, pair) in bytes.iter_mut().zip(solution.codes.as_chunks::<2>().0) {
            *byte = pair[0] | pair[1] << 4;
        }
        rest.copy_from_slice(&solution.d.to_le_bytes());
    }
}

/// Tries the scales that [`Fp4::improve`] tries.
struct SearchFp4<'a> {
    levels: Codebook,
    bounds: [f32; 15],
    x: &'a [[f32; 16]],
    w: &'a [[f32; 16]],
}

impl Kernel for SearchFp4<'_> {
    type Output = [Solution; 16];

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> [Solution; 16] {
        let mut absmax = [0.0f32; 16];
        for x in self.x {
            for (absmax, x) in absmax.iter_mut().zip(x) {
                *absmax = absmax.max(x.abs());
            }
        }
        let mut least = [f32::INFINITY; 16];
        let mut best = [empty(f16::ZERO, f16::ZERO); 16];
        for step in STEPS {
            let scales = absmax.map(|v| f16::from_f32(v * (1.0 + step as f32 / 64.0)));
            // Blocks of zeros, and scales that are none.
            let inverses =
                scales.map(|d| if d > f16::ZERO && d.is_finite() { 1.0 / d.to_f32() } else { 0.0 });
            let floats = scales.map(f16::to_f32);
            let mut errors = [0.0; 16];
            for at in (0..16).step_by(S::N) {
                let (scale, inverse) = (s.load(&floats[at..]), s.load(&inverses[at..]));
                let mut sum = s.splat(0.0);
                for (x, w) in self.x.iter().zip(self.w) {
                    let x = s.load(&x[at..]);
                    let off = x - scale * s.quantize_to_levels(x * inverse, &self.bounds, &self.levels);
                    sum = sum + s.load(&w[at..]) * off * off;
                }
                s.store(sum, &mut errors[at..]);
            }
            for k in 0..16 {
                if errors[k] < least[k] && inverses[k] > 0.0 {
                    (least[k], best[k].d) = (errors[k], scales[k].to_bits());
                }
            }
        }
        best
    }
}

/// `d` is the least value, `dmin` the largest.
impl Format for Int8 {
    fn block_len(&self) -> usize {
        Self::BLOCK
    }

    fn block_bytes(&self) -> usize {
        Self::CODE_BYTES + 4
    }

    fn group(&self) -> usize {
        Self::BLOCK
    }

    fn levels(&self) -> Levels {
        Levels::Integers(0.0, 255.0)
    }

    fn search(&self, x: &[[f32; 16]], _: &[[f32; 16]]) -> [Solution; 16] {
        std::array::from_fn(|k| {
            let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
            for x in x {
                (min, max) = (min.min(x[k]), max.max(x[k]));
            }
            // Corrected weights can lie beyond f16.
            let half = |v: f32| f16::from_f32(v.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
            empty(half(min), half(max))
        })
    }

    fn scale(&self, solution: &Solution, _: usize) -> (f32, f32) {
        let (min, max) = (f16::from_bits(solution.d).to_f32(), f16::from_bits(solution.dmin).to_f32());
        ((max - min) / 255.0, -min)
    }

    fn moves(&self) -> usize {
        2 * MOVES.len()
    }

    fn moved(&self, solution: &Solution, _: usize, which: usize) -> Option<Solution> {
        match which {
            0..4 => solution.with_other_d(MOVES[which]),
            _ => solution.with_other_dmin(MOVES[which - 4]),
        }
    }

    fn unpack(&self, bytes: &[u8]) -> Solution {
        let (d, dmin) = (half_at(bytes, Self::CODE_BYTES), half_at(bytes, Self::CODE_BYTES + 2));
        Solution { d: d.to_bits(), dmin: dmin.to_bits(), ..Solution::EMPTY }
    }

    fn pack(&self, solution: &Solution, out: &mut [u8]) {
        let (codes, scales) = out.split_at_mut(Self::CODE_BYTES);
        codes.copy_from_slice(&solution.codes[..Self::BLOCK]);
        scales[..2].copy_from_slice(&solution.d.to_le_bytes());
        scales[2..].copy_from_slice(&solution.dmin.to_le_bytes());
    }
}

impl Codec for Int8 {
    fn encoding(&self) -> Encoding {
        Encoding::Int8
    }

    fn encode(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        check(rows, Encoding::Int8, out)?;
        let (blocks, _) = rows.values.as_chunks::<{ Self::BLOCK }>();
        for (x, out) in blocks.iter().zip(out.chunks_mut(Self::CODE_BYTES + 4)) {
            let x = x.map(|v| f16::from_f32(v).to_f32());
            let (mut min, mut max) = (x[0], x[0]);
            for v in x {
                (min, max) = (min.min(v), max.max(v));
            }
            let (codes, scales) = out.split_at_mut(Self::CODE_BYTES);
            for (code, v) in codes.iter_mut().zip(x) {
                // A block of one value is 0 / 0 on the GPU; 0 stands for the minimum.
                *code = (((v - min) / (max - min)).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
            }
            scales[..2].copy_from_slice(&f16::from_f32(min).to_le_bytes());
            scales[2..].copy_from_slice(&f16::from_f32(max).to_le_bytes());
        }
        Ok(())
    }

    fn encode_feedback(
        &self,
        rows: Rows<'_>,
        feedback: &Feedback,
        out: &mut [u8],
    ) -> Result<(), EncodeError> {
        encode_feedback(self, rows, feedback, out)
    }

    fn polish(&self, rows: Rows<'_>, hessian: &Hessian, bytes: &mut [u8]) {
        polish(self, rows, hessian, bytes)
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len() * Self::BLOCK, out.len() * (Self::CODE_BYTES + 4));
        for (out, block) in out.chunks_mut(Self::BLOCK).zip(bytes.chunks(Self::CODE_BYTES + 4)) {
            let (codes, scales) = block.split_at(Self::CODE_BYTES);
            let (min, max) = (half_at(scales, 0).to_f32(), half_at(scales, 2).to_f32());
            for (v, code) in out.iter_mut().zip(codes) {
                *v = (f32::from(*code) / 255.0).mul_add(max - min, min);
            }
        }
    }
}

impl Codec for Fp4 {
    fn encoding(&self) -> Encoding {
        Encoding::Fp4
    }

    fn encode(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        self.blocks(rows, out, false)
    }

    fn encode_best(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        self.blocks(rows, out, true)
    }

    fn encode_feedback(
        &self,
        rows: Rows<'_>,
        feedback: &Feedback,
        out: &mut [u8],
    ) -> Result<(), EncodeError> {
        encode_feedback(self, rows, feedback, out)
    }

    fn polish(&self, rows: Rows<'_>, hessian: &Hessian, bytes: &mut [u8]) {
        polish(self, rows, hessian, bytes)
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len() * Self::BLOCK, out.len() * (Self::CODE_BYTES + 2));
        for (out, block) in out.chunks_mut(Self::BLOCK).zip(bytes.chunks(Self::CODE_BYTES + 2)) {
            let (codes, scale) = block.split_at(Self::CODE_BYTES);
            let absmax = half_at(scale, 0).to_f32();
            for (pair, byte) in out.chunks_mut(2).zip(codes) {
                pair[0] = self.codebook[usize::from(byte & 15)] * absmax;
                pair[1] = self.codebook[usize::from(byte >> 4)] * absmax;
            }
        }
    }
}

/// The least value from `low` to `high` of which something holds that holds of `high`, and of all above one that it
/// holds of.
fn least_at(low: f32, high: f32, holds: impl Fn(f32) -> bool) -> f32 {
    let (mut without, mut with) = (low, high);
    loop {
        let middle = f32::midpoint(without, with);
        if middle <= without || middle >= with {
            return with;
        }
        if holds(middle) { with = middle } else { without = middle }
    }
}

/// Whole blocks of finite weights that fit f16.
fn check(rows: Rows<'_>, encoding: Encoding, out: &[u8]) -> Result<(), EncodeError> {
    let blocks = rows.values.len() / encoding.block_len();
    assert_eq!(rows.values.len(), blocks * encoding.block_len());
    assert_eq!(out.len(), blocks * encoding.block_bytes());
    check_finite(rows.values)?;
    check_importance(rows)?;
    match rows.values.iter().position(|v| f16::from_f32(*v).is_infinite()) {
        None => Ok(()),
        Some(index) => {
            let (value, limit) = (rows.values[index], f16::MAX.to_f32());
            Err(EncodeError::Overflow { index, value, encoding, limit })
        }
    }
}

/// The importance of the `i`-th value.
fn importance(rows: Rows<'_>, i: usize) -> f32 {
    rows.importance.map_or(1.0, |importance| importance[i % rows.cols])
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1009) as f32 / 500.0 - 1.0).powi(3)).collect()
    }

    fn round_trip(codec: &dyn Codec, values: &[f32], best: bool) -> Vec<f32> {
        let e = codec.encoding();
        let mut bytes = vec![0xa5; values.len() / e.block_len() * e.block_bytes()];
        let rows = Rows::new(values, 32);
        if best { codec.encode_best(rows, &mut bytes) } else { codec.encode(rows, &mut bytes) }.unwrap();
        let mut decoded = vec![9.0; values.len()];
        codec.decode(&bytes, &mut decoded);
        decoded
    }

    fn square(values: &[f32], decoded: &[f32]) -> f32 {
        values.iter().zip(decoded).map(|(x, y)| (x - y) * (x - y)).sum()
    }

    #[test]
    fn int8_stays_within_its_bound() {
        let values = values(1280);
        for (x, y) in values.iter().zip(round_trip(&Int8, &values, false)) {
            // 1/510 of the range, and the rounding of the weight to f16.
            assert!((x - y).abs() <= 2.05 / 510.0 + 0.0003, "{x} {y}");
        }
    }

    #[test]
    fn fp4_takes_the_nearest_level_of_any_codebook() {
        let values = values(640);
        for codec in [&NF4, &SF4] {
            for (x, y) in values.iter().zip(round_trip(codec, &values, false)) {
                assert!((x - y).abs() <= 0.2, "{x} {y}");
            }
        }
    }

    /// Code that web-rwkv's shader gives to `v`.
    fn nearest(codebook: &Codebook, v: f32) -> u8 {
        let (mut least, mut code) = (2.0, 0);
        for (i, level) in codebook.iter().enumerate() {
            if (level - v).abs() <= least {
                (least, code) = ((level - v).abs(), i as u8);
            }
        }
        code
    }

    #[test]
    fn codes_are_those_of_the_nearest_level() {
        let mut twins = codebook::NF4;
        (twins[1], twins[4], twins[5], twins[15]) = (twins[0], twins[3], twins[3], twins[14]);
        for codebook in [codebook::NF4, codebook::SF4, twins] {
            let thresholds = Fp4 { codebook }.thresholds();
            let code = |v: f32| thresholds.iter().filter(|t| v >= **t).count() as u8;
            let around = thresholds.iter().chain(&codebook).filter(|v| v.is_finite());
            let around = around.flat_map(|v| [v.next_down(), *v, v.next_up()]);
            for v in around.chain(values(20_000)) {
                assert_eq!(code(v), nearest(&codebook, v), "{v}");
            }
        }
    }

    #[test]
    fn other_scales_make_the_error_smaller() {
        let values = values(6400);
        let plain = square(&values, &round_trip(&NF4, &values, false));
        let best = square(&values, &round_trip(&NF4, &values, true));
        assert!(best < 0.95 * plain, "{best} {plain}");
    }

    #[test]
    fn constant_and_zero_blocks_are_exact() {
        for v in [0.0, 0.25, -3.0] {
            let values = [v; 128];
            for codec in [&Int8 as &dyn Codec, &NF4] {
                assert_eq!(round_trip(codec, &values, false), values);
                assert_eq!(round_trip(codec, &values, true), values);
            }
        }
    }

    #[test]
    fn weights_beyond_f16_are_errors() {
        let mut values = [0.0; 128];
        values[100] = 65520.0;
        let result = Int8.encode(Rows::new(&values, 64), &mut [0; 132]);
        assert!(matches!(result, Err(EncodeError::Overflow { index: 100, .. })));
    }
}

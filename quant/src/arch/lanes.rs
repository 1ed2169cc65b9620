//! Vectors of `f32`: what the searches of the codecs are written in.

use std::ops::{Add, Div, Mul, Sub};

use crate::entropy::low_bits::{WINDOW, join_low_bits};
use crate::entropy::rans::{Decode, LANES, take_symbols};

/// A set of instructions on vectors of [`N`](Lanes::N) floats.
///
/// Every operation is the IEEE operation on each lane, so a lane computes exactly what a scalar program with the
/// same sequence of operations does. Values of the implementing types stand for the fact that the processor has
/// the instructions.
pub(crate) trait Lanes: Copy {
    /// Floats in a vector: 4, 8 or 16.
    const N: usize;

    /// A vector.
    type F: Copy
        + Add<Output = Self::F>
        + Sub<Output = Self::F>
        + Mul<Output = Self::F>
        + Div<Output = Self::F>;

    /// A boolean for each lane.
    type M: Copy;

    fn splat(self, v: f32) -> Self::F;

    /// The first `N` values.
    fn load(self, values: &[f32]) -> Self::F;

    /// Writes the first `N` values.
    fn store(self, v: Self::F, out: &mut [f32]);

    /// Writes `N` integers of 0 to 255.
    fn store_u8(self, v: Self::F, out: &mut [u8]);

    /// Writes `N` integers of -128 to 127, two's complement.
    fn store_i8(self, v: Self::F, out: &mut [u8]);

    /// Decodes a symbol of each of sixteen states, whose words are in order in `window`: [`take_symbols`], which tells how
    /// many bytes of those were read.
    #[inline(always)]
    fn take_symbols(
        self,
        tables: &Decode,
        which: &[u8; LANES],
        states: &mut [u32; LANES],
        window: &[u8; 2 * LANES],
        out: &mut [u8; LANES],
    ) -> usize {
        take_symbols(tables, which, states, window, out)
    }

    /// Codes from symbols and lowest bits: [`join_low_bits`], which tells how many bits were read.
    #[inline(always)]
    fn join_low_bits(
        self,
        symbols: &[u8; LANES],
        shifts: &[u8; LANES],
        window: &[u8; WINDOW],
        at: usize,
        out: &mut [f32; LANES],
    ) -> usize {
        join_low_bits(symbols, shifts, window, at, out)
    }

    /// The greatest lane; no lane is NaN.
    fn greatest(self, v: Self::F) -> f32;

    /// The least lane; no lane is NaN.
    fn least(self, v: Self::F) -> f32;

    /// The booleans as bits, lane 0 lowest.
    fn bits(self, m: Self::M) -> u32;

    /// The f16 next to `v`, ties to even.
    fn f16_from(self, v: f32) -> u16;

    /// The value of an f16.
    fn f16_to(self, h: u16) -> f32;

    fn abs(self, v: Self::F) -> Self::F;

    fn sqrt(self, v: Self::F) -> Self::F;

    /// `a > b ? a : b`, so `b` if one is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a < b ? a : b`, so `b` if one is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a < b`; false if one is NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;

    /// `a != b`; true if one is NaN.
    fn ne(self, a: Self::F, b: Self::F) -> Self::M;

    fn and(self, a: Self::M, b: Self::M) -> Self::M;

    #[inline(always)]
    fn any(self, m: Self::M) -> bool {
        self.bits(m) != 0
    }

    /// `m ? a : b`.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;

    /// [`nearest_int`], then cut to `low..=high`.
    fn round_clamp(self, v: Self::F, low: f32, high: f32) -> Self::F;

    /// The number of `bounds` (ascending) that `v` is not below, looked up in `levels`.
    #[inline(always)]
    fn quantize_to_levels(self, v: Self::F, bounds: &[f32; 15], levels: &[f32; 16]) -> Self::F {
        let mut level = self.splat(levels[0]);
        for (bound, next) in bounds.iter().zip(&levels[1..]) {
            level = self.select(self.lt(v, self.splat(*bound)), level, self.splat(*next));
        }
        level
    }
}

/// 1.5 * 2^23: a float of this binade has no bits after the point, so adding it rounds to an integer.
pub(super) const MAGIC: f32 = 12_582_912.0;

/// The nearest integer, ties to even, as ggml finds it: in the low bits of `v + 1.5 * 2^23`. Beyond `|v| = 2^22`,
/// for infinities and for NaN the result is what those bits happen to be, which ggml's bytes can depend on.
#[inline(always)]
pub(crate) fn nearest_int(v: f32) -> i32 {
    ((v + MAGIC).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// The integer bits of `v + MAGIC` moved back to the binade of `MAGIC`: `nearest_int(v) + MAGIC` as float bits.
pub(super) const MANTISSA: u32 = 0x007f_ffff;
/// The exponent of that binade.
pub(super) const BINADE: u32 = 0x4b00_0000;

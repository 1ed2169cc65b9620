//! Eight lanes of AVX2.

#![allow(unsafe_code)] // instructions of one set

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::lanes::{BINADE, Lanes, MAGIC, MANTISSA};
use crate::entropy::frequencies::{BITS, TOTAL};
use crate::entropy::low_bits::{MOST, WINDOW};
use crate::entropy::rans::{Decode, LANES, LOW};

/// For every set of eight lanes the place that each has among those that are in it.
static PLACES: [[u8; 8]; 256] = {
    let mut places = [[0; 8]; 256];
    let mut set = 0;
    while set < 256 {
        let mut lane = 0;
        while lane < 8 {
            places[set][lane] = (set & ((1 << lane) - 1)).count_ones() as u8;
            lane += 1;
        }
        set += 1;
    }
    places
};

/// Proof that the processor has the instructions.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Can only be called where the compiler knows of the instructions, or after a check.
    #[inline]
    #[target_feature(enable = "avx2,f16c,popcnt")]
    pub(super) fn new() -> Avx2 {
        Avx2(())
    }
}

/// Eight floats. Made only by the methods of [`Avx2`].
#[derive(Clone, Copy)]
pub(crate) struct F8(__m256);

macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for F8 {
            type Output = F8;

            #[inline(always)]
            fn $method(self, b: F8) -> F8 {
                // SAFETY: an operand exists, so the processor has the instructions.
                F8(unsafe { $intrinsic(self.0, b.0) })
            }
        }
    };
}

/// Eight masks: all bits or none.
#[derive(Clone, Copy)]
pub(crate) struct M8(__m256);

operator!(Add, add, _mm256_add_ps);
operator!(Sub, sub, _mm256_sub_ps);
operator!(Mul, mul, _mm256_mul_ps);
operator!(Div, div, _mm256_div_ps);

/// Two times eight bytes.
#[inline(always)]
fn halves(bytes: &[u8; 16]) -> &[[u8; 8]] {
    bytes.as_chunks().0
}

// SAFETY of all blocks: `self` exists, so the processor has the instructions; the pointers come from arrays, and from
// slices whose length is checked first.
impl Avx2 {
    /// [`Lanes::take_symbols`] of eight lanes: the symbols, and how many bytes of `words` were read.
    #[inline(always)]
    fn take_eight(
        self,
        tables: &Decode,
        which: [u8; 8],
        states: &mut [u32],
        words: &[u8],
    ) -> (__m256i, usize) {
        let entries = tables.entries();
        assert!(entries.len() >= TOTAL as usize);
        let last = (entries.len() as u32 >> BITS) - 1;
        let (states, words) = (&mut states[..8], &words[..16]);
        // SAFETY: see above; entries are gathered from tables 0 to `last`, at 0 to TOTAL - 1 of each.
        unsafe {
            let low = _mm256_set1_epi32(TOTAL as i32 - 1);
            let x = _mm256_loadu_si256(states.as_ptr().cast());
            let table = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(which)));
            let table = _mm256_min_epu32(table, _mm256_set1_epi32(last as i32));
            let table = _mm256_slli_epi32::<{ BITS as i32 }>(table);
            let place = _mm256_or_si256(table, _mm256_and_si256(x, low));
            let entry = _mm256_i32gather_epi32::<4>(entries.as_ptr().cast(), place);
            let less_one = _mm256_and_si256(_mm256_srli_epi32::<{ BITS as i32 }>(entry), low);
            let frequency = _mm256_add_epi32(less_one, _mm256_set1_epi32(1));
            let shrunk = _mm256_mullo_epi32(frequency, _mm256_srli_epi32::<{ BITS as i32 }>(x));
            let x = _mm256_add_epi32(shrunk, _mm256_and_si256(entry, low));
            let over = _mm256_srli_epi32::<{ LOW.ilog2() as i32 }>(x);
            let refill = _mm256_cmpeq_epi32(over, _mm256_setzero_si256());
            let set = _mm256_movemask_ps(_mm256_castsi256_ps(refill)) as usize;
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(words.as_ptr().cast()));
            let places = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(PLACES[set])));
            let words = _mm256_permutevar8x32_epi32(words, places);
            let refilled = _mm256_or_si256(_mm256_slli_epi32::<16>(x), words);
            let x = _mm256_blendv_epi8(x, refilled, refill);
            _mm256_storeu_si256(states.as_mut_ptr().cast(), x);
            (_mm256_srli_epi32::<24>(entry), 2 * set.count_ones() as usize)
        }
    }

    /// [`Lanes::join_low_bits`] of eight lanes from bit `at` on: where the next begins.
    #[inline(always)]
    fn join_eight(
        self,
        symbols: [u8; 8],
        shifts: [u8; 8],
        window: &[u8; WINDOW],
        at: usize,
        out: &mut [f32],
    ) -> usize {
        let out = &mut out[..8];
        // SAFETY: see above; words are gathered from bytes 0 to WINDOW - 4.
        unsafe {
            let symbols = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(symbols)));
            let shifts = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(shifts)));
            let shifts = _mm256_min_epu32(shifts, _mm256_set1_epi32(MOST.into()));
            // Where the bits of each end: sums of 2 and 4 neighbours, then of the lower four with the higher.
            let mut ends = _mm256_add_epi32(shifts, _mm256_slli_si256::<4>(shifts));
            ends = _mm256_add_epi32(ends, _mm256_slli_si256::<8>(ends));
            let lower = _mm256_permutevar8x32_epi32(ends, _mm256_set1_epi32(3));
            ends = _mm256_add_epi32(ends, _mm256_blend_epi32::<0xf0>(_mm256_setzero_si256(), lower));
            let starts = _mm256_add_epi32(_mm256_sub_epi32(ends, shifts), _mm256_set1_epi32(at as i32));
            let bytes = _mm256_srli_epi32::<3>(starts);
            let bytes = _mm256_min_epu32(bytes, _mm256_set1_epi32(WINDOW as i32 - 4));
            let words = _mm256_i32gather_epi32::<1>(window.as_ptr().cast(), bytes);
            let words = _mm256_srlv_epi32(words, _mm256_and_si256(starts, _mm256_set1_epi32(7)));
            let high = _mm256_sllv_epi32(_mm256_set1_epi32(-1), shifts);
            let symbols = _mm256_sllv_epi32(_mm256_sub_epi32(symbols, _mm256_set1_epi32(128)), shifts);
            let codes = _mm256_add_epi32(symbols, _mm256_andnot_si256(high, words));
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtepi32_ps(codes));
            at + _mm256_extract_epi32::<7>(ends) as usize
        }
    }
}

// SAFETY of all blocks: `self` exists, so the processor has the instructions; the pointers come from slices whose
// length is checked first.
impl Lanes for Avx2 {
    const N: usize = 8;

    type F = F8;
    type M = M8;

    #[inline(always)]
    fn splat(self, v: f32) -> F8 {
        // SAFETY: see above.
        F8(unsafe { _mm256_set1_ps(v) })
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F8 {
        let values = &values[..8];
        // SAFETY: see above.
        F8(unsafe { _mm256_loadu_ps(values.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, v: F8, out: &mut [f32]) {
        let out = &mut out[..8];
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v.0) }
    }

    #[inline(always)]
    fn take_symbols(
        self,
        tables: &Decode,
        which: &[u8; LANES],
        states: &mut [u32; LANES],
        window: &[u8; 2 * LANES],
        out: &mut [u8; LANES],
    ) -> usize {
        let (low, at) = self.take_eight(tables, halves(which)[0], &mut states[..8], &window[..16]);
        let (high, read) = self.take_eight(tables, halves(which)[1], &mut states[8..], &window[at..at + 16]);
        // SAFETY: see above.
        unsafe {
            let halves = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            let (low, high) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_packus_epi16(low, high));
        }
        at + read
    }

    #[inline(always)]
    fn join_low_bits(
        self,
        symbols: &[u8; LANES],
        shifts: &[u8; LANES],
        window: &[u8; WINDOW],
        at: usize,
        out: &mut [f32; LANES],
    ) -> usize {
        let [symbols, shifts] = [halves(symbols), halves(shifts)];
        let middle = self.join_eight(symbols[0], shifts[0], window, at, &mut out[..8]);
        self.join_eight(symbols[1], shifts[1], window, middle, &mut out[8..]) - at
    }

    #[inline(always)]
    fn store_u8(self, v: F8, out: &mut [u8]) {
        let out = &mut out[..8];
        // SAFETY: see above.
        unsafe {
            let words = _mm256_cvttps_epi32(v.0);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let halves = _mm_packs_epi32(low, high);
            _mm_storel_epi64(out.as_mut_ptr().cast(), _mm_packus_epi16(halves, halves));
        }
    }

    #[inline(always)]
    fn store_i8(self, v: F8, out: &mut [u8]) {
        let out = &mut out[..8];
        // SAFETY: see above.
        unsafe {
            let words = _mm256_cvttps_epi32(v.0);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let halves = _mm_packs_epi32(low, high);
            _mm_storel_epi64(out.as_mut_ptr().cast(), _mm_packs_epi16(halves, halves));
        }
    }

    #[inline(always)]
    fn greatest(self, v: F8) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm_max_ps(_mm256_castps256_ps128(v.0), _mm256_extractf128_ps::<1>(v.0));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn least(self, v: F8) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm_min_ps(_mm256_castps256_ps128(v.0), _mm256_extractf128_ps::<1>(v.0));
            let v = _mm_min_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_min_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn bits(self, m: M8) -> u32 {
        // SAFETY: see above.
        unsafe { _mm256_movemask_ps(m.0) as u32 }
    }

    #[inline(always)]
    fn f16_from(self, v: f32) -> u16 {
        // SAFETY: see above.
        unsafe { _mm_extract_epi16::<0>(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(v))) as u16 }
    }

    #[inline(always)]
    fn f16_to(self, h: u16) -> f32 {
        // SAFETY: see above.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(h)))) }
    }

    #[inline(always)]
    fn abs(self, v: F8) -> F8 {
        // SAFETY: see above.
        F8(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), v.0) })
    }

    #[inline(always)]
    fn sqrt(self, v: F8) -> F8 {
        // SAFETY: see above.
        F8(unsafe { _mm256_sqrt_ps(v.0) })
    }

    #[inline(always)]
    fn max(self, a: F8, b: F8) -> F8 {
        // SAFETY: see above.
        F8(unsafe { _mm256_max_ps(a.0, b.0) })
    }

    #[inline(always)]
    fn min(self, a: F8, b: F8) -> F8 {
        // SAFETY: see above.
        F8(unsafe { _mm256_min_ps(a.0, b.0) })
    }

    #[inline(always)]
    fn lt(self, a: F8, b: F8) -> M8 {
        // SAFETY: see above.
        M8(unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0) })
    }

    #[inline(always)]
    fn ne(self, a: F8, b: F8) -> M8 {
        // SAFETY: see above.
        M8(unsafe { _mm256_cmp_ps::<_CMP_NEQ_UQ>(a.0, b.0) })
    }

    #[inline(always)]
    fn and(self, a: M8, b: M8) -> M8 {
        // SAFETY: see above.
        M8(unsafe { _mm256_and_ps(a.0, b.0) })
    }

    #[inline(always)]
    fn select(self, m: M8, a: F8, b: F8) -> F8 {
        // SAFETY: see above.
        F8(unsafe { _mm256_blendv_ps(b.0, a.0, m.0) })
    }

    #[inline(always)]
    fn round_clamp(self, v: F8, low: f32, high: f32) -> F8 {
        // SAFETY: see above.
        let moved = F8(unsafe {
            let bits = _mm256_castps_si256(_mm256_add_ps(v.0, _mm256_set1_ps(MAGIC)));
            let mantissa = _mm256_and_si256(bits, _mm256_set1_epi32(MANTISSA as i32));
            _mm256_castsi256_ps(_mm256_or_si256(mantissa, _mm256_set1_epi32(BINADE as i32)))
        });
        let clamped = self.min(self.max(moved, self.splat(MAGIC + low)), self.splat(MAGIC + high));
        clamped - self.splat(MAGIC)
    }

    /// A binary search: the bounds of the last two steps come from registers.
    #[inline(always)]
    fn quantize_to_levels(self, v: F8, bounds: &[f32; 15], levels: &[f32; 16]) -> F8 {
        let quarters = [bounds[1], bounds[5], bounds[9], bounds[13], 0.0, 0.0, 0.0, 0.0];
        let halves: [f32; 8] = std::array::from_fn(|i| bounds[2 * i]);
        let (quarters, halves) = (self.load(&quarters).0, self.load(&halves).0);
        let (low, high) = (self.load(&levels[..8]).0, self.load(&levels[8..]).0);
        // SAFETY: see above.
        F8(unsafe {
            let upper = _mm256_cmp_ps::<_CMP_NLT_UQ>(v.0, _mm256_set1_ps(bounds[7]));
            let bound = _mm256_blendv_ps(_mm256_set1_ps(bounds[3]), _mm256_set1_ps(bounds[11]), upper);
            // Every step appends a bit: 1 if the value is not below the bound.
            let mut at = _mm256_srli_epi32::<31>(_mm256_castps_si256(upper));
            let bit = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_NLT_UQ>(v.0, bound));
            at = _mm256_sub_epi32(_mm256_add_epi32(at, at), bit);
            let bound = _mm256_permutevar8x32_ps(quarters, at);
            let bit = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_NLT_UQ>(v.0, bound));
            at = _mm256_sub_epi32(_mm256_add_epi32(at, at), bit);
            let bound = _mm256_permutevar8x32_ps(halves, at);
            let bit = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_NLT_UQ>(v.0, bound));
            at = _mm256_sub_epi32(_mm256_add_epi32(at, at), bit);
            let (low, high) = (_mm256_permutevar8x32_ps(low, at), _mm256_permutevar8x32_ps(high, at));
            _mm256_blendv_ps(low, high, upper)
        })
    }
}

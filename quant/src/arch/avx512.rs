//! Sixteen lanes of AVX-512.

#![allow(unsafe_code)] // instructions of one set

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::lanes::{BINADE, Lanes, MAGIC, MANTISSA};
use crate::entropy::frequencies::{BITS, TOTAL};
use crate::entropy::low_bits::{MOST, WINDOW};
use crate::entropy::rans::{Decode, LANES, LOW};

/// Proof that the processor has the instructions.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// Can only be called where the compiler knows of the instructions, or after a check.
    #[inline]
    #[target_feature(enable = "avx2,f16c,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn new() -> Avx512 {
        Avx512(())
    }
}

/// Sixteen floats. Made only by the methods of [`Avx512`].
#[derive(Clone, Copy)]
pub(crate) struct F16(__m512);

macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for F16 {
            type Output = F16;

            #[inline(always)]
            fn $method(self, b: F16) -> F16 {
                // SAFETY: an operand exists, so the processor has the instructions.
                F16(unsafe { $intrinsic(self.0, b.0) })
            }
        }
    };
}

operator!(Add, add, _mm512_add_ps);
operator!(Sub, sub, _mm512_sub_ps);
operator!(Mul, mul, _mm512_mul_ps);
operator!(Div, div, _mm512_div_ps);

// SAFETY of all blocks: `self` exists, so the processor has the instructions; the pointers come from slices whose
// length is checked first.
impl Lanes for Avx512 {
    const N: usize = 16;

    type F = F16;
    type M = __mmask16;

    #[inline(always)]
    fn splat(self, v: f32) -> F16 {
        // SAFETY: see above.
        F16(unsafe { _mm512_set1_ps(v) })
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F16 {
        let values = &values[..16];
        // SAFETY: see above.
        F16(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, v: F16, out: &mut [f32]) {
        let out = &mut out[..16];
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v.0) }
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
        let entries = tables.entries();
        assert!(entries.len() >= TOTAL as usize);
        let last = (entries.len() as u32 >> BITS) - 1;
        // SAFETY: see above; entries are gathered from tables 0 to `last`, at 0 to TOTAL - 1 of each.
        unsafe {
            let low = _mm512_set1_epi32(TOTAL as i32 - 1);
            let x = _mm512_loadu_si512(states.as_ptr().cast());
            let table = _mm512_cvtepu8_epi32(_mm_loadu_si128(which.as_ptr().cast()));
            let table = _mm512_min_epu32(table, _mm512_set1_epi32(last as i32));
            let place = _mm512_or_si512(_mm512_slli_epi32::<BITS>(table), _mm512_and_si512(x, low));
            let entry = _mm512_i32gather_epi32::<4>(place, entries.as_ptr().cast());
            let symbols = _mm512_cvtepi32_epi8(_mm512_srli_epi32::<24>(entry));
            _mm_storeu_si128(out.as_mut_ptr().cast(), symbols);
            let less_one = _mm512_and_si512(_mm512_srli_epi32::<BITS>(entry), low);
            let frequency = _mm512_add_epi32(less_one, _mm512_set1_epi32(1));
            let shrunk = _mm512_mullo_epi32(frequency, _mm512_srli_epi32::<BITS>(x));
            let x = _mm512_add_epi32(shrunk, _mm512_and_si512(entry, low));
            let refill = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(LOW as i32));
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(window.as_ptr().cast()));
            let words = _mm512_maskz_expand_epi32(refill, words);
            let x = _mm512_mask_or_epi32(x, refill, _mm512_slli_epi32::<16>(x), words);
            _mm512_storeu_si512(states.as_mut_ptr().cast(), x);
            2 * refill.count_ones() as usize
        }
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
        // SAFETY: see above; words are gathered from bytes 0 to WINDOW - 4.
        unsafe {
            let zero = _mm512_setzero_si512();
            let symbols = _mm512_cvtepu8_epi32(_mm_loadu_si128(symbols.as_ptr().cast()));
            let shifts = _mm512_cvtepu8_epi32(_mm_loadu_si128(shifts.as_ptr().cast()));
            let shifts = _mm512_min_epu32(shifts, _mm512_set1_epi32(MOST.into()));
            // Where the bits of each end: sums of 2, 4, 8, and 16 neighbours.
            let mut ends = _mm512_add_epi32(shifts, _mm512_alignr_epi32::<15>(shifts, zero));
            ends = _mm512_add_epi32(ends, _mm512_alignr_epi32::<14>(ends, zero));
            ends = _mm512_add_epi32(ends, _mm512_alignr_epi32::<12>(ends, zero));
            ends = _mm512_add_epi32(ends, _mm512_alignr_epi32::<8>(ends, zero));
            let starts = _mm512_sub_epi32(ends, shifts);
            let starts = _mm512_add_epi32(starts, _mm512_set1_epi32(at as i32));
            let bytes = _mm512_srli_epi32::<3>(starts);
            let bytes = _mm512_min_epu32(bytes, _mm512_set1_epi32(WINDOW as i32 - 4));
            let words = _mm512_i32gather_epi32::<1>(bytes, window.as_ptr().cast());
            let words = _mm512_srlv_epi32(words, _mm512_and_si512(starts, _mm512_set1_epi32(7)));
            let high = _mm512_sllv_epi32(_mm512_set1_epi32(-1), shifts);
            let symbols = _mm512_sub_epi32(symbols, _mm512_set1_epi32(128));
            let codes =
                _mm512_add_epi32(_mm512_sllv_epi32(symbols, shifts), _mm512_andnot_si512(high, words));
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtepi32_ps(codes));
            _mm_extract_epi32::<3>(_mm512_extracti32x4_epi32::<3>(ends)) as usize
        }
    }

    #[inline(always)]
    fn store_u8(self, v: F16, out: &mut [u8]) {
        let out = &mut out[..16];
        // SAFETY: see above.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v.0));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn store_i8(self, v: F16, out: &mut [u8]) {
        // The conversion to bytes keeps the low bits.
        self.store_u8(v, out);
    }

    #[inline(always)]
    fn greatest(self, v: F16) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_max_ps(v.0) }
    }

    #[inline(always)]
    fn least(self, v: F16) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_min_ps(v.0) }
    }

    #[inline(always)]
    fn bits(self, m: __mmask16) -> u32 {
        u32::from(m)
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
    fn abs(self, v: F16) -> F16 {
        // SAFETY: see above.
        F16(unsafe { _mm512_abs_ps(v.0) })
    }

    #[inline(always)]
    fn sqrt(self, v: F16) -> F16 {
        // SAFETY: see above.
        F16(unsafe { _mm512_sqrt_ps(v.0) })
    }

    #[inline(always)]
    fn max(self, a: F16, b: F16) -> F16 {
        // SAFETY: see above.
        F16(unsafe { _mm512_max_ps(a.0, b.0) })
    }

    #[inline(always)]
    fn min(self, a: F16, b: F16) -> F16 {
        // SAFETY: see above.
        F16(unsafe { _mm512_min_ps(a.0, b.0) })
    }

    #[inline(always)]
    fn lt(self, a: F16, b: F16) -> __mmask16 {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0) }
    }

    #[inline(always)]
    fn ne(self, a: F16, b: F16) -> __mmask16 {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a.0, b.0) }
    }

    #[inline(always)]
    fn and(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    #[inline(always)]
    fn select(self, m: __mmask16, a: F16, b: F16) -> F16 {
        // SAFETY: see above.
        F16(unsafe { _mm512_mask_blend_ps(m, b.0, a.0) })
    }

    #[inline(always)]
    fn round_clamp(self, v: F16, low: f32, high: f32) -> F16 {
        // SAFETY: see above.
        let moved = F16(unsafe {
            let bits = _mm512_castps_si512(_mm512_add_ps(v.0, _mm512_set1_ps(MAGIC)));
            // 0xea: (a & b) | c
            _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0xea>(
                bits,
                _mm512_set1_epi32(MANTISSA as i32),
                _mm512_set1_epi32(BINADE as i32),
            ))
        });
        let clamped = self.min(self.max(moved, self.splat(MAGIC + low)), self.splat(MAGIC + high));
        clamped - self.splat(MAGIC)
    }

    /// A binary search with the bounds and the levels in registers.
    #[inline(always)]
    fn quantize_to_levels(self, v: F16, bounds: &[f32; 15], levels: &[f32; 16]) -> F16 {
        let mut table = [f32::INFINITY; 16];
        table[1..].copy_from_slice(bounds);
        let (table, levels) = (self.load(&table).0, self.load(levels).0);
        // SAFETY: see above.
        F16(unsafe {
            let mut at = _mm512_setzero_si512();
            for step in [8, 4, 2, 1] {
                let next = _mm512_or_si512(at, _mm512_set1_epi32(step));
                let bound = _mm512_permutexvar_ps(next, table);
                let not_below = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(v.0, bound);
                at = _mm512_mask_mov_epi32(at, not_below, next);
            }
            _mm512_permutexvar_ps(at, levels)
        })
    }
}

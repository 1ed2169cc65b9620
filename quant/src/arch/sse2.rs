//! Four lanes of SSE2, which every x86-64 processor has.

#![allow(unsafe_code)] // instructions of one set

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::lanes::{BINADE, Lanes, MAGIC, MANTISSA};

/// SSE2.
#[derive(Clone, Copy)]
pub(crate) struct Sse2(());

impl Sse2 {
    #[inline(always)]
    pub(super) fn new() -> Sse2 {
        Sse2(())
    }
}

/// Four floats. Made only by the methods of [`Sse2`].
#[derive(Clone, Copy)]
pub(crate) struct F4(__m128);

macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for F4 {
            type Output = F4;

            #[inline(always)]
            fn $method(self, b: F4) -> F4 {
                // SAFETY: SSE2 is part of x86-64.
                F4(unsafe { $intrinsic(self.0, b.0) })
            }
        }
    };
}

/// Four masks: all bits or none.
#[derive(Clone, Copy)]
pub(crate) struct M4(__m128);

operator!(Add, add, _mm_add_ps);
operator!(Sub, sub, _mm_sub_ps);
operator!(Mul, mul, _mm_mul_ps);
operator!(Div, div, _mm_div_ps);

// SAFETY of all blocks: SSE2 is part of x86-64; the pointers come from slices whose
// length is checked first.
impl Lanes for Sse2 {
    const N: usize = 4;

    type F = F4;
    type M = M4;

    #[inline(always)]
    fn splat(self, v: f32) -> F4 {
        // SAFETY: see above.
        F4(unsafe { _mm_set1_ps(v) })
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F4 {
        let values = &values[..4];
        // SAFETY: see above.
        F4(unsafe { _mm_loadu_ps(values.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, v: F4, out: &mut [f32]) {
        let out = &mut out[..4];
        // SAFETY: see above.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), v.0) }
    }

    #[inline(always)]
    fn store_u8(self, v: F4, out: &mut [u8]) {
        // SAFETY: see above.
        let bytes = unsafe {
            let words = _mm_cvttps_epi32(v.0);
            let halves = _mm_packs_epi32(words, words);
            _mm_cvtsi128_si32(_mm_packus_epi16(halves, halves))
        };
        out[..4].copy_from_slice(&bytes.to_le_bytes());
    }

    #[inline(always)]
    fn store_i8(self, v: F4, out: &mut [u8]) {
        // SAFETY: see above.
        let bytes = unsafe {
            let words = _mm_cvttps_epi32(v.0);
            let halves = _mm_packs_epi32(words, words);
            _mm_cvtsi128_si32(_mm_packs_epi16(halves, halves))
        };
        out[..4].copy_from_slice(&bytes.to_le_bytes());
    }

    #[inline(always)]
    fn greatest(self, v: F4) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm_max_ps(v.0, _mm_movehl_ps(v.0, v.0));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[inline(always)]
    fn least(self, v: F4) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm_min_ps(v.0, _mm_movehl_ps(v.0, v.0));
            _mm_cvtss_f32(_mm_min_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[inline(always)]
    fn bits(self, m: M4) -> u32 {
        // SAFETY: see above.
        unsafe { _mm_movemask_ps(m.0) as u32 }
    }

    #[inline(always)]
    fn f16_from(self, v: f32) -> u16 {
        half::f16::from_f32(v).to_bits()
    }

    #[inline(always)]
    fn f16_to(self, h: u16) -> f32 {
        half::f16::from_bits(h).to_f32()
    }

    #[inline(always)]
    fn abs(self, v: F4) -> F4 {
        // SAFETY: see above.
        F4(unsafe { _mm_andnot_ps(_mm_set1_ps(-0.0), v.0) })
    }

    #[inline(always)]
    fn sqrt(self, v: F4) -> F4 {
        // SAFETY: see above.
        F4(unsafe { _mm_sqrt_ps(v.0) })
    }

    #[inline(always)]
    fn max(self, a: F4, b: F4) -> F4 {
        // SAFETY: see above.
        F4(unsafe { _mm_max_ps(a.0, b.0) })
    }

    #[inline(always)]
    fn min(self, a: F4, b: F4) -> F4 {
        // SAFETY: see above.
        F4(unsafe { _mm_min_ps(a.0, b.0) })
    }

    #[inline(always)]
    fn lt(self, a: F4, b: F4) -> M4 {
        // SAFETY: see above.
        M4(unsafe { _mm_cmplt_ps(a.0, b.0) })
    }

    #[inline(always)]
    fn ne(self, a: F4, b: F4) -> M4 {
        // SAFETY: see above.
        M4(unsafe { _mm_cmpneq_ps(a.0, b.0) })
    }

    #[inline(always)]
    fn and(self, a: M4, b: M4) -> M4 {
        // SAFETY: see above.
        M4(unsafe { _mm_and_ps(a.0, b.0) })
    }

    #[inline(always)]
    fn select(self, m: M4, a: F4, b: F4) -> F4 {
        // SAFETY: see above.
        F4(unsafe { _mm_or_ps(_mm_and_ps(m.0, a.0), _mm_andnot_ps(m.0, b.0)) })
    }

    #[inline(always)]
    fn round_clamp(self, v: F4, low: f32, high: f32) -> F4 {
        // SAFETY: see above.
        let moved = F4(unsafe {
            let bits = _mm_castps_si128(_mm_add_ps(v.0, _mm_set1_ps(MAGIC)));
            let mantissa = _mm_and_si128(bits, _mm_set1_epi32(MANTISSA as i32));
            _mm_castsi128_ps(_mm_or_si128(mantissa, _mm_set1_epi32(BINADE as i32)))
        });
        let clamped = self.min(self.max(moved, self.splat(MAGIC + low)), self.splat(MAGIC + high));
        clamped - self.splat(MAGIC)
    }
}

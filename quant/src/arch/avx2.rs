//! Eight lanes of AVX2.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::lanes::{BINADE, Lanes, MAGIC, MANTISSA};

/// Proof that the processor has the instructions.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Can only be called where the compiler knows of the instructions, or after a check.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
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

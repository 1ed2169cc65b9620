//! Four lanes of NEON, which every AArch64 processor has.

#![allow(unsafe_code)] // instructions of one set

use std::arch::aarch64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::lanes::{BINADE, Lanes, MAGIC, MANTISSA};

/// NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Four floats.
#[derive(Clone, Copy)]
pub(crate) struct F4(float32x4_t);

/// Four masks: all bits or none.
#[derive(Clone, Copy)]
pub(crate) struct M4(uint32x4_t);

macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for F4 {
            type Output = F4;

            #[inline(always)]
            fn $method(self, b: F4) -> F4 {
                // SAFETY: NEON is part of AArch64.
                F4(unsafe { $intrinsic(self.0, b.0) })
            }
        }
    };
}

operator!(Add, add, vaddq_f32);
operator!(Sub, sub, vsubq_f32);
operator!(Mul, mul, vmulq_f32);
operator!(Div, div, vdivq_f32);

// SAFETY of all blocks: NEON is part of AArch64; the pointers come from slices whose length is checked first.
impl Lanes for Neon {
    const N: usize = 4;

    type F = F4;
    type M = M4;

    #[inline(always)]
    fn splat(self, v: f32) -> F4 {
        // SAFETY: see above.
        F4(unsafe { vdupq_n_f32(v) })
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F4 {
        let values = &values[..4];
        // SAFETY: see above.
        F4(unsafe { vld1q_f32(values.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, v: F4, out: &mut [f32]) {
        let out = &mut out[..4];
        // SAFETY: see above.
        unsafe { vst1q_f32(out.as_mut_ptr(), v.0) }
    }

    #[inline(always)]
    fn store_u8(self, v: F4, out: &mut [u8]) {
        // SAFETY: see above.
        let bytes = unsafe {
            let halves = vmovn_s32(vcvtq_s32_f32(v.0));
            let bytes = vmovn_s16(vcombine_s16(halves, halves));
            vget_lane_u32::<0>(vreinterpret_u32_s8(bytes))
        };
        out[..4].copy_from_slice(&bytes.to_le_bytes());
    }

    #[inline(always)]
    fn store_i8(self, v: F4, out: &mut [u8]) {
        // The conversion to bytes keeps the low bits.
        self.store_u8(v, out);
    }

    #[inline(always)]
    fn greatest(self, v: F4) -> f32 {
        // SAFETY: see above.
        unsafe { vmaxvq_f32(v.0) }
    }

    #[inline(always)]
    fn least(self, v: F4) -> f32 {
        // SAFETY: see above.
        unsafe { vminvq_f32(v.0) }
    }

    #[inline(always)]
    fn bits(self, m: M4) -> u32 {
        // SAFETY: see above.
        unsafe {
            let ones = vld1q_u32([1, 2, 4, 8].as_ptr());
            vaddvq_u32(vandq_u32(m.0, ones))
        }
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
        F4(unsafe { vabsq_f32(v.0) })
    }

    #[inline(always)]
    fn sqrt(self, v: F4) -> F4 {
        // SAFETY: see above.
        F4(unsafe { vsqrtq_f32(v.0) })
    }

    #[inline(always)]
    fn max(self, a: F4, b: F4) -> F4 {
        // NEON's own maximum has another rule for NaN.
        self.select(self.lt(b, a), a, b)
    }

    #[inline(always)]
    fn min(self, a: F4, b: F4) -> F4 {
        self.select(self.lt(a, b), a, b)
    }

    #[inline(always)]
    fn lt(self, a: F4, b: F4) -> M4 {
        // SAFETY: see above.
        M4(unsafe { vcltq_f32(a.0, b.0) })
    }

    #[inline(always)]
    fn ne(self, a: F4, b: F4) -> M4 {
        // SAFETY: see above.
        M4(unsafe { vmvnq_u32(vceqq_f32(a.0, b.0)) })
    }

    #[inline(always)]
    fn and(self, a: M4, b: M4) -> M4 {
        // SAFETY: see above.
        M4(unsafe { vandq_u32(a.0, b.0) })
    }

    #[inline(always)]
    fn select(self, m: M4, a: F4, b: F4) -> F4 {
        // SAFETY: see above.
        F4(unsafe { vbslq_f32(m.0, a.0, b.0) })
    }

    #[inline(always)]
    fn round_clamp(self, v: F4, low: f32, high: f32) -> F4 {
        // SAFETY: see above.
        let moved = F4(unsafe {
            let bits = vreinterpretq_u32_f32(vaddq_f32(v.0, vdupq_n_f32(MAGIC)));
            let mantissa = vandq_u32(bits, vdupq_n_u32(MANTISSA));
            vreinterpretq_f32_u32(vorrq_u32(mantissa, vdupq_n_u32(BINADE)))
        });
        let clamped = self.min(self.max(moved, self.splat(MAGIC + low)), self.splat(MAGIC + high));
        clamped - self.splat(MAGIC)
    }
}

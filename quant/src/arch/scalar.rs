//! Four lanes in plain Rust: runs everywhere, and shows what the others must compute.

use std::ops::{Add, Div, Mul, Sub};

use super::lanes::{BINADE, Lanes, MAGIC, MANTISSA};

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

/// Four floats.
#[derive(Clone, Copy)]
pub(crate) struct F4([f32; 4]);

/// Four masks: all bits or none.
#[derive(Clone, Copy)]
pub(crate) struct M4([u32; 4]);

macro_rules! operator {
    ($trait:ident, $method:ident, $op:tt) => {
        impl $trait for F4 {
            type Output = F4;

            #[inline(always)]
            fn $method(self, b: F4) -> F4 {
                F4([self.0[0] $op b.0[0], self.0[1] $op b.0[1], self.0[2] $op b.0[2], self.0[3] $op b.0[3]])
            }
        }
    };
}

operator!(Add, add, +);
operator!(Sub, sub, -);
operator!(Mul, mul, *);
operator!(Div, div, /);

#[inline(always)]
fn map(a: F4, f: impl Fn(f32) -> f32) -> F4 {
    F4([f(a.0[0]), f(a.0[1]), f(a.0[2]), f(a.0[3])])
}

#[inline(always)]
fn zip(a: F4, b: F4, f: impl Fn(f32, f32) -> f32) -> F4 {
    F4([f(a.0[0], b.0[0]), f(a.0[1], b.0[1]), f(a.0[2], b.0[2]), f(a.0[3], b.0[3])])
}

#[inline(always)]
fn compare(a: F4, b: F4, f: impl Fn(f32, f32) -> bool) -> M4 {
    M4(std::array::from_fn(|i| if f(a.0[i], b.0[i]) { u32::MAX } else { 0 }))
}

impl Lanes for Scalar {
    const N: usize = 4;

    type F = F4;
    type M = M4;

    #[inline(always)]
    fn splat(self, v: f32) -> F4 {
        F4([v; 4])
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F4 {
        F4([values[0], values[1], values[2], values[3]])
    }

    #[inline(always)]
    fn store(self, v: F4, out: &mut [f32]) {
        out[..4].copy_from_slice(&v.0);
    }

    #[inline(always)]
    fn store_u8(self, v: F4, out: &mut [u8]) {
        for (byte, v) in out[..4].iter_mut().zip(v.0) {
            *byte = v as i32 as u8;
        }
    }

    #[inline(always)]
    fn store_i8(self, v: F4, out: &mut [u8]) {
        self.store_u8(v, out);
    }

    #[inline(always)]
    fn greatest(self, v: F4) -> f32 {
        let [a, b, c, d] = v.0;
        a.max(b).max(c.max(d))
    }

    #[inline(always)]
    fn least(self, v: F4) -> f32 {
        let [a, b, c, d] = v.0;
        a.min(b).min(c.min(d))
    }

    #[inline(always)]
    fn bits(self, m: M4) -> u32 {
        (m.0[0] & 1) | (m.0[1] & 2) | (m.0[2] & 4) | (m.0[3] & 8)
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
        map(v, f32::abs)
    }

    #[inline(always)]
    fn sqrt(self, v: F4) -> F4 {
        map(v, f32::sqrt)
    }

    #[inline(always)]
    fn max(self, a: F4, b: F4) -> F4 {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: F4, b: F4) -> F4 {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn lt(self, a: F4, b: F4) -> M4 {
        compare(a, b, |a, b| a < b)
    }

    #[inline(always)]
    fn ne(self, a: F4, b: F4) -> M4 {
        compare(a, b, |a, b| a != b)
    }

    #[inline(always)]
    fn and(self, a: M4, b: M4) -> M4 {
        M4(std::array::from_fn(|i| a.0[i] & b.0[i]))
    }

    #[inline(always)]
    fn select(self, m: M4, a: F4, b: F4) -> F4 {
        F4(std::array::from_fn(|i| {
            f32::from_bits((a.0[i].to_bits() & m.0[i]) | (b.0[i].to_bits() & !m.0[i]))
        }))
    }

    #[inline(always)]
    fn round_clamp(self, v: F4, low: f32, high: f32) -> F4 {
        let moved = map(v, |v| f32::from_bits(((v + MAGIC).to_bits() & MANTISSA) | BINADE));
        let clamped = self.min(self.max(moved, self.splat(MAGIC + low)), self.splat(MAGIC + high));
        clamped - self.splat(MAGIC)
    }
}

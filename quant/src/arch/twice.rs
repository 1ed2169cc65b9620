//! Two vectors in step, for loops whose operations wait for each other.

use std::ops::{Add, Div, Mul, Sub};

use super::lanes::Lanes;

/// The lanes of `S`, twice.
#[derive(Clone, Copy)]
pub(crate) struct Twice<S>(pub(crate) S);

/// Two vectors or masks.
#[derive(Clone, Copy)]
pub(crate) struct Both<T>([T; 2]);

macro_rules! operator {
    ($trait:ident, $method:ident, $op:tt) => {
        impl<T: Copy + $trait<Output = T>> $trait for Both<T> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, b: Self) -> Self {
                Both([self.0[0] $op b.0[0], self.0[1] $op b.0[1]])
            }
        }
    };
}

operator!(Add, add, +);
operator!(Sub, sub, -);
operator!(Mul, mul, *);
operator!(Div, div, /);

impl<S: Lanes> Lanes for Twice<S> {
    const N: usize = 2 * S::N;

    type F = Both<S::F>;
    type M = Both<S::M>;

    #[inline(always)]
    fn splat(self, v: f32) -> Self::F {
        Both([self.0.splat(v); 2])
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> Self::F {
        Both([self.0.load(values), self.0.load(&values[S::N..])])
    }

    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32]) {
        self.0.store(v.0[0], out);
        self.0.store(v.0[1], &mut out[S::N..]);
    }

    #[inline(always)]
    fn store_u8(self, v: Self::F, out: &mut [u8]) {
        self.0.store_u8(v.0[0], out);
        self.0.store_u8(v.0[1], &mut out[S::N..]);
    }

    #[inline(always)]
    fn store_i8(self, v: Self::F, out: &mut [u8]) {
        self.0.store_i8(v.0[0], out);
        self.0.store_i8(v.0[1], &mut out[S::N..]);
    }

    #[inline(always)]
    fn greatest(self, v: Self::F) -> f32 {
        self.0.greatest(self.0.max(v.0[0], v.0[1]))
    }

    #[inline(always)]
    fn least(self, v: Self::F) -> f32 {
        self.0.least(self.0.min(v.0[0], v.0[1]))
    }

    #[inline(always)]
    fn bits(self, m: Self::M) -> u32 {
        self.0.bits(m.0[0]) | self.0.bits(m.0[1]) << S::N
    }

    #[inline(always)]
    fn f16_from(self, v: f32) -> u16 {
        self.0.f16_from(v)
    }

    #[inline(always)]
    fn f16_to(self, h: u16) -> f32 {
        self.0.f16_to(h)
    }

    #[inline(always)]
    fn abs(self, v: Self::F) -> Self::F {
        Both([self.0.abs(v.0[0]), self.0.abs(v.0[1])])
    }

    #[inline(always)]
    fn sqrt(self, v: Self::F) -> Self::F {
        Both([self.0.sqrt(v.0[0]), self.0.sqrt(v.0[1])])
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        Both([self.0.max(a.0[0], b.0[0]), self.0.max(a.0[1], b.0[1])])
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        Both([self.0.min(a.0[0], b.0[0]), self.0.min(a.0[1], b.0[1])])
    }

    #[inline(always)]
    fn lt(self, a: Self::F, b: Self::F) -> Self::M {
        Both([self.0.lt(a.0[0], b.0[0]), self.0.lt(a.0[1], b.0[1])])
    }

    #[inline(always)]
    fn ne(self, a: Self::F, b: Self::F) -> Self::M {
        Both([self.0.ne(a.0[0], b.0[0]), self.0.ne(a.0[1], b.0[1])])
    }

    #[inline(always)]
    fn and(self, a: Self::M, b: Self::M) -> Self::M {
        Both([self.0.and(a.0[0], b.0[0]), self.0.and(a.0[1], b.0[1])])
    }

    #[inline(always)]
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        Both([self.0.select(m.0[0], a.0[0], b.0[0]), self.0.select(m.0[1], a.0[1], b.0[1])])
    }

    #[inline(always)]
    fn round_clamp(self, v: Self::F, low: f32, high: f32) -> Self::F {
        Both([self.0.round_clamp(v.0[0], low, high), self.0.round_clamp(v.0[1], low, high)])
    }

    #[inline(always)]
    fn quantize_to_levels(self, v: Self::F, bounds: &[f32; 15], levels: &[f32; 16]) -> Self::F {
        Both([
            self.0.quantize_to_levels(v.0[0], bounds, levels),
            self.0.quantize_to_levels(v.0[1], bounds, levels),
        ])
    }
}

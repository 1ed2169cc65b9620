//! Exponentials that vectorise and give the same bits on every machine, unlike those of the system's library.

use super::arch::{Arithmetic, Kernel};

/// `e^x`, within 2 units in the last place; NaN stays NaN, and what would not be a normal number is held at the
/// smallest or largest one.
#[inline(always)]
pub(super) fn exp<A: Arithmetic>(x: f32) -> f32 {
    // x = n ln 2 + r; adding 1.5 * 2^23 rounds to an integer and leaves n in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let t = A::fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let r = A::fma(n, -0.693_359_4, x);
    let r = A::fma(n, 2.121_944_4e-4, r);
    // Minimax polynomial of (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2] (Cephes, expf).
    let mut p = A::fma(1.987_569_1e-4, r, 1.398_2e-3);
    p = A::fma(p, r, 8.333_452e-3);
    p = A::fma(p, r, 4.166_579_6e-2);
    p = A::fma(p, r, 1.666_666_5e-1);
    p = A::fma(p, r, 5e-1);
    let y = A::fma(p, r * r, r) + 1.0;
    y * f32::from_bits(t.to_bits().wrapping_add(127) << 23)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid<A: Arithmetic>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<A>(-x))
}

/// Hyperbolic tangent; a polynomial near 0 (Cephes, tanhf), where the quotient would cancel.
#[inline(always)]
pub(super) fn tanh<A: Arithmetic>(x: f32) -> f32 {
    let z = x * x;
    let mut p = A::fma(-5.704_988_7e-3, z, 2.063_909e-2);
    p = A::fma(p, z, -5.373_971_5e-2);
    p = A::fma(p, z, 1.333_144_2e-1);
    p = A::fma(p, z, -3.333_328e-1);
    let near = A::fma(p * z, x, x);
    let far = 1.0 - 2.0 / (exp::<A>(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 { near } else { far.copysign(x) }
}

/// `e^x` in double precision, within 2 units in the last place.
#[inline(always)]
pub(super) fn exp64(x: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let x = if x < -708.0 { -708.0 } else { x };
    let x = if x > 708.0 { 708.0 } else { x };
    let t = x * std::f64::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = x - n * 0.693_147_180_369_123_8;
    let r = r - n * 1.908_214_929_270_587_7e-10;
    // Taylor's series: the first term left out is below 2^-53 of the sum.
    let mut p = 1.0 / 479_001_600.0;
    for c in [39_916_800.0, 3_628_800.0, 362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0] {
        p = p * r + 1.0 / c;
    }
    (p * r + 1.0) * f64::from_bits(t.to_bits().wrapping_add(1023) << 52)
}

/// The logarithm of the sum of the exponentials of `logits`, in double precision, and the place of the largest.
pub(crate) fn log_sum_exp(logits: &[f32]) -> (f64, usize) {
    let (mut max, mut at) = (f32::NEG_INFINITY, 0);
    for (i, v) in logits.iter().enumerate() {
        if *v > max {
            (max, at) = (*v, i);
        }
    }
    let mut sums = [0.0; SUMS];
    super::arch::dispatch(SumExp { logits, max: f64::from(max), sums: &mut sums });
    (f64::from(max) + sums.iter().sum::<f64>().ln(), at)
}

/// Partial sums of the sums over a vocabulary.
const SUMS: usize = 8;

struct SumExp<'a> {
    logits: &'a [f32],
    max: f64,
    sums: &'a mut [f64; SUMS],
}

impl Kernel for SumExp<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let (whole, rest) = self.logits.as_chunks::<SUMS>();
        let mut sums = [0.0; SUMS];
        for chunk in whole {
            for i in 0..SUMS {
                sums[i] += exp64(f64::from(chunk[i]) - self.max);
            }
        }
        for (i, v) in rest.iter().enumerate() {
            sums[i] += exp64(f64::from(*v) - self.max);
        }
        *self.sums = sums;
    }
}

/// The Kullback-Leibler divergence of `q` from `p`, both given as logits and the logarithm of the sum of their
/// exponentials: `sum p (ln p - ln q)`, in double precision.
pub(crate) fn divergence(p: &[f32], p_sum: f64, q: &[f32], q_sum: f64) -> f64 {
    let mut sums = [0.0; SUMS];
    super::arch::dispatch(Divergence { p, p_sum, q, q_sum, sums: &mut sums });
    sums.iter().sum()
}

struct Divergence<'a> {
    p: &'a [f32],
    p_sum: f64,
    q: &'a [f32],
    q_sum: f64,
    sums: &'a mut [f64; SUMS],
}

impl Kernel for Divergence<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let term = |p: f32, q: f32| {
            let (p, q) = (f64::from(p) - self.p_sum, f64::from(q) - self.q_sum);
            exp64(p) * (p - q)
        };
        let (p, p_rest) = self.p.as_chunks::<SUMS>();
        let (q, q_rest) = self.q.as_chunks::<SUMS>();
        let mut sums = [0.0; SUMS];
        for (p, q) in p.iter().zip(q) {
            for i in 0..SUMS {
                sums[i] += term(p[i], q[i]);
            }
        }
        for (i, (p, q)) in p_rest.iter().zip(q_rest).enumerate() {
            sums[i] += term(*p, *q);
        }
        *self.sums = sums;
    }
}

#[cfg(test)]
mod tests {
    use super::super::arch::Fused;
    use super::*;

    #[test]
    fn the_functions_are_near_the_exact_ones() {
        for i in -8700..=8700 {
            let x = i as f32 / 100.0;
            let wide = f64::from(x);
            let near =
                |a: f32, b: f64, e: f64| assert!((f64::from(a) - b).abs() <= e * b.abs(), "{x}: {a} {b}");
            near(exp::<Fused>(x), wide.exp(), 2.5e-7);
            near(sigmoid::<Fused>(x), 1.0 / (1.0 + (-wide).exp()), 4e-7);
            near(tanh::<Fused>(x / 20.0), f64::from(x / 20.0).tanh(), 3e-7);
            let (e, b) = (exp64(-wide.abs() * 8.0), (-wide.abs() * 8.0).exp());
            assert!((e - b).abs() <= 1e-15 * b, "{x}: {e} {b}");
        }
        assert!(exp::<Fused>(f32::NAN).is_nan() && sigmoid::<Fused>(f32::NAN).is_nan());
        assert!(tanh::<Fused>(f32::NAN).is_nan());
    }

    #[test]
    fn the_divergence_of_a_model_from_itself_is_zero() {
        let logits: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        let other: Vec<f32> = logits.iter().map(|v| v + 1.5).collect();
        let (p, q) = (log_sum_exp(&logits), log_sum_exp(&other));
        assert_eq!(p.1, q.1);
        assert_eq!(divergence(&logits, p.0, &logits, p.0), 0.0);
        // A constant changes no probability; the difference is f32's rounding of the shifted logits.
        assert!(divergence(&logits, p.0, &other, q.0).abs() < 1e-12);
        let sum: f64 = logits.iter().map(|v| f64::from(*v).exp()).sum();
        assert!((p.0 - sum.ln()).abs() < 1e-13);
    }
}

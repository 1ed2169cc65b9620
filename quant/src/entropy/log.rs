//! Logarithms that are the same on every machine: made of operations that IEEE 754 fixes. (Those of the C library
//! differ in the last bit, and a bit can change which tables a file gets.)

/// The binary logarithm of a normal positive number, to about 1e-12.
pub(crate) fn log2(v: f64) -> f64 {
    const ONE: u64 = 1023 << 52;
    let bits = v.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | ONE);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln m = 2 atanh((m - 1) / (m + 1))
    let t = (m - 1.0) / (m + 1.0);
    let t2 = t * t;
    let mut sum = 0.0;
    for k in (0..8).rev() {
        sum = sum * t2 + 1.0 / f64::from(2 * k + 1);
    }
    exponent as f64 + 2.0 * t * sum * std::f64::consts::LOG2_E
}

/// 2 to the power of `v`, cut to -1000..=1000, to about 1e-12.
pub(crate) fn exp2(v: f64) -> f64 {
    let v = v.clamp(-1000.0, 1000.0);
    let whole = v.round();
    let x = (v - whole) * std::f64::consts::LN_2;
    let mut sum = 1.0;
    for k in (1..14).rev() {
        sum = 1.0 + sum * x / f64::from(k);
    }
    sum * f64::from_bits(((whole as i64 + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_logarithm_and_the_power() {
        for k in -2000..2000 {
            let v = f64::from(k) / 37.0;
            assert!((exp2(v) / v.exp2() - 1.0).abs() < 1e-11, "{v}");
            let v = v.exp2();
            assert!((log2(v) - v.log2()).abs() < 1e-11, "{v}");
        }
    }
}

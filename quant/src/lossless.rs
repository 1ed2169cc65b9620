//! bf16 without loss in about two thirds of its bytes.
//!
//! Weights are near each other in size: of 16 bits the 8 of the exponent carry fewer than 3, while sign and mantissa
//! are noise. Values become two planes of bytes ([`planes`]), the exponents and the rest:
//!
//! ```text
//! 4       bytes of the first plane, u32
//! ...     plane of exponents: bits 7 to 14 of each value
//! ...     plane of bit 15 (highest) and bits 0 to 6
//! ```
//!
//! Every bit comes back: NaN with what they carry, zeros with their sign. (The idea is that of DFloat11, arXiv 2504.11651.)

use crate::entropy::{EntropyError, Fields, planes, push_counted};

/// Appends bf16, given as little-endian bytes; fewer than 2^31 values.
///
/// # Panics
/// If `values` are no whole values.
pub fn encode(values: &[u8], out: &mut Vec<u8>) {
    let (values, rest) = values.as_chunks::<2>();
    assert!(rest.is_empty());
    let bits = || values.iter().map(|v| u16::from_le_bytes(*v));
    let exponents: Vec<u8> = bits().map(|v| (v >> 7) as u8).collect();
    let others: Vec<u8> = bits().map(|v| (v >> 8 & 0x80 | v & 0x7f) as u8).collect();
    let mut plane = Vec::new();
    planes::encode(&exponents, &mut plane);
    push_counted(&plane, out);
    planes::encode(&others, out);
}

/// Fills `out` with little-endian bf16.
///
/// # Errors
/// [`EntropyError`] unless `bytes` are what [`encode`] makes of as many values.
///
/// # Panics
/// If `out` has no room for whole values.
pub fn decode(bytes: &[u8], out: &mut [u8]) -> Result<(), EntropyError> {
    let (out, rest) = out.as_chunks_mut::<2>();
    assert!(rest.is_empty());
    let mut fields = Fields(bytes);
    let mut exponents = vec![0; out.len()];
    let mut others = vec![0; out.len()];
    planes::decode(fields.counted("the plane of exponents")?, &mut exponents)?;
    planes::decode(fields.0, &mut others)?;
    for ((out, e), o) in out.iter_mut().zip(exponents).zip(others) {
        let (e, o) = (u16::from(e), u16::from(o));
        *out = ((o & 0x80) << 8 | e << 7 | o & 0x7f).to_le_bytes();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    #[test]
    fn every_value_comes_back() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut coded = Vec::new();
        encode(&all, &mut coded);
        let mut back = vec![0; all.len()];
        assert_eq!(decode(&coded, &mut back), Ok(()));
        assert!(all == back);
    }

    #[test]
    fn normal_weights_take_two_thirds() {
        let mut random = Random::new(1);
        let values: Vec<u8> =
            (0..1 << 16).flat_map(|_| half::bf16::from_f64(0.02 * random.normal()).to_le_bytes()).collect();
        let mut coded = Vec::new();
        encode(&values, &mut coded);
        assert!((coded.len() as f64) < 0.68 * values.len() as f64, "{}", coded.len());
    }

    proptest! {
        #[test]
        fn values_come_back_and_damage_is_no_panic(
            values in proptest::collection::vec(prop_oneof![Just(0u16), 0x3c00..0x3d00u16, any::<u16>()], 0..2000),
            at in any::<proptest::sample::Index>(), flip in 1..=255u8,
        ) {
            let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut coded = Vec::new();
            encode(&values, &mut coded);
            let mut back = vec![0; values.len()];
            prop_assert_eq!(decode(&coded, &mut back), Ok(()));
            prop_assert_eq!(&back, &values);
            prop_assert!(decode(&coded[..at.index(coded.len())], &mut back).is_err());
            let at = at.index(coded.len());
            coded[at] ^= flip;
            let _ = decode(&coded, &mut back);
        }
    }
}

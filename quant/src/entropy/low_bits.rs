//! The lowest bits of codes, as they are: code after code, the lowest bit first.

use super::rans::LANES;
use super::{EntropyError, Fields};
use crate::arch::Lanes;

/// Bytes that hold the bits of sixteen codes wherever in the first byte these begin, and what is read behind them.
pub(crate) const WINDOW: usize = 48;

/// The most bits of a code.
pub(crate) const MOST: u8 = 20;

/// Collects bits.
#[derive(Debug, Default)]
pub(super) struct Pack {
    bytes: Vec<u8>,
    bits: u64,
    n: u32,
}

impl Pack {
    /// Appends the `n` lowest bits of `value`, at most [`MOST`].
    #[inline(always)]
    pub fn push(&mut self, value: i32, n: u8) {
        self.bits |= u64::from(value as u32 & ((1 << n) - 1)) << self.n;
        self.n += u32::from(n);
        if self.n >= 32 {
            self.bytes.extend((self.bits as u32).to_le_bytes());
            self.bits >>= 32;
            self.n -= 32;
        }
    }

    /// All of them; the bits behind the last are 0.
    pub fn finish(mut self) -> Vec<u8> {
        let bytes = self.n.div_ceil(8) as usize;
        self.bytes.extend(&self.bits.to_le_bytes()[..bytes]);
        self.bytes
    }
}

/// Gives bits back.
#[derive(Debug)]
pub(super) struct Unpack<'a> {
    bytes: &'a [u8],
    /// Bits read.
    at: usize,
}

impl<'a> Unpack<'a> {
    pub fn new(bytes: &'a [u8]) -> Unpack<'a> {
        Unpack { bytes, at: 0 }
    }

    /// The next `n` bits, at most [`MOST`].
    #[inline(always)]
    pub fn next(&mut self, n: u8) -> Result<i32, EntropyError> {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let mut word = [0; 4];
        match rest.first_chunk() {
            Some(whole) => word = *whole,
            None if self.at + usize::from(n) > 8 * self.bytes.len() => {
                return Err(EntropyError::Truncated("the lowest bits"));
            }
            None => word[..rest.len()].copy_from_slice(rest),
        }
        let value = u32::from_le_bytes(word) >> (self.at % 8) & ((1 << n) - 1);
        self.at += usize::from(n);
        Ok(value as i32)
    }

    /// The codes of sixteen symbols without an escape among them; `false`, and nothing was read, near the end.
    #[inline(always)]
    pub fn codes<S: Lanes>(
        &mut self,
        lanes: S,
        symbols: &[u8; LANES],
        shifts: &[u8; LANES],
        out: &mut [f32; LANES],
    ) -> bool {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let Some(window) = rest.first_chunk() else { return false };
        self.at += lanes.join_low_bits(symbols, shifts, window, self.at % 8, out);
        true
    }

    /// True if all was read.
    ///
    /// # Errors
    /// If not.
    pub fn finish(self) -> Result<(), EntropyError> {
        Fields(self.bytes.get(self.at.div_ceil(8)..).unwrap_or_default()).end("the lowest bits")
    }
}

/// The codes of symbols that stand for `(symbol - 128) << shift` and as many lowest bits, which are in `window` from bit
/// `at` of its first byte on; tells how many were read. The same on any processor.
#[inline(always)]
pub(crate) fn join_low_bits(
    symbols: &[u8; LANES],
    shifts: &[u8; LANES],
    window: &[u8; WINDOW],
    at: usize,
    out: &mut [f32; LANES],
) -> usize {
    let mut end = at;
    for ((symbol, shift), out) in symbols.iter().zip(shifts).zip(out) {
        let byte = (end / 8).min(WINDOW - 4);
        let word = u32::from_le_bytes([window[byte], window[byte + 1], window[byte + 2], window[byte + 3]]);
        let shift = (*shift).min(MOST);
        let low = word >> (end % 8) & ((1 << shift) - 1);
        *out = (((i32::from(*symbol) - 128) << shift) + low as i32) as f32;
        end += usize::from(shift);
    }
    end - at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arch::{self, Kernel};

    struct Join<'a>(Unpack<'a>, &'a [([u8; LANES], [u8; LANES])]);

    impl Kernel for Join<'_> {
        type Output = Vec<f32>;

        fn run<S: Lanes>(mut self, lanes: S) -> Vec<f32> {
            let mut all = Vec::new();
            for (symbols, shifts) in self.1 {
                let mut out = [0.0; LANES];
                if !self.0.codes(lanes, symbols, shifts, &mut out) {
                    for ((out, symbol), shift) in out.iter_mut().zip(symbols).zip(shifts) {
                        let low = self.0.next(*shift).unwrap();
                        *out = (((i32::from(*symbol) - 128) << shift) + low) as f32;
                    }
                }
                all.extend(out);
            }
            self.0.finish().unwrap();
            all
        }
    }

    proptest! {
        #[test]
        fn codes_come_back_at_every_level(
            groups in proptest::collection::vec(
                any::<([u8; LANES], [u32; LANES])>().prop_flat_map(|(symbols, low)| {
                    let shifts = prop_oneof![Just([3; LANES]), proptest::array::uniform16(0..=MOST)];
                    (Just(symbols), shifts, Just(low))
                }),
                0..40,
            ),
        ) {
            let (mut pack, mut wanted, mut given) = (Pack::default(), Vec::new(), Vec::new());
            for (symbols, shifts, low) in &groups {
                for ((symbol, shift), low) in symbols.iter().zip(shifts).zip(low) {
                    pack.push(*low as i32, *shift);
                    let low = (low & ((1 << shift) - 1)) as i32;
                    wanted.push((((i32::from(*symbol) - 128) << shift) + low) as f32);
                }
                given.push((*symbols, *shifts));
            }
            let bytes = pack.finish();
            for level in arch::Level::available() {
                let join = || arch::dispatch(Join(Unpack::new(&bytes), &given));
                prop_assert_eq!(&arch::with_limit(level, join), &wanted);
            }
            if let Some(end) = bytes.len().checked_sub(1) {
                let mut cut = Unpack { bytes: &bytes[..end], at: 8 * end };
                prop_assert!(cut.next(1).is_err());
                prop_assert!(Unpack::new(&bytes).finish().is_err());
            }
        }
    }
}

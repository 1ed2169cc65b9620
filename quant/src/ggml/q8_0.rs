//! Q8_0: 8.5 bits a weight, one scale for 32 values, codes -127 to 127.
//!
//! ```text
//! d: f16 | 32 bytes: the codes as i8
//! x' = d * code
//! ```
//!
//! `d` is the largest magnitude over 127. The error is at most `d / 2` plus the rounding of `d` to f16. An
//! importance is not used.

use super::best::{self, Best, Grid, Levels, Solution};
use super::blocks::{self, Block, EncodeBlock, block_codec, get_f16, inverse, put_f16};
use crate::arch::Lanes;
use crate::encoding::Encoding;

/// ggml's Q8_0 (34 bytes for 32 weights).
pub struct Q8_0;

block_codec!(Q8_0, 32, 34, blocks::encode::<Q8_0, 32, 34>);

impl EncodeBlock<32, 34> for Q8_0 {
    const LIMIT: f32 = 65504.0 * 127.0;

    #[inline(always)]
    fn encode<S: Lanes>(s: S, values: &[f32; 32], out: &mut [u8; 34]) -> bool {
        let mut amax = s.splat(0.0);
        for values in values.chunks_exact(S::N) {
            amax = s.max(s.abs(s.load(values)), amax);
        }
        let d = s.greatest(amax) / 127.0;
        let codes = &mut out[2..];
        match inverse(d) {
            Some(id) => {
                for (values, codes) in values.chunks_exact(S::N).zip(codes.chunks_exact_mut(S::N)) {
                    s.store_i8(round_half_away(s, s.load(values) * s.splat(id)), codes);
                }
            }
            // ggml converts infinite quotients to integers, which gives 0.
            None => codes.fill(0),
        }
        put_f16(s, d, &mut out[..2])
    }
}

impl Block<32, 34> for Q8_0 {
    const ENCODING: Encoding = Encoding::Q8_0;

    #[inline(always)]
    fn decode<S: Lanes>(s: S, bytes: &[u8; 34], out: &mut [f32; 32]) {
        let d = get_f16(s, bytes);
        for (v, code) in out.iter_mut().zip(&bytes[2..]) {
            *v = f32::from(*code as i8) * d;
        }
    }
}

/// C's `roundf`, before the cut to an integer: adds the float before one half towards the sign of `v`. (The float
/// before, because 0.49999997 + 0.5 would round to 1.)
#[inline(always)]
fn round_half_away<S: Lanes>(s: S, v: S::F) -> S::F {
    let (zero, half) = (s.splat(0.0), s.splat(BELOW_HALF));
    v + s.select(s.lt(v, zero), zero - half, half)
}

const BELOW_HALF: f32 = 0.5_f32.next_down();

impl Best<32, 34> for Q8_0 {
    // Runtimes may rely on ggml never writing -128.
    const GRID: Grid = best::single(Levels::Integers(-127.0, 127.0));

    fn pack(solution: &Solution, out: &mut [u8; 34]) {
        out[..2].copy_from_slice(&solution.d.to_le_bytes());
        for (byte, code) in out[2..].iter_mut().zip(solution.codes) {
            *byte = code.wrapping_sub(127);
        }
    }

    fn unpack(bytes: &[u8; 34]) -> Solution {
        best::unpack_single(bytes)
    }
}

#[cfg(test)]
mod tests {
    use crate::arch::{self, Kernel};

    use super::*;

    struct Round(f32);

    impl Kernel for Round {
        type Output = u8;

        fn run<S: Lanes>(self, s: S) -> u8 {
            let mut out = [0; 16];
            s.store_i8(round_half_away(s, s.splat(self.0)), &mut out);
            out[S::N - 1]
        }
    }

    #[test]
    fn rounds_halves_away_from_zero() {
        for level in arch::Level::available() {
            for i in -2540..=2540 {
                let v = i as f32 / 20.0;
                for v in [v, v.next_up(), v.next_down()] {
                    let ours = arch::with_limit(level, || arch::dispatch(Round(v)));
                    assert_eq!(ours as i8, v.round() as i8, "{v}");
                }
            }
        }
    }
}

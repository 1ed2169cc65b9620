//! The block types of ggml under feedback: their scales are those of the longer search.

use std::marker::PhantomData;

use half::f16;

use super::best::{self, Best, Levels};
use super::search::levels;
use crate::codec::{Codec, EncodeError, Rows};
use crate::feedback::{self, Feedback, Format, Solution};
use crate::hessian::Hessian;

/// Encodes rows; the default encoder finds weights that cannot be encoded.
pub(super) fn encode<B: Best<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
    default: &dyn Codec,
    rows: Rows<'_>,
    feedback: &Feedback,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    assert_eq!(rows.cols, feedback.n());
    default.encode(Rows::new(rows.values, rows.cols), out)?;
    feedback::encode(&Corrected::<B, LEN, BYTES>(PhantomData), rows.values, feedback, out);
    Ok(())
}

/// Polishes rows; see [`feedback::polish`].
pub(super) fn polish<B: Best<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
    codec: &dyn Codec,
    rows: Rows<'_>,
    hessian: &Hessian,
    bytes: &mut [u8],
) {
    assert_eq!(rows.cols, hessian.n());
    feedback::polish(&Corrected::<B, LEN, BYTES>(PhantomData), codec, rows.values, hessian, bytes);
}

/// A type with a longer search, as a format for feedback.
struct Corrected<B, const LEN: usize, const BYTES: usize>(PhantomData<B>);

impl<B: Best<LEN, BYTES>, const LEN: usize, const BYTES: usize> Format for Corrected<B, LEN, BYTES> {
    fn block_len(&self) -> usize {
        LEN
    }

    fn block_bytes(&self) -> usize {
        BYTES
    }

    fn group(&self) -> usize {
        B::GRID.group
    }

    fn levels(&self) -> feedback::Levels {
        match B::GRID.levels {
            Levels::Integers(low, high) => feedback::Levels::Integers(low, high),
            Levels::Iq4 => feedback::Levels::Table(levels::FLOATS, levels::MIDDLES),
        }
    }

    fn search(&self, x: &[[f32; 16]], w: &[[f32; 16]]) -> [Solution; 16] {
        best::search(&B::GRID, x, w)
    }

    fn scale(&self, solution: &Solution, group: usize) -> (f32, f32) {
        let (d, dmin) = (f16::from_bits(solution.d).to_f32(), f16::from_bits(solution.dmin).to_f32());
        (d * solution.scales[group] as f32, dmin * solution.mins[group] as f32)
    }

    fn moves(&self) -> usize {
        if B::GRID.scales.0 < B::GRID.scales.1 { 4 } else { 8 }
    }

    fn moved(&self, solution: &Solution, group: usize, which: usize) -> Option<Solution> {
        /// Steps of f16, where there are no codes of scales.
        const STEPS: [i16; 4] = [1, -1, 6, -6];
        let (grid, mut moved) = (B::GRID, *solution);
        if grid.scales.0 == grid.scales.1 {
            return match which {
                0..4 => moved.with_other_d(STEPS[which]),
                _ if grid.mins.1 > 0 => moved.with_other_dmin(STEPS[which - 4]),
                _ => None,
            };
        }
        let (codes, (low, high)) =
            if which < 2 { (&mut moved.scales, grid.scales) } else { (&mut moved.mins, grid.mins) };
        codes[group] += if which.is_multiple_of(2) { 1 } else { -1 };
        (low..=high).contains(&codes[group]).then_some(moved)
    }

    fn unpack(&self, bytes: &[u8]) -> Solution {
        <&[u8; BYTES]>::try_from(bytes).map_or(Solution::EMPTY, B::unpack)
    }

    fn pack(&self, solution: &Solution, out: &mut [u8]) {
        let mut bytes = [0; BYTES];
        B::pack(solution, &mut bytes);
        out.copy_from_slice(&bytes);
    }
}

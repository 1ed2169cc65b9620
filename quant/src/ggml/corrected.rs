//! The block types of ggml under feedback: their scales are those of the longer search.

use std::marker::PhantomData;

use half::f16;

use super::best::{self, Best, Levels};
use super::search::levels;
use crate::codec::{Codec, EncodeError, Rows};
use crate::feedback::{self, Feedback, Format, Solution};

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

    fn pack(&self, solution: &Solution, out: &mut [u8]) {
        let mut bytes = [0; BYTES];
        B::pack(solution, &mut bytes);
        out.copy_from_slice(&bytes);
    }
}

//! The block types of ggml under feedback: their scales are those of the longer search.

use std::marker::PhantomData;

use super::best::{self, Best, Levels, Solution};
use super::search::levels;
use crate::arch::Lanes;
use crate::codec::{Codec, EncodeError, Rows};
use crate::feedback::{self, Feedback, Format};

/// Encodes rows; the default encoder finds weights that cannot be encoded.
pub(super) fn encode<B: Best<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
    default: &dyn Codec,
    rows: Rows<'_>,
    feedback: &Feedback,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    assert_eq!(rows.cols, feedback.n());
    default.encode(Rows { importance: None, ..rows }, out)?;
    feedback::encode(&Corrected::<B, LEN, BYTES>(PhantomData), rows.values, feedback, out);
    Ok(())
}

struct Corrected<B, const LEN: usize, const BYTES: usize>(PhantomData<B>);

impl<B: Best<LEN, BYTES>, const LEN: usize, const BYTES: usize> Format for Corrected<B, LEN, BYTES> {
    const LEN: usize = LEN;
    const BYTES: usize = BYTES;
    const GROUP: usize = B::GRID.group;

    type Scales = Solution;

    fn levels(&self) -> feedback::Levels {
        match B::GRID.levels {
            Levels::Integers(low, high) => feedback::Levels::Integers(low, high),
            Levels::Iq4 => feedback::Levels::Table(levels::FLOATS, levels::MIDDLES),
        }
    }

    #[inline(always)]
    fn search<S: Lanes>(&self, s: S, x: &[f32], w: &[f32]) -> Solution {
        best::solve(s, &B::GRID, x, w)
    }

    #[inline(always)]
    fn group<S: Lanes>(&self, s: S, scales: &Solution, group: usize) -> (f32, f32) {
        let (d, dmin) = (s.f16_to(scales.d), s.f16_to(scales.dmin));
        (d * scales.scales[group] as f32, dmin * scales.mins[group] as f32)
    }

    fn pack(&self, scales: &Solution, codes: &[u8; 256], out: &mut [u8]) {
        let mut bytes = [0; BYTES];
        B::pack(&Solution { codes: *codes, ..*scales }, &mut bytes);
        out.copy_from_slice(&bytes);
    }
}

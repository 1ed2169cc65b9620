//! Common parts of the types of 256 values: encoding several super-blocks at a time, and their importance.

use super::blocks::{Block, all_within, failure};
use super::search::{GROUPS, Transposed, importance_weights, transpose};
use crate::arch::{self, Kernel, Lanes};
use crate::codec::{EncodeError, Rows, check_importance};

/// Values in a super-block.
pub(super) const LEN: usize = 256;

/// Super-blocks that are encoded together.
pub(super) const BATCH: usize = 16;

/// One to [`BATCH`] super-blocks.
pub(super) struct Batch<'a> {
    pub values: &'a [[f32; LEN]],
    importance: Option<Importance<'a>>,
}

struct Importance<'a> {
    /// That of the columns that each super-block stands in.
    columns: [&'a [f32; LEN]; BATCH],
    /// Sum of the squares of each super-block.
    sum_x2: [f32; BATCH],
}

/// A type of 256 values whose scales are searched for.
pub(super) trait EncodeSuperBlock<const BYTES: usize>: Block<LEN, BYTES> {
    /// The largest magnitude that a super-block can hold.
    const LIMIT: f32;

    /// Encodes a batch; the first super-block whose scales are too large for f16, if there is one.
    fn encode<S: Lanes>(s: S, batch: &Batch<'_>, out: &mut [[u8; BYTES]]) -> Option<usize>;
}

impl Batch<'_> {
    /// True if an importance is given.
    pub(super) fn has_importance(&self) -> bool {
        self.importance.is_some()
    }

    /// Groups of `N` values in a row, 16 at a time: the super-block of the first, and the values transposed.
    #[inline(always)]
    pub(super) fn groups<const N: usize>(&self) -> impl Iterator<Item = (usize, Transposed<N>)> {
        let step = GROUPS * N / LEN;
        self.values
            .chunks(step)
            .enumerate()
            .map(move |(n, blocks)| (n * step, transpose(blocks.as_flattened())))
    }

    /// `importance * sqrt(sigma2 + x^2)` for the groups of [`groups`](Self::groups) from super-block `first`, with
    /// `sigma2 = factor * (sum of squares) / 256`; `None` without an importance.
    #[inline(always)]
    pub(super) fn weights<S: Lanes, const N: usize>(
        &self,
        s: S,
        first: usize,
        x: &Transposed<N>,
        factor: f32,
    ) -> Option<Transposed<N>> {
        let importance = self.importance.as_ref()?;
        let mut sigma2 = [0.0; GROUPS];
        for (k, sigma2) in sigma2.iter_mut().enumerate() {
            let block = (first + k * N / LEN).min(BATCH - 1);
            *sigma2 = factor * importance.sum_x2[block] / LEN as f32;
        }
        Some(importance_weights(s, x, &self.columns(first)?, &sigma2))
    }

    /// The importance of the groups from super-block `first`, transposed; `None` without one.
    #[inline(always)]
    pub(super) fn columns<const N: usize>(&self, first: usize) -> Option<Transposed<N>> {
        let importance = self.importance.as_ref()?;
        let mut columns = [[0.0; LEN]; 2];
        let step = GROUPS * N / LEN;
        for (k, columns) in columns[..step].iter_mut().enumerate() {
            *columns = *importance.columns[(first + k).min(BATCH - 1)];
        }
        Some(transpose(columns[..step].as_flattened()))
    }
}

/// Encodes rows of finite values.
pub(super) fn encode<B: EncodeSuperBlock<BYTES>, const BYTES: usize>(
    rows: Rows<'_>,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    assert!(rows.cols.is_multiple_of(LEN));
    check_importance(rows)?;
    let (values, rest) = rows.values.as_chunks::<LEN>();
    assert!(rest.is_empty());
    let (out, rest) = out.as_chunks_mut::<BYTES>();
    assert!(rest.is_empty() && values.len() == out.len());
    let importance = rows.importance.map(|q| q.as_chunks::<LEN>().0);
    match arch::dispatch(Encode::<B, BYTES> { values, importance, out, block: std::marker::PhantomData }) {
        None => Ok(()),
        Some(n) => Err(failure(rows.values, n * LEN, LEN, B::ENCODING, B::LIMIT)),
    }
}

struct Encode<'a, B, const BYTES: usize> {
    values: &'a [[f32; LEN]],
    /// Importance of the columns of one row.
    importance: Option<&'a [[f32; LEN]]>,
    out: &'a mut [[u8; BYTES]],
    block: std::marker::PhantomData<B>,
}

impl<B: EncodeSuperBlock<BYTES>, const BYTES: usize> Kernel for Encode<'_, B, BYTES> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> Option<usize> {
        for (n, (values, out)) in self.values.chunks(BATCH).zip(self.out.chunks_mut(BATCH)).enumerate() {
            if !all_within(values.as_flattened(), B::LIMIT) {
                return Some(n * BATCH);
            }
            let importance = self.importance.map(|columns| Importance {
                columns: std::array::from_fn(|k| &columns[(n * BATCH + k) % columns.len()]),
                sum_x2: sum_x2(values),
            });
            if let Some(k) = B::encode(s, &Batch { values, importance }, out) {
                return Some(n * BATCH + k);
            }
        }
        None
    }
}

/// The sums of the squares of super-blocks, each in the order of its values; eight at once, since every sum is a
/// chain of dependent additions.
#[inline(always)]
fn sum_x2(blocks: &[[f32; LEN]]) -> [f32; BATCH] {
    let mut sums = [0.0; BATCH];
    for (sums, blocks) in sums.chunks_mut(8).zip(blocks.chunks(8)) {
        if let Ok(blocks) = <&[[f32; LEN]; 8]>::try_from(blocks) {
            let mut chains = [0.0f32; 8];
            for i in 0..LEN {
                for k in 0..8 {
                    chains[k] += blocks[k][i] * blocks[k][i];
                }
            }
            sums.copy_from_slice(&chains);
        } else {
            for (sum, block) in sums.iter_mut().zip(blocks) {
                *sum = block.iter().fold(0.0, |sum, x| sum + x * x);
            }
        }
    }
    sums
}

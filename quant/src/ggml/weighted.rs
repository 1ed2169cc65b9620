//! Encoding blocks of 32 values sixteen at a time, each value with a weight.

use super::blocks::{Block, all_within, failure};
use super::search::{GROUPS, Transposed, importance_weights, square_weights, sums, transpose};
use crate::arch::{self, Kernel, Lanes};
use crate::codec::{EncodeError, Rows, check_importance};

/// A block type whose scale is searched for.
pub(super) trait EncodeWeighted<const BYTES: usize>: Block<32, BYTES> {
    /// The largest magnitude that a block can hold.
    const LIMIT: f32;

    /// The weight of a value is `importance * sqrt(sigma2 + x^2)`. `sigma2` is the mean square of the row, or
    /// (`false`) twice that of the block.
    const SIGMA_OF_ROW: bool;

    /// Encodes up to 16 blocks, given transposed with their weights; the first whose scale is too large for f16.
    fn encode<S: Lanes>(
        s: S,
        values: &[[f32; 32]],
        x: &Transposed<32>,
        w: &Transposed<32>,
        out: &mut [[u8; BYTES]],
    ) -> Option<usize>;
}

/// Encodes rows of finite values; without an importance the weights are `x^2`.
pub(super) fn encode<B: EncodeWeighted<BYTES>, const BYTES: usize>(
    rows: Rows<'_>,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    assert!(rows.cols.is_multiple_of(32));
    check_importance(rows)?;
    let (values, rest) = rows.values.as_chunks::<32>();
    assert!(rest.is_empty());
    let (out, rest) = out.as_chunks_mut::<BYTES>();
    assert!(rest.is_empty() && values.len() == out.len());
    let importance = rows.importance.map(|q| q.as_chunks::<32>().0);
    let kernel = Encode::<B, BYTES> {
        values,
        per_row: rows.cols / 32,
        importance,
        out,
        block: std::marker::PhantomData,
    };
    match arch::dispatch(kernel) {
        None => Ok(()),
        Some(n) => Err(failure(rows.values, n * 32, 32, B::ENCODING, B::LIMIT)),
    }
}

struct Encode<'a, B, const BYTES: usize> {
    values: &'a [[f32; 32]],
    per_row: usize,
    /// Importance of the columns of one row.
    importance: Option<&'a [[f32; 32]]>,
    out: &'a mut [[u8; BYTES]],
    block: std::marker::PhantomData<B>,
}

impl<B: EncodeWeighted<BYTES>, const BYTES: usize> Kernel for Encode<'_, B, BYTES> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> Option<usize> {
        let of_rows = match self.importance {
            Some(_) if B::SIGMA_OF_ROW => mean_squares(self.values, self.per_row),
            _ => Vec::new(),
        };
        for (n, (values, out)) in self.values.chunks(GROUPS).zip(self.out.chunks_mut(GROUPS)).enumerate() {
            let first = n * GROUPS;
            if !all_within(values.as_flattened(), B::LIMIT) {
                return Some(first);
            }
            let x = transpose::<32>(values.as_flattened());
            let w = match self.importance {
                None => square_weights(s, &x),
                Some(importance) => {
                    let mut columns = [[0.0; 32]; GROUPS];
                    for (k, columns) in columns.iter_mut().enumerate() {
                        *columns = importance[(first + k) % self.per_row];
                    }
                    let sigma2 = if B::SIGMA_OF_ROW {
                        std::array::from_fn(|k| of_rows[((first + k) / self.per_row).min(of_rows.len() - 1)])
                    } else {
                        sums(s, &square_weights(s, &x)).map(|sum| sum * (2.0 / 32.0))
                    };
                    importance_weights(s, &x, &transpose(columns.as_flattened()), &sigma2)
                }
            };
            if let Some(k) = B::encode(s, values, &x, &w, out) {
                return Some(first + k);
            }
        }
        None
    }
}

/// The mean square of each row, summed in the order of its values.
#[inline(always)]
fn mean_squares(blocks: &[[f32; 32]], per_row: usize) -> Vec<f32> {
    let mean = |row: &[[f32; 32]]| {
        row.as_flattened().iter().fold(0.0f32, |sum, x| sum + x * x) / (per_row * 32) as f32
    };
    blocks.chunks_exact(per_row).map(mean).collect()
}

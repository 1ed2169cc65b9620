//! One matrix in two parts: a branch of low rank, and the quantized rest.

use quant::low_rank::{LowRank, Metric, Parts, Split, split};
use quant::{Codec, EncodeError, Rows, float};

use super::matrix::encode_rows;
use crate::checkpoint::{Encoded, Gain, Outcome, Rounding};
use crate::plan::TensorPlan;
use crate::recipe::Search;

/// Maximum number of rounds in which the parts are fitted to each other.
const ROUNDS: usize = 4;
/// Seed of the random vectors that the search for the leading dimensions starts from.
const SEED: u64 = 0;

/// Divides `values`, rows of `cols`, so that the error by `metric` is least; rests are encoded by `encode`.
///
/// # Errors
/// [`EncodeError`] of a rest, or of the factors.
pub(super) fn divide(
    codec: &dyn Codec,
    values: &[f32],
    cols: usize,
    rank: usize,
    metric: Metric<'_>,
    encode: impl Fn(&dyn Codec, Rows<'_>, &mut [u8]) -> Result<(), EncodeError> + Sync,
) -> Result<Parts, EncodeError> {
    let how = Split { metric, rank, seed: SEED, rounds: ROUNDS, factors: &float::F16 };
    split(codec, values, cols, &how, |rest, out| encode_rows(codec, cols, rest, out, &encode))
}

/// Divides a matrix for its weights alone, or weighted by its importance; it has no branch if that would not help.
///
/// # Errors
/// [`EncodeError`] for a weight that cannot be encoded.
pub(super) fn divide_weights(
    codec: &dyn Codec,
    write: &TensorPlan,
    values: &[f32],
    rank: usize,
    search: Search,
) -> Result<Encoded, EncodeError> {
    let importance = write.importance.as_deref();
    let metric = importance.map_or(Metric::Plain, Metric::Diagonal);
    let cols = write.values.cols();
    let encode = |codec: &dyn Codec, rows: Rows<'_>, out: &mut [u8]| {
        search.encode(codec, Rows { importance, ..rows }, out)
    };
    let power = metric.error(cols, values, &vec![0.0; values.len()]);
    let relative = |error: f64| if power > 0.0 { error / power } else { 0.0 };
    let parts = divide(codec, values, cols, rank, metric, encode)?;
    let default_error = relative(parts.error_without);
    let outcome = Outcome {
        name: write.name.clone(),
        encoding: codec.encoding().name().to_owned(),
        choice: Rounding::Weights,
        default_error,
        error: default_error,
        branch: None,
        unmeasured: write.unmeasured,
    };
    if parts.error < parts.error_without {
        return with_branch(outcome, parts, relative);
    }
    let mut bytes = vec![0; write.bytes() as usize];
    encode_rows(codec, cols, values, &mut bytes, encode)?;
    Ok(Encoded { bytes, factors: None, outcome })
}

/// Result for a matrix that is better with its low-rank branch: by the error `parts` state, made relative.
///
/// # Errors
/// [`EncodeError`] of the factors, which were encoded before.
pub(super) fn with_branch(
    outcome: Outcome,
    parts: Parts,
    relative: impl Fn(f64) -> f64,
) -> Result<Encoded, EncodeError> {
    let Parts { low_rank: LowRank { rank, up, down }, bytes, error, rounds, .. } = parts;
    let mut factors = vec![0; (up.len() + down.len()) * 2];
    let (first, second) = factors.split_at_mut(up.len() * 2);
    for (values, out) in [(&up, first), (&down, second)] {
        float::F16.encode(Rows::new(values, values.len()), out)?;
    }
    let branch = Some(Gain { rank, rounds, error_without: outcome.error });
    Ok(Encoded {
        bytes,
        factors: Some(factors),
        outcome: Outcome { error: relative(error), branch, ..outcome },
    })
}

/// A branch as it was stored.
pub(super) fn stored(factors: &[u8], rank: usize, rows: usize) -> LowRank {
    let mut values = vec![0.0; factors.len() / 2];
    float::F16.decode(factors, &mut values);
    let down = values.split_off(rows * rank);
    LowRank { rank, up: values, down }
}

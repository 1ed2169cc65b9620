//! How far two models are apart, tensor by tensor.

use rayon::prelude::*;

use crate::model::{Held, Model};

/// The difference of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDiff {
    /// The canonical name.
    pub name: String,
    /// The encodings in A and B.
    pub encodings: (&'static str, &'static str),
    /// The bytes in A and B.
    pub bytes: (u64, u64),
    /// Largest absolute difference of a value.
    pub max: f64,
    /// Root mean square of the differences.
    pub rms: f64,
    /// `rms` as a share of the root mean square of A's values (0 if both are 0).
    pub relative: f64,
}

/// The differences of two models.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// Tensors that both have, in A's order.
    pub common: Vec<TensorDiff>,
    /// Tensors of different shapes, with a note.
    pub incomparable: Vec<String>,
    /// Tensors that only A has.
    pub only_a: Vec<String>,
    /// Tensors that only B has.
    pub only_b: Vec<String>,
}

/// Values compared at a time by a thread.
const STEP: usize = 1 << 18;

/// Compares the values of all tensors of two models, wherever and however they are stored.
pub fn compare(a: &Model, b: &Model) -> Diff {
    let mut diff = Diff::default();
    // What is never read may hold anything.
    for held in a.tensors.iter().filter(|held| !held.is_unread()) {
        match b.tensor(held.slot.name, held.layer) {
            None => diff.only_a.push(held.name()),
            Some(other) if other.values.shape() != held.values.shape() => diff.incomparable.push(format!(
                "{}: {:?} against {:?}",
                held.name(),
                held.values.shape(),
                other.values.shape()
            )),
            Some(other) => diff.common.push(tensor(a, held, b, other)),
        }
    }
    let missing = b.tensors.iter().filter(|t| !t.is_unread() && a.tensor(t.slot.name, t.layer).is_none());
    diff.only_b = missing.map(Held::name).collect();
    diff
}

fn tensor(a: &Model, in_a: &Held, b: &Model, in_b: &Held) -> TensorDiff {
    let (rows, cols) = (in_a.values.rows(), in_a.values.cols());
    let step = (STEP / cols.max(1)).max(1);
    let sums: Vec<(f64, f64, f64)> = (0..rows.div_ceil(step))
        .into_par_iter()
        .map(|n| {
            let range = n * step..rows.min((n + 1) * step);
            let mut x = vec![0.0; range.len() * cols];
            let mut y = x.clone();
            in_a.values.read(&a.container, range.clone(), &mut x);
            in_b.values.read(&b.container, range.clone(), &mut y);
            in_a.values.release(&a.container, range.clone());
            in_b.values.release(&b.container, range);
            x.iter().zip(&y).fold((0.0, 0.0, 0.0), |(max, square, norm), (x, y)| {
                let (x, d) = (f64::from(*x), f64::from(*x) - f64::from(*y));
                // A NaN must not get lost in a maximum.
                (if d.abs() > max || d.is_nan() { d.abs() } else { max }, square + d * d, norm + x * x)
            })
        })
        .collect();
    // Added up in the order of the rows, so that the sums do not depend on the threads.
    let (max, square, norm) = sums.iter().fold((0.0f64, 0.0, 0.0), |t, s| {
        (if s.0 > t.0 || s.0.is_nan() { s.0 } else { t.0 }, t.1 + s.1, t.2 + s.2)
    });
    let n = in_a.values.elements().max(1) as f64;
    let encoding = |held: &Held| held.values.encoding().map_or("mixed", |e| e.name());
    TensorDiff {
        name: in_a.name(),
        encodings: (encoding(in_a), encoding(in_b)),
        bytes: (stored_bytes(a, in_a), stored_bytes(b, in_b)),
        max,
        rms: (square / n).sqrt(),
        relative: if square == 0.0 { 0.0 } else { (square / norm).sqrt() },
    }
}

/// Bytes that the values take in their file.
fn stored_bytes(model: &Model, held: &Held) -> u64 {
    held.values
        .sources()
        .map(|i| {
            let t = &model.container.tensors()[i];
            t.stored_bytes() * held.values.elements() as u64 / t.elements().max(1)
        })
        .sum()
}

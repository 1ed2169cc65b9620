//! Differences of two models, tensor by tensor.

use std::collections::BTreeMap;
use std::ops::Range;

use formats::Container;
use rayon::prelude::*;

use crate::model::{Model, TensorView};

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
    /// Tensors of different shapes, or of different values that are no weights, with a note.
    pub incomparable: Vec<String>,
    /// Tensors that only A has.
    pub only_a: Vec<String>,
    /// Tensors that only B has.
    pub only_b: Vec<String>,
}

/// Values compared at a time by a thread.
const STEP: usize = 1 << 18;

/// The tensors of a file, by names that tensors of another file are found by.
pub struct Tensors<'a> {
    container: &'a Container,
    all: Vec<(String, Values)>,
}

/// Content of a tensor.
enum Values {
    /// Weights.
    Weights(TensorView),
    /// Integers or the like: tensor number so many of the file.
    Other(usize),
}

impl<'a> Tensors<'a> {
    /// Tensors of a model, by their canonical names. Tensors that are never read may hold anything, and are left out.
    pub fn of_model(model: &'a Model) -> Tensors<'a> {
        let read = model.tensors.iter().filter(|held| !held.is_unread());
        let all = read.map(|held| (held.name(), Values::Weights(held.values.clone()))).collect();
        Tensors { container: &model.container, all }
    }

    /// Tensors of a file, by their names in it.
    pub fn of_container(container: &'a Container) -> Tensors<'a> {
        let values = |i| match TensorView::of(container, i) {
            Some(lazy) if container.tensors()[i].encoding.is_real() => Values::Weights(lazy),
            _ => Values::Other(i),
        };
        let all = container.tensors().iter().enumerate().map(|(i, t)| (t.name.clone(), values(i))).collect();
        Tensors { container, all }
    }
}

/// Compares the values of all tensors of two models, wherever and however they are stored.
pub fn compare(a: &Model, b: &Model) -> Diff {
    compare_tensors(&Tensors::of_model(a), &Tensors::of_model(b))
}

/// Compares the values of all tensors of two files.
pub fn compare_tensors(a: &Tensors<'_>, b: &Tensors<'_>) -> Diff {
    let mut diff = Diff::default();
    let mut others: BTreeMap<&str, &Values> = b.all.iter().map(|(name, v)| (name.as_str(), v)).collect();
    for (name, values) in &a.all {
        match (values, others.remove(name.as_str())) {
            (_, None) => diff.only_a.push(name.clone()),
            (Values::Weights(x), Some(Values::Weights(y))) if x.shape() != y.shape() => {
                diff.incomparable.push(format!("{name}: {:?} against {:?}", x.shape(), y.shape()));
            }
            (Values::Weights(x), Some(Values::Weights(y))) => {
                diff.common.push(tensor(name, (a.container, x), (b.container, y)));
            }
            (Values::Other(x), Some(Values::Other(y))) => {
                let (x, y) = (&a.container.tensors()[*x], &b.container.tensors()[*y]);
                if (x.encoding, &x.shape, a.container.bytes(x))
                    != (y.encoding, &y.shape, b.container.bytes(y))
                {
                    diff.incomparable.push(format!("{name}: other {} against {}", x.encoding, y.encoding));
                }
            }
            _ => diff.incomparable.push(format!("{name}: weights against other numbers")),
        }
    }
    let only_b = b.all.iter().filter(|(name, _)| others.contains_key(name.as_str()));
    diff.only_b = only_b.map(|(name, _)| name.clone()).collect();
    diff
}

fn tensor(name: &str, a: (&Container, &TensorView), b: (&Container, &TensorView)) -> TensorDiff {
    let difference = Difference::of(a.1.rows(), a.1.cols(), |rows, x, y| {
        for ((container, values), out) in [(a, x), (b, y)] {
            values.read(container, rows.clone(), out);
            values.release(container, rows.clone());
        }
    });
    let n = a.1.elements().max(1) as f64;
    let encoding = |values: &TensorView| values.encoding().map_or("mixed", |e| e.name());
    TensorDiff {
        name: name.to_owned(),
        encodings: (encoding(a.1), encoding(b.1)),
        bytes: (stored_bytes(a.0, a.1), stored_bytes(b.0, b.1)),
        max: difference.max,
        rms: (difference.square / n).sqrt(),
        relative: difference.relative(),
    }
}

/// The difference of one tensor's values X from others Y.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Difference {
    /// Largest absolute difference; NaN if there is one.
    max: f64,
    /// Sum of the squares of the differences, and of X.
    square: f64,
    norm: f64,
}

impl Difference {
    /// Difference of two tensors [rows, cols], of which `read` gives any rows. The sums do not depend on the threads.
    pub fn of(
        rows: usize,
        cols: usize,
        read: impl Fn(Range<usize>, &mut [f32], &mut [f32]) + Sync,
    ) -> Difference {
        let step = (STEP / cols.max(1)).max(1);
        let sums: Vec<Difference> = (0..rows.div_ceil(step))
            .into_par_iter()
            .map(|n| {
                let range = n * step..rows.min((n + 1) * step);
                let mut x = vec![0.0; range.len() * cols];
                let mut y = x.clone();
                read(range, &mut x, &mut y);
                x.iter().zip(&y).fold(Difference::default(), |sum, (x, y)| {
                    let (x, d) = (f64::from(*x), f64::from(*x) - f64::from(*y));
                    sum.plus(Difference { max: d.abs(), square: d * d, norm: x * x })
                })
            })
            .collect();
        sums.into_iter().fold(Difference::default(), Difference::plus)
    }

    /// Sum of both. A NaN does not get lost in a maximum.
    fn plus(self, other: Difference) -> Difference {
        Difference {
            max: if other.max > self.max || other.max.is_nan() { other.max } else { self.max },
            square: self.square + other.square,
            norm: self.norm + other.norm,
        }
    }

    /// Root mean square of the differences as a share of that of X (0 if both are 0).
    pub fn relative(&self) -> f64 {
        if self.square == 0.0 { 0.0 } else { (self.square / self.norm).sqrt() }
    }
}

/// Bytes that the values take in their file.
fn stored_bytes(container: &Container, values: &TensorView) -> u64 {
    let stored = values.sources().map(|i| {
        let t = &container.tensors()[i];
        t.stored_bytes() * values.elements() as u64 / t.elements().max(1)
    });
    stored.sum()
}

//! Changes of values on their way out of a file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A change of single values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Map {
    /// `x * factor`.
    Scale(f32),
    /// Rounded to FP16, unless that would be infinite.
    Half,
    /// `exp(x)`.
    Exp,
    /// `-exp(x)`.
    NegExp,
    /// `exp(-exp(x))`.
    ExpNegExp,
    /// `ln(x)`: undoes [`Map::Exp`].
    Ln,
    /// `ln(-x)`: undoes [`Map::NegExp`].
    LnNeg,
    /// `ln(-ln(x))`: undoes [`Map::ExpNegExp`].
    LnNegLn,
}

impl Map {
    /// Changes every value. Exponentials are rounded correctly, whatever the machine's own `expf` does.
    pub(super) fn apply(self, values: &mut [f32]) {
        let exp = |x: f32| f64::from(x).exp() as f32;
        for x in values {
            *x = match self {
                Map::Scale(factor) => *x * factor,
                Map::Half => to_half(*x),
                Map::Exp => exp(*x),
                Map::NegExp => -exp(*x),
                Map::ExpNegExp => exp(-exp(*x)),
                Map::Ln => x.ln(),
                Map::LnNeg => (-*x).ln(),
                Map::LnNegLn => (-x.ln()).ln(),
            };
        }
    }

    /// Whether `self` after `other` leaves the values as they were, but for rounding.
    pub(super) fn undoes(self, other: Map) -> bool {
        matches!(
            (self, other),
            (Map::Exp, Map::Ln) | (Map::NegExp, Map::LnNeg) | (Map::ExpNegExp, Map::LnNegLn)
        )
    }
}

/// `x` rounded to FP16, or as it is where FP16 would be infinite.
fn to_half(x: f32) -> f32 {
    let rounded = half::f16::from_f32(x).to_f32();
    if rounded.is_finite() { rounded } else { x }
}

/// A change of the rows of a matrix [out, in], each by itself: what an adapter does to it.
pub trait Change: fmt::Debug + Send + Sync {
    /// Changes rows `rows`; `values` holds them one after the other.
    fn apply(&self, rows: Range<usize>, values: &mut [f32]);

    /// Values that [`apply`](Change::apply) keeps in memory besides those it changes.
    fn scratch_values(&self) -> usize;
}

/// Changes that follow each other; equal if they are the very same.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes(pub Vec<Arc<dyn Change>>);

impl PartialEq for Changes {
    fn eq(&self, other: &Changes) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

//! Changes of values on their way out of a file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::channels::Channels;

/// A change of single values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Map {
    /// `x * factor`.
    Scale(f32),
    /// Rounded to f16, as runtimes find the values that they go on with; what f16 cannot hold stays as it is.
    F16,
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
    fn apply(self, values: &mut [f32]) {
        let exp = |x: f32| f64::from(x).exp() as f32;
        for x in values {
            *x = match self {
                Map::Scale(factor) => *x * factor,
                Map::F16 => {
                    let half = quant::float::round_to_f16(*x);
                    if half.is_finite() { half } else { *x }
                }
                Map::Exp => exp(*x),
                Map::NegExp => -exp(*x),
                Map::ExpNegExp => exp(-exp(*x)),
                Map::Ln => x.ln(),
                Map::LnNeg => (-*x).ln(),
                Map::LnNegLn => (-x.ln()).ln(),
            };
        }
    }

    /// True if `self` after `other` leaves the values as they were, but for rounding.
    pub(super) fn undoes(self, other: Map) -> bool {
        matches!(
            (self, other),
            (Map::Exp, Map::Ln) | (Map::NegExp, Map::LnNeg) | (Map::ExpNegExp, Map::LnNegLn)
        )
    }
}

/// A change of the rows of a matrix [out, in], each by itself: what an adapter does to it.
pub trait Change: fmt::Debug + Send + Sync {
    /// Changes rows `rows`; `values` holds them one after the other.
    fn apply(&self, rows: Range<usize>, values: &mut [f32]);

    /// Values that [`apply`](Change::apply) keeps in memory besides those it changes.
    fn scratch_values(&self) -> usize;
}

/// One step of what happens to values on their way out.
#[derive(Clone, Debug)]
pub(super) enum Alteration {
    /// Single values.
    Map(Map),
    /// Every channel by a factor of its own.
    Channels(Channels),
    /// Whole rows; equal if it is the very same change.
    Rows(Arc<dyn Change>),
}

impl Alteration {
    /// Alters the values of rows of `cols` from element `start` on, in row-major order.
    pub fn apply(&self, start: usize, cols: usize, values: &mut [f32]) {
        match self {
            Alteration::Map(map) => map.apply(values),
            Alteration::Channels(channels) => channels.apply(start, values),
            Alteration::Rows(change) => change.apply(start / cols..(start + values.len()) / cols, values),
        }
    }

    /// Values that [`apply`](Alteration::apply) keeps in memory besides those it changes.
    pub fn scratch_values(&self) -> usize {
        match self {
            Alteration::Map(_) | Alteration::Channels(_) => 0,
            Alteration::Rows(change) => change.scratch_values(),
        }
    }
}

impl PartialEq for Alteration {
    fn eq(&self, other: &Alteration) -> bool {
        match (self, other) {
            (Alteration::Map(a), Alteration::Map(b)) => a == b,
            (Alteration::Channels(a), Alteration::Channels(b)) => a == b,
            (Alteration::Rows(a), Alteration::Rows(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

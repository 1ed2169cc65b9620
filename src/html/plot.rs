//! Plots as geometry: where lines, dots and ticks are in a drawing of [`WIDTH`] times [`HEIGHT`]; the template of the
//! report draws them.

use serde::Serialize;

/// Width of a drawing.
pub(crate) const WIDTH: f64 = 720.0;
/// Height of a drawing.
pub(crate) const HEIGHT: f64 = 380.0;
/// Room for the labels of the axes: left, right, top, bottom.
const MARGINS: [f64; 4] = [70.0, 20.0, 15.0, 50.0];

/// A drawing.
#[derive(Debug, Serialize)]
pub(crate) struct Plot {
    width: f64,
    height: f64,
    x: Axis,
    y: Axis,
    /// Ends of the axes.
    frame: [f64; 4],
    pub lines: Vec<Line>,
    pub dots: Vec<Dot>,
}

/// An axis and its ticks.
#[derive(Debug, Serialize)]
struct Axis {
    label: String,
    ticks: Vec<Tick>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Tick {
    at: f64,
    text: String,
}

/// A line through points, which is one of several kinds.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub points: Vec<[f64; 2]>,
    pub series: usize,
    /// True if it is the edge of what can be had.
    pub is_front: bool,
    pub tip: String,
}

/// A dot with a label and a text for whoever points at it.
#[derive(Debug, Serialize)]
pub(crate) struct Dot {
    pub at: [f64; 2],
    pub label: String,
    pub tip: String,
    /// `best`, `rejected` or neither.
    pub class: &'static str,
}

/// Mapping of values to places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    base: Option<f64>,
}

impl Scale {
    /// A bit more than what `values` span: from nought, if they are not far from it for their span.
    pub fn linear(values: impl Iterator<Item = f64> + Clone) -> Scale {
        let high = values.clone().fold(0.0, f64::max);
        let low = values.fold(high, f64::min);
        let span = if high > low { high - low } else { high };
        let low = if low > 2.0 * span { low - 0.1 * span } else { 0.0 };
        Scale { low, high: if high > 0.0 { high + 0.15 * span } else { 1.0 }, base: None }
    }

    /// Scale by powers of `base` around the positive ones of `values`.
    pub fn powers(base: f64, values: impl Iterator<Item = f64> + Clone) -> Scale {
        let values = values.filter(|v| *v > 0.0).map(|v| v.log(base));
        let low = values.clone().fold(f64::INFINITY, f64::min).floor();
        let high = values.fold(f64::NEG_INFINITY, f64::max).ceil();
        let (low, high) = if low.is_finite() { (low, high.max(low + 1.0)) } else { (0.0, 1.0) };
        Scale { low, high, base: Some(base) }
    }

    /// The share of the axis at which `value` is.
    fn share(&self, value: f64) -> f64 {
        let value = self.base.map_or(value, |base| value.log(base));
        (value - self.low) / (self.high - self.low)
    }

    /// Round values, about five: their shares, and the values.
    fn ticks(&self) -> Vec<(f64, f64)> {
        let span = self.high - self.low;
        let step = match self.base {
            Some(_) => (span / 6.0).ceil().max(1.0),
            None => {
                let power = 10f64.powf((span / 5.0).log10().floor());
                [1.0, 2.0, 5.0, 10.0].map(|f| f * power).into_iter().find(|s| span / s <= 6.0).unwrap_or(span)
            }
        };
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        let values = (first..=last).map(|i| i as f64 * step);
        values.map(|v| ((v - self.low) / span, self.base.map_or(v, |base| base.powf(v)))).collect()
    }
}

impl Plot {
    /// An empty drawing; `name` writes the values at the ticks.
    pub fn new(
        (x_label, x, x_name): (&str, Scale, impl Fn(f64) -> String),
        (y_label, y, y_name): (&str, Scale, impl Fn(f64) -> String),
    ) -> Plot {
        let [left, right, top, bottom] = MARGINS;
        let frame = [left, WIDTH - right, top, HEIGHT - bottom];
        let tick = |at: f64, text| Tick { at: rounded(at), text };
        let x_tick = |(s, v): (f64, f64)| tick(frame[0] + s * (frame[1] - frame[0]), x_name(v));
        let y_tick = |(s, v): (f64, f64)| tick(frame[3] - s * (frame[3] - frame[2]), y_name(v));
        Plot {
            width: WIDTH,
            height: HEIGHT,
            x: Axis { label: x_label.to_owned(), ticks: x.ticks().into_iter().map(x_tick).collect() },
            y: Axis { label: y_label.to_owned(), ticks: y.ticks().into_iter().map(y_tick).collect() },
            frame,
            lines: Vec::new(),
            dots: Vec::new(),
        }
    }

    /// Places of the values in the drawing.
    pub fn at(&self, (x, x_value): (Scale, f64), (y, y_value): (Scale, f64)) -> [f64; 2] {
        let [left, right, top, bottom] = self.frame;
        let share = |scale: Scale, value| scale.share(value).clamp(0.0, 1.0);
        [
            rounded(left + share(x, x_value) * (right - left)),
            rounded(bottom - share(y, y_value) * (bottom - top)),
        ]
    }
}

/// Rounds to a tenth: more is not seen, and a tenth is the same on every machine.
fn rounded(place: f64) -> f64 {
    (place * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let values = |scale: Scale| scale.ticks().into_iter().map(|(_, v)| v).collect::<Vec<_>>();
        assert_eq!(values(Scale::linear([3.0, 9.0].into_iter())), [0.0, 2.0, 4.0, 6.0, 8.0]);
        let near = values(Scale::linear([90.0, 100.0].into_iter()));
        assert_eq!(near, [90.0, 95.0, 100.0]);
        let powers = values(Scale::powers(10.0, [0.002, 0.0, 0.3].into_iter()));
        assert_eq!(powers.len(), 4);
        assert!((powers[0] - 0.001).abs() < 1e-12 && powers[3] == 1.0, "{powers:?}");
        assert!(!values(Scale::linear([].into_iter())).is_empty());
        assert!(!values(Scale::powers(2.0, [0.0].into_iter())).is_empty());
    }

    #[test]
    fn larger_is_further_right_and_higher() {
        let (x, y) = (Scale::linear([10.0].into_iter()), Scale::powers(10.0, [0.1, 1.0].into_iter()));
        let plot = Plot::new(("x", x, |v| v.to_string()), ("y", y, |v| v.to_string()));
        let (a, b) = (plot.at((x, 1.0), (y, 0.1)), plot.at((x, 9.0), (y, 1.0)));
        assert!(a[0] < b[0] && a[1] > b[1], "{a:?} {b:?}");
        assert_eq!(a[1], HEIGHT - 50.0);
    }
}

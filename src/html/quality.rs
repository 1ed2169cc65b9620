//! Figures of how far models are from their reference: size against divergence, divergence by position.

use super::Figure;
use super::plot::{Dot, Line, Plot, Scale};
use crate::eval::Against;
use crate::units::{bytes, nats};

/// Divergences below this are no differences of models but of arithmetic.
const NO_KL: f64 = 1e-10;

/// True if a model differs from its reference at all.
pub(crate) fn is_lossy(against: &Against) -> bool {
    against.kl.value > NO_KL
}

/// A model that was compared with its reference.
pub(crate) struct Compared<'a> {
    /// Name beside others.
    pub name: String,
    /// Type, as a label.
    pub label: String,
    pub bytes: u64,
    pub against: &'a Against,
    /// True if it failed a gate: then it is nobody's choice, however small or near.
    pub is_rejected: bool,
}

impl Compared<'_> {
    fn kl(&self) -> f64 {
        self.against.kl.value
    }
}

/// The figures of those that differ from the reference at all.
pub(crate) fn figures(all: &[Compared]) -> Vec<Figure> {
    let lossy: Vec<&Compared> = all.iter().filter(|c| is_lossy(c.against)).collect();
    if lossy.is_empty() {
        return Vec::new();
    }
    let sizes = Figure {
        plot: sizes(&lossy),
        caption: "Size and divergence of what differs from the reference at all. Nothing is both smaller and nearer \
                  than the filled dots; crossed-out ones failed a gate.",
        legend: Vec::new(),
    };
    let positions = Figure {
        plot: positions(&lossy),
        caption: "Divergence by the number of tokens read before.",
        legend: lossy.iter().map(|c| c.name.clone()).collect(),
    };
    vec![sizes, positions]
}

fn power(value: f64) -> String {
    format!("{value:.0e}")
}

fn sizes(all: &[&Compared]) -> Plot {
    let x = Scale::linear(all.iter().map(|c| c.bytes as f64));
    let y = Scale::powers(10.0, all.iter().map(|c| c.kl()));
    let mut plot = Plot::new(("size", x, |v| bytes(v as u64)), ("mean KL, nats", y, power));
    let at = |plot: &Plot, c: &Compared| plot.at((x, c.bytes as f64), (y, c.kl()));
    let beats = |a: &Compared, b: &Compared| {
        a.bytes <= b.bytes && a.kl() <= b.kl() && (a.bytes < b.bytes || a.kl() < b.kl())
    };
    let best = |c: &Compared| !c.is_rejected && !all.iter().any(|o| !o.is_rejected && beats(o, c));
    let mut front: Vec<&&Compared> = all.iter().filter(|c| best(c)).collect();
    front.sort_by_key(|c| c.bytes);
    let points = front.iter().map(|c| at(&plot, c)).collect();
    plot.lines.push(Line {
        points,
        series: 0,
        is_front: true,
        tip: "nothing is both smaller and nearer".to_owned(),
    });
    for c in all {
        let verdict = if c.is_rejected { "; failed a gate" } else { "" };
        plot.dots.push(Dot {
            at: at(&plot, c),
            label: c.label.clone(),
            tip: format!("{}: {}, mean KL {}{verdict}", c.name, bytes(c.bytes), nats(c.kl())),
            class: if c.is_rejected {
                "rejected"
            } else if best(c) {
                "best"
            } else {
                ""
            },
        });
    }
    plot
}

fn positions(all: &[&Compared]) -> Plot {
    let buckets = || all.iter().flat_map(|c| &c.against.by_position);
    let x = Scale::powers(2.0, buckets().map(|b| b.from as f64));
    let y = Scale::powers(10.0, buckets().map(|b| b.kl.value));
    let count = |v: f64| format!("{v:.0}");
    let mut plot = Plot::new(("tokens read before", x, count), ("mean KL, nats", y, power));
    for (series, c) in all.iter().enumerate() {
        let point = |b: &crate::eval::Bucket| plot.at((x, b.from as f64), (y, b.kl.value.max(NO_KL)));
        let points = c.against.by_position.iter().map(point).collect();
        plot.lines.push(Line { points, series, is_front: false, tip: c.name.clone() });
    }
    plot
}

//! Two models side by side.

use std::io::{self, Write};

use serde::Serialize;

use super::Report;
use super::text::Table;
use crate::diff::Diff;
use crate::units::bytes;

/// The differences of two models.
#[derive(Debug, Serialize)]
pub struct DiffReport {
    a: String,
    b: String,
    identical: bool,
    /// Largest difference of any value.
    max: f64,
    /// Largest relative error of any tensor.
    worst_relative: f64,
    tensors: Vec<Row>,
    incomparable: Vec<String>,
    only_a: Vec<String>,
    only_b: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    a: &'static str,
    b: &'static str,
    a_bytes: u64,
    b_bytes: u64,
    max: f64,
    rms: f64,
    relative: f64,
}

impl DiffReport {
    /// The differences between the models at paths `a` and `b`.
    pub fn new(a: String, b: String, diff: Diff) -> DiffReport {
        let largest = |of: fn(&Row) -> f64, rows: &[Row]| {
            rows.iter().map(of).fold(0.0, |m, v| if v > m || v.is_nan() { v } else { m })
        };
        let complete = diff.incomparable.is_empty() && diff.only_a.is_empty() && diff.only_b.is_empty();
        let tensors: Vec<Row> = diff
            .common
            .into_iter()
            .map(|t| Row {
                name: t.name,
                a: t.encodings.0,
                b: t.encodings.1,
                a_bytes: t.bytes.0,
                b_bytes: t.bytes.1,
                max: t.max,
                rms: t.rms,
                relative: t.relative,
            })
            .collect();
        let max = largest(|r| r.max, &tensors);
        DiffReport {
            a,
            b,
            identical: complete && max == 0.0,
            max,
            worst_relative: largest(|r| r.relative, &tensors),
            tensors,
            incomparable: diff.incomparable,
            only_a: diff.only_a,
            only_b: diff.only_b,
        }
    }

    /// Reason that the models differ by more than `limit`: the first tensor that only one has, or the worst relative
    /// error.
    pub fn exceeds(&self, limit: f64) -> Option<String> {
        let missing =
            |names: &[String], other: &str| names.first().map(|n| format!("{n} is missing in {other}"));
        missing(&self.only_a, &self.b)
            .or_else(|| missing(&self.only_b, &self.a))
            .or_else(|| self.incomparable.first().map(|what| format!("the shapes differ: {what}")))
            .or_else(|| {
                let worst = self.worst_relative;
                (worst > limit || worst.is_nan())
                    .then(|| format!("the models differ by more than {limit} (worst tensor: {worst:.3e})"))
            })
    }
}

impl Report for DiffReport {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "a  {}", self.a)?;
        writeln!(out, "b  {}", self.b)?;
        let mut table = Table::new(&[
            "tensor",
            "a",
            "b",
            ">bytes a",
            ">bytes b",
            ">max error",
            ">rms error",
            ">relative",
        ]);
        for t in &self.tensors {
            table.row([
                t.name.clone(),
                t.a.to_owned(),
                t.b.to_owned(),
                bytes(t.a_bytes),
                bytes(t.b_bytes),
                number(t.max),
                number(t.rms),
                number(t.relative),
            ]);
        }
        table.write(out)?;
        for name in &self.only_a {
            writeln!(out, "only in a: {name}")?;
        }
        for name in &self.only_b {
            writeln!(out, "only in b: {name}")?;
        }
        for what in &self.incomparable {
            writeln!(out, "different shapes: {what}")?;
        }
        if self.identical {
            writeln!(out, "all {} tensors hold the same values", self.tensors.len())
        } else {
            let differ = self.tensors.iter().filter(|t| t.max != 0.0).count();
            writeln!(
                out,
                "{differ} of {} tensors differ; largest error {}, worst relative error {}",
                self.tensors.len(),
                number(self.max),
                number(self.worst_relative)
            )
        }
    }
}

fn number(v: f64) -> String {
    if v == 0.0 { "0".to_owned() } else { format!("{v:.3e}") }
}

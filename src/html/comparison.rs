//! The page of a comparison.

use crate::units::bytes;
use serde::Deserialize;

use super::heat::{self, Field, Heat};
use super::{Cell, Page, Section, Table};

/// Results of `diff` that the report shows.
#[derive(Deserialize)]
pub(crate) struct Comparison {
    a: String,
    b: String,
    worst_relative: Option<f64>,
    tensors: Vec<Tensor>,
    incomparable: Vec<String>,
    only_a: Vec<String>,
    only_b: Vec<String>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    a: String,
    b: String,
    b_bytes: u64,
    /// Figures that are infinite or NaN have no JSON.
    max: Option<f64>,
    rms: Option<f64>,
    relative: Option<f64>,
}

pub(crate) fn comparison(found: Comparison) -> Page {
    let program = concat!("rwkv-quant ", env!("CARGO_PKG_VERSION")).to_owned();
    let mut page = Page::new(format!("{} and {}", found.a, found.b), program);
    let worst = found.worst_relative.map_or("not finite".to_owned(), figure);
    page.remarks.push(format!("The worst tensor's error is {worst}, relative to its size."));
    let only = |names: &[String], of: &str| -> Vec<String> {
        names.iter().map(|name| format!("{name} is in {of} only")).collect()
    };
    let fields = found.tensors.iter().filter(|t| t.relative != Some(0.0)).map(|t| {
        let (relative, text) = (t.relative.unwrap_or(f64::INFINITY), t.b.clone());
        let error = t.relative.map_or("not finite".to_owned(), figure);
        let tip = format!("{}: {} and {}, relative error {error}", t.name, t.a, t.b);
        (t.name.clone(), Field { text, tip, heat: heat::of_error(relative) })
    });
    let caption =
        "error of every tensor that differs, relative to its size; its encoding in the second model";
    let map = Heat::new("The second model".to_owned(), caption, heat::ERRORS, fields);
    page.sections.push(Section {
        name: "Tensors".to_owned(),
        table: Table { titles: TITLES.to_vec(), rows: found.tensors.iter().map(row).collect() },
        troubles: [only(&found.only_a, &found.a), only(&found.only_b, &found.b), found.incomparable].concat(),
        maps: map.into_iter().collect(),
        ..Section::default()
    });
    page
}

const TITLES: [&str; 7] =
    ["tensor", "first", "second", "second's size", "largest difference", "RMS", "relative error"];

fn row(t: &Tensor) -> Vec<Cell> {
    // What is not finite comes last.
    let number = |v: Option<f64>| match v {
        Some(_) => Cell::number(v, |v| v, figure),
        None => {
            Cell { number: Some(f64::MAX), ..Cell::number(Some(()), |()| 0.0, |()| "not finite".to_owned()) }
        }
    };
    vec![
        Cell::text(&t.name),
        Cell::text(&t.a),
        Cell::text(&t.b),
        Cell::number(Some(t.b_bytes), |b| b as f64, bytes),
        number(t.max),
        number(t.rms),
        number(t.relative),
    ]
}

fn figure(v: f64) -> String {
    if v == 0.0 { "0".to_owned() } else { format!("{v:.3e}") }
}

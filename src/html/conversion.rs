//! The page of a conversion.

use crate::units::{bytes, count};
use serde::Deserialize;

use super::heat::{Field, Heat};
use super::{Cell, Page, Section, Table};

/// Results of `convert` that the report shows.
#[derive(Deserialize)]
pub(crate) struct Conversion {
    output: String,
    target: String,
    file_type: String,
    bytes: u64,
    bits_per_weight: f64,
    tensors: Vec<Tensor>,
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    role: String,
    shape: Vec<u64>,
    encoding: String,
    bytes: u64,
}

impl Tensor {
    fn weights(&self) -> u64 {
        self.shape.iter().product()
    }

    fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights().max(1) as f64
    }
}

pub(crate) fn conversion(found: Conversion) -> Page {
    let program = concat!("rwkv-quant ", env!("CARGO_PKG_VERSION")).to_owned();
    let mut page = Page::new(found.output, program);
    page.remarks.push(format!(
        "{} {}, {}, {:.2} bits per weight.",
        found.target,
        found.file_type,
        bytes(found.bytes),
        found.bits_per_weight
    ));
    let fields = found.tensors.iter().map(|t| {
        let tip = format!("{}: {}, {:.2} bits a weight, {}", t.name, t.encoding, t.bits(), bytes(t.bytes));
        (t.name.clone(), Field { text: t.encoding.clone(), tip, heat: (t.bits() / 16.0).min(1.0) })
    });
    let caption = "bits a weight of every tensor; its encoding in the fields";
    let map = Heat::new("Types".to_owned(), caption, ["none", "16 bits or more"], fields);
    page.sections.push(Section {
        name: "Tensors".to_owned(),
        table: Table { titles: TITLES.to_vec(), rows: found.tensors.iter().map(row).collect() },
        troubles: found.warnings,
        maps: map.into_iter().collect(),
        ..Section::default()
    });
    page
}

const TITLES: [&str; 6] = ["tensor", "role", "encoding", "weights", "size", "bits per weight"];

fn row(t: &Tensor) -> Vec<Cell> {
    vec![
        Cell::text(&t.name),
        Cell::text(&t.role),
        Cell::text(&t.encoding),
        Cell::number(Some(t.weights()), |n| n as f64, count),
        Cell::number(Some(t.bytes), |n| n as f64, bytes),
        Cell::number(Some(t.bits()), |b| b, |b| format!("{b:.2}")),
    ]
}

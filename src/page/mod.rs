//! The report of a run as a page: one HTML file that needs nothing else, made of what the run said in JSON.
//!
//! ```text
//! release     batch:     every artifact of every model
//! evaluation  eval-ppl:  models against a reference
//! comparison  diff:      two models, tensor by tensor
//! conversion  convert:   the types that the tensors got
//! ```
//!
//! A [`Page`] is sections of tables, figures and heat maps; the template only draws them.

mod comparison;
mod conversion;
mod evaluation;
mod heat;
mod plot;
mod quality;
mod release;

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::Summary;
use crate::error::{Error, Result};
use crate::{files, templates};
use heat::Heat;
use plot::Plot;
pub use release::release;

/// Largest file of results that is read.
const FILE_BYTES: u64 = 256 << 20;

/// The template.
const TEMPLATE: (&str, &str) = ("page.html", include_str!("page.html.jinja"));

/// What a page shows.
#[derive(Debug, Serialize)]
pub struct Page {
    title: String,
    /// The program that made what is shown, as its results say.
    program: String,
    /// Where that is at home.
    url: &'static str,
    /// Who made it.
    by: Option<String>,
    /// How it was measured, and what to keep in mind.
    remarks: Vec<String>,
    sections: Vec<Section>,
}

/// A model of a release, or all of an evaluation.
#[derive(Debug, Default, Serialize)]
struct Section {
    name: String,
    table: Table,
    /// What went wrong.
    troubles: Vec<String>,
    figures: Vec<Figure>,
    maps: Vec<Heat>,
}

/// A table that can be sorted.
#[derive(Debug, Default, Serialize)]
struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// A field of a table.
#[derive(Clone, Debug, Default, Serialize)]
struct Cell {
    text: String,
    /// What numbers are sorted by; they stand at the right.
    number: Option<f64>,
    is_number: bool,
    /// `good` or `bad`, if it is either.
    class: &'static str,
    /// What else there is to say.
    tip: String,
}

impl Cell {
    fn text(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), ..Cell::default() }
    }

    /// A number and how it is written; empty if there is none.
    fn number<T: Copy>(value: Option<T>, sorted_by: impl Fn(T) -> f64, text: impl Fn(T) -> String) -> Cell {
        Cell {
            text: value.map(text).unwrap_or_default(),
            number: value.map(sorted_by),
            is_number: true,
            ..Cell::default()
        }
    }
}

/// A plot, what it shows, and what its lines are.
#[derive(Debug, Serialize)]
struct Figure {
    plot: Plot,
    caption: &'static str,
    legend: Vec<String>,
}

impl Page {
    fn new(title: String, program: String) -> Page {
        let url = env!("CARGO_PKG_REPOSITORY");
        Page { title, program, url, by: None, remarks: Vec::new(), sections: Vec::new() }
    }

    /// The page of the results in a file: of a batch, an evaluation, a comparison or a conversion.
    ///
    /// # Errors
    /// If it cannot be read, or is no such thing.
    pub fn read(path: &Path) -> Result<Page> {
        let text = files::json(path, "results", FILE_BYTES)?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| unreadable(path, &e.to_string()))?;
        let has = |key: &str| value.get(key).is_some();
        if has("release") && has("cells") {
            Ok(release(&parsed::<Summary>(path, value)?))
        } else if has("candidates") {
            Ok(evaluation::evaluation(parsed(path, value)?))
        } else if has("worst_relative") {
            Ok(comparison::comparison(parsed(path, value)?))
        } else if has("file_type") && has("tensors") {
            Ok(conversion::conversion(parsed(path, value)?))
        } else {
            Err(unreadable(path, "it is of another kind"))
        }
    }

    /// The page as a file.
    ///
    /// # Errors
    /// If the template cannot be filled.
    pub fn html(&self) -> Result<Vec<u8>> {
        templates::fill(&templates::engine(&[TEMPLATE])?, TEMPLATE.0, self)
    }
}

fn parsed<T: DeserializeOwned>(path: &Path, value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| unreadable(path, &e.to_string()))
}

fn unreadable(path: &Path, what: &str) -> Error {
    Error::Model {
        path: path.to_owned(),
        what: format!("holds no results that can be shown: {what}"),
        help: "give a release's summary.json, or what `rwkv-quant --format json` printed for batch, eval-ppl, diff or \
               convert, with this version of the program"
            .to_owned(),
    }
}

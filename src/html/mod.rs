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

pub(crate) mod comparison;
pub(crate) mod conversion;
pub(crate) mod evaluation;
pub(crate) mod heat;
mod plot;
pub(crate) mod quality;

use serde::Serialize;

use crate::error::Result;
use crate::templates;
use heat::Heat;
use plot::Plot;

/// The template.
const TEMPLATE: (&str, &str) = ("page.html", include_str!("page.html.jinja"));

/// Content of an HTML report.
#[derive(Debug, Serialize)]
pub struct Page {
    pub(crate) title: String,
    /// The program that made what is shown, as its results say.
    pub(crate) program: String,
    /// Home page of the program.
    pub(crate) url: &'static str,
    /// Author of the artifacts.
    pub(crate) by: Option<String>,
    /// Remarks on how it was measured, and on what to keep in mind.
    pub(crate) remarks: Vec<String>,
    pub(crate) sections: Vec<Section>,
}

/// A model of a release, or all of an evaluation.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) table: Table,
    /// Troubles of the run.
    pub(crate) troubles: Vec<String>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) maps: Vec<Heat>,
}

/// A table that can be sorted.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Table {
    pub(crate) titles: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// A field of a table.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// Value that numbers are sorted by; they stand at the right.
    pub(crate) number: Option<f64>,
    pub(crate) is_number: bool,
    /// `good` or `bad`, if it is either.
    pub(crate) class: &'static str,
    /// Further details.
    pub(crate) tip: String,
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), ..Cell::default() }
    }

    /// A number and how it is written; empty if there is none.
    pub(crate) fn number<T: Copy>(
        value: Option<T>,
        sorted_by: impl Fn(T) -> f64,
        text: impl Fn(T) -> String,
    ) -> Cell {
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
pub(crate) struct Figure {
    pub(crate) plot: Plot,
    pub(crate) caption: &'static str,
    pub(crate) legend: Vec<String>,
}

impl Page {
    pub(crate) fn new(title: String, program: String) -> Page {
        let url = env!("CARGO_PKG_REPOSITORY");
        Page { title, program, url, by: None, remarks: Vec::new(), sections: Vec::new() }
    }

    /// The page as a file.
    ///
    /// # Errors
    /// If the template cannot be filled.
    pub fn html(&self) -> Result<Vec<u8>> {
        templates::fill(&templates::engine(&[TEMPLATE])?, TEMPLATE.0, self)
    }
}

//! What people and programs get to see: every result is one type that renders as text and as JSON.

mod batch;
mod clustering;
mod conversion;
mod diff;
mod evaluation;
mod generation;
mod inspection;
mod measurement;
mod merged;
mod progress;
mod steps;
mod targets;
mod text;
mod tokens;
mod uploaded;
mod verification;

use std::io::{self, Write};

use serde::Serialize;

pub use batch::{CellList, outcome_line};
pub use clustering::{Certification, Clustering};
pub use conversion::Conversion;
pub use diff::DiffReport;
pub use evaluation::{EvaluationReport, Format};
pub use generation::{Choice, Generation, HeadUse, Passage};
pub use inspection::Inspection;
pub use measurement::Measurement;
pub use progress::Progress;
pub use steps::Steps;
pub use targets::TargetList;
pub use text::{bytes, count, nats};
pub use tokens::Tokens;
pub use verification::Verification;

use crate::error::Error;

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// Text for people.
    #[default]
    Human,
    /// One JSON document on standard output.
    Json,
    /// Nothing but errors.
    Quiet,
}

/// A result that can be shown: as JSON by its fields, and as text.
pub trait Report: Serialize {
    /// Writes it as text for people.
    ///
    /// # Errors
    /// If writing fails.
    fn human(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Writes a result to standard output.
///
/// # Errors
/// If writing fails.
pub fn show<R: Report>(report: &R, style: Style) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match style {
        Style::Human => report.human(&mut out)?,
        Style::Json => {
            serde_json::to_writer_pretty(&mut out, report)?;
            writeln!(out)?;
        }
        Style::Quiet => {}
    }
    out.flush()
}

/// Writes an error to standard error: what, why, and what to do next.
pub fn show_error(error: &Error, style: Style) {
    let status = error.status() as u8;
    let mut err = anstream::stderr().lock();
    // If standard error itself is gone, nobody can be told.
    let _ = match style {
        Style::Json => {
            let value =
                serde_json::json!({"error": error.to_string(), "help": error.help(), "status": status});
            writeln!(err, "{value}")
        }
        Style::Human | Style::Quiet => {
            let red = anstyle::AnsiColor::Red.on_default().bold();
            let cyan = anstyle::AnsiColor::Cyan.on_default().bold();
            writeln!(err, "{red}error{red:#}: {error}").and_then(|()| match error.help() {
                Some(help) => writeln!(err, "{cyan}help{cyan:#}: {help}"),
                None => Ok(()),
            })
        }
    };
}

//! Reports for people and programs: every result is one type that renders as text and as JSON.

mod batch;
mod cleaned;
mod clustering;
mod conversion;
mod diff;
mod evaluation;
mod generation;
mod html;
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
pub use generation::{Generation, HeadUse, Passage, Sampling};
pub use html::page;
pub use inspection::Inspection;
pub use measurement::Measurement;
pub use progress::Progress;
pub use steps::Steps;
pub use targets::TargetList;
pub use tokens::Tokens;
pub use verification::Verification;

use crate::error::Error;
use crate::escape::{is_hidden, line};

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
        Style::Human => report.human(&mut Plain(&mut out))?,
        Style::Json => {
            serde_json::to_writer_pretty(&mut out, report)?;
            writeln!(out)?;
        }
        Style::Quiet => {}
    }
    out.flush()
}

/// Text in which hidden characters are escaped: names and metadata of files may hold what commands a terminal.
struct Plain<W>(W);

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // (Texts are formatted piece by piece, and every piece is whole characters.)
        let text = String::from_utf8_lossy(bytes);
        let is_command = |c: char| is_hidden(c) && !matches!(c, '\n' | '\t');
        match text.contains(is_command) {
            false => self.0.write_all(bytes)?,
            true => {
                for c in text.chars() {
                    if is_command(c) {
                        write!(self.0, "{}", c.escape_default())?
                    } else {
                        write!(self.0, "{c}")?
                    }
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
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
            // In a line: a name in a file shall not look like another message.
            let told = write!(err, "{red}error{red:#}: ")
                .and_then(|()| writeln!(Plain(&mut err), "{}", line(&error.to_string())));
            told.and_then(|()| match error.help() {
                Some(help) => write!(err, "{cyan}help{cyan:#}: ")
                    .and_then(|()| writeln!(Plain(&mut err), "{}", line(&help.to_string()))),
                None => Ok(()),
            })
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_commanded() {
        let mut out = Vec::new();
        let name = "a\u{1b}[2Jb\u{9b}c\u{7}\u{202e}";
        writeln!(Plain(&mut out), "name\t{name} \u{e9}").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "name\ta\\u{1b}[2Jb\\u{9b}c\\u{7}\\u{202e} \u{e9}\n");
    }
}

//! Results of measuring a model on a text.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::Report;
use super::inspection::{ModelSummary, SourceSummary};
use crate::calibrate::Text;
use crate::model::Model;
use crate::units::count;

/// A finished measurement.
#[derive(Debug, Serialize)]
pub struct Measurement {
    source: SourceSummary,
    model: ModelSummary,
    texts: Vec<String>,
    tokens: usize,
    /// SHA-256 of the tokens.
    tokens_sha256: String,
    output: String,
    matrices: usize,
    warnings: Vec<String>,
    seconds: f64,
}

impl Measurement {
    /// Report on so many matrices of `model` on `text`, written to `output`.
    pub fn new(model: &Model, text: &Text, output: &Path, matrices: usize, seconds: f64) -> Measurement {
        Measurement {
            source: SourceSummary::of(&model.container),
            model: ModelSummary::of(model),
            texts: text.sources.iter().map(|p| p.display().to_string()).collect(),
            tokens: text.tokens(),
            tokens_sha256: text.sha256(),
            output: output.display().to_string(),
            matrices,
            warnings: text.warnings.clone(),
            seconds,
        }
    }
}

impl Report for Measurement {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        self.source.human(out)?;
        self.model.human(out)?;
        writeln!(out, "calib     {} tokens of {}", count(self.tokens as u64), self.texts.join(", "))?;
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        writeln!(
            out,
            "written   {}, what meets {} matrices, in {:.1} s",
            self.output, self.matrices, self.seconds
        )
    }
}

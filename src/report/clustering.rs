//! Output layers that are read in part, and were written: in clusters, or with a certified copy.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::Report;
use super::inspection::{ModelSummary, SourceSummary};
use crate::calibrate::Text;
use crate::runner::{Clustered, Runner};
use crate::units::{bytes, count};

/// Clusters that were made and written.
#[derive(Debug, Serialize)]
pub struct Clustering {
    source: SourceSummary,
    model: ModelSummary,
    rows: usize,
    clusters: usize,
    /// Rows of the largest cluster.
    largest: usize,
    share: f32,
    texts: Vec<String>,
    /// Tokens that it was fitted to.
    tokens: usize,
    /// SHA-256 of these tokens.
    tokens_sha256: Option<String>,
    output: String,
    /// Bytes that are read of it for every token, before any row of the model.
    scanned_bytes: u64,
    warnings: Vec<String>,
    seconds: f64,
}

impl Clustering {
    /// Report on the head of `runner`'s model, fitted to `text` if there is one, written to `output`.
    pub fn new(
        runner: &Runner,
        clustered: &Clustered,
        text: Option<&Text>,
        output: &Path,
        seconds: f64,
    ) -> Clustering {
        Clustering {
            source: SourceSummary::of(&runner.model().container),
            model: ModelSummary::of(runner.model()),
            rows: runner.full_rows().rows(),
            clusters: clustered.clusters(),
            largest: clustered.largest(),
            share: clustered.share(),
            texts: text
                .map_or_else(Vec::new, |t| t.sources.iter().map(|p| p.display().to_string()).collect()),
            tokens: text.map_or(0, Text::tokens),
            tokens_sha256: text.map(Text::sha256),
            output: output.display().to_string(),
            scanned_bytes: clustered.always_bytes(),
            warnings: text.map(|t| t.warnings.clone()).unwrap_or_default(),
            seconds,
        }
    }
}

impl Report for Clustering {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        self.source.human(out)?;
        self.model.human(out)?;
        match self.tokens {
            0 => writeln!(
                out,
                "calib     none: the probabilities of clusters are guessed from their means and variances"
            )?,
            n => writeln!(out, "calib     {} tokens of {}", count(n as u64), self.texts.join(", "))?,
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        writeln!(
            out,
            "clusters  {} of {} rows, the largest of {}; read up to {} of the probability, approximate",
            self.clusters, self.rows, self.largest, self.share
        )?;
        writeln!(
            out,
            "written   {} ({} a token are read of it), in {:.1} s; eval-ppl --head tells how good it is",
            self.output,
            bytes(self.scanned_bytes),
            self.seconds
        )
    }
}

/// A certified copy that was made and written.
#[derive(Debug, Serialize)]
pub struct Certification {
    source: SourceSummary,
    model: ModelSummary,
    rows: usize,
    /// Number of the likeliest tokens that are exact.
    best: usize,
    output: String,
    /// Bytes that are read of it for every token, before any row of the model.
    scanned_bytes: u64,
    seconds: f64,
}

impl Certification {
    /// Report on the head of `runner`'s model, of which `scanned_bytes` are read for every token.
    pub fn new(
        runner: &Runner,
        scanned_bytes: u64,
        best: usize,
        output: &Path,
        seconds: f64,
    ) -> Certification {
        Certification {
            source: SourceSummary::of(&runner.model().container),
            model: ModelSummary::of(runner.model()),
            rows: runner.full_rows().rows(),
            best,
            output: output.display().to_string(),
            scanned_bytes,
            seconds,
        }
    }
}

impl Report for Certification {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        self.source.human(out)?;
        self.model.human(out)?;
        writeln!(out, "certified {} rows in 6 bits; the best {} are exact by proof", self.rows, self.best)?;
        writeln!(
            out,
            "written   {} ({} a token are read of it), in {:.1} s",
            self.output,
            bytes(self.scanned_bytes),
            self.seconds
        )
    }
}

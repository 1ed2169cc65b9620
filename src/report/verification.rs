//! Report of a verification: a file found sound.

use std::io::{self, Write};

use formats::Container;
use serde::Serialize;

use super::Report;
use super::inspection::{ModelSummary, SourceSummary};
use super::text::Table;
use crate::model::Model;
use crate::units::count;
use crate::verify::Verified;
use crate::verify::against::{Errors, TensorError};

/// A file found sound.
#[derive(Debug, Serialize)]
pub struct Verification {
    source: SourceSummary,
    model: Option<ModelSummary>,
    /// Kind of file, if it is one to be used beside a model.
    beside: Option<&'static str>,
    checksums: usize,
    /// The file of checksums beside it.
    checksum_file: Option<String>,
    tensors: usize,
    values: u64,
    sha256: Vec<FileHash>,
    /// Rows of embedding and head that are zeros.
    unused_rows: usize,
    warnings: Vec<String>,
    /// The errors of all tensors, if it was compared with its source.
    against: Option<Against>,
}

/// A file beside the model that it was made from.
#[derive(Debug, Serialize)]
struct Against {
    source: String,
    is_calibrated: bool,
    tensors: Vec<TensorError>,
    unlike: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FileHash {
    path: String,
    sha256: String,
}

impl Verification {
    /// `model`, with what [`verify::model`](crate::verify::model()) found.
    pub fn new(model: &Model, verified: Verified) -> Verification {
        let summary = Some(ModelSummary::of(model));
        Verification { model: summary, ..Verification::of(&model.container, verified) }
    }

    /// A file that holds no model that is known, with what [`verify::container`](crate::verify::container()) found.
    pub fn unknown(container: &Container, verified: Verified) -> Verification {
        Verification::of(container, verified)
    }

    /// Adds the errors of a file that was made from `source`.
    #[must_use]
    pub fn against(self, source: String, errors: Errors) -> Verification {
        let Errors { tensors, unlike, is_calibrated } = errors;
        Verification { against: Some(Against { source, is_calibrated, tensors, unlike }), ..self }
    }

    /// The first suspicion.
    pub fn first_warning(&self) -> Option<&str> {
        self.warnings.first().map(String::as_str)
    }

    /// A file that holds `what`, which goes beside a model.
    pub fn beside(container: &Container, what: &'static str, verified: Verified) -> Verification {
        Verification { beside: Some(what), ..Verification::of(container, verified) }
    }

    /// SHA-256 of every file.
    pub fn hashes(&self) -> impl Iterator<Item = &str> {
        self.sha256.iter().map(|file| file.sha256.as_str())
    }

    fn of(container: &Container, verified: Verified) -> Verification {
        let files = container.files().iter().map(|f| f.path().display().to_string());
        Verification {
            source: SourceSummary::of(container),
            model: None,
            beside: None,
            checksums: verified.checksums,
            checksum_file: verified.checksum_file.map(|path| path.display().to_string()),
            unused_rows: verified.unused_rows,
            warnings: verified.warnings,
            against: None,
            tensors: verified.tensors,
            values: verified.values,
            sha256: files.zip(verified.sha256).map(|(path, sha256)| FileHash { path, sha256 }).collect(),
        }
    }
}

impl Report for Verification {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        self.source.human(out)?;
        if let Some(model) = &self.model {
            model.human(out)?;
        }
        if let Some(what) = self.beside {
            writeln!(out, "holds     {what}, to be used beside its model")?;
        }
        for f in &self.sha256 {
            writeln!(out, "sha256    {}  {}", f.sha256, f.path)?;
        }
        if self.sha256.is_empty() {
            return writeln!(out, "{} checksums right; no weight was decoded", self.checksums);
        }
        if self.model.is_none() && self.beside.is_none() {
            writeln!(out, "model     none that is known: checked as a container of tensors")?;
        }
        if let Some(path) = &self.checksum_file {
            writeln!(out, "checksums {path}: right")?;
        }
        if self.unused_rows > 0 {
            writeln!(out, "tokens    {} rows of embedding and head are zeros (unused)", self.unused_rows)?;
        }
        if let Some(against) = &self.against {
            against.human(out)?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning   {warning}")?;
        }
        writeln!(
            out,
            "sound: {} tensors with {} values, all finite{}{}",
            self.tensors,
            count(self.values),
            if self.model.is_some() { ", none missing" } else { "" },
            match self.checksums {
                0 => "; no checksum in the file".to_owned(),
                n => format!("; {n} checksums right"),
            }
        )
    }
}

impl Against {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let how =
            if self.is_calibrated { ", calibrated: errors exceed those of rounding by design" } else { "" };
        writeln!(out, "against   {}{how}", self.source)?;
        let mut table = Table::new(&["tensor", "encoding", ">relative error", ">plain rounding"]);
        for t in &self.tensors {
            let rounding = t.rounding.map_or("-".to_owned(), |rounding| format!("{rounding:.3e}"));
            table.row([t.name.clone(), t.encoding.to_owned(), format!("{:.3e}", t.relative), rounding]);
        }
        table.write(out)?;
        for what in &self.unlike {
            writeln!(out, "unlike    {what}")?;
        }
        Ok(())
    }
}

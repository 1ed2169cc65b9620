//! That a file is sound.

use std::io::{self, Write};

use formats::Container;
use serde::Serialize;

use super::inspection::{ModelSummary, SourceSummary};
use super::{Report, count};
use crate::model::Model;
use crate::verify::Verified;

/// A file found sound.
#[derive(Debug, Serialize)]
pub struct Verification {
    source: SourceSummary,
    model: Option<ModelSummary>,
    /// What else it is, to be used beside a model.
    beside: Option<&'static str>,
    checksums: usize,
    tensors: usize,
    values: u64,
    sha256: Vec<FileHash>,
}

#[derive(Debug, Serialize)]
struct FileHash {
    path: String,
    sha256: String,
}

impl Verification {
    /// `model`, with what [`verify`](crate::verify::verify) found.
    pub fn new(model: &Model, verified: Verified) -> Verification {
        let summary = Some(ModelSummary::of(model));
        Verification { model: summary, ..Verification::of(&model.container, verified) }
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
        writeln!(
            out,
            "sound: {} tensors with {} values, all finite{}{}",
            self.tensors,
            count(self.values),
            if self.model.is_some() { ", none missing" } else { "" },
            match self.checksums {
                0 => String::new(),
                n => format!("; {n} checksums right"),
            }
        )
    }
}

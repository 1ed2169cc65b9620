//! That a file is sound.

use std::io::{self, Write};

use serde::Serialize;

use super::inspection::{ModelSummary, SourceSummary};
use super::{Report, count};
use crate::model::Model;
use crate::verify::Verified;

/// A file found sound.
#[derive(Debug, Serialize)]
pub struct Verification {
    source: SourceSummary,
    model: ModelSummary,
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
        let files = model.container.files().iter().map(|f| f.path().display().to_string());
        Verification {
            source: SourceSummary::of(&model.container),
            model: ModelSummary::of(model),
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
        self.model.human(out)?;
        for f in &self.sha256 {
            writeln!(out, "sha256    {}  {}", f.sha256, f.path)?;
        }
        writeln!(
            out,
            "sound: {} tensors with {} values, all finite, none missing{}",
            self.tensors,
            count(self.values),
            match self.checksums {
                0 => String::new(),
                n => format!("; {n} checksums right"),
            }
        )
    }
}

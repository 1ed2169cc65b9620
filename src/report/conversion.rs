//! What a conversion will do, or did.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use quant::Encoding;
use serde::Serialize;

use super::inspection::{ModelSummary, SourceSummary};
use super::text::Table;
use super::{Report, bytes, count};
use crate::model::{Model, Role};
use crate::pipeline::Budget;
use crate::plan::Plan;
use crate::recipe::Fallback;
use crate::targets::Output;

/// A planned or finished conversion.
#[derive(Debug, Serialize)]
pub struct Conversion {
    source: SourceSummary,
    model: ModelSummary,
    /// What was merged into the model, or is written alone.
    adapters: Vec<String>,
    output: String,
    /// The files that it consists of, if there are several or it is a folder.
    files: Vec<FileRow>,
    target: &'static str,
    file_type: &'static str,
    bytes: u64,
    bits_per_weight: f64,
    peak_memory_bytes: u64,
    threads: usize,
    vocabulary: Option<String>,
    tensors: Vec<TensorRow>,
    fallbacks: Vec<FallbackRow>,
    dropped: Vec<DroppedRow>,
    warnings: Vec<String>,
    /// Whether the file was written; false for a dry run.
    written: bool,
    /// Wall time of the conversion.
    seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct FileRow {
    name: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct TensorRow {
    name: String,
    role: &'static str,
    shape: Vec<usize>,
    encoding: &'static str,
    /// Number of the file.
    file: usize,
    offset: u64,
    bytes: u64,
    #[serde(skip)]
    kind: (Role, Encoding),
}

#[derive(Debug, Serialize)]
struct FallbackRow {
    name: String,
    wanted: &'static str,
    encoding: &'static str,
    row: usize,
}

#[derive(Debug, Serialize)]
struct DroppedRow {
    name: String,
    rule: String,
}

impl FileRow {
    fn all(plan: &Plan) -> Vec<FileRow> {
        let row = |name: &OsString, bytes| FileRow { name: name.display().to_string(), bytes };
        let files = plan.files.iter().map(|f| row(&f.name, f.layout.total_bytes()));
        files.chain(plan.small.iter().map(|f| row(&f.name, f.bytes.len() as u64))).collect()
    }
}

impl Conversion {
    /// The conversion of `model` to `out` as planned.
    pub fn planned(
        model: &Model,
        plan: &Plan,
        budget: &Budget,
        out: &Path,
        vocabulary: Option<String>,
    ) -> Conversion {
        Conversion {
            source: SourceSummary::of(&model.container),
            model: ModelSummary::of(model),
            adapters: adapters(model),
            output: out.display().to_string(),
            files: match plan.output {
                Output::File => Vec::new(),
                Output::Set | Output::Folder => FileRow::all(plan),
            },
            target: plan.target.name(),
            file_type: plan.recipe.file_type.name,
            bytes: plan.total_bytes(),
            bits_per_weight: plan.bits_per_weight(),
            peak_memory_bytes: budget.peak_bytes,
            threads: budget.threads,
            vocabulary,
            tensors: plan
                .tensors
                .iter()
                .map(|t| TensorRow {
                    name: t.name.clone(),
                    role: t.role.name(),
                    shape: t.values.shape().to_vec(),
                    encoding: t.encoding.name(),
                    file: t.parts.first().map_or(0, |p| p.file),
                    offset: t.parts.first().map_or(0, |p| p.offset),
                    bytes: t.bytes(),
                    kind: (t.role, t.encoding),
                })
                .collect(),
            fallbacks: plan
                .fallbacks()
                .filter(|_| plan.recipe.fallback != Fallback::Allow)
                .map(|t| FallbackRow {
                    name: t.name.clone(),
                    wanted: t.wanted.name(),
                    encoding: t.encoding.name(),
                    row: t.values.cols(),
                })
                .collect(),
            dropped: plan
                .dropped
                .iter()
                .map(|d| DroppedRow { name: d.name.clone(), rule: d.rule.clone() })
                .collect(),
            warnings: plan.objections.iter().map(|o| format!("the model {}", o.what)).collect(),
            written: false,
            seconds: None,
        }
    }

    /// The same, done in so many seconds.
    #[must_use]
    pub fn done(self, seconds: f64) -> Conversion {
        Conversion { written: true, seconds: Some(seconds), ..self }
    }
}

/// Adapters and tuned state of a model, with the files that they come from.
pub(super) fn adapters(model: &Model) -> Vec<String> {
    let adapters = model.adapters.iter().map(|a| {
        let files: Vec<String> = a.files.iter().map(|f| f.path().display().to_string()).collect();
        format!("{}  {}", files.join(", "), a.about())
    });
    let state = model.state.iter().filter_map(|s| Some((s.file.as_ref()?, s.layout.name())));
    let state = state.map(|(f, layout)| format!("{}  tuned initial state, {layout}", f.path().display()));
    adapters.chain(state).collect()
}

impl Report for Conversion {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        self.source.human(out)?;
        self.model.human(out)?;
        for adapter in &self.adapters {
            writeln!(out, "adapter   {adapter}")?;
        }
        writeln!(
            out,
            "target    {}  {} {}, {} ({} bytes), {:.2} bits per weight",
            self.output,
            self.target,
            self.file_type,
            bytes(self.bytes),
            self.bytes,
            self.bits_per_weight
        )?;
        for file in &self.files {
            writeln!(out, "file      {}  {}", file.name, bytes(file.bytes))?;
        }
        if let Some(vocabulary) = &self.vocabulary {
            writeln!(out, "tokens    {vocabulary}")?;
        }
        writeln!(out, "memory    at most {} with {} threads", bytes(self.peak_memory_bytes), self.threads)?;
        if self.written {
            self.roles(out)?;
        } else {
            self.every_tensor(out)?;
        }
        self.remarks(out)?;
        match self.seconds {
            Some(seconds) => writeln!(out, "written and verified in {seconds:.2} s"),
            None => writeln!(out, "dry run: nothing was written"),
        }
    }
}

impl Conversion {
    /// One line for all tensors of a role and encoding.
    fn roles(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut kinds: BTreeMap<(Role, Encoding), (usize, u64, u64)> = BTreeMap::new();
        for t in &self.tensors {
            let sum = kinds.entry(t.kind).or_default();
            sum.0 += 1;
            sum.1 += t.shape.iter().product::<usize>() as u64;
            sum.2 += t.bytes;
        }
        let mut table = Table::new(&["role", "encoding", ">tensors", ">weights", ">size"]);
        for ((role, encoding), (tensors, weights, size)) in kinds {
            table.row([
                role.name().to_owned(),
                encoding.to_string(),
                tensors.to_string(),
                count(weights),
                bytes(size),
            ]);
        }
        table.write(out)
    }

    fn every_tensor(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["tensor", "role", ">shape", "encoding", ">bytes"]);
        for t in &self.tensors {
            let shape = format!("{:?}", t.shape);
            table.row([t.name.clone(), t.role.to_owned(), shape, t.encoding.to_owned(), t.bytes.to_string()]);
        }
        table.write(out)
    }

    fn remarks(&self, out: &mut dyn Write) -> io::Result<()> {
        for f in &self.fallbacks {
            writeln!(
                out,
                "fallback  {}: rows of {} are no whole blocks of {}, so {}",
                f.name, f.row, f.wanted, f.encoding
            )?;
        }
        for d in &self.dropped {
            writeln!(out, "dropped   {}: {}", d.name, d.rule)?;
        }
        for w in &self.warnings {
            writeln!(out, "warning   {w}")?;
        }
        Ok(())
    }
}

//! Report of a conversion, before or after the work.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use quant::Encoding;
use serde::Serialize;

use super::Report;
use super::inspection::{ModelSummary, SourceSummary};
use super::text::Table;
use crate::calibrate::{self, Chosen};
use crate::checkpoint::{Outcome, Rounding};
use crate::choice::Choice;
use crate::convert::{ChangedKeys, Prepared};
use crate::escape::line;
use crate::eval::Estimate;
use crate::model::{Model, Role};
use crate::pipeline::Budget;
use crate::plan::{Plan, TensorPlan};
use crate::recipe::Fallback;
use crate::scheme::Coded;
use crate::scheme::LowRankOptions;
use crate::storage::Output;
use crate::targets::hf;
use crate::units::{bytes, count};

/// A planned or finished conversion.
#[derive(Debug, Serialize)]
pub struct Conversion {
    source: SourceSummary,
    model: ModelSummary,
    /// Adapters merged into the model, or written alone.
    adapters: Vec<String>,
    /// Pairs of tensors whose channels were rescaled.
    equalized: Vec<&'static str>,
    output: String,
    /// The files that it consists of, if there are several or it is a folder.
    files: Vec<FileRow>,
    target: &'static str,
    file_type: &'static str,
    bytes: u64,
    /// True if `bytes` is a guess: of what is coded, before it is.
    bytes_are_estimated: bool,
    bits_per_weight: f64,
    peak_memory_bytes: u64,
    threads: usize,
    vocabulary: Option<String>,
    /// Keys of a GGUF source that the file does not have.
    dropped_keys: Vec<String>,
    /// Keys of a GGUF source that have another value in the file.
    changed_keys: Vec<String>,
    tensors: Vec<TensorRow>,
    fallbacks: Vec<FallbackRow>,
    dropped: Vec<DroppedRow>,
    warnings: Vec<String>,
    /// Texts that the matrices were calibrated on.
    calibration: Option<CalibrationRow>,
    /// Outcome of each calibrated matrix.
    calibrated: Vec<Outcome>,
    /// The branches of low rank beside the matrices.
    low_rank: Option<LowRankRow>,
    /// Measurements that the types were chosen by.
    choice: Option<ChoiceRow>,
    /// True if the file was written; false for a dry run.
    written: bool,
    /// Wall time of the conversion.
    seconds: Option<f64>,
}

/// Low-rank branches, in an adapter to load with the model.
#[derive(Debug, Serialize)]
struct LowRankRow {
    adapter: String,
    rank: usize,
    /// Size of the adapter; before it is made, the most that it can have.
    adapter_bytes: u64,
    /// Matrices that have a branch, once that is known.
    matrices: Option<usize>,
}

/// Types chosen by measurement.
#[derive(Debug, Serialize)]
struct ChoiceRow {
    /// Sum over all units, of the default encoders, nats a token.
    predicted_divergence: f64,
    /// Divergence of the written file from its source, on the tokens of the calibration that were held out.
    reached_divergence: Option<Estimate>,
    units: Vec<UnitRow>,
}

/// Tensors that got one type.
#[derive(Debug, Serialize)]
struct UnitRow {
    name: String,
    encoding: String,
    /// Divergence of the model with these tensors alone rounded.
    divergence: f64,
}

#[derive(Debug, Serialize)]
struct CalibrationRow {
    texts: Vec<String>,
    tokens: usize,
    /// SHA-256 of the tokens.
    sha256: String,
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
    kind: (Role, Encoding, &'static str),
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
    /// Report of the files that will be written, or were.
    pub fn of(prepared: &Prepared) -> Conversion {
        let vocabulary = prepared.about.tokenizer.as_ref().map(ToString::to_string);
        Conversion::planned(&prepared.model, &prepared.plan, &prepared.budget, &prepared.output, vocabulary)
            .warned(&prepared.text_warnings)
            .warned(&prepared.done.warnings)
            .calibrated(&prepared.done.outcomes)
            .branched(prepared.adapter(), prepared.adapter_bytes)
            .chosen(prepared.chosen.as_ref(), prepared.reached)
            .warned(&prepared.suspicions)
    }

    /// The conversion of `model` to `out` as planned.
    pub fn planned(
        model: &Model,
        plan: &Plan,
        budget: &Budget,
        out: &Path,
        vocabulary: Option<String>,
    ) -> Conversion {
        let keys = ChangedKeys::of(model, plan);
        Conversion {
            source: SourceSummary::of(&model.container),
            model: ModelSummary::of(model),
            adapters: adapters(model),
            equalized: plan.scheme.equalized.clone(),
            output: out.display().to_string(),
            files: match plan.output {
                Output::File => Vec::new(),
                Output::Set | Output::Folder => FileRow::all(plan),
            },
            target: plan.target.name(),
            file_type: plan.called().name,
            bytes: plan.total_bytes(),
            bytes_are_estimated: plan.is_estimated(),
            bits_per_weight: plan.bits_per_weight(),
            peak_memory_bytes: budget.peak_bytes,
            threads: budget.threads,
            vocabulary,
            dropped_keys: keys.dropped,
            changed_keys: keys.changed,
            tensors: plan
                .tensors
                .iter()
                .map(|t| TensorRow {
                    name: t.name.clone(),
                    role: t.role.name(),
                    shape: t.values.shape().to_vec(),
                    encoding: t.stored_as(),
                    file: t.parts.first().map_or(0, |p| p.file),
                    offset: t.parts.first().map_or(0, |p| p.offset),
                    bytes: t.bytes(),
                    kind: (t.role, t.encoding, t.stored_as()),
                })
                .collect(),
            fallbacks: plan
                .fallbacks()
                .filter(|_| plan.scheme.fallback != Fallback::Allow)
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
            calibration: plan.scheme.calibration.as_ref().map(|trace| CalibrationRow {
                texts: trace.texts.clone(),
                tokens: trace.tokens,
                sha256: trace.sha256.clone(),
            }),
            calibrated: Vec::new(),
            low_rank: None,
            choice: None,
            warnings: warnings(model, plan),
            written: false,
            seconds: None,
        }
    }

    /// Adds the measurements that the types were chosen by, and the divergence that the file has with them.
    #[must_use]
    pub fn chosen(self, chosen: Option<&Chosen>, reached: Option<Estimate>) -> Conversion {
        let unit = |(name, encoding, divergence): &(String, String, f64)| UnitRow {
            name: name.clone(),
            encoding: encoding.clone(),
            divergence: *divergence,
        };
        let choice = chosen.map(|c| ChoiceRow {
            predicted_divergence: c.divergence,
            reached_divergence: reached,
            units: c.units.iter().map(unit).collect(),
        });
        Conversion { choice, ..self }
    }

    /// Adds more warnings.
    #[must_use]
    pub fn warned(mut self, warnings: &[String]) -> Conversion {
        self.warnings.extend_from_slice(warnings);
        self
    }

    /// Adds the outcomes of calibrated matrices.
    #[must_use]
    pub fn calibrated(self, outcomes: &[Outcome]) -> Conversion {
        let mut warnings = self.warnings;
        let found = outcomes
            .iter()
            .filter(|o| o.choice != Rounding::Weights)
            .map(|o| (o.name.as_str(), o.unmeasured));
        warnings.extend(unmeasured("the calibration text", found));
        Conversion { calibrated: outcomes.to_vec(), warnings, ..self }
    }

    /// Adds low-rank branches in an adapter of so many bytes.
    #[must_use]
    pub fn branched(self, adapter: Option<(PathBuf, &LowRankOptions)>, adapter_bytes: u64) -> Conversion {
        let done = !self.calibrated.is_empty();
        let matrices = done.then(|| self.calibrated.iter().filter(|o| o.branch.is_some()).count());
        let low_rank = adapter.map(|(path, branches)| LowRankRow {
            adapter: path.display().to_string(),
            rank: branches.rank,
            adapter_bytes,
            matrices,
        });
        Conversion { low_rank, ..self }
    }

    /// Marks the output as found whole where it was to be written.
    #[must_use]
    pub fn kept(self) -> Conversion {
        Conversion { written: true, ..self }
    }

    /// Marks the conversion as done in so many seconds.
    #[must_use]
    pub fn done(self, seconds: f64) -> Conversion {
        Conversion { written: true, seconds: Some(seconds), ..self }
    }
}

/// Warnings about the files, to be read before they are used.
fn warnings(model: &Model, plan: &Plan) -> Vec<String> {
    let equalized = (!plan.scheme.equalized.is_empty()).then(|| {
        "channels are rescaled: LoRA adapters and token-shift states made for the original no longer fit"
            .to_owned()
    });
    let objections = plan.objections.iter().map(|o| format!("the model {}", o.what));
    let stated = plan.tensors.iter().map(|t| (t.name.as_str(), t.unmeasured));
    let unmeasured = unmeasured("the text of the importance matrix", stated);
    let objections =
        objections.chain(hf::left_out(model)).chain(requantized(model, plan)).chain(unscaled(plan));
    let objections = objections.chain(equalized).chain(unmeasured);
    objections.chain(little_text(plan)).chain(sated(plan)).chain(unquantized(plan)).collect()
}

/// Warning that `source` says nothing about some columns, given the number of such columns of each tensor.
fn unmeasured<'a>(source: &str, tensors: impl Iterator<Item = (&'a str, usize)>) -> Option<String> {
    let found: Vec<String> = tensors
        .filter(|(_, columns)| *columns > 0)
        .map(|(name, columns)| format!("{name} ({columns} column{})", if columns == 1 { "" } else { "s" }))
        .collect();
    (!found.is_empty()).then(|| {
        format!(
            "{source} hardly ever used these columns (importance 0, or next to it beside the others), which are encoded \
             without importance: {}",
            found.join(", ")
        )
    })
}

/// Warning that weights are FP8 and no scales stand beside them: in most such checkpoints some do, and these may have
/// been lost.
fn unscaled(plan: &Plan) -> Option<String> {
    let is_fp8 = |t: &&TensorPlan| t.values.encoding() == Some(Encoding::F8E4M3);
    let count = plan.tensors.iter().filter(is_fp8).count();
    (count > 0).then(|| {
        format!(
            "{count} tensors of the source are FP8, without scales beside them: if their scales were dropped, the \
             weights are wrong by them"
        )
    })
}

/// Warning that matrices are rounded which were rounded before: the errors of both add up.
fn requantized(model: &Model, plan: &Plan) -> Option<String> {
    let is_rounded_again = |t: &&TensorPlan| {
        let is_quantized = t.coded.map_or(!t.encoding.is_plain(), Coded::is_rounded);
        is_quantized && (t.values.encoding() != Some(t.encoding) || t.coded.is_some())
    };
    let mut types: Vec<&str> = Vec::new();
    let mut matrices = 0;
    for tensor in plan.tensors.iter().filter(is_rounded_again) {
        let stored = tensor.values.encoding().filter(|stored| !stored.is_plain());
        matrices += usize::from(stored.is_some());
        types.extend(stored.map(|stored| stored.name()).filter(|name| !types.contains(name)));
    }
    (matrices > 0).then(|| {
        format!(
            "{} is quantized already ({}): {matrices} of its tensors are rounded a second time, which is worse than \
             quantizing the original",
            model.container.path().display(),
            types.join(", ")
        )
    })
}

/// Warning that types were chosen for a size at which nothing needs to be quantized.
fn unquantized(plan: &Plan) -> Option<String> {
    let is_large = |t: &&TensorPlan| matches!(t.role, Role::Matrix | Role::Head | Role::Embedding);
    let is_plain = |t: &TensorPlan| t.coded.is_none() && t.encoding.is_plain();
    let types = &plan.scheme.types.0;
    (!types.is_empty() && plan.tensors.iter().filter(is_large).all(is_plain)).then(|| {
        format!(
            "the size asked for is above that of the whole model in 16 bits: nothing is quantized, and the file is a {} \
             file; --type {0} says so",
            plan.called().name
        )
    })
}

/// Warning that the moments of some matrices are taken from fewer tokens than they have dimensions.
fn little_text(plan: &Plan) -> Option<String> {
    let tokens = plan.scheme.calibration.as_ref()?.tokens;
    let is_rounded = |t: &&TensorPlan| t.coded.map_or(!t.encoding.is_plain(), Coded::is_rounded);
    let quantized = plan.tensors.iter().filter(is_rounded);
    let widest = quantized.map(|t| t.values.cols()).max()?;
    (tokens < widest).then(|| {
        format!(
            "{tokens} tokens of calibration are few for matrices of {widest} inputs: their correlations are hardly known; \
             64 thousand tokens are good"
        )
    })
}

/// Warning that a larger file was asked for than codes can be.
fn sated(plan: &Plan) -> Option<String> {
    let bits = |t: &TensorPlan| match t.coded {
        Some(Coded::Codes { bits, .. }) => Some(bits),
        _ => None,
    };
    let least = plan.tensors.iter().filter_map(bits).min_by(f64::total_cmp)?;
    (least >= calibrate::MOST_BITS).then(|| {
        format!(
            "every matrix has {least} bits a weight, the most there are, and is still rounded: without a size, bf16 is \
             kept bit by bit, in about 11"
        )
    })
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
            writeln!(out, "adapter   {}", line(adapter))?;
        }
        if !self.equalized.is_empty() {
            writeln!(out, "equalized {}; logits are the same as before", self.equalized.join(", "))?;
        }
        writeln!(
            out,
            "target    {}  {} {}, {}{} ({} bytes), {:.2} bits per weight",
            self.output,
            self.target,
            self.file_type,
            if self.bytes_are_estimated { "about " } else { "" },
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
        for (what, keys) in [("dropped", &self.dropped_keys), ("changed", &self.changed_keys)] {
            if !keys.is_empty() {
                writeln!(out, "keys      {what}: {}", line(&keys.join(", ")))?;
            }
        }
        if let Some(choice) = &self.choice {
            writeln!(
                out,
                "types     chosen for {} units of tensors; divergence predicted of default encoders: {:.2e}",
                choice.units.len(),
                choice.predicted_divergence
            )?;
            if let Some(reached) = choice.reached_divergence {
                let interval =
                    reached.interval.map(|[a, b]| format!(" ({a:.2e} to {b:.2e})")).unwrap_or_default();
                writeln!(
                    out,
                    "          divergence of the file: {:.2e}{interval}, on calibration tokens that only judged",
                    reached.value
                )?;
            }
        }
        self.calibration(out)?;
        if let Some(low_rank) = &self.low_rank {
            low_rank.human(out)?;
        }
        writeln!(out, "memory    at most {} with {} threads", bytes(self.peak_memory_bytes), self.threads)?;
        if self.written {
            self.roles(out)?;
        } else {
            self.every_tensor(out)?;
        }
        self.remarks(out)?;
        match (self.written, self.seconds) {
            (_, Some(seconds)) => writeln!(out, "written and verified in {seconds:.2} s"),
            (true, None) => writeln!(out, "it is there already, and whole"),
            (false, None) => writeln!(out, "dry run: nothing was written"),
        }
    }
}

impl LowRankRow {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let size = bytes(self.adapter_bytes);
        match self.matrices {
            None => writeln!(out, "low rank  {}  at most {size}, rank {}", self.adapter, self.rank),
            Some(0) => writeln!(
                out,
                "low rank  no matrix is better with a branch of rank {}, so none has one",
                self.rank
            ),
            Some(matrices) => writeln!(
                out,
                "low rank  {}  {size} ({} bytes), rank {} for {matrices} matrices; to be loaded with the model: --lora",
                self.adapter, self.adapter_bytes, self.rank
            ),
        }
    }
}

impl Conversion {
    /// Prints the calibration texts, and the gain that calibration brought.
    fn calibration(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(calibration) = &self.calibration else { return Ok(()) };
        let (tokens, texts) = (count(calibration.tokens as u64), calibration.texts.join(", "));
        writeln!(out, "calib     {tokens} tokens of {texts}")?;
        if self.calibrated.is_empty() {
            return Ok(());
        }
        let fed = self.calibrated.iter().filter(|o| matches!(o.choice, Rounding::Feedback { .. })).count();
        let ratios = self.calibrated.iter().filter(|o| o.default_error > 0.0);
        let logs: Vec<f64> = ratios.map(|o| (o.error / o.default_error).ln()).collect();
        let mean = (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp();
        writeln!(
            out,
            "          {} matrices, {fed} of them with errors fed back: {mean:.2} of the default encoder's errors",
            self.calibrated.len()
        )?;
        let branches = self.calibrated.iter().filter(|o| o.branch.is_some()).count();
        if self.low_rank.is_none() && branches > 0 {
            writeln!(out, "          {branches} of them with branches of low rank")?;
        }
        for o in &self.calibrated {
            if let Rounding::Forced { why } = &o.choice {
                writeln!(out, "warning   {}: the default encoder was used: {why}", o.name)?;
            }
        }
        Ok(())
    }

    /// One line for all tensors of a role and encoding.
    fn roles(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut kinds: BTreeMap<(Role, Encoding, &str), (usize, u64, u64)> = BTreeMap::new();
        for t in &self.tensors {
            let sum = kinds.entry(t.kind).or_default();
            sum.0 += 1;
            sum.1 += t.shape.iter().product::<usize>() as u64;
            sum.2 += t.bytes;
        }
        let mut table = Table::new(&["role", "encoding", ">tensors", ">weights", ">size"]);
        for ((role, _, encoding), (tensors, weights, size)) in kinds {
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
            writeln!(out, "dropped   {}: {}", line(&d.name), d.rule)?;
        }
        for w in &self.warnings {
            writeln!(out, "warning   {}", line(w))?;
        }
        Ok(())
    }
}

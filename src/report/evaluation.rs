//! Results of an evaluation: as text, JSON, Markdown and CSV.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::Report;
use super::conversion::adapters;
use super::text::Table;
use crate::error::{Error, Result};
use crate::eval::{Against, Bucket, Estimate, Evaluation, ModelScore, Read, Scored, Setting};
use crate::model::Model;
use crate::runner::Head;
use crate::templates::{divergence, estimate};
use crate::units::{bytes, count, nats};

/// An evaluation of one model, or of several against a reference.
#[derive(Debug, Serialize)]
pub struct EvaluationReport {
    /// The program and its version.
    program: &'static str,
    #[serde(flatten)]
    setting: Setting,
    scored: Scored,
    /// The reference, or the only model.
    model: Row,
    is_reference: bool,
    /// The models compared with it, nearest first.
    candidates: Vec<Candidate>,
    /// Warnings, to be kept in mind when reading the figures.
    warnings: Vec<String>,
    /// Time taken, for people; left out of the files so that they are the same on every machine.
    #[serde(skip)]
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    path: String,
    version: &'static str,
    file_bytes: u64,
    /// Adapters and the tuned state that it was run with.
    adapters: Vec<String>,
    /// Head of the reference that it is, if it is no model of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<OtherHead>,
    #[serde(flatten)]
    score: ModelScore,
}

impl Row {
    /// `name`, and the head.
    fn with_head(&self, name: &str) -> String {
        match &self.head {
            None => name.to_owned(),
            Some(head) => format!("{name}, head {}", head.name),
        }
    }
}

#[derive(Debug, Serialize)]
struct Candidate {
    #[serde(flatten)]
    row: Row,
    against: Against,
}

/// Another head of the reference.
#[derive(Debug, Serialize)]
struct OtherHead {
    name: String,
    /// Number of choices that are exact by proof; absent if all are.
    exact: Option<usize>,
    /// Rows and bytes that it read for a token.
    #[serde(flatten)]
    read: Read,
    /// Bytes of the full head, as the file stores it.
    full_bytes: u64,
    /// Bytes read for a token, by those of the full head in 16 bits.
    of_16_bits: f64,
}

impl EvaluationReport {
    /// The report on `models`, the first of which is a reference or the only one, and on other `heads` of the first,
    /// whose own takes so many bytes in the file.
    pub fn new(
        models: &[&Model],
        (heads, full_bytes): (&[&dyn Head], u64),
        is_reference: bool,
        setting: Setting,
        evaluation: Evaluation,
        warnings: Vec<String>,
        seconds: f64,
    ) -> EvaluationReport {
        let row = |model: &Model, head, score| Row {
            path: model.container.path().display().to_string(),
            version: model.version.name,
            file_bytes: model.container.file_bytes(),
            adapters: adapters(model),
            head,
            score,
        };
        let dims = models[0].dims;
        let head = |(head, read): (&&dyn Head, Read)| OtherHead {
            name: head.name(),
            exact: (head.exact() < dims.vocab).then_some(head.exact()),
            full_bytes,
            of_16_bits: read.bytes.value / (2 * dims.vocab * dims.embd) as f64,
            read,
        };
        let own = models[1..].iter().map(|_| None);
        let heads = own.chain(heads.iter().zip(evaluation.read).map(|h| Some(head(h))));
        let models_of_heads = std::iter::repeat(&models[0]);
        let others = models[1..].iter().chain(models_of_heads).zip(evaluation.others).zip(heads);
        let mut candidates: Vec<Candidate> = others
            .map(|((m, (score, against)), head)| Candidate { row: row(m, head, score), against })
            .collect();
        candidates.sort_by(|a, b| a.against.kl.value.total_cmp(&b.against.kl.value));
        let model = row(models[0], None, evaluation.first);
        EvaluationReport {
            program: concat!("rwkv-quant ", env!("CARGO_PKG_VERSION")),
            setting,
            scored: evaluation.scored,
            model,
            is_reference,
            candidates,
            warnings,
            seconds,
        }
    }

    /// The candidates' names and distances.
    pub fn candidates(&self) -> impl Iterator<Item = (&str, &Against)> {
        self.candidates.iter().map(|c| (c.row.path.as_str(), &c.against))
    }

    /// The format of a file, by its extension.
    ///
    /// # Errors
    /// [`Error::Usage`] if the extension names none.
    pub fn format_of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => Ok(Format::Json),
            Some("md") => Ok(Format::Markdown),
            Some("csv") => Ok(Format::Csv),
            _ => Err(Error::Usage {
                what: format!("the extension of {} names no format of results", path.display()),
                help: "give a name that ends in .json, .md or .csv".to_owned(),
            }),
        }
    }

    /// Report as a file in the format that the extension of `path` names.
    ///
    /// # Errors
    /// If there is no such format.
    pub fn file(&self, path: &Path) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let written = match Self::format_of(path)? {
            Format::Json => serde_json::to_writer_pretty(&mut text, self).map_err(io::Error::from),
            Format::Markdown => self.markdown(&mut text),
            Format::Csv => self.csv(&mut text),
        };
        written.map(|()| text).map_err(Error::io("write the results to", path))
    }

    /// Name that people tell a model by: the last part of its path, or the whole path if another model shares that
    /// part.
    fn name(&self, row: &Row) -> String {
        let last = name(&row.path);
        let is_shared = self.rows().any(|(other, _)| other.path != row.path && name(&other.path) == last);
        row.with_head(if is_shared { &row.path } else { &last })
    }

    fn rows(&self) -> impl Iterator<Item = (&Row, Option<&Against>)> {
        let first = std::iter::once((&self.model, None));
        first.chain(self.candidates.iter().map(|c| (&c.row, Some(&c.against))))
    }

    /// Rows and bytes that the other heads read, a sentence each.
    fn heads(&self) -> impl Iterator<Item = String> {
        self.candidates.iter().filter_map(|c| {
            let head = c.row.head.as_ref()?;
            let exact = match head.exact {
                Some(0) => "approximate".to_owned(),
                Some(k) => format!("first {k} exact for {}", percent(&head.read.kept)),
                None => "exact".to_owned(),
            };
            Some(format!(
                "head {}: {exact}; first choice not read for {}; a token reads {} rows and {} ({:.3} of 16 bits, {:.3} of \
                 the file's)",
                head.name,
                percent(&head.read.missed),
                both(&head.read.rows, 1),
                bytes(head.read.bytes.value.round() as u64),
                head.of_16_bits,
                head.read.bytes.value / head.full_bytes as f64,
            ))
        })
    }

    fn markdown(&self, out: &mut dyn Write) -> io::Result<()> {
        let line = |out: &mut dyn Write, cells: Vec<String>| writeln!(out, "| {} |", cells.join(" | "));
        let table = |out: &mut dyn Write, titles: &[&str]| {
            line(out, std::iter::once("model").chain(titles.iter().copied()).map(str::to_owned).collect())?;
            writeln!(out, "| --- |{}", " ---: |".repeat(titles.len()))
        };
        let name = |row: &Row| self.name(row).replace('|', "\\|");
        table(out, &["size", "perplexity", "nats/token", "bits/byte", "ppl ratio", "top-1", "RMS \u{394}p"])?;
        for (row, against) in self.rows() {
            let bits = row.score.bits_per_byte.map(|b| interval(&b, 5)).unwrap_or_default();
            let mut cells = vec![name(row), bytes(row.file_bytes), interval(&row.score.perplexity, 4)];
            cells.extend([interval(&row.score.nats_per_token, 5), bits]);
            cells.extend(match against {
                None => <[String; 3]>::default(),
                Some(a) => {
                    [interval(&a.ppl_ratio, 5), percent_interval(&a.top1), percent_interval(&a.rms_delta_p)]
                }
            });
            line(out, cells)?;
        }
        if let Some(first) = self.candidates.first() {
            writeln!(out, "\nKullback-Leibler divergence from the reference, nats:\n")?;
            table(out, &["mean", "median", "90 %", "99 %", "99.9 %", "max"])?;
            for c in &self.candidates {
                let q = &c.against.kl_quantiles;
                let figures = [&c.against.kl, &q.median, &q.p90, &q.p99, &q.p999, &q.max];
                line(out, std::iter::once(name(&c.row)).chain(figures.map(nats_interval)).collect())?;
            }
            writeln!(out, "\nIts mean by the number of tokens read before:\n")?;
            let titles: Vec<String> = first.against.by_position.iter().map(positions_of).collect();
            table(out, &titles.iter().map(String::as_str).collect::<Vec<_>>())?;
            for c in &self.candidates {
                let figures = c.against.by_position.iter().map(|b| nats_interval(&b.kl));
                line(out, std::iter::once(name(&c.row)).chain(figures).collect())?;
            }
        }
        for (model, adapter) in self.adapted() {
            writeln!(out, "\n{model} with {adapter}")?;
        }
        for warning in &self.warnings {
            writeln!(out, "\nWarning: {warning}")?;
        }
        for head in self.heads() {
            writeln!(out, "\n{head}")?;
        }
        writeln!(out, "\nIn brackets: the interval of 95 % of the bootstrap's draws. {}", self.how())
    }

    /// The models that were run with adapters or a tuned state, and each of these.
    fn adapted(&self) -> impl Iterator<Item = (String, &String)> {
        self.rows().flat_map(|(row, _)| row.adapters.iter().map(|a| (self.name(row), a)))
    }

    /// A line a model, a column a figure: every estimate with its standard error and the ends of its interval.
    fn csv(&self, out: &mut dyn Write) -> io::Result<()> {
        let buckets = self.candidates.first().map_or(0, |c| c.against.by_position.len());
        for (n, (row, against)) in self.rows().enumerate() {
            let mut line = CsvLine::default();
            line.text("model", &row.with_head(&row.path));
            line.text("version", row.version);
            line.number("file_bytes", row.file_bytes);
            line.number("tokens", self.scored.tokens);
            line.number("bytes", self.scored.bytes);
            line.number("windows", self.scored.windows);
            let score = &row.score;
            line.estimate("perplexity", Some(score.perplexity));
            line.estimate("nats_per_token", Some(score.nats_per_token));
            line.estimate("nats_per_byte", score.nats_per_byte);
            line.estimate("bits_per_byte", score.bits_per_byte);
            let quantiles = against.map(|a| &a.kl_quantiles);
            for (name, figure) in [
                ("kl", against.map(|a| a.kl)),
                ("kl_median", quantiles.map(|q| q.median)),
                ("kl_p90", quantiles.map(|q| q.p90)),
                ("kl_p99", quantiles.map(|q| q.p99)),
                ("kl_p999", quantiles.map(|q| q.p999)),
                ("kl_max", quantiles.map(|q| q.max)),
                ("top1", against.map(|a| a.top1)),
                ("ppl_ratio", against.map(|a| a.ppl_ratio)),
                ("rms_delta_p", against.map(|a| a.rms_delta_p)),
                ("mean_delta_p", against.map(|a| a.mean_delta_p)),
            ] {
                line.estimate(name, figure);
            }
            for n in 0..buckets {
                let of = |a: &Against| a.by_position[n];
                let from = of(&self.candidates[0].against).from;
                line.estimate(&format!("kl_from_{from}"), against.map(|a| of(a).kl));
            }
            line.text("adapters", &row.adapters.join("; "));
            if n == 0 {
                writeln!(out, "{}", line.names.join(","))?;
            }
            writeln!(out, "{}", line.cells.join(","))?;
        }
        Ok(())
    }

    /// A sentence on what was scored.
    fn how(&self) -> String {
        let (setting, scored) = (&self.setting, &self.scored);
        let overlap =
            if setting.stride == setting.ctx { String::new() } else { format!(", {} apart", setting.stride) };
        format!(
            "{} tokens ({} bytes) scored in {} windows of {} tokens{overlap}, protocol {}; text of {} tokens, sha256 {}; \
             vocabulary {}, sha256 {}; \u{b1} standard error, bootstrap over windows",
            scored.tokens,
            scored.bytes,
            scored.windows,
            setting.ctx,
            setting.protocol,
            setting.text_tokens,
            &setting.text_sha256[..12.min(setting.text_sha256.len())],
            setting.vocabulary,
            &setting.vocabulary_sha256[..12.min(setting.vocabulary_sha256.len())],
        )
    }
}

/// A format of files of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names speak
pub enum Format {
    Json,
    Markdown,
    Csv,
}

impl Report for EvaluationReport {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.how())?;
        let arithmetic = &self.setting.arithmetic;
        if let Some(epsilon) = self.setting.group_norm_epsilon {
            writeln!(out, "epsilon of the norm over heads: {epsilon}")?;
        }
        if !self.setting.dropped.is_empty() {
            writeln!(out, "without the tensors {}", self.setting.dropped.join(", "))?;
        }
        match self.setting.arithmetic_kl {
            Some(kl) => writeln!(
                out,
                "products in {arithmetic}: mean KL {kl:.2e} from the exact arithmetic (first 256 tokens)"
            )?,
            None if arithmetic != "f32" => writeln!(out, "products in {arithmetic}")?,
            None => {}
        }
        for (model, adapter) in self.adapted() {
            writeln!(out, "{model} with {adapter}")?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        if self.candidates.is_empty() {
            writeln!(out, "model           {}", self.model.path)?;
            writeln!(out, "perplexity      {}", both(&self.model.score.perplexity, 4))?;
            writeln!(out, "nats per token  {}", both(&self.model.score.nats_per_token, 6))?;
            if let (Some(nats), Some(bits)) = (self.model.score.nats_per_byte, self.model.score.bits_per_byte)
            {
                writeln!(out, "nats per byte   {}", both(&nats, 6))?;
                writeln!(out, "bits per byte   {}", both(&bits, 6))?;
            }
        } else {
            self.table(out)?;
            for head in self.heads() {
                writeln!(out, "{head}")?;
            }
            self.positions(out)?;
        }
        let speed = self.scored.tokens_run as f64 * self.rows().count() as f64 / self.seconds;
        writeln!(
            out,
            "{} tokens run through {} model{} in {:.1} s ({speed:.1} tokens/s)",
            count(self.scored.tokens_run as u64),
            self.rows().count(),
            if self.candidates.is_empty() { "" } else { "s" },
            self.seconds
        )
    }
}

impl EvaluationReport {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&[
            "model",
            ">size",
            ">perplexity",
            ">ppl ratio",
            ">mean KL",
            ">median",
            ">90 %",
            ">99 %",
            ">99.9 %",
            ">max",
            ">same top-1",
            ">RMS \u{394}p",
        ]);
        for (row, against) in self.rows() {
            let mut cells = vec![self.name(row), bytes(row.file_bytes), both(&row.score.perplexity, 4)];
            match against {
                None => cells.extend(
                    ["reference".to_owned()].into_iter().chain(std::iter::repeat_n(String::new(), 8)),
                ),
                Some(a) => {
                    let q = &a.kl_quantiles;
                    cells.extend([both(&a.ppl_ratio, 5), divergence(&a.kl)]);
                    cells.extend([q.median, q.p90, q.p99, q.p999, q.max].map(|q| nats(q.value)));
                    cells.extend([percent(&a.top1), percent(&a.rms_delta_p)]);
                }
            }
            table.row(cells);
        }
        table.write(out)
    }

    fn positions(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(first) = self.candidates.first() else { return Ok(()) };
        writeln!(out, "mean KL by the number of tokens read before:")?;
        let mut titles = vec!["model".to_owned()];
        titles.extend(first.against.by_position.iter().map(|b| format!(">{}", positions_of(b))));
        let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
        for c in &self.candidates {
            let cells = c.against.by_position.iter().map(|b| divergence(&b.kl));
            table.row(std::iter::once(self.name(&c.row)).chain(cells));
        }
        table.write(out)
    }
}

/// A line of CSV, and what its cells are called.
#[derive(Default)]
struct CsvLine {
    names: Vec<String>,
    cells: Vec<String>,
}

impl CsvLine {
    fn cell(&mut self, name: &str, cell: String) {
        self.names.push(name.to_owned());
        self.cells.push(cell);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.cell(name, format!("\"{}\"", text.replace('"', "\"\"")));
    }

    fn number(&mut self, name: &str, number: impl ToString) {
        self.cell(name, number.to_string());
    }

    /// Four cells, empty where there is no figure.
    fn estimate(&mut self, name: &str, figure: Option<Estimate>) {
        let number = |v: Option<f64>| v.map(|v| v.to_string()).unwrap_or_default();
        let interval = figure.and_then(|f| f.interval);
        self.cell(name, number(figure.map(|f| f.value)));
        self.cell(&format!("{name}_error"), number(figure.and_then(|f| f.error)));
        self.cell(&format!("{name}_low"), number(interval.map(|[low, _]| low)));
        self.cell(&format!("{name}_high"), number(interval.map(|[_, high]| high)));
    }
}

/// The last part of a path, by which people tell models apart.
fn name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |n| n.to_string_lossy().into_owned())
}

/// A figure and its standard error.
fn both(e: &Estimate, digits: usize) -> String {
    estimate(e, digits, 1.0)
}

/// A share as a percentage, and its standard error.
fn percent(e: &Estimate) -> String {
    estimate(e, 3, 100.0) + " %"
}

/// A figure and its interval.
fn interval(e: &Estimate, digits: usize) -> String {
    bracketed(e, |v| format!("{v:.digits$}"))
}

/// A divergence and its interval.
fn nats_interval(e: &Estimate) -> String {
    bracketed(e, nats)
}

/// A share as a percentage, and its interval.
fn percent_interval(e: &Estimate) -> String {
    format!("{} %", interval(&hundredfold(e), 3))
}

fn bracketed(e: &Estimate, text: impl Fn(f64) -> String) -> String {
    match e.interval {
        Some([low, high]) => format!("{} [{}, {}]", text(e.value), text(low), text(high)),
        None => text(e.value),
    }
}

fn hundredfold(e: &Estimate) -> Estimate {
    Estimate {
        value: 100.0 * e.value,
        error: e.error.map(|v| 100.0 * v),
        interval: e.interval.map(|ends| ends.map(|v| 100.0 * v)),
    }
}

/// Number of tokens that stand before those of a bucket.
fn positions_of(bucket: &Bucket) -> String {
    match bucket.to - bucket.from {
        1 => bucket.from.to_string(),
        _ => format!("{}-{}", bucket.from, bucket.to - 1),
    }
}

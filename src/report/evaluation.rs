//! What an evaluation found: as text, JSON, Markdown and CSV.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::conversion::adapters;
use super::text::Table;
use super::{Report, bytes, count, nats};
use crate::error::{Error, Result};
use crate::eval::{Against, Estimate, Evaluation, ModelScore, Read, Scored, Setting};
use crate::model::Model;
use crate::runner::Head;

/// An evaluation of one model, or of several against a reference.
#[derive(Debug, Serialize)]
pub struct EvaluationReport {
    #[serde(flatten)]
    setting: Setting,
    scored: Scored,
    /// The reference, or the only model.
    model: Row,
    is_reference: bool,
    /// The models compared with it, nearest first.
    candidates: Vec<Candidate>,
    /// What to keep in mind when reading the figures.
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
    /// Which head of the reference it is, if it is no model of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<OtherHead>,
    #[serde(flatten)]
    score: ModelScore,
}

impl Row {
    /// The last part of the path, by which people tell models apart, and the head.
    fn name(&self) -> String {
        match &self.head {
            None => name(&self.path),
            Some(head) => format!("{}, head {}", name(&self.path), head.name),
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
    /// How many choices are exact by proof; absent if all are.
    exact: Option<usize>,
    /// What it read for a token.
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

    /// Writes it to a file in the format that the extension names.
    ///
    /// # Errors
    /// If there is no such format, or writing fails.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = Vec::new();
        let written = match Self::format_of(path)? {
            Format::Json => serde_json::to_writer_pretty(&mut text, self).map_err(io::Error::from),
            Format::Markdown => self.markdown(&mut text),
            Format::Csv => self.csv(&mut text),
        };
        written.map_err(Error::io("write the results to", path))?;
        crate::files::replace(path, &text)
    }

    fn rows(&self) -> impl Iterator<Item = (&Row, Option<&Against>)> {
        let first = std::iter::once((&self.model, None));
        first.chain(self.candidates.iter().map(|c| (&c.row, Some(&c.against))))
    }

    /// What the other heads read, a sentence each.
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
        writeln!(
            out,
            "| model | size | perplexity | bits/byte | mean KL | 99 % KL | top-1 | ppl ratio | RMS \u{394}p |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )?;
        for (row, against) in self.rows() {
            let [kl, high, top1, ratio, rms] = match against {
                None => Default::default(),
                Some(a) => [
                    divergence(&a.kl),
                    nats(a.kl_quantiles.p99),
                    percent(&a.top1),
                    both(&a.ppl_ratio, 5),
                    percent(&a.rms_delta_p),
                ],
            };
            let bits = row.score.bits_per_byte.map(|b| both(&b, 5)).unwrap_or_default();
            writeln!(
                out,
                "| {} | {} | {} | {bits} | {kl} | {high} | {top1} | {ratio} | {rms} |",
                row.name().replace('|', "\\|"),
                bytes(row.file_bytes),
                both(&row.score.perplexity, 4),
            )?;
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
        writeln!(out, "\n{}", self.how())
    }

    /// The models that were run with adapters or a tuned state, and each of these.
    fn adapted(&self) -> impl Iterator<Item = (String, &String)> {
        self.rows().flat_map(|(row, _)| row.adapters.iter().map(|a| (row.name(), a)))
    }

    fn csv(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "model,version,file_bytes,tokens,bytes,windows,perplexity,perplexity_error,nats_per_token,bits_per_byte,\
             kl,kl_error,kl_median,kl_p90,kl_p99,kl_p999,kl_max,top1,top1_error,ppl_ratio,ppl_ratio_error,rms_delta_p,adapters"
        )?;
        let number = |v: Option<f64>| v.map(|v| v.to_string()).unwrap_or_default();
        for (row, against) in self.rows() {
            let score = &row.score;
            let mut cells = vec![
                quoted(&match &row.head {
                    None => row.path.clone(),
                    Some(head) => format!("{}, head {}", row.path, head.name),
                }),
                row.version.to_owned(),
                row.file_bytes.to_string(),
                self.scored.tokens.to_string(),
                self.scored.bytes.to_string(),
                self.scored.windows.to_string(),
                score.perplexity.value.to_string(),
                number(score.perplexity.error),
                score.nats_per_token.value.to_string(),
                number(score.bits_per_byte.map(|b| b.value)),
            ];
            match against {
                None => cells.extend(std::iter::repeat_n(String::new(), 12)),
                Some(a) => {
                    let q = &a.kl_quantiles;
                    cells.extend([a.kl.value.to_string(), number(a.kl.error)]);
                    cells.extend([q.median, q.p90, q.p99, q.p999, q.max].map(|v| v.to_string()));
                    cells.extend([a.top1.value.to_string(), number(a.top1.error)]);
                    cells.extend([a.ppl_ratio.value.to_string(), number(a.ppl_ratio.error)]);
                    cells.push(a.rms_delta_p.value.to_string());
                }
            }
            cells.push(quoted(&row.adapters.join("; ")));
            writeln!(out, "{}", cells.join(","))?;
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
            let mut cells = vec![row.name(), bytes(row.file_bytes), both(&row.score.perplexity, 4)];
            match against {
                None => cells.extend(
                    ["reference".to_owned()].into_iter().chain(std::iter::repeat_n(String::new(), 8)),
                ),
                Some(a) => {
                    let q = &a.kl_quantiles;
                    cells.extend([both(&a.ppl_ratio, 5), divergence(&a.kl)]);
                    cells.extend([q.median, q.p90, q.p99, q.p999, q.max].map(nats));
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
        titles.extend(first.against.by_position.iter().map(|b| format!(">{}-{}", b.from, b.to - 1)));
        let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
        for c in &self.candidates {
            let cells = c.against.by_position.iter().map(|b| nats(b.kl));
            table.row(std::iter::once(c.row.name()).chain(cells));
        }
        table.write(out)
    }
}

/// Text as a cell of CSV.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The last part of a path, by which people tell models apart.
fn name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |n| n.to_string_lossy().into_owned())
}

/// A figure and its standard error.
fn both(e: &Estimate, digits: usize) -> String {
    match e.error {
        Some(error) => format!("{:.digits$} \u{b1} {error:.digits$}", e.value),
        None => format!("{:.digits$}", e.value),
    }
}

/// A divergence and its standard error.
fn divergence(e: &Estimate) -> String {
    match e.error {
        Some(error) => format!("{} \u{b1} {}", nats(e.value), nats(error)),
        None => nats(e.value),
    }
}

/// A share as a percentage, and its standard error.
fn percent(e: &Estimate) -> String {
    let scaled = Estimate { value: 100.0 * e.value, error: e.error.map(|v| 100.0 * v), interval: None };
    format!("{} %", both(&scaled, 3))
}

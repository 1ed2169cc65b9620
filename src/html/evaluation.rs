//! The page of an evaluation.

use serde::Deserialize;

use super::quality::{Compared, figures};
use super::{Cell, Page, Section, Table};
use crate::eval::{Against, Estimate, ModelScore, Scored, Setting};
use crate::templates::{divergence, estimate};
use crate::units::{bytes, nats};

/// Results of `eval-ppl` that the report shows.
#[derive(Deserialize)]
pub(crate) struct Evaluation {
    program: String,
    #[serde(flatten)]
    setting: Setting,
    scored: Scored,
    model: Row,
    is_reference: bool,
    candidates: Vec<Candidate>,
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Row {
    path: String,
    file_bytes: u64,
    adapters: Vec<String>,
    head: Option<Head>,
    #[serde(flatten)]
    score: ModelScore,
}

#[derive(Deserialize)]
struct Head {
    name: String,
}

#[derive(Deserialize)]
struct Candidate {
    #[serde(flatten)]
    row: Row,
    against: Against,
}

impl Row {
    /// The file's name, and the head if it is another than the model's own.
    fn name(&self) -> String {
        let name = file(&self.path);
        self.head.as_ref().map_or(name.to_owned(), |head| format!("{name}, head {}", head.name))
    }
}

/// The last part of a path of any system.
fn file(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

pub(crate) fn evaluation(found: Evaluation) -> Page {
    let (setting, scored) = (&found.setting, &found.scored);
    let texts: Vec<&str> = setting.texts.iter().map(|t| file(t)).collect();
    let mut page = Page::new(format!("Evaluation of {}", found.model.name()), found.program);
    page.remarks.push(format!(
        "{} tokens ({} bytes) of {} scored in {} windows of {}, protocol {}; products in {}; \u{b1} is the standard error.",
        scored.tokens,
        scored.bytes,
        texts.join(", "),
        scored.windows,
        setting.ctx,
        setting.protocol,
        setting.arithmetic
    ));
    page.remarks.extend(found.warnings);
    let all = || std::iter::once(&found.model).chain(found.candidates.iter().map(|c| &c.row));
    for row in all() {
        page.remarks.extend(row.adapters.iter().map(|a| format!("{} with {a}", row.name())));
    }
    let compared: Vec<Compared> = found.candidates.iter().map(compared).collect();
    let first = row(&found.model, None, found.is_reference);
    let others = found.candidates.iter().map(|c| row(&c.row, Some(&c.against), false));
    page.sections.push(Section {
        name: if found.candidates.is_empty() { "Model" } else { "Models" }.to_owned(),
        table: Table { titles: TITLES.to_vec(), rows: std::iter::once(first).chain(others).collect() },
        figures: figures(&compared),
        ..Section::default()
    });
    page
}

const TITLES: [&str; 10] = [
    "model",
    "size",
    "perplexity",
    "bits per byte",
    "perplexity / reference's",
    "mean KL",
    "median",
    "99 %",
    "same first choice",
    "RMS \u{394}p",
];

fn row(row: &Row, against: Option<&Against>, is_reference: bool) -> Vec<Cell> {
    let value = |e: Estimate| e.value;
    let figure = |e: Option<Estimate>, digits| Cell::number(e, value, |e| estimate(&e, digits, 1.0));
    let percent = |e: Option<Estimate>| Cell::number(e, value, |e| estimate(&e, 2, 100.0) + " %");
    let quantile = |e: Option<Estimate>| Cell::number(e, value, |e| nats(e.value));
    let reference = if is_reference { ", the reference" } else { "" };
    vec![
        Cell { tip: row.path.clone(), ..Cell::text(row.name() + reference) },
        Cell::number(Some(row.file_bytes), |b| b as f64, bytes),
        figure(Some(row.score.perplexity), 4),
        figure(row.score.bits_per_byte, 5),
        figure(against.map(|a| a.ppl_ratio), 5),
        Cell::number(against.map(|a| a.kl), value, |e| divergence(&e)),
        quantile(against.map(|a| a.kl_quantiles.median)),
        quantile(against.map(|a| a.kl_quantiles.p99)),
        percent(against.map(|a| a.top1)),
        percent(against.map(|a| a.rms_delta_p)),
    ]
}

fn compared(c: &Candidate) -> Compared<'_> {
    let name = c.row.name();
    let label = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem).to_owned();
    Compared { name, label, bytes: c.row.file_bytes, against: &c.against, is_rejected: false }
}

//! The page of a release.

use super::{Fate, Outcome, Record, Summary};
use crate::eval::Estimate;
use crate::html::heat::{self, Field, Heat};
use crate::html::quality::{Compared, figures, is_lossy};
use crate::html::{Cell, Page, Section, Table};
use crate::templates::{divergence, estimate};
use crate::units::bytes;

/// The page of all models of a release. It says nothing of when and where cells were made, so that it is the same
/// wherever it is made.
pub fn release(summary: &Summary) -> Page {
    let program = format!("{} {}", summary.program.name, summary.program.version);
    let mut page = Page::new(summary.release.clone(), program);
    page.by.clone_from(&summary.quantized_by);
    if let Some(quality) = summary.cells.iter().find_map(|c| c.record.as_ref()?.quality.as_ref()) {
        let setting = &quality.setting;
        page.remarks.push(format!(
            "Every artifact is compared with its source on {} tokens of {}, in {} of {}; \u{b1} is the standard error.",
            quality.scored.tokens,
            setting.texts.join(", "),
            setting.protocol,
            setting.ctx
        ));
    }
    let mut names: Vec<&str> = summary.cells.iter().map(|c| c.model.as_str()).collect();
    names.dedup();
    page.sections = names.into_iter().map(|name| section(name, &summary.cells)).collect();
    page
}

fn section(name: &str, cells: &[Outcome]) -> Section {
    let cells: Vec<&Outcome> =
        cells.iter().filter(|c| c.model == name && c.fate != Fate::Inapplicable).collect();
    let trouble = |c: &&Outcome| {
        (!c.why.is_empty()).then(|| format!("{} {}: {}", file(c), c.fate.name(), c.why.join("; ")))
    };
    let shared = |c: &&Outcome| {
        let share = c.record.as_ref()?.quality.as_ref()?.calibrated_on?;
        let percent = 100.0 * share;
        Some(format!(
            "{} was calibrated on {percent:.1} % of the text, and is better there than elsewhere",
            file(c)
        ))
    };
    let compared: Vec<Compared> = cells.iter().filter_map(|c| compared(c)).collect();
    Section {
        name: name.to_owned(),
        table: Table { titles: TITLES.to_vec(), rows: cells.iter().map(|c| row(c)).collect() },
        troubles: cells.iter().filter_map(trouble).chain(cells.iter().filter_map(shared)).collect(),
        figures: figures(&compared),
        maps: cells.iter().filter_map(|c| map(c.record.as_ref()?)).collect(),
    }
}

const TITLES: [&str; 7] =
    ["artifact", "", "size", "bits per weight", "perplexity / source's", "mean KL", "same first choice"];

fn row(cell: &Outcome) -> Vec<Cell> {
    let record = cell.record.as_ref();
    let against = record.and_then(|r| Some(&r.quality.as_ref()?.against));
    // Whether it was made in this run or before is not told.
    let (word, class) = match cell.fate {
        fate if fate.is_good() => ("finished", "good"),
        fate if fate.is_bad() => (fate.name(), "bad"),
        fate => (fate.name(), ""),
    };
    let value = |e: Estimate| e.value;
    vec![
        Cell::text(file(cell)),
        Cell { class, tip: cell.why.join("; "), ..Cell::text(word) },
        Cell::number(record.map(|r| r.bytes), |b| b as f64, bytes),
        Cell::number(record.map(|r| r.bits_per_weight), |b| b, |b| format!("{b:.2}")),
        Cell::number(against.map(|a| a.ppl_ratio), value, |e| estimate(&e, 5, 1.0)),
        Cell::number(against.map(|a| a.kl), value, |e| divergence(&e)),
        Cell::number(against.map(|a| a.top1), value, |e| estimate(&e, 2, 100.0) + " %"),
    ]
}

/// The artifact's file or folder in that of its model.
fn file(cell: &Outcome) -> &str {
    cell.path.rsplit('/').next().unwrap_or_default()
}

fn compared(cell: &Outcome) -> Option<Compared<'_>> {
    let record = cell.record.as_ref()?;
    Some(Compared {
        name: file(cell).to_owned(),
        label: record.recipe.kind(),
        bytes: record.bytes,
        against: &record.quality.as_ref()?.against,
        is_rejected: cell.fate == Fate::Rejected,
    })
}

fn map(record: &Record) -> Option<Heat> {
    let quality = record.quality.as_ref().filter(|q| is_lossy(&q.against))?;
    let fields =
        quality.tensors.iter().filter(|t| t.relative > 0.0 || !t.encoding.starts_with('f')).map(|t| {
            let bits = t.bytes as f64 * 8.0 / t.weights.max(1) as f64;
            let tip = format!(
                "{}: {}, {bits:.2} bits a weight, relative error {:.6}",
                t.name, t.encoding, t.relative
            );
            (t.name.clone(), Field { text: format!("{bits:.1}"), tip, heat: heat::of_error(t.relative) })
        });
    let name = record.files.first().map_or("", |f| f.name.as_str()).to_owned();
    let caption = "error of every tensor, relative to its size; bits a weight in the fields";
    Heat::new(name, caption, heat::ERRORS, fields)
}

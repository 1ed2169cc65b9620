//! What `report.html` shows of a release: tables, size against divergence, divergence by position, errors by tensor.

use serde::Serialize;
use serde_json::{Value, json};

use super::plot::{Dot, Line, Plot, Scale};
use super::record::Record;
use super::summary::{Fate, Outcome, Summary};
use crate::report::{bytes, nats};

/// Divergences below this are no differences of models but of arithmetic.
const NO_KL: f64 = 1e-10;

/// A model's part of the report.
#[derive(Serialize)]
struct Section<'a> {
    name: &'a str,
    cells: Vec<Value>,
    /// Size against divergence, if anything was measured.
    sizes: Option<Plot>,
    /// Divergence by the number of tokens read before.
    positions: Option<Plot>,
    /// Names of the lines of `positions`.
    legend: Vec<&'a str>,
    maps: Vec<Map<'a>>,
}

/// The errors of an artifact's tensors: a row a block, a column a tensor.
#[derive(Serialize)]
struct Map<'a> {
    name: &'a str,
    columns: Vec<&'a str>,
    rows: Vec<(String, Vec<Option<Heat<'a>>>)>,
}

#[derive(Clone, Serialize)]
struct Heat<'a> {
    name: &'a str,
    encoding: &'a str,
    bits: f64,
    relative: f64,
    /// From 0 (an error of 1e-4 or less) to 1 (one of 1 or more).
    heat: f64,
}

/// What the template is filled with.
pub(super) fn page(summary: &Summary) -> Value {
    let mut names: Vec<&str> = summary.cells.iter().map(|c| c.model.as_str()).collect();
    names.dedup();
    let section = |name: &&'_ str| {
        let cells: Vec<&Outcome> = summary.cells.iter().filter(|c| c.model == *name).collect();
        let measured: Vec<&Record> =
            cells.iter().filter_map(|c| c.record.as_ref()).filter(|r| r.quality.is_some()).collect();
        let lossy: Vec<&Record> = measured.iter().copied().filter(|r| kl(r) > NO_KL).collect();
        json!(Section {
            name,
            cells: cells.iter().filter(|c| c.fate != Fate::Inapplicable).map(|c| row(c)).collect(),
            sizes: (!lossy.is_empty()).then(|| sizes(&lossy)),
            positions: (!lossy.is_empty()).then(|| positions(&lossy)),
            legend: lossy.iter().map(|r| title(r)).collect(),
            maps: lossy.iter().filter_map(|r| map(r)).collect(),
        })
    };
    json!({
        "release": summary.release,
        "quantized_by": summary.quantized_by,
        "program": summary.program,
        "setting": summary.cells.iter().find_map(|c| c.record.as_ref()?.quality.as_ref()),
        "models": names.iter().map(section).collect::<Vec<_>>(),
    })
}

fn row(cell: &Outcome) -> Value {
    let mut row = json!(cell);
    // Whether it was made in this run or before is not told, so that the report is the same.
    row["name"] = cell.path.rsplit('/').next().unwrap_or_default().into();
    row["good"] = cell.fate.is_good().into();
    row["word"] = if cell.fate.is_good() { "finished" } else { cell.fate.name() }.into();
    row
}

/// What an artifact is called where its model is known.
fn title(record: &Record) -> &str {
    record.files.first().map_or("", |f| f.name.as_str())
}

fn kl(record: &Record) -> f64 {
    record.quality.as_ref().map_or(0.0, |q| q.against.kl.value)
}

fn power(value: f64) -> String {
    format!("{value:.0e}")
}

fn sizes(records: &[&Record]) -> Plot {
    let x = Scale::linear(records.iter().map(|r| r.bytes as f64));
    let y = Scale::powers(10.0, records.iter().map(|r| kl(r)));
    let mut plot = Plot::new(("size of the artifact", x, |v| bytes(v as u64)), ("mean KL, nats", y, power));
    let at = |plot: &Plot, r: &Record| plot.at((x, r.bytes as f64), (y, kl(r)));
    let best = |r: &Record| {
        let beats = |o: &Record| o.bytes <= r.bytes && kl(o) <= kl(r) && (o.bytes < r.bytes || kl(o) < kl(r));
        !records.iter().any(|o| beats(o))
    };
    let mut front: Vec<&Record> = records.iter().copied().filter(|r| best(r)).collect();
    front.sort_by_key(|r| r.bytes);
    let points = front.iter().map(|r| at(&plot, r)).collect();
    plot.lines.push(Line { points, series: 0, tip: "nothing is both smaller and nearer".to_owned() });
    for record in records {
        plot.dots.push(Dot {
            at: at(&plot, record),
            label: record.recipe.kind().to_owned(),
            tip: format!("{}: {}, mean KL {}", title(record), bytes(record.bytes), nats(kl(record))),
            best: best(record),
        });
    }
    plot
}

fn positions(records: &[&Record]) -> Plot {
    let buckets =
        |r: &Record| r.quality.iter().flat_map(|q| q.against.by_position.clone()).collect::<Vec<_>>();
    let all: Vec<_> = records.iter().flat_map(|r| buckets(r)).collect();
    let x = Scale::powers(2.0, all.iter().map(|b| b.from as f64));
    let y = Scale::powers(10.0, all.iter().map(|b| b.kl.value));
    let count = |v: f64| format!("{v:.0}");
    let mut plot = Plot::new(("tokens read before", x, count), ("mean KL, nats", y, power));
    for (series, record) in records.iter().enumerate() {
        let points =
            buckets(record).iter().map(|b| plot.at((x, b.from as f64), (y, b.kl.value.max(NO_KL)))).collect();
        plot.lines.push(Line { points, series, tip: title(record).to_owned() });
    }
    plot
}

fn map(record: &Record) -> Option<Map<'_>> {
    let tensors = &record.quality.as_ref()?.tensors;
    let mut columns: Vec<&str> = Vec::new();
    let mut rows: Vec<(String, Vec<Option<Heat>>)> = Vec::new();
    for tensor in tensors {
        let block = tensor.name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        let (Some((block, short)), true) =
            (block, tensor.relative > 0.0 || !tensor.encoding.starts_with('f'))
        else {
            continue;
        };
        let column = columns.iter().position(|c| *c == short).unwrap_or_else(|| {
            columns.push(short);
            columns.len() - 1
        });
        let name = format!("block {block}");
        if rows.last().is_none_or(|(last, _)| *last != name) {
            rows.push((name, Vec::new()));
        }
        let Some((_, cells)) = rows.last_mut() else { continue };
        cells.resize(cells.len().max(column + 1), None);
        cells[column] = Some(Heat {
            name: &tensor.name,
            encoding: &tensor.encoding,
            bits: tensor.bytes as f64 * 8.0 / tensor.weights.max(1) as f64,
            relative: tensor.relative,
            heat: (tensor.relative.max(1e-4).log10() / 4.0 + 1.0).min(1.0),
        });
    }
    for (_, cells) in &mut rows {
        cells.resize(columns.len(), None);
    }
    (!rows.is_empty()).then_some(Map { name: title(record), columns, rows })
}

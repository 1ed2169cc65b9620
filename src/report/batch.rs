//! A batch: its cells, and what came of them.

use std::io::{self, Write};

use serde::Serialize;

use super::Report;
use super::text::Table;
use crate::batch::{Cell, Fate, Outcome, Summary};
use crate::escape;
use crate::shard::Shard;
use crate::units::{bytes, nats};

impl Report for Summary {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table =
            Table::new(&["artifact", "fate", ">size", ">bits", ">ppl ratio", ">mean KL", ">seconds"]);
        for cell in self.cells.iter().filter(|c| c.fate != Fate::Inapplicable) {
            let record = cell.record.as_ref();
            let against = record.and_then(|r| r.quality.as_ref()).map(|q| &q.against);
            table.row([
                cell.path.clone(),
                cell.fate.name().to_owned(),
                record.map(|r| bytes(r.bytes)).unwrap_or_default(),
                record.map(|r| format!("{:.2}", r.bits_per_weight)).unwrap_or_default(),
                against.map(|a| format!("{:.5}", a.ppl_ratio.value)).unwrap_or_default(),
                against.map(|a| nats(a.kl.value)).unwrap_or_default(),
                format!("{:.1}", cell.seconds),
            ]);
        }
        table.write(out)?;
        let good = self.count(Fate::is_good);
        let inapplicable = self.count(|f| f == Fate::Inapplicable);
        let of = self.cells.len() - inapplicable;
        write!(out, "{good} of {of} artifacts finished in {:.1} s", self.seconds)?;
        match inapplicable {
            0 => writeln!(out),
            n => writeln!(out, "; {n} more are of no use: their targets cannot hold these models"),
        }
    }
}

/// A line on a cell that is done.
pub fn outcome_line(outcome: &Outcome, done: usize, of: usize) -> String {
    let mut line = format!("[{done}/{of}] {} {}", outcome.path, outcome.fate.name());
    let told = if outcome.fate.is_bad() { &outcome.why } else { &outcome.notes };
    if !told.is_empty() {
        line += &format!(": {}", told.join("; "));
    }
    let warnings = outcome.record.iter().flat_map(|record| &record.warnings);
    warnings.for_each(|warning| line += &format!("\n  warning: {}", escape::line(warning)));
    line
}

/// The cells of a job, as GitHub's `strategy.matrix` takes them: one entry for each machine.
#[derive(Debug, Serialize)]
pub struct CellList {
    include: Vec<ListRow>,
}

#[derive(Debug, Serialize)]
struct ListRow {
    /// Value of `--shard` for the machine.
    shard: String,
    /// The artifacts that it makes.
    artifacts: Vec<String>,
}

impl CellList {
    /// The cells spread over `shards` machines, by default one for each; over no more than there are cells.
    pub fn new(cells: &[Cell], shards: Option<usize>) -> CellList {
        let count = shards.unwrap_or(cells.len()).min(cells.len());
        let row = |index| {
            let shard = Shard { index, count };
            let own = cells.iter().enumerate().filter(|(place, _)| shard.has(*place));
            ListRow { shard: shard.to_string(), artifacts: own.map(|(_, cell)| cell.path()).collect() }
        };
        CellList { include: (1..=count).map(row).collect() }
    }
}

impl Report for CellList {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["shard", "artifact"]);
        for row in &self.include {
            for artifact in &row.artifacts {
                table.row([row.shard.clone(), artifact.clone()]);
            }
        }
        table.write(out)
    }
}

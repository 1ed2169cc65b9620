//! List of the formats that can be written.

use std::io::{self, Write};

use serde::Serialize;

use super::Report;
use super::text::Table;
use crate::targets::{Content, TARGETS, Target, type_names, version_names};

/// Every target, and what it can hold.
#[derive(Debug, Serialize)]
pub struct TargetList {
    targets: Vec<TargetRow>,
}

#[derive(Debug, Serialize)]
struct TargetRow {
    /// Value of `--to` that selects it.
    id: &'static str,
    name: &'static str,
    /// File extensions that select it without `--to`.
    extensions: &'static [&'static str],
    /// Part of a model that it holds.
    content: &'static str,
    folder: bool,
    splits: bool,
    runtimes: &'static str,
    versions: Vec<&'static str>,
    types: Vec<&'static str>,
    default_type: Option<&'static str>,
}

impl TargetList {
    /// Everything that the registries hold.
    pub fn all() -> TargetList {
        let row = |target: &&dyn Target| TargetRow {
            id: target.id(),
            name: target.name(),
            extensions: target.extensions(),
            content: match target.content() {
                Content::Model => "model",
                Content::Adapter => "LoRA",
                Content::State => "state",
            },
            folder: target.is_folder(),
            splits: target.splits(),
            runtimes: target.runtimes(),
            versions: version_names(*target),
            types: type_names(*target),
            default_type: target.default_type(),
        };
        TargetList { targets: TARGETS.iter().map(row).collect() }
    }
}

impl Report for TargetList {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["--to", "writes", "versions", "loaded by"]);
        for t in &self.targets {
            let mut written =
                if t.folder { "a folder".to_owned() } else { format!(".{}", t.extensions.join(", .")) };
            if t.content != "model" {
                written += &format!(", {} alone", t.content);
            }
            table.row([t.id.to_owned(), written, t.versions.join(" "), t.runtimes.to_owned()]);
        }
        table.write(out)?;
        let mut table = Table::new(&["--to", "types"]);
        for t in &self.targets {
            table.row([t.id.to_owned(), t.types.join(" ")]);
        }
        writeln!(out)?;
        table.write(out)
    }
}

//! Outputs of a release for people and programs: checksums, the manifest, model cards, the report, the summary in three
//! forms.
//!
//! All but the summary depends on the artifacts alone, so that it is the same wherever and whenever it is made.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::record::{self, FileRecord, Program, Record};
use super::summary::{Fate, Outcome, Summary};
use crate::error::Result;
use crate::files;
use crate::targets::TARGETS;
use crate::templates::{engine, fill};

/// Checksums of the artifacts of a model, or of all.
pub(super) const SUMS: &str = "SHA256SUMS";
/// The card of a model.
pub(super) const CARD: &str = "README.md";

/// Every artifact that belongs to the release.
pub(super) const MANIFEST: &str = "manifest.json";
/// File name of the summary: the results of every cell.
pub(super) const SUMMARY: &str = "summary.json";
/// Files that describe a release, besides the cards of its models.
pub(super) const OF_RELEASE: [&str; 6] = [SUMS, MANIFEST, SUMMARY, "summary.md", "summary.xml", REPORT];
/// Files that describe a model.
pub(super) const OF_MODEL: [&str; 2] = [SUMS, CARD];
/// The page with all that was measured.
const REPORT: &str = "report.html";

const TEMPLATES: [(&str, &str); 3] = [
    (CARD, include_str!("templates/README.md.jinja")),
    ("summary.md", include_str!("templates/summary.md.jinja")),
    ("summary.xml", include_str!("templates/summary.xml.jinja")),
];

/// `manifest.json`: every artifact that belongs to the release.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Manifest {
    /// The release's name.
    pub release: String,
    /// Who made the artifacts.
    pub quantized_by: Option<String>,
    /// What described them.
    pub program: Program,
    /// The models that have any.
    pub models: Vec<ManifestModel>,
}

/// A model of a release.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ManifestModel {
    /// Its name: that of its folder in the release.
    pub name: String,
    /// Its artifacts.
    pub artifacts: Vec<Record>,
}

impl Manifest {
    /// True if there is one at `path`.
    pub(super) fn is_at(path: &Path) -> bool {
        let text = files::json(path, "manifest", record::FILE_BYTES).ok();
        text.is_some_and(|text| serde_json::from_str::<Manifest>(&text).is_ok())
    }

    /// Manifest of a run, without failed cells.
    fn of(summary: &Summary) -> Manifest {
        let mut models: Vec<ManifestModel> = Vec::new();
        for cell in summary.cells.iter().filter(|c| c.is_published()) {
            let Some(mut record) = cell.record.clone() else { continue };
            // The record beside the artifact has all of it, under its seal.
            record.seal.clear();
            if let Some(quality) = &mut record.quality {
                quality.tensors.clear();
            }
            match models.iter_mut().find(|m| m.name == cell.model) {
                Some(model) => model.artifacts.push(record),
                None => models.push(ManifestModel { name: cell.model.clone(), artifacts: vec![record] }),
            }
        }
        Manifest {
            release: summary.release.clone(),
            quantized_by: summary.quantized_by.clone(),
            program: summary.program.clone(),
            models,
        }
    }
}

/// Every file that describes the release: its path in the release's folder, and what is in it.
///
/// # Errors
/// If a template cannot be filled.
pub(super) fn all(summary: &Summary) -> Result<Vec<(String, Vec<u8>)>> {
    let engine = engine(&TEMPLATES)?;
    let fill = |name: &str, values: Value| fill(&engine, name, &values);
    let manifest = Manifest::of(summary);
    let mut all = Vec::new();
    let mut sums = String::new();
    for model in &manifest.models {
        let files = || model.artifacts.iter().flat_map(|a| &a.files);
        sums += &checksums(files(), &format!("{}/", model.name));
        all.push((format!("{}/{SUMS}", model.name), checksums(files(), "").into_bytes()));
        all.push((format!("{}/{CARD}", model.name), fill(CARD, card(summary, model))?));
    }
    let structured = |name: &str, bytes: Result<Vec<u8>>| bytes.map(|bytes| (name.to_owned(), bytes));
    all.push((SUMS.to_owned(), sums.into_bytes()));
    all.push(structured(MANIFEST, record::json(&manifest, MANIFEST.as_ref()))?);
    all.push(structured(SUMMARY, record::json(summary, SUMMARY.as_ref()))?);
    for name in ["summary.md", "summary.xml"] {
        all.push((name.to_owned(), fill(name, overview(summary))?));
    }
    all.push((REPORT.to_owned(), super::html::release(summary).html()?));
    Ok(all)
}

/// Lines as `sha256sum` writes them.
fn checksums<'a>(files: impl Iterator<Item = &'a FileRecord>, folder: &str) -> String {
    files.map(|f| format!("{}  {folder}{}\n", f.sha256, f.name)).collect()
}

/// Values that the template of the model card gets.
fn card(summary: &Summary, model: &ManifestModel) -> Value {
    let artifacts = &model.artifacts;
    let example = |ids: &[&str]| {
        let held = artifacts.iter().find(|a| ids.contains(&a.recipe.target.as_str()));
        held.and_then(|a| a.files.first()).map(|f| &f.name)
    };
    let row = |a: &Record| {
        let target = TARGETS.iter().find(|t| t.id() == a.recipe.target);
        json!({
            "name": a.files.first().map(|f| &f.name),
            "files": a.files,
            "runtimes": target.map(|t| t.runtimes()),
            "type": a.recipe.kind(),
            "bits_per_weight": a.bits_per_weight,
            "quality": a.quality,
        })
    };
    let mut targets: Vec<&str> = artifacts.iter().map(|a| a.recipe.target.as_str()).collect();
    targets.sort_unstable();
    targets.dedup();
    json!({
        "name": model.name,
        "quantized_by": summary.quantized_by,
        "program": summary.program,
        "card": artifacts.first().map(|a| &a.card),
        "source": artifacts.first().map(|a| &a.source),
        "artifacts": artifacts.iter().map(row).collect::<Vec<_>>(),
        "measured": artifacts.iter().find_map(|a| a.quality.as_ref()),
        "targets": targets,
        "examples": {
            "gguf": example(&["gguf"]),
            "web": example(&["st", "prefab"]),
            "rwkv_cpp": example(&["rwkv.cpp"]),
            // The package wants its name without the extension, and says by the environment which versions it runs.
            "pip": example(&["pth"]).map(|name| name.trim_end_matches(".pth")),
            "pip_is_v7": artifacts.iter().any(|a| a.source.version.starts_with('7')),
        },
    })
}

/// Values that the templates of the summaries get.
fn overview(summary: &Summary) -> Value {
    let row = |c: &Outcome| {
        let mut row = json!(c);
        row["good"] = c.fate.is_good().into();
        row["bad"] = c.fate.is_bad().into();
        row["word"] = c.fate.name().into();
        row
    };
    let mut names: Vec<&str> = summary.cells.iter().map(|c| c.model.as_str()).collect();
    names.dedup();
    let suite = |name: &&str| {
        let cells = || summary.cells.iter().filter(|c| c.model == *name);
        let with = |is: fn(Fate) -> bool| cells().filter(|c| is(c.fate)).count();
        json!({
            "name": name,
            "cells": cells().map(row).collect::<Vec<_>>(),
            "rejected": with(|f| f == Fate::Rejected),
            "bad": with(Fate::is_bad),
            "skipped": with(|f| !f.is_good() && !f.is_bad()),
            "seconds": cells().map(|c| c.seconds).sum::<f64>(),
        })
    };
    json!({
        "release": summary.release,
        "seconds": summary.seconds,
        "good": summary.count(Fate::is_good),
        "bad": summary.count(Fate::is_bad),
        "rejected": summary.count(|f| f == Fate::Rejected),
        "inapplicable": summary.count(|f| f == Fate::Inapplicable),
        "not_run": summary.count(|f| f == Fate::NotRun),
        "cells": summary.cells.iter().map(row).collect::<Vec<_>>(),
        "models": names.iter().map(suite).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema of `manifest.json` is in the repository, and is that of what is written.
    #[test]
    fn the_schema_of_the_manifest_is_right() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/batch/manifest.schema.json");
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(Manifest)).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, &schema).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), schema, "UPDATE_SCHEMA=1 writes it anew");
    }
}

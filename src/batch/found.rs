//! Findings at the place of an artifact: if it is kept, the reason if not, and its owner.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::cell::{Cell, record_name};
use super::outputs::{MANIFEST, SUMMARY};
use super::record::{FILE_BYTES, FileRecord, Record, SEAL};
use crate::files;
use crate::identity::digest_of;
use crate::shard::Shard;

/// Content of a record's file.
#[derive(Debug)]
pub(super) enum Found {
    /// Absent file.
    Nothing,
    /// A record, as it was written.
    Sound(Box<Record>),
    /// A record of version 0.1.0: nothing tells whether it is as it was written.
    Older(Box<Record>),
    /// A record of which something was changed.
    Changed(Box<Record>),
    /// Part of a record.
    Damaged,
    /// File that does not begin as a record does: somebody's, or a record of which the disk lost the beginning.
    Foreign,
}

impl Found {
    /// Reads the record at `path`.
    pub fn at(path: &Path) -> Found {
        if !path.exists() {
            return Found::Nothing;
        }
        let text = files::json(path, "record", FILE_BYTES).ok();
        let value: Option<Value> = text.and_then(|text| serde_json::from_str(&text).ok());
        let record = value.as_ref().and_then(|value| Record::deserialize(value).ok());
        match (value, record.map(Box::new)) {
            (Some(_), Some(record)) if record.seal.is_empty() => Found::Older(record),
            (Some(value), Some(record)) if digest_of(&value, SEAL) == record.seal => Found::Sound(record),
            (Some(_), Some(record)) => Found::Changed(record),
            _ if begins_as_record(path) => Found::Damaged,
            _ => Found::Foreign,
        }
    }

    /// Reason that it does not stand for the planned artifact, if something is there.
    pub fn why_not(&self, planned: &Record) -> Option<String> {
        Some(match self {
            Found::Nothing => return None,
            Found::Sound(record) if record.cell == planned.cell => {
                "made again: its files were not what had been written".to_owned()
            }
            Found::Sound(record) => {
                let differences = record.identity.differences(&planned.identity);
                format!("replaces one that was made with other options: {}", differences.join(", "))
            }
            Found::Older(record) => format!("replaces one of rwkv-quant {}", record.program.version),
            Found::Changed(_) => "made again: its record was changed after it had been written".to_owned(),
            Found::Damaged | Found::Foreign => "made again: its record was damaged".to_owned(),
        })
    }

    /// True if a batch made the artifact, the file or folder `artifact` of a model, that is in `folder`. If its own record
    /// cannot be trusted, it must be as what describes the release in `out` says.
    pub fn is_ours(&self, out: &Path, folder: &Path, artifact: &str) -> bool {
        match self {
            Found::Sound(record) | Found::Older(record) => record.owns_all(folder),
            Found::Changed(record) if record.owns_all(folder) => true,
            Found::Nothing | Found::Changed(_) | Found::Damaged | Found::Foreign => {
                is_described(out, folder, artifact)
            }
        }
    }
}

/// The record of what an earlier run made in the place of a cell, if it is there still.
pub(super) fn standing(cell: &Cell, out: &Path) -> Option<Record> {
    let folder = cell.folder(out);
    match Found::at(&folder.join(record_name(&cell.name))) {
        Found::Sound(record) if record.is_there(&folder) => Some(*record),
        _ => None,
    }
}

/// True if a file is empty, or begins with the bytes that every record begins with.
fn begins_as_record(path: &Path) -> bool {
    const BEGIN: &[u8] = b"{\n  \"cell\":";
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(BEGIN.len() as u64).read_to_end(&mut bytes));
    read.is_ok() && BEGIN.starts_with(&bytes)
}

/// True if any model's folder holds a record.
pub(super) fn are_records_in(out: &Path, models: &[&str]) -> bool {
    let is_record = |path: &Path| {
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        is_json && matches!(Found::at(path), Found::Sound(_) | Found::Older(_) | Found::Changed(_))
    };
    let entries = models.iter().filter_map(|model| fs::read_dir(out.join(model)).ok()).flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).any(|path| is_record(&path))
}

/// True if the manifest, or a summary, says of the artifact what is there.
fn is_described(out: &Path, folder: &Path, artifact: &str) -> bool {
    let Ok(entries) = fs::read_dir(out) else { return false };
    let names = entries.filter_map(|e| Some(e.ok()?.file_name().to_str()?.to_owned()));
    let describes =
        |name: &String| [MANIFEST, SUMMARY].contains(&name.as_str()) || Shard::is_summary_name(name);
    let model = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    names.filter(describes).any(|name| {
        let text = files::json(&out.join(&name), "manifest", FILE_BYTES).ok();
        let value: Option<Value> = text.and_then(|text| serde_json::from_str(&text).ok());
        value.is_some_and(|value| {
            files_of(&value, &model, artifact).iter().any(|files| are_owned(files, folder))
        })
    })
}

/// The files of an artifact as a manifest or a summary lists them; several where it does so more than once.
fn files_of(described: &Value, model: &str, artifact: &str) -> Vec<Vec<FileRecord>> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let of_models = list(described, "models").into_iter().filter(|m| m["name"] == model);
    let artifacts = of_models.flat_map(|m| list(&m, "artifacts"));
    let cells =
        list(described, "cells").into_iter().filter(|c| c["model"] == model).map(|c| c["record"].clone());
    let files = artifacts.chain(cells).filter_map(|record| Vec::deserialize(&record["files"]).ok());
    let is_of = |file: &FileRecord| {
        file.name.strip_prefix(artifact).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    files.filter(|files: &Vec<FileRecord>| files.iter().any(is_of)).collect()
}

/// True if none of the files in `folder` has other bytes than it had.
pub(super) fn are_owned(files: &[FileRecord], folder: &Path) -> bool {
    let is_same = |f: &FileRecord| {
        let path = folder.join(&f.name);
        path.symlink_metadata().is_err()
            || FileRecord::of(&path, f.name.clone()).is_ok_and(|found| found == *f)
    };
    !files.is_empty() && files.iter().all(is_same)
}

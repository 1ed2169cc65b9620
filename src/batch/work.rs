//! One cell from start to end: converted, measured, judged; what is done already is kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::cell::{Aim, Cell, record_name, sketch};
use super::claim::{Claim, lock_name, make_folder};
use super::found::Found;
use super::job::{Evaluation, Job};
use super::record::{FileRecord, Quality, Record, TensorError, address};
use super::schedule::Memory;
use crate::checkpoint::Checkpoint;
use crate::convert::{Companion, Prepared, Request};
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::eval::{Load, Task, same_vocabulary, vocabulary_sha256};
use crate::files::InputFile;
use crate::hub;
use crate::metadata;
use crate::model::Model;
use crate::pipeline::{Silent, Stop};
use crate::plan::Plan;
use crate::runner::{Options, Runner};
use crate::storage::{self, Inputs, Written};
use crate::targets;
use crate::units::bytes;

/// Raised whenever the program measures other figures of the same model and text.
const GENERATION: u32 = 1;

/// State that all cells of a run share.
pub(super) struct Workshop<'a> {
    pub job: &'a Job,
    /// The release's folder.
    pub out: &'a Path,
    /// True if files are replaced that no run of this program left.
    pub force: bool,
    /// True if memory is short, so that models are streamed.
    pub stream: bool,
    pub memory: &'a Memory,
    pub stop: &'a Stop,
    /// The files of the sources hashed so far, by the model's name.
    hashes: BTreeMap<&'a str, Mutex<Option<Vec<FileRecord>>>>,
    /// SHA-256 of the texts.
    texts: Mutex<Option<String>>,
}

/// Result of a cell.
#[derive(Debug)]
pub(super) enum Done {
    /// The artifact is there.
    There {
        /// Record of the artifact.
        record: Box<Record>,
        /// True if all of it was there before.
        kept: bool,
        /// Gates that it fails.
        failures: Vec<String>,
        /// Notes on an artifact found in its place.
        notes: Vec<String>,
    },
    /// Artifact that would be too large, so it was not made.
    TooLarge(String),
    /// The target cannot hold this model, and nobody asked for this very pair.
    Inapplicable(String),
}

impl<'a> Workshop<'a> {
    pub fn new(
        job: &'a Job,
        out: &'a Path,
        force: bool,
        stream: bool,
        memory: &'a Memory,
        stop: &'a Stop,
    ) -> Workshop<'a> {
        let hashes = job.models.iter().map(|m| (m.name.as_str(), Mutex::default())).collect();
        Workshop { job, out, force, stream, memory, stop, hashes, texts: Mutex::default() }
    }

    /// Makes the artifact of a cell with so many threads, unless it is there.
    ///
    /// # Errors
    /// Whatever stands in the way of it.
    pub fn make(&self, cell: &Cell, threads: usize) -> Result<Done> {
        let folder = cell.folder(self.out);
        let mut request = cell.request(self.job, &folder);
        request.options.threads = Some(threads);
        request.input = hub::local(&request.input)?.into_owned();
        let target = cell.place.artifact.target;
        let model = request.open(target)?;
        if cell.place.artifact.models.is_none() && !target.takes(model.version) {
            return Ok(Done::Inapplicable(targets::refused(target, &model).to_string()));
        }
        // What is measured for the plan is measured only for an artifact that is not there yet.
        let sketch = sketch(&request);
        let plan =
            |request: &Request, model| request.plan(model, target, cell.place.file_type, &Silent, self.stop);
        let mut prepared = plan(sketch.as_ref().unwrap_or(&request), model)?;
        let limit = cell.gates.max_size;
        let too_large = |size: u64| {
            let over = limit.filter(|limit| size > *limit)?;
            Some(Done::TooLarge(format!("the size is {} ({size} bytes), and the limit {over}", bytes(size))))
        };
        let planned_too_large =
            |plan: &Plan| if plan.is_estimated() { None } else { too_large(plan.total_bytes()) };
        if let (None, Some(refused)) = (&sketch, planned_too_large(&prepared.plan)) {
            return Ok(refused);
        }
        make_folder(&folder)?;
        let mut claim = Claim::take(&folder.join(lock_name(&cell.name)), self.stop)?;
        let (path, out) = (record_path(&folder, cell), folder.join(&cell.name));
        // What a killed run had begun is undone or completed before anybody looks at it.
        storage::recover(&out)?;
        storage::recover(&path)?;
        let sources = self.source(cell, &prepared.model);
        let mut planned = Record::planned(self.job, cell, &request, &prepared, &sources)?;
        let mut notes = Vec::new();
        let (mut record, mut kept) = match Found::at(&path) {
            Found::Sound(record) if record.cell == planned.cell && record.is_whole(&folder) => {
                if claim.broken_off {
                    Checkpoint::discard(&out)?;
                }
                (*record, true)
            }
            found => {
                notes.extend(found.why_not(&planned));
                // What stands there and is not what a record names is somebody's, unless a killed run was about to write it.
                let is_ours = claim.broken_off || found.is_ours(self.out, &folder, &cell.name);
                if matches!(found, Found::Foreign) && !is_ours && !self.force {
                    return Err(Error::Exists { path });
                }
                if sketch.is_some() {
                    let _held = self.memory.take(sources.iter().map(|f| f.bytes).sum(), self.stop)?;
                    prepared = plan(&request, request.open(target)?)?;
                    // What is measured cannot be told before, so the artifact is known by what is asked for.
                    let (address, identity) = (planned.cell, planned.identity);
                    planned = Record::planned(self.job, cell, &request, &prepared, &sources)?;
                    (planned.cell, planned.identity) = (address, identity);
                    if let Some(refused) = planned_too_large(&prepared.plan) {
                        return Ok(refused);
                    }
                }
                claim.begin()?;
                // The artifact and its record get their names together: without the record, the artifact would be somebody's.
                let mut made = None;
                let mut record = |prepared: &Prepared, files: Vec<Written>| {
                    let mut record = planned.clone().sized(&prepared.plan);
                    record.divergence = prepared.divergence();
                    record.warnings = prepared.warnings();
                    record.files = files.into_iter().map(|file| relative(file, &folder)).collect();
                    let bytes = record.sealed(&path);
                    made = Some(record);
                    bytes
                };
                let companion = Companion { path: &path, bytes: &mut record };
                self.convert(&mut prepared, companion, is_ours)?;
                (made.unwrap_or(planned), false)
            }
        };
        if let Some(refused) = too_large(record.bytes) {
            return Ok(refused);
        }
        if let Some(evaluation) = &self.job.evaluation
            && let Some(quality) = self.measure(&request, &prepared, evaluation, &record, threads)?
        {
            (record.quality, kept) = (Some(quality), false);
            storage::write(&path, &record.sealed(&path)?, &Inputs::new(), true)?;
        }
        let quality = cell.gates.quality();
        let mut failures = record.quality.as_ref().map(|q| quality.failures(&q.against)).unwrap_or_default();
        if let (Aim::Divergence(most), Some(found)) = (cell.place.aim, record.divergence)
            && found > most
        {
            failures.push(format!(
                "the divergence on held-out calibration tokens is {found:.2e}, and target_kl {most}"
            ));
        }
        Ok(Done::There { record: Box::new(record), kept, failures, notes })
    }

    /// The files of the model that a cell is made from; hashed once a run.
    fn source(&self, cell: &Cell, model: &Model) -> Vec<FileRecord> {
        let hash = || {
            let files = model.container.files().iter();
            let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.map(|f| FileRecord::mapped(f, name(f.path()))).collect::<Vec<_>>()
        };
        match self.hashes.get(cell.place.source.name.as_str()) {
            Some(known) => {
                known.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(hash).clone()
            }
            None => hash(),
        }
    }

    fn convert(&self, prepared: &mut Prepared, record: Companion<'_>, is_ours: bool) -> Result<()> {
        let _held = self.memory.take(prepared.budget.peak_bytes, self.stop)?;
        prepared.write_with(Some(record), self.force || is_ours, &Silent, self.stop)
    }

    /// The figures that the job wants of the artifact; `None` if `record` holds them already.
    fn measure(
        &self,
        request: &Request,
        prepared: &Prepared,
        evaluation: &Evaluation,
        record: &Record,
        threads: usize,
    ) -> Result<Option<Quality>> {
        let asked = InputFile::path_of(&request.recipe.metadata.vocab);
        let coder = metadata::coder(&prepared.model, asked)?;
        let texts: Vec<PathBuf> = evaluation.texts.iter().map(|t| self.job.resolved(t)).collect();
        let hashes = |files: &[FileRecord]| files.iter().map(|f| f.sha256.clone()).collect::<Vec<_>>();
        let measurement = address(&(
            GENERATION,
            hashes(&record.source.files),
            &record.recipe.drop,
            hashes(&record.files),
            vocabulary_sha256(coder.vocab()),
            self.texts_sha256(&texts)?,
            (evaluation.ctx, evaluation.stride.unwrap_or(evaluation.ctx), evaluation.windows),
        ));
        if record.quality.as_ref().is_some_and(|q| q.measurement == measurement) {
            return Ok(None);
        }
        let options = Options { stream: self.stream, ..Options::default() };
        let source = Runner::new(request.open(prepared.plan.target)?, options.clone())?;
        let artifact = Runner::new(Model::open(&prepared.to_open(), &[])?, options)?;
        same_vocabulary(source.model(), artifact.model(), coder.vocab(), asked.is_some())?;
        let task =
            Task::new(&texts, coder, evaluation.protocol(), evaluation.windows, evaluation.allow_non_utf8)?;
        let models = [&source, &artifact];
        let held = self.memory.take(Load::full_bytes(&models, task.work()), self.stop)?;
        let load = Load::within(&models, task.work(), Some(held.bytes))?;
        let pool = crate::pipeline::pool(threads)?;
        let found = pool.install(|| task.run(&models, &[], load, |_| self.stop.check()))?;
        let tensors = pool.install(|| TensorError::all(source.model(), artifact.model()));
        let mut setting = task.setting();
        setting.texts = evaluation.texts.iter().map(|t| t.display().to_string()).collect();
        let share = metadata::share_of(artifact.model(), &task.corpus.tokens);
        let quality = |(score, against)| Quality {
            measurement,
            setting,
            calibrated_on: share,
            scored: found.scored,
            source: found.first,
            artifact: score,
            against,
            tensors,
        };
        Ok(found.others.into_iter().next().map(quality))
    }

    fn texts_sha256(&self, texts: &[PathBuf]) -> Result<String> {
        let mut known = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            let read = |path: &PathBuf| fs::read(path).map_err(Error::read("text", path));
            let all: Vec<Vec<u8>> = texts.iter().map(read).collect::<Result<_>>()?;
            *known = Some(sha256(all.iter().map(Vec::as_slice)));
        }
        Ok(known.clone().unwrap_or_default())
    }
}

/// Path of a cell's record.
fn record_path(folder: &Path, cell: &Cell) -> PathBuf {
    folder.join(record_name(&cell.name))
}

/// The record of a file within the model's folder.
fn relative(file: Written, folder: &Path) -> FileRecord {
    let name = file.path.strip_prefix(folder).unwrap_or(&file.path);
    let parts: Vec<String> = name.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    FileRecord { name: parts.join("/"), bytes: file.bytes, sha256: file.sha256 }
}

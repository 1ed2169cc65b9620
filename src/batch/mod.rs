//! A release: many models in many types, made, measured, judged and described in one run.
//!
//! ```text
//! Job         the job file: models, artifacts, gates                      release.toml
//! Cell        one artifact of one model; every n-th belongs to a Shard
//! Record      what is known of a finished artifact, with the address      MODEL/NAME.json
//!             of what its bytes depend on
//! Summary     what came of every cell
//! outputs     what people and programs get of it                          README.md, manifest.json, SHA256SUMS, ...
//! ```
//!
//! A cell whose record has the right address is kept; a cell that was converted but not measured is measured. So a
//! batch that was killed, or of which one recipe was changed, does what is missing and nothing else. Workers on one
//! cell wait for each other, in one process, in several and on several machines with a common folder.

mod cell;
mod claim;
mod found;
mod html;
mod inventory;
mod job;
mod outputs;
mod record;
mod schedule;
mod summary;
mod upload;
mod work;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

pub use cell::{Aim, Cell, Place, cells};
pub use html::release;
pub use inventory::inventory;
pub use job::{Artifact, Evaluation, Gates, Job, Release, Source};
pub use outputs::{Manifest, ManifestModel};
pub use record::{
    CalibrationRecord, Card, ChoiceRecord, FileRecord, Program, Quality, RecipeRecord, Record, Share,
    SourceRecord, TensorError,
};
pub use summary::{Fate, Outcome, Summary};
pub use upload::{Uploaded, upload};

use crate::error::{Error, Result};
use crate::pipeline::{self, Stop};
use crate::shard::Shard;
use crate::storage::{self, Inputs};
use claim::{Claim, make_folder};
use schedule::Memory;
use work::{Done, Workshop};

/// Settings of a batch run.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The folder to write, if not the job's.
    pub out: Option<PathBuf>,
    /// Shard of the release.
    pub shard: Option<Shard>,
    /// Most cells at work at once; by default as many as threads.
    pub at_once: Option<usize>,
    /// Threads of all cells; by default as many as the machine runs at once, up to 64.
    pub threads: Option<usize>,
    /// Memory of all cells; by default half of the machine's.
    pub max_memory: Option<u64>,
    /// Replace files that no batch has made.
    pub force: bool,
}

/// Runs the cells of a job, and writes what describes the release; of a shard, its summary. `listen` hears of every
/// cell that is done, how many are, and of how many.
///
/// # Errors
/// If the job is wrong, the folder cannot be written, or what describes the release cannot. What goes wrong in a cell is
/// in the summary; see [`Summary::verdict`].
pub fn run(
    job: &Job,
    settings: &Settings,
    stop: &Stop,
    listen: &(dyn Fn(&Outcome, usize, usize) + Sync),
) -> Result<Summary> {
    let cells = cells(job)?;
    job.check_files()?;
    let inputs = job.inputs();
    let memory = Memory::new(settings.max_memory);
    let out = settings.out.clone().unwrap_or_else(|| job.out());
    make_folder(&out)?;
    if !settings.force {
        let models: Vec<&str> = job.models.iter().map(|m| m.name.as_str()).collect();
        refuse_strangers(&out, &models)?;
    }
    let described = cells.iter().map(|cell| cell.folder(&out)).chain([out.clone()]);
    let described = described
        .flat_map(|f| outputs::OF_RELEASE.into_iter().chain(outputs::OF_MODEL).map(move |n| f.join(n)));
    let records = cells.iter().map(|cell| cell.folder(&out).join(cell::record_name(&cell.name)));
    described.chain(records).try_for_each(|path| inputs.refuse(&path))?;
    let workshop = Workshop::new(job, &out, settings.force, settings.max_memory.is_some(), &memory, stop);
    let mut summary = run_with(job, &cells, settings, listen, |cell, threads| {
        stop.check()?;
        workshop.make(cell, threads)
    });
    for outcome in summary.cells.iter_mut().filter(|outcome| outcome.fate.is_open()) {
        outcome.record = found::standing(&cells[outcome.place], &out);
    }
    if summary.shard == Shard::WHOLE {
        publish(&summary, &out)?;
    } else {
        let path = out.join(summary.shard.summary_name());
        let _claim = sole(&out)?;
        storage::write(&path, &record::json(&summary, &path)?, &Inputs::new(), true)?;
    }
    Ok(summary)
}

/// Runs the batch with any work on the cells, and writes nothing.
fn run_with(
    job: &Job,
    cells: &[Cell],
    settings: &Settings,
    listen: &(dyn Fn(&Outcome, usize, usize) + Sync),
    work: impl Fn(&Cell, usize) -> Result<Done> + Sync,
) -> Summary {
    let start = Instant::now();
    let shard = settings.shard.unwrap_or(Shard::WHOLE);
    let own: Vec<(usize, &Cell)> = cells.iter().enumerate().filter(|(place, _)| shard.has(*place)).collect();
    let threads = settings.threads.unwrap_or_else(pipeline::default_threads);
    let at_once = settings.at_once.unwrap_or(threads).max(1);
    let done = AtomicUsize::new(0);
    let outcomes = schedule::all(own.len(), at_once, threads, |i, threads| {
        let (start, (place, cell)) = (Instant::now(), own[i]);
        let made = schedule::caught(|| work(cell, threads));
        let outcome = Outcome::new(place, cell, made, start.elapsed().as_secs_f64());
        listen(&outcome, done.fetch_add(1, Ordering::Relaxed) + 1, own.len());
        outcome
    });
    Summary {
        release: job.name(),
        quantized_by: job.release.quantized_by.clone(),
        program: Program::this(),
        job: job.sha256.clone(),
        shard,
        seconds: start.elapsed().as_secs_f64(),
        cells: outcomes,
    }
}

/// Joins the summaries of all shards in the folder of a release, and writes what describes it.
///
/// # Errors
/// [`Error::Check`] if a shard is missing, or a file of a finished artifact. [`Error::Interrupted`] if told to stop.
pub fn merge(out: &Path, stop: &Stop) -> Result<Summary> {
    let entries = std::fs::read_dir(out).map_err(Error::io("read", out))?;
    let mut shards = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", out))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if Shard::is_summary_name(&name) {
            shards.push(Summary::read(&path)?);
        }
    }
    let summary = Summary::join(shards)?;
    let models: Vec<&str> = summary.cells.iter().map(|cell| cell.model.as_str()).collect();
    refuse_strangers(out, &models)?;
    for cell in summary.cells.iter().filter(|c| c.is_published()) {
        stop.check()?;
        let folder = out.join(&cell.model);
        if !cell.record.as_ref().is_some_and(|record| record.is_whole(&folder)) {
            return Err(Error::Check {
                what: format!("{} is not in {} as it was made", cell.path, out.display()),
            });
        }
    }
    stop.check()?;
    publish(&summary, out)?;
    Ok(summary)
}

/// Refuses a folder that holds files of the names of those that describe a release, but neither a manifest nor a record:
/// they are somebody's.
fn refuse_strangers(out: &Path, models: &[&str]) -> Result<()> {
    let claim = sole(out)?;
    if claim.broken_off || Manifest::is_at(&out.join(outputs::MANIFEST)) || found::are_records_in(out, models)
    {
        return Ok(());
    }
    let of_models = models.iter().flat_map(|model| outputs::OF_MODEL.map(|name| out.join(model).join(name)));
    let all = outputs::OF_RELEASE.iter().map(|name| out.join(name)).chain(of_models);
    match all.into_iter().find(|path| path.exists()) {
        Some(path) => Err(Error::Usage {
            what: format!("{} is there, and is of no release", path.display()),
            help: "give another folder, --out FOLDER, or --force to replace it".to_owned(),
        }),
        None => Ok(()),
    }
}

/// Writes what describes a release, and removes what killed runs left of artifacts that are not in it any more.
fn publish(summary: &Summary, out: &Path) -> Result<()> {
    let mut claim = sole(out)?;
    claim.begin()?;
    let files = outputs::all(summary)?;
    // Of a model that has no artifact any more, nothing praises any.
    for model in summary.cells.iter().map(|cell| out.join(&cell.model)) {
        let (sums, card) = (model.join(outputs::SUMS), model.join(outputs::CARD));
        let described = files.iter().any(|(path, _)| out.join(path) == sums);
        if !described && sums.exists() {
            for path in [&sums, &card].into_iter().filter(|path| path.exists()) {
                std::fs::remove_file(path).map_err(Error::io("remove", path))?;
            }
        }
        claim::sweep(&model, |artifact| {
            summary.cells.iter().any(|cell| out.join(&cell.path) == model.join(artifact))
        })?;
    }
    for (path, bytes) in files {
        storage::write(&out.join(path), &bytes, &Inputs::new(), true)?;
    }
    Ok(())
}

/// The sole right to describe the release. (It is had in a moment, so Ctrl-C need not be heard.)
fn sole(out: &Path) -> Result<Claim> {
    Claim::take(&out.join(".release.lock"), &Stop::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ctrl-C while a finished release is looked at again takes nothing from it.
    #[test]
    fn a_run_that_is_stopped_leaves_what_describes_a_finished_release() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job.toml");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/rwkv7-bytes.pth");
        let text = format!("[[model]]\nname = \"m\"\nsource = {source:?}\n[[artifact]]\ntype = \"q8_0\"\n");
        std::fs::write(&path, text).unwrap();
        let job = Job::read(&path).unwrap();
        let out = dir.path().join("out");
        let settings = Settings { out: Some(out.clone()), ..Settings::default() };
        let fate = |stop: &Stop| run(&job, &settings, stop, &|_, _, _| {}).unwrap().cells[0].fate;
        let described = || {
            let names = ["SHA256SUMS", "manifest.json", "m/SHA256SUMS", "m/README.md"];
            names.map(|name| std::fs::read_to_string(out.join(name)).unwrap())
        };
        assert_eq!(fate(&Stop::new()), Fate::Made);
        let before = described();
        let stopped = Stop::new();
        stopped.ask();
        assert_eq!(fate(&stopped), Fate::NotRun);
        assert_eq!(described(), before);
        assert!(before[0].contains("m/m-Q8_0.gguf"), "{}", before[0]);
        // What is not there any more is not told of.
        std::fs::remove_file(out.join("m/m-Q8_0.gguf")).unwrap();
        assert_eq!(fate(&stopped), Fate::NotRun);
        assert!(!std::fs::read_to_string(out.join("manifest.json")).unwrap().contains("m-Q8_0"));
        assert!(!out.join("m/README.md").exists());
        assert_eq!(fate(&Stop::new()), Fate::Made);
        assert_eq!(described(), before);
    }

    #[test]
    fn a_cell_that_panics_is_one_fate_among_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job.toml");
        let text = "[[model]]\nsource = \"m.pth\"\n[[artifact]]\ntype = [\"q8_0\", \"q4_0\", \"f16\"]\n";
        std::fs::write(&path, text).unwrap();
        let job = Job::read(&path).unwrap();
        let heard = AtomicUsize::new(0);
        let listen = |_: &Outcome, _: usize, _: usize| {
            heard.fetch_add(1, Ordering::Relaxed);
        };
        let summary = run_with(&job, &cells(&job).unwrap(), &Settings::default(), &listen, |cell, _| {
            assert!(cell.name != "m-Q4_0.gguf", "bad luck");
            Ok(Done::Inapplicable("no".to_owned()))
        });
        let fates: Vec<Fate> = summary.cells.iter().map(|c| c.fate).collect();
        assert_eq!(fates, [Fate::Inapplicable, Fate::Failed, Fate::Inapplicable]);
        assert_eq!(summary.cells[1].why, ["a mistake in the program: bad luck"]);
        assert_eq!(heard.into_inner(), 3);
        assert_eq!(summary.verdict().unwrap_err().to_string(), "1 of 3 cells failed");
    }
}

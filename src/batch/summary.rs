//! Results of every cell, of one shard or of all.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cell::Cell;
use super::record::{Program, Record, SEAL};
use super::work::Done;
use crate::error::{Error, Result, Status};
use crate::files;
use crate::identity::{digest_of, made_by_older};
use crate::shard::Shard;

/// Largest summary that is read.
const FILE_BYTES: u64 = 256 << 20;

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Summary {
    /// The release's name.
    pub release: String,
    /// Who made the artifacts.
    pub quantized_by: Option<String>,
    /// What made them.
    pub program: Program,
    /// SHA-256 of the job file.
    #[serde(default)]
    pub job: String,
    /// Which part of the release.
    pub shard: Shard,
    /// Wall time of the run; of the longest, where several were joined.
    pub seconds: f64,
    /// The cells of the shard, in the job's order.
    pub cells: Vec<Outcome>,
}

/// What came of a cell.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Outcome {
    /// Its place in the job, from 0 on.
    pub place: usize,
    /// The model's name in the release.
    pub model: String,
    /// The artifact: a file or folder within the release.
    pub path: String,
    /// What for.
    pub target: String,
    /// In which type.
    #[serde(rename = "type")]
    pub file_type: String,
    /// Its fate.
    pub fate: Fate,
    /// Why, if it is no good.
    pub why: Vec<String>,
    /// What was found in the place of an artifact that was made, and could not be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What to do about it.
    pub help: Option<String>,
    /// Time that it took.
    pub seconds: f64,
    /// What is known of the artifact, if it is there; if it was not made, of what an earlier run made in its place.
    pub record: Option<Record>,
}

/// What becomes of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The artifact was made.
    Made,
    /// It was there already, and right.
    Kept,
    /// It was made, or would have been, but does not keep a gate.
    Rejected,
    /// It could not be made.
    Failed,
    /// It could not be made for want of disk or memory; another machine may.
    Short,
    /// The target cannot hold this model.
    Inapplicable,
    /// The run was stopped before.
    NotRun,
}

impl Fate {
    /// True if the artifact belongs to the release.
    pub fn is_good(self) -> bool {
        matches!(self, Fate::Made | Fate::Kept)
    }

    /// True if somebody has to look after it.
    pub fn is_bad(self) -> bool {
        matches!(self, Fate::Rejected | Fate::Failed | Fate::Short)
    }

    /// True if it says nothing of what an earlier run made.
    pub fn is_open(self) -> bool {
        matches!(self, Fate::Short | Fate::NotRun)
    }

    /// Description in words.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Made => "made",
            Fate::Kept => "kept",
            Fate::Rejected => "rejected",
            Fate::Failed => "failed",
            Fate::Short => "out of disk or memory",
            Fate::Inapplicable => "not applicable",
            Fate::NotRun => "not run",
        }
    }
}

impl Outcome {
    /// True if what describes the release tells of the artifact: it is good, or still stands as an earlier run made it.
    pub fn is_published(&self) -> bool {
        self.record.is_some() && (self.fate.is_good() || self.fate.is_open())
    }

    /// Result of the cell at `place`; `Err` of `Err` holds the message of a panic.
    pub(super) fn new(
        place: usize,
        cell: &Cell,
        done: std::result::Result<Result<Done>, String>,
        seconds: f64,
    ) -> Outcome {
        let mut outcome = Outcome {
            place,
            model: cell.place.source.name.clone(),
            path: cell.path(),
            target: cell.place.artifact.target.id().to_owned(),
            file_type: cell.place.file_type.name.to_owned(),
            fate: Fate::Made,
            why: Vec::new(),
            notes: Vec::new(),
            help: None,
            seconds,
            record: None,
        };
        (outcome.fate, outcome.why) = match done {
            Ok(Ok(Done::There { record, kept, failures, notes })) => {
                outcome.record = Some(*record);
                outcome.notes = notes;
                match (failures.is_empty(), kept) {
                    (false, _) => (Fate::Rejected, failures),
                    (true, true) => (Fate::Kept, Vec::new()),
                    (true, false) => (Fate::Made, Vec::new()),
                }
            }
            Ok(Ok(Done::TooLarge(why))) => (Fate::Rejected, vec![why]),
            Ok(Ok(Done::Inapplicable(why))) => (Fate::Inapplicable, vec![why]),
            Ok(Err(Error::Interrupted)) => (Fate::NotRun, Vec::new()),
            Ok(Err(error)) => {
                outcome.help = error.help();
                let short = error.status() == Status::Resources;
                (if short { Fate::Short } else { Fate::Failed }, vec![error.to_string()])
            }
            Err(panic) => {
                outcome.help = Some("please report it, with the model and the job".to_owned());
                (Fate::Failed, vec![format!("a mistake in the program: {panic}")])
            }
        };
        outcome
    }
}

impl Summary {
    /// The cells with some fate.
    pub fn count(&self, is: impl Fn(Fate) -> bool) -> usize {
        self.cells.iter().filter(|c| is(c.fate)).count()
    }

    /// Result of the batch: success, or the number of cells that failed.
    ///
    /// # Errors
    /// [`Error::Batch`].
    pub fn verdict(&self) -> Result<()> {
        let of = self.cells.len();
        let (bad, not_run) = (self.count(Fate::is_bad), self.count(|f| f == Fate::NotRun));
        let (what, status) = match (bad, not_run) {
            (0, 0) => return Ok(()),
            (_, 1..) => {
                (format!("interrupted: {not_run} of {of} cells are still to be made"), Status::Interrupted)
            }
            _ if self.count(|f| f == Fate::Short) == bad => {
                (format!("{bad} of {of} cells had too little disk or memory"), Status::Resources)
            }
            _ => (format!("{bad} of {of} cells failed"), Status::CellsFailed),
        };
        let help = "the same command goes on where this one ended; what is finished is kept".to_owned();
        Err(Error::Batch { what, help, status })
    }

    /// Reads one.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn read(path: &Path) -> Result<Summary> {
        const AGAIN: &str = "run its shard again with this version of the program";
        let text = files::json(path, "summary", FILE_BYTES)?;
        let wrong = |what: String| Error::Model { path: path.to_owned(), what, help: AGAIN.to_owned() };
        let value: Value =
            serde_json::from_str(&text).map_err(|e| wrong(format!("is no summary of a batch: {e}")))?;
        let summary =
            Summary::deserialize(&value).map_err(|e| wrong(format!("is no summary of a batch: {e}")))?;
        for (n, cell) in summary.cells.iter().enumerate() {
            let Some(record) = &cell.record else { continue };
            if record.seal.is_empty() {
                return Err(made_by_older(path, &record.program.version, AGAIN));
            }
            if digest_of(&value["cells"][n]["record"], SEAL) != record.seal {
                return Err(wrong(format!("says other things of {} than were written", cell.path)));
            }
        }
        Ok(summary)
    }

    /// Joins the summaries of all shards of a release.
    ///
    /// # Errors
    /// [`Error::Check`] if one is missing, or they are of different releases.
    pub fn join(mut shards: Vec<Summary>) -> Result<Summary> {
        shards.sort_by_key(|s| s.shard);
        let lacking = |what: String| Err(Error::Check { what });
        let mut all = match shards.first() {
            Some(first) => Summary { shard: Shard::WHOLE, cells: Vec::new(), ..first.clone() },
            None => return lacking("there are no summaries of shards".to_owned()),
        };
        let count = shards[0].shard.count;
        for index in 1..=count {
            let shard = Shard { index, count };
            let Some(part) = shards.iter().find(|s| s.shard == shard) else {
                return lacking(format!("the summary of shard {shard} is missing"));
            };
            if part.release != all.release {
                return lacking(format!(
                    "shard {shard} is of the release {:?}, not {:?}",
                    part.release, all.release
                ));
            }
            if part.job != all.job {
                return lacking(format!("shard {shard} is of another job file: run it again"));
            }
            all.cells.extend(part.cells.iter().cloned());
            all.seconds = all.seconds.max(part.seconds);
        }
        if shards.len() != count {
            return lacking(format!("there are {} summaries of {count} shards", shards.len()));
        }
        all.cells.sort_by_key(|c| c.place);
        match all.cells.iter().enumerate().find(|(place, cell)| *place != cell.place) {
            Some((place, _)) => {
                lacking(format!("the shards are of different jobs: cell {place} is not in them once"))
            }
            None => Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(index: usize, count: usize, fates: &[(usize, Fate)]) -> Summary {
        let cell = |(place, fate): &(usize, Fate)| Outcome {
            place: *place,
            model: "m".to_owned(),
            path: format!("m/{place}"),
            target: "gguf".to_owned(),
            file_type: "q8_0".to_owned(),
            fate: *fate,
            why: Vec::new(),
            notes: Vec::new(),
            help: None,
            seconds: 1.5,
            record: None,
        };
        Summary {
            release: "r".to_owned(),
            quantized_by: None,
            program: Program::this(),
            job: "j".to_owned(),
            shard: Shard { index, count },
            seconds: index as f64,
            cells: fates.iter().map(cell).collect(),
        }
    }

    #[test]
    fn the_verdict_tells_how_the_batch_ended() {
        let status = |fates: &[Fate]| {
            let fates: Vec<_> = fates.iter().copied().enumerate().collect();
            summary(1, 1, &fates).verdict().map_err(|e| e.status())
        };
        use Fate::*;
        assert_eq!(status(&[Made, Kept, Inapplicable]), Ok(()));
        assert_eq!(status(&[Made, Rejected]), Err(Status::CellsFailed));
        assert_eq!(status(&[Failed, Short]), Err(Status::CellsFailed));
        assert_eq!(status(&[Made, Short]), Err(Status::Resources));
        assert_eq!(status(&[Failed, NotRun]), Err(Status::Interrupted));
    }

    #[test]
    fn shards_are_joined_only_if_all_are_there() {
        let (a, b) =
            (summary(1, 2, &[(0, Fate::Made), (2, Fate::Kept)]), summary(2, 2, &[(1, Fate::Failed)]));
        let all = Summary::join(vec![b.clone(), a.clone()]).unwrap();
        assert_eq!(all.cells.iter().map(|c| c.place).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((all.shard, all.seconds), (Shard::WHOLE, 2.0));
        let wrong = |shards: &[&Summary]| {
            Summary::join(shards.iter().map(|s| (*s).clone()).collect()).unwrap_err().to_string()
        };
        assert_eq!(wrong(&[]), "there are no summaries of shards");
        assert_eq!(wrong(&[&a]), "the summary of shard 2/2 is missing");
        assert_eq!(wrong(&[&a, &b, &b]), "there are 3 summaries of 2 shards");
        let other = Summary { job: "k".to_owned(), ..b.clone() };
        let said = Summary::join(vec![a.clone(), other]).unwrap_err().to_string();
        assert!(said.contains("is of another job file"), "{said}");
        let other = Summary { release: "s".to_owned(), ..b.clone() };
        assert_eq!(wrong(&[&a, &other]), "shard 2/2 is of the release \"s\", not \"r\"");
        let gap = summary(2, 2, &[(3, Fate::Made)]);
        assert!(wrong(&[&a, &gap]).contains("cell 1 is not in them once"));
    }

    #[test]
    fn a_summary_comes_back_from_its_json() {
        let summary = summary(1, 1, &[(0, Fate::NotRun)]);
        let json = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&json).unwrap(), summary);
    }
}

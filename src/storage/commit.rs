//! Renames of staged files to their names.
//!
//! One file takes its name by a rename, which replaces what had it. Several, or a folder, take theirs so:
//!
//! ```text
//! 1  the journal tells the steps, and is on disk
//! 2  what stands there is set aside as .NAME.previous, the file that opens the whole first
//! 3  the new files take their names, the file that opens the whole last
//! 4  what was set aside is removed, then the journal
//! ```
//!
//! Between 2 and 3 nothing can be opened; never is a part of the old whole beside a part of the new one. A run that is
//! killed between 1 and 4 is undone by the next one, or completed if all new files have their names.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::identity::FileId;
use super::journal::{Entry, Journal, Name};
use super::{beside, entries, exists, flush_folder, folder_of, in_the_way};
use crate::error::{Error, Result};

/// One name that changes its owner.
#[derive(Clone, Debug)]
pub(super) struct Move {
    /// File that takes the name; `None` if the name is only given up.
    pub staged: Option<PathBuf>,
    /// The name.
    pub to: PathBuf,
}

/// A step as the journal tells it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Step {
    staged: Option<(Name, FileId)>,
    to: Name,
    /// Path where the present owner of the name is kept meanwhile, and the identity of that file.
    aside: Option<(Name, FileId)>,
}

impl Step {
    #[cfg(test)]
    pub fn new(staged: Option<(Name, FileId)>, to: Name, aside: Option<(Name, FileId)>) -> Step {
        Step { staged, to, aside }
    }

    /// True if its names are such as [`step`] makes: each tells the others.
    pub fn is_possible(&self, plain: impl Fn(&Name) -> PathBuf) -> bool {
        let to = plain(&self.to);
        let is_aside = self.aside.as_ref().is_none_or(|(aside, _)| plain(aside) == aside_path(&to));
        let is_staged = self.staged.as_ref().is_none_or(|(staged, _)| {
            let staged = plain(staged);
            let folder = staged.parent().unwrap_or(Path::new(""));
            staged == partial_path(&to)
                || (staged.file_name() == to.file_name()
                    && folder.extension().is_some_and(|e| e == "partial")
                    && folder.parent() == to.parent())
        });
        is_aside && is_staged
    }
}

/// Gives all of them their names: the first one opens the whole. The folder `emptied` is left without files, and goes.
///
/// # Errors
/// [`Error::Io`], after which everything is as it was; if that cannot be, the journal stays for the next run.
pub(super) fn commit(mut journal: Journal, moves: &[Move], emptied: Option<&Path>) -> Result<()> {
    let folders = folders(moves);
    match moves {
        [Move { staged: Some(staged), to }] if !staged.is_dir() => {
            fs::rename(staged, to).map_err(Error::io("rename to its name", staged))?;
        }
        _ => {
            let steps = moves.iter().map(|m| step(&journal, m)).collect::<Result<Vec<_>>>()?;
            journal.append(&Entry::Commit(steps.clone()))?;
            journal.flush()?;
            // Before anything is removed, the disk has the new names; till then all can be undone.
            let flush = || folders.iter().try_for_each(|folder| flush_folder(folder));
            if let Err(error) = forward(&journal, &steps).and_then(|()| flush()) {
                if back(&journal, &steps).is_err() {
                    journal.keep();
                }
                return Err(error);
            }
            // The new whole is there: what cannot be removed is left to the next run.
            if let Err(error) = discard(&journal, &steps) {
                journal.keep();
                return Err(error);
            }
        }
    }
    if let Some(folder) = emptied {
        fs::remove_dir(folder).map_err(Error::io("remove", folder))?;
    }
    // So that the names outlast a power cut.
    folders.iter().try_for_each(|folder| flush_folder(folder))?;
    journal.remove()
}

/// Undoes the steps of a killed run, or completes them if every new file has its name.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn recover(journal: &Journal, steps: &[Step]) -> Result<()> {
    let has_its_name = |step: &Step| match &step.staged {
        Some((_, id)) => FileId::at(&journal.resolve(&step.to)) == Some(*id),
        None => !exists(&journal.resolve(&step.to)),
    };
    if steps.iter().all(has_its_name) { discard(journal, steps) } else { back(journal, steps) }
}

/// Begins to commit, and breaks off after so many renames; true if that was all of it.
#[cfg(test)]
pub(super) fn break_off(journal: &mut Journal, moves: &[Move], renames: usize) -> bool {
    let steps: Vec<Step> = moves.iter().map(|m| step(journal, m).unwrap()).collect();
    journal.append(&Entry::Commit(steps.clone())).unwrap();
    journal.unlock();
    let resolved = renamed(journal, &steps);
    for (from, to) in resolved.iter().take(renames) {
        rename_free(from, to).unwrap();
    }
    renames >= resolved.len()
}

fn folders(moves: &[Move]) -> Vec<&Path> {
    let mut folders: Vec<&Path> = moves.iter().map(|m| folder_of(&m.to)).collect();
    folders.sort_unstable();
    folders.dedup();
    folders
}

fn step(journal: &Journal, Move { staged, to }: &Move) -> Result<Step> {
    let staged = match staged {
        Some(staged) => {
            let meta = staged.symlink_metadata().map_err(Error::io("read", staged))?;
            Some((journal.name(staged), FileId::of(&meta)))
        }
        None => None,
    };
    let aside = match FileId::at(to) {
        Some(id) => {
            let aside = aside_path(to);
            if exists(&aside) {
                return Err(in_the_way(&aside));
            }
            Some((journal.name(&aside), id))
        }
        None => None,
    };
    Ok(Step { staged, to: journal.name(to), aside })
}

/// Path where the present owner of a name is kept while the new file takes it.
pub(super) fn aside_path(to: &Path) -> PathBuf {
    beside(to, ".", ".previous")
}

/// The name of a file that is not finished.
pub(super) fn partial_path(path: &Path) -> PathBuf {
    beside(path, "", ".partial")
}

fn forward(journal: &Journal, steps: &[Step]) -> Result<()> {
    renamed(journal, steps).iter().try_for_each(|(from, to)| rename_free(from, to))
}

/// Renames of the steps, in order: all names are free before any is taken again.
fn renamed(journal: &Journal, steps: &[Step]) -> Vec<(PathBuf, PathBuf)> {
    let resolved = |from: &Name, to: &Name| (journal.resolve(from), journal.resolve(to));
    let aside = steps.iter().filter_map(|s| Some(resolved(&s.to, &s.aside.as_ref()?.0)));
    let taken = steps.iter().rev().filter_map(|s| Some(resolved(&s.staged.as_ref()?.0, &s.to)));
    aside.chain(taken).collect()
}

/// Takes the names back, and gives them to what had them before; the file that opens the whole first and last.
fn back(journal: &Journal, steps: &[Step]) -> Result<()> {
    for step in steps {
        let Some((staged, id)) = &step.staged else { continue };
        let (staged, to) = (journal.resolve(staged), journal.resolve(&step.to));
        if FileId::at(&to) == Some(*id) {
            rename_free(&to, &staged)?;
        }
    }
    for step in steps.iter().rev() {
        let Some((aside, id)) = &step.aside else { continue };
        let (aside, to) = (journal.resolve(aside), journal.resolve(&step.to));
        if FileId::at(&aside) == Some(*id) && !exists(&to) {
            rename_free(&aside, &to)?;
        }
    }
    Ok(())
}

/// Removes what was set aside.
fn discard(journal: &Journal, steps: &[Step]) -> Result<()> {
    for step in steps {
        let Some((aside, id)) = &step.aside else { continue };
        let aside = journal.resolve(aside);
        if FileId::at(&aside) != Some(*id) {
            continue;
        }
        let is_folder = aside.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if is_folder {
            for file in entries(&aside)? {
                fs::remove_file(&file).map_err(Error::io("remove", &file))?;
            }
            fs::remove_dir(&aside).map_err(Error::io("remove", &aside))?;
        } else {
            fs::remove_file(&aside).map_err(Error::io("remove", &aside))?;
        }
    }
    Ok(())
}

/// Renames to a name that nobody has.
fn rename_free(from: &Path, to: &Path) -> Result<()> {
    if exists(to) {
        return Err(Error::Exists { path: to.to_owned() });
    }
    fs::rename(from, to).map_err(Error::io("rename to its name", from))
}

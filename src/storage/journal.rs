//! Journal of the changes that a run is about to make to files, so that the next run undoes or completes what a kill
//! broke off.
//!
//! The journal of the output `OUT` is the file `.OUT.journal` beside it, locked as long as the run goes on, and removed at its
//! end. Every line is the CRC-32 of an [`Entry`] in hex, a space, and the entry as JSON; a line that a kill cut off says
//! nothing. Files are known by their identity ([`FileId`]), never by name alone: what this program did not make stays.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::commit::{self, Step};
use super::identity::FileId;
use super::{beside, exists, flush_folder, folder_of, in_the_way, in_use};
use crate::error::{Error, Result};
use crate::files::StoredPath;

/// Largest journal that is read.
const MAX_JOURNAL_BYTES: u64 = 64 << 20;

/// A line of a journal.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    /// The first line: what wrote it.
    Journal(String),
    /// Files and folders of these names are about to be made.
    Stage(Vec<Name>),
    /// Files and folders that were made: those that have these identities are this run's.
    Staged(Vec<(Name, FileId)>),
    /// Steps of finished files that are about to get their names.
    Commit(Vec<Step>),
}

/// The first line of every journal.
const MARK: &str = "rwkv-quant 1";

/// A path, relative to the folder of the journal where it lies in it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Name(StoredPath);

impl Name {
    fn of(path: &Path, folder: &Path) -> Name {
        let path = match path.strip_prefix(folder) {
            Ok(within) => within.to_owned(),
            Err(_) if folder == Path::new(".") && path.is_relative() => path.to_owned(),
            Err(_) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        };
        Name(path.as_path().into())
    }

    /// True if it is a path in the folder of the journal.
    fn is_within(&self) -> bool {
        self.path(Path::new("")).components().all(|part| matches!(part, Component::Normal(_)))
    }

    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(PathBuf::from(self.0.clone()))
    }
}

/// The journal of the output `out`.
pub fn journal_path(out: &Path) -> PathBuf {
    beside(out, ".", ".journal")
}

/// Undoes or completes what a killed run left of the output `out`; true if there was anything.
///
/// # Errors
/// [`Error::Usage`] if a run is at work on it; [`Error::Io`].
pub fn recover(out: &Path) -> Result<bool> {
    if !exists(&journal_path(out)) {
        return Ok(false);
    }
    Journal::claim(out)?.remove().map(|()| true)
}

/// The journal of a killed run that was to replace `path` when it ended: a file, a part of a set, or a folder.
pub fn broken_off(path: &Path) -> Option<PathBuf> {
    let own = Some(journal_path(path)).filter(|journal| exists(journal));
    own.or_else(|| of_whole_set(path))
}

/// The journal of the whole that `path` is a part of by its name.
fn of_whole_set(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let journals = super::entries(folder_of(path)).ok()?;
    journals.into_iter().find(|journal| {
        let whole = journal.file_name().and_then(|n| n.to_str()?.strip_prefix('.')?.strip_suffix(".journal"));
        whole.is_some_and(|whole| formats::is_of_set(name, whole))
    })
}

/// The journal at `path`, if it is one of a killed or running run, and the files that it made and that still are what they
/// were.
pub fn left_by(path: &Path) -> Option<Vec<PathBuf>> {
    let mut text = Vec::new();
    let file = path.symlink_metadata().ok()?.is_file().then(|| File::open(path).ok()).flatten()?;
    file.take(MAX_JOURNAL_BYTES).read_to_end(&mut text).ok()?;
    let entries = parsed(&text).filter(|_| !text.is_empty())?;
    let staged =
        entries.iter().filter_map(|entry| if let Entry::Staged(files) = entry { Some(files) } else { None });
    let made = staged.flatten().map(|(name, id)| (name.path(folder_of(path)), *id));
    let there = made.filter(|(path, id)| FileId::at(path) == Some(*id)).map(|(path, _)| path);
    Some([path.to_owned()].into_iter().chain(there).collect())
}

/// An open journal, which is the sole right to write its output.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    is_removed: bool,
}

impl Journal {
    /// Takes the right to write `out`, and first recovers what a killed run left of it.
    ///
    /// # Errors
    /// [`Error::Usage`] if another run has it, or something else has the journal's name; [`Error::Io`].
    pub fn claim(out: &Path) -> Result<Journal> {
        let path = journal_path(out);
        loop {
            let Some(mut file) = open_lock(&path)? else { continue };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(in_use(out)),
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
                Ok(()) => {}
            }
            // Who had it may have removed it meanwhile.
            let meta = file.metadata().map_err(Error::io("read", &path))?;
            if FileId::at(&path) != Some(FileId::of(&meta)) {
                continue;
            }
            let mut text = Vec::new();
            let read = (&mut file).take(MAX_JOURNAL_BYTES).read_to_end(&mut text);
            // One that nothing is in is nobody's, and goes if it cannot be used.
            let mut journal = Journal { file, path, is_removed: meta.len() > 0 };
            read.map_err(Error::io("read", &journal.path))?;
            journal.is_removed = false;
            if !text.is_empty() {
                journal.is_removed = true; // until it is known to be one
                let entries = parsed(&text).ok_or_else(|| in_the_way(&journal.path))?;
                journal.undo(&entries)?;
                journal.is_removed = false;
            }
            journal.file.set_len(0).map_err(Error::io("write to", &journal.path))?;
            std::io::Seek::rewind(&mut journal.file).map_err(Error::io("write to", &journal.path))?;
            journal.append(&Entry::Journal(MARK.to_owned()))?;
            return Ok(journal);
        }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        let json = serde_json::to_string(entry).map_err(|e| Error::io("write to", &self.path)(e.into()))?;
        let line = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        self.file.write_all(line.as_bytes()).map_err(Error::io("write to", &self.path))
    }

    /// Waits until the disk has all entries, and the journal's name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn flush(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("flush", &self.path))?;
        flush_folder(folder_of(&self.path))
    }

    /// A path as this journal states it.
    pub fn name(&self, path: &Path) -> Name {
        Name::of(path, folder_of(&self.path))
    }

    /// The path that a name stands for.
    pub fn resolve(&self, name: &Name) -> PathBuf {
        name.path(folder_of(&self.path))
    }

    /// Removes the journal: nothing is left to be done.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(mut self) -> Result<()> {
        self.is_removed = true;
        fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }

    /// Lets the next run have it, as a kill does.
    #[cfg(test)]
    pub fn unlock(&self) {
        self.file.unlock().unwrap();
    }

    /// Leaves the journal to the next run, since what it describes could be neither undone nor completed.
    pub fn keep(&mut self) {
        self.is_removed = true;
    }

    /// Undoes what entries describe, or completes it if all files have their names already.
    fn undo(&self, entries: &[Entry]) -> Result<()> {
        for entry in entries {
            if let Entry::Commit(steps) = entry {
                commit::recover(self, steps)?;
            }
        }
        let mut made: Vec<(PathBuf, FileId)> = Vec::new();
        for entry in entries {
            match entry {
                Entry::Staged(files) => {
                    made.extend(files.iter().map(|(name, id)| (self.resolve(name), *id)));
                }
                // Between the two entries a file is empty, and a folder holds none but these; nobody loses one. (Elsewhere
                // nothing but a name would tell whose it is.)
                Entry::Stage(names) => {
                    let here = names.iter().filter(|name| name.is_within());
                    let paths: Vec<PathBuf> = here.map(|name| self.resolve(name)).collect();
                    let is_made = |p: &PathBuf| is_empty_file(p) && paths.contains(p);
                    let empty = paths.iter().filter(|p| is_empty_file(p) || is_folder_of(p, is_made));
                    made.extend(empty.filter_map(|p| Some((p.clone(), FileId::at(p)?))));
                }
                Entry::Journal(_) | Entry::Commit(_) => {}
            }
        }
        remove_made(&made)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.is_removed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes files, then folders, that still are what they were when they were made.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn remove_made(made: &[(PathBuf, FileId)]) -> Result<()> {
    let is_there = |(path, id): &&(PathBuf, FileId)| FileId::at(path) == Some(*id);
    let (folders, files): (Vec<_>, Vec<_>) =
        made.iter().filter(is_there).partition(|(path, _)| path.is_dir() && !path.is_symlink());
    for (path, _) in files {
        fs::remove_file(path).or_else(missing).map_err(Error::io("remove", path))?;
    }
    for (path, _) in folders {
        // What a stranger put into it keeps it.
        match fs::remove_dir(path) {
            Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => return Err(in_the_way(path)),
            removed => removed.or_else(missing).map_err(Error::io("remove", path))?,
        }
    }
    Ok(())
}

fn missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn is_empty_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == 0)
}

/// True for a folder in which everything is as `is_expected` says.
fn is_folder_of(path: &Path, is_expected: impl Fn(&PathBuf) -> bool) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
        && super::entries(path).is_ok_and(|entries| entries.iter().all(is_expected))
}

/// Opens a file that runs lock, or makes it; `None` if it vanished meanwhile. Follows no link.
///
/// # Errors
/// [`Error::Usage`] if it is no regular file; [`Error::Io`].
pub(crate) fn open_lock(path: &Path) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().create_new(true).open(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        opened => return opened.map(Some).map_err(Error::io("create", path)),
    }
    match path.symlink_metadata() {
        Ok(meta) if !meta.is_file() => return Err(in_the_way(path)),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.map_err(Error::io("open", path))?,
    };
    match options.open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).map_err(Error::io("open", path)),
    }
}

/// The entries of a journal as far as they are whole; `None` if it is none.
fn parsed(text: &[u8]) -> Option<Vec<Entry>> {
    let entry = |line: &[u8]| -> Option<Entry> {
        let line = std::str::from_utf8(line).ok()?;
        let (crc, json) = line.split_once(' ')?;
        let is_whole = u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(json.as_bytes());
        is_whole.then(|| serde_json::from_str(json).ok()).flatten()
    };
    let mut entries = text.split(|b| *b == b'\n').map_while(entry);
    match entries.next() {
        Some(Entry::Journal(mark)) if mark == MARK => {
            let entries: Vec<Entry> = entries.collect();
            entries.iter().all(is_possible).then_some(entries)
        }
        // A kill while the first line was written.
        None if is_begun(text) => Some(Vec::new()),
        _ => None,
    }
}

/// True if all names of an entry are such as this program gives: whoever plants a journal must not have other files
/// removed or renamed.
fn is_possible(entry: &Entry) -> bool {
    let plain = |name: &Name| name.path(Path::new(""));
    match entry {
        Entry::Journal(_) => false,
        Entry::Stage(names) => names.iter().all(|name| is_partial(&plain(name))),
        Entry::Staged(files) => files.iter().all(|(name, _)| is_partial(&plain(name))),
        Entry::Commit(steps) => steps.iter().all(|step| step.is_possible(plain)),
    }
}

/// True for `NAME.partial` and `NAME.partial/NAME`.
fn is_partial(path: &Path) -> bool {
    let ends = |path: &Path| path.as_os_str().as_encoded_bytes().ends_with(b".partial");
    ends(path) || path.parent().is_some_and(ends)
}

/// True if `text` is the beginning of a journal's first line.
fn is_begun(text: &[u8]) -> bool {
    let json = serde_json::to_string(&Entry::Journal(MARK.to_owned())).unwrap_or_default();
    let line = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
    line.as_bytes().starts_with(text)
}

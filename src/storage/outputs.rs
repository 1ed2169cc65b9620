//! One transaction for all that a command writes.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf, is_separator};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::commit::{self, Move, aside_path, partial_path};
use super::identity::FileId;
use super::inputs::Inputs;
use super::journal::{Entry, Journal, journal_path, remove_made};
use super::ledger::{Ledger, Progress};
use super::space::check_space;
use super::{entries, exists, flush_folder, folder_of, in_the_way};
use crate::digest::hex;
use crate::error::{Error, Result};

/// Form of the output on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// The file asked for.
    File,
    /// Several files beside each other, named after the one asked for.
    Set,
    /// The folder asked for.
    Folder,
}

/// All names that a command is going to give.
///
/// ```text
/// a file     OUT.partial, then OUT
/// a set      OUT.partial/NAME, then NAME beside OUT
/// a folder   OUT.partial/NAME, then OUT/NAME: the folder is renamed as a whole
/// besides    NAME.partial, then NAME
/// ```
#[derive(Clone, Debug)]
pub struct Targets {
    /// The file or folder asked for.
    pub out: PathBuf,
    /// Form of the output on disk.
    pub output: Output,
    /// The names of its files; of a file, its own.
    pub names: Vec<OsString>,
    /// Further files, of which some may turn out not to be needed: an adapter, a recipe.
    pub beside: Vec<PathBuf>,
    /// Files that were parts of what is replaced, and are no part of the new whole.
    pub obsolete: Vec<PathBuf>,
    /// A folder that the command keeps beside the output as long as it works: the checkpoint of a calibration.
    pub checkpoint: Option<PathBuf>,
    /// True of models: their parts may be split, so that parts of an earlier output of this name are obsolete too.
    pub is_model: bool,
}

impl Targets {
    /// One file.
    pub fn file(path: &Path) -> Targets {
        Targets {
            out: path.to_owned(),
            output: Output::File,
            names: vec![path.file_name().unwrap_or_default().to_owned()],
            beside: Vec::new(),
            obsolete: Vec::new(),
            checkpoint: None,
            is_model: false,
        }
    }

    /// The final path of every main file.
    fn finals(&self) -> Vec<PathBuf> {
        let path = |name: &OsString| match self.output {
            Output::File => self.out.clone(),
            Output::Set => self.out.with_file_name(name),
            Output::Folder => self.out.join(name),
        };
        self.names.iter().map(path).collect()
    }

    /// Every name that is given or given up at the end.
    fn named(&self) -> impl Iterator<Item = PathBuf> {
        let out = Some(self.out.clone()).filter(|_| self.output == Output::Folder);
        let files = if self.output == Output::Folder { Vec::new() } else { self.finals() };
        out.into_iter().chain(files).chain(self.beside.clone()).chain(self.obsolete.clone())
    }

    /// Files that were asked for by name.
    fn files(&self) -> impl Iterator<Item = &Path> {
        let out = Some(&self.out).filter(|_| self.output != Output::Folder);
        out.into_iter().chain(&self.beside).map(PathBuf::as_path)
    }

    /// `OUT.partial`.
    fn partial(&self) -> PathBuf {
        partial_path(&self.out)
    }

    /// Path of every main file until it gets its name.
    fn partials(&self) -> Vec<PathBuf> {
        let partial = self.partial();
        match self.output {
            Output::File => vec![partial],
            Output::Set | Output::Folder => self.names.iter().map(|name| partial.join(name)).collect(),
        }
    }

    /// Every name that is given, or taken meanwhile.
    fn taken(&self) -> Vec<PathBuf> {
        let mut all = vec![journal_path(&self.out)];
        all.extend(self.checkpoint.clone());
        let finals = self.finals();
        let out = Some(&self.out).filter(|out| !finals.contains(out));
        for path in out.into_iter().chain(&finals).chain(&self.beside) {
            all.extend([path.clone(), partial_path(path), aside_path(path)]);
        }
        all
    }

    /// Every name that is given, taken meanwhile, or removed.
    fn touched(&self) -> Vec<PathBuf> {
        let removed = self.obsolete.iter().flat_map(|path| [path.clone(), aside_path(path)]);
        self.taken().into_iter().chain(removed).collect()
    }
}

/// One file that is not finished.
#[derive(Debug)]
struct Staged {
    file: File,
    path: PathBuf,
    ledger: Ledger,
}

/// A file that was written, and its content.
#[derive(Clone, Debug)]
pub struct Written {
    /// The name that it gets, or has.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hex.
    pub sha256: String,
}

/// A transaction: files that get their names together, at the end, or not at all.
#[derive(Debug)]
pub struct Outputs {
    targets: Targets,
    force: bool,
    /// Gone once it is committed.
    journal: Option<Journal>,
    /// The main files, in order.
    files: Vec<Staged>,
    /// The others that were put so far, and where they go.
    extras: Vec<(PathBuf, Staged)>,
    /// All that was made, with its identity.
    made: Vec<(PathBuf, FileId)>,
}

impl Outputs {
    /// Takes the sole right to write the targets: first recovers what a killed run left of them.
    ///
    /// # Errors
    /// [`Error::Usage`] if a target is an input, a device, or has the name of another; [`Error::Exists`] if one is there and
    /// `force` is not set; [`Error::Usage`] if another run writes them.
    pub fn claim(mut targets: Targets, inputs: &Inputs, force: bool) -> Result<Outputs> {
        targets.files().try_for_each(refuse_folder_names)?;
        refuse_dots(&targets.out)?;
        targets.touched().iter().try_for_each(|path| inputs.refuse(path))?;
        refuse_doubles(&targets)?;
        let folder = folder_of(&targets.out);
        fs::metadata(folder).map_err(Error::io("write to", folder))?;
        let journal = Journal::claim(&targets.out)?;
        if targets.is_model && targets.output != Output::Folder {
            let earlier = earlier(&targets)?;
            // Those of the input are no earlier output.
            if earlier.iter().all(|path| inputs.refuse(path).is_ok()) {
                targets.obsolete.extend(earlier);
            }
        }
        targets.obsolete.retain(|path| exists(path));
        // What is set aside meanwhile has this name: a run that was killed would have got it back.
        let aside = targets.named().map(|path| aside_path(&path)).find(|aside| exists(aside));
        if let Some(aside) = aside {
            return Err(in_the_way(&aside));
        }
        let (files, extras, made) = (Vec::new(), Vec::new(), Vec::new());
        let outputs = Outputs { targets, force, journal: Some(journal), files, extras, made };
        outputs.refuse_existing()?;
        Ok(outputs)
    }

    /// Makes the main files, of these sizes.
    ///
    /// # Errors
    /// [`Error::Resources`] if the disk cannot hold them; [`Error::Usage`] if something that no run of this program left
    /// has the name of a partial file; [`Error::Io`].
    pub fn create(&mut self, sizes: &[u64]) -> Result<()> {
        check_space(folder_of(&self.targets.out), sizes.iter().sum())?;
        let folder = (self.targets.output != Output::File).then(|| self.targets.partial());
        let paths = self.targets.partials();
        self.stage(folder.as_deref(), &paths)?;
        for ((path, bytes), file) in paths.iter().zip(sizes).zip(0..) {
            self.files[file].file.set_len(*bytes).map_err(Error::io("make room for", path))?;
        }
        Ok(())
    }

    /// Makes the one main file, with these bytes.
    ///
    /// # Errors
    /// As [`Outputs::create`] and [`Outputs::write_at`].
    pub fn fill(&mut self, bytes: &[u8]) -> Result<()> {
        self.create(&[bytes.len() as u64])?;
        self.write_at(0, bytes, 0).map(drop)
    }

    /// Makes empty files, after `folder`, and notes in the journal that they are this run's.
    fn stage(&mut self, folder: Option<&Path>, paths: &[PathBuf]) -> Result<()> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        for path in folder.into_iter().chain(paths.iter().map(PathBuf::as_path).filter(|_| folder.is_none()))
        {
            if exists(path) {
                return Err(in_the_way(path));
            }
        }
        let names = folder.into_iter().chain(paths.iter().map(PathBuf::as_path));
        journal.append(&Entry::Stage(names.map(|path| journal.name(path)).collect()))?;
        let first = self.made.len();
        if let Some(folder) = folder {
            fs::create_dir(folder).map_err(Error::io("create", folder))?;
            self.made.extend(FileId::at(folder).map(|id| (folder.to_owned(), id)));
        }
        for path in paths {
            // `create_new` follows no link and opens nothing that is there: what is written to is this run's alone.
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
            let file = file.map_err(Error::io("create", path))?;
            let id = FileId::of(&file.metadata().map_err(Error::io("read", path))?);
            self.made.push((path.clone(), id));
            self.files.push(Staged { file, path: path.clone(), ledger: Ledger::default() });
        }
        let staged = self.made[first..].iter().map(|(path, id)| (journal.name(path), *id)).collect();
        journal.append(&Entry::Staged(staged))
    }

    /// Present paths of the main files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|f| f.path.as_path())
    }

    /// Present path of the file or folder that opens all of it.
    pub fn to_open(&self) -> PathBuf {
        match (self.targets.output, self.files.first()) {
            (Output::Set, Some(first)) => first.path.clone(),
            _ => self.targets.partial(),
        }
    }

    /// Writes all of `bytes` at `offset` of main file number `file`; their CRC-32, which is taken before.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_at(&self, file: usize, bytes: &[u8], offset: u64) -> Result<u32> {
        self.files[file].write_at(bytes, offset)
    }

    /// Main file number `file`, to be written front to back.
    pub fn stream(&self, file: usize) -> Stream<'_> {
        Stream { staged: &self.files[file], at: 0 }
    }

    /// Writes a further file as a whole: one of those that were announced.
    ///
    /// # Errors
    /// As [`Outputs::create`] and [`Outputs::write_at`].
    pub fn put(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        debug_assert!(
            self.targets.beside.iter().any(|beside| beside == path),
            "{} is announced",
            path.display()
        );
        check_space(folder_of(path), bytes.len() as u64)?;
        self.stage(None, &[partial_path(path)])?;
        let Some(staged) = self.files.pop() else { return Ok(()) };
        staged.write_at(bytes, 0)?;
        self.extras.push((path.to_owned(), staged));
        Ok(())
    }

    /// Present path of a further file that was put.
    pub fn partial_of(&self, path: &Path) -> Option<&Path> {
        self.extras.iter().find(|(out, _)| out == path).map(|(_, staged)| staged.path.as_path())
    }

    /// The SHA-256 of regions `(offset, bytes)` of main file number `file`, which were written in whole pieces; they are read
    /// back and compared on the way.
    ///
    /// # Errors
    /// As [`Outputs::read_back`].
    pub fn sha256s(&self, file: usize, regions: &[(u64, u64)], progress: &Progress) -> Result<Vec<[u8; 32]>> {
        let staged = &self.files[file];
        staged.ledger.sha256s(&staged.path, regions, progress)
    }

    /// Every file that was written so far, by the name that it will get. What is hashed is compared with what was written.
    ///
    /// # Errors
    /// As [`Outputs::read_back`].
    pub fn written(&self) -> Result<Vec<Written>> {
        let main = self.targets.finals().into_iter().zip(&self.files);
        let extras = self.extras.iter().map(|(path, staged)| (path.clone(), staged));
        let of_file = |(path, staged): (PathBuf, &Staged)| {
            let (sha256, bytes) = staged.ledger.sha256(&staged.path)?;
            Ok(Written { path, bytes, sha256: hex(&sha256) })
        };
        let all: Vec<_> = main.chain(extras).collect();
        all.into_par_iter().map(of_file).collect()
    }

    /// Reads everything that was written, and compares it with the checksums that were taken in memory. `progress` hears of
    /// the bytes that are right and may stop the work.
    ///
    /// # Errors
    /// [`Error::Model`] at the first difference; those of `progress`.
    pub fn read_back(&self, progress: &Progress) -> Result<()> {
        let extras = self.extras.iter().map(|(_, staged)| staged);
        self.files.iter().chain(extras).try_for_each(|f| f.ledger.compare(&f.path, progress))
    }

    /// Compares with what was written all that was not yet, waits until the disk has it, and gives the files their names:
    /// all, or none. What they replace is removed last.
    ///
    /// # Errors
    /// [`Error::Model`] if the disk changed a byte, or an input changed meanwhile; [`Error::Exists`]; [`Error::Io`]. Whatever it
    /// is, what was there before is still there.
    pub fn commit(mut self, inputs: &Inputs) -> Result<()> {
        self.read_back(&|_| Ok(()))?;
        inputs.check_unchanged()?;
        self.keep_rights()?;
        for Staged { file, path, .. } in self.files.iter().chain(self.extras.iter().map(|(_, s)| s)) {
            file.sync_all().map_err(Error::io("flush", path))?;
        }
        if self.targets.output == Output::Folder {
            flush_folder(&self.targets.partial())?;
        }
        self.refuse_existing()?;
        let moves = self.moves();
        let Some(journal) = self.journal.take() else { return Ok(()) };
        let emptied = (self.targets.output == Output::Set).then(|| self.targets.partial());
        commit::commit(journal, &moves, emptied.as_deref())
    }

    /// Gives files that replace others the permissions of the old ones.
    fn keep_rights(&self) -> Result<()> {
        let finals = if self.targets.output == Output::Folder { Vec::new() } else { self.targets.finals() };
        let main = finals.iter().zip(&self.files);
        for (to, staged) in main.chain(self.extras.iter().map(|(to, staged)| (to, staged))) {
            if let Some(old) = to.symlink_metadata().ok().filter(fs::Metadata::is_file) {
                staged
                    .file
                    .set_permissions(old.permissions())
                    .map_err(Error::io("write to", &staged.path))?;
            }
        }
        Ok(())
    }

    /// Moves that take and give up names: the file that opens the whole first, the files that go with it after it.
    fn moves(&self) -> Vec<Move> {
        let main = match self.targets.output {
            Output::Folder => vec![(self.targets.partial(), self.targets.out.clone())],
            Output::File | Output::Set => {
                self.targets.partials().into_iter().zip(self.targets.finals()).collect()
            }
        };
        let main = main.into_iter().filter(|_| !self.files.is_empty());
        let extras = self.extras.iter().map(|(out, staged)| (staged.path.clone(), out.clone()));
        let taken: Vec<Move> =
            main.chain(extras).map(|(staged, to)| Move { staged: Some(staged), to }).collect();
        let is_taken = |path: &PathBuf| taken.iter().any(|m| m.to == *path);
        let given_up = self.targets.obsolete.iter().filter(|path| !is_taken(path));
        let given_up = given_up.map(|path| Move { staged: None, to: path.clone() }).collect::<Vec<_>>();
        taken.into_iter().chain(given_up).collect()
    }

    /// Refuses to replace existing files unless that was asked for.
    fn refuse_existing(&self) -> Result<()> {
        let Targets { out, output, beside, obsolete, .. } = &self.targets;
        let finals = self.targets.finals();
        // The output first: whoever is refused reads its name.
        let mut all: Vec<&Path> = Vec::new();
        if *output == Output::Folder {
            if exists(out) {
                if !out.is_dir() || out.is_symlink() {
                    return Err(Error::Usage {
                        what: format!("{} is no folder", out.display()),
                        help: "give the output another name".to_owned(),
                    });
                }
                match (entries(out)?.is_empty(), self.force) {
                    (true, _) => {}
                    (false, true) => refuse_strangers(out, &finals)?,
                    (false, false) => return Err(Error::Exists { path: out.clone() }),
                }
            }
        } else {
            all.extend(finals.iter().map(PathBuf::as_path));
            if out.is_dir() {
                return Err(Error::Usage {
                    what: format!("{} is a folder", out.display()),
                    help: "name the file to write within it".to_owned(),
                });
            }
        }
        all.extend(obsolete.iter().map(PathBuf::as_path));
        all.extend(beside.iter().map(PathBuf::as_path));
        all.iter().try_for_each(|path| refuse_special(path))?;
        match all.iter().find(|path| !self.force && exists(path)) {
            Some(path) => Err(Error::Exists { path: path.to_path_buf() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl Outputs {
    /// Begins to commit, breaks off after so many renames, and lets the journal go unlocked as a kill does; true if that was
    /// all of it.
    pub(super) fn break_off(&mut self, renames: usize) -> bool {
        let moves = self.moves();
        let Some(journal) = &mut self.journal else { return true };
        commit::break_off(journal, &moves, renames)
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        if !self.made.is_empty()
            && remove_made(&self.made).is_err()
            && let Some(journal) = &mut self.journal
        {
            journal.keep();
        }
    }
}

impl Staged {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<u32> {
        let crc32 = self.ledger.note(offset, bytes);
        write_all_at(&self.file, bytes, offset).map_err(Error::io("write to", &self.path))?;
        Ok(crc32)
    }
}

/// A main file that is written front to back.
#[derive(Debug)]
pub struct Stream<'a> {
    staged: &'a Staged,
    at: u64,
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.staged.ledger.note(self.at, bytes);
        write_all_at(&self.staged.file, bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses two outputs of one name, or one with a name that the run itself takes meanwhile. (Some systems take `a` and `A`
/// for the same.)
fn refuse_doubles(targets: &Targets) -> Result<()> {
    let mut names = HashSet::new();
    let key = |path: &Path| {
        let folder = folder_of(path).canonicalize().or_else(|_| std::path::absolute(folder_of(path)));
        let resolved =
            folder.unwrap_or_else(|_| folder_of(path).to_owned()).join(path.file_name().unwrap_or_default());
        PathBuf::from(resolved.to_string_lossy().to_lowercase())
    };
    for path in targets.taken() {
        if !names.insert(key(&path)) {
            return Err(Error::Usage {
                what: format!("this run would write two files of the name {}", path.display()),
                help: "give one of its outputs another name".to_owned(),
            });
        }
    }
    // A folder of the run's own goes with all that is in it.
    let folders: Vec<PathBuf> =
        targets.checkpoint.iter().cloned().chain([targets.partial()]).map(|path| key(&path)).collect();
    match targets.beside.iter().find(|path| folders.iter().any(|folder| key(path).starts_with(folder))) {
        None => Ok(()),
        Some(path) => Err(Error::Usage {
            what: format!("{} would be in a folder that this run makes and removes", path.display()),
            help: "give it a place outside that folder".to_owned(),
        }),
    }
}

/// A file's name must be none of a folder (`a.gguf/`): the system would refuse it when all is done.
fn refuse_folder_names(path: &Path) -> Result<()> {
    let name = path.to_string_lossy();
    match name.ends_with(is_separator) || path.file_name().is_none() {
        false => Ok(()),
        true => Err(Error::Usage {
            what: format!("{name:?} is the name of a folder, and a file is to be written"),
            help: "give the file's name, without a slash behind it".to_owned(),
        }),
    }
}

/// `.` and `..` are names of folders that are there, which cannot be exchanged for others.
fn refuse_dots(path: &Path) -> Result<()> {
    let name = path.to_string_lossy();
    let last = name.trim_end_matches(is_separator).rsplit(is_separator).next().unwrap_or_default();
    match last {
        "." | ".." => Err(Error::Usage {
            what: format!("{name:?} is no name that an output can get"),
            help: "give it a name of its own".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// An output must be no device, pipe or socket: it would be replaced by a file.
fn refuse_special(out: &Path) -> Result<()> {
    match fs::metadata(out) {
        Ok(there) if !there.is_file() && !there.is_dir() => Err(Error::Usage {
            what: format!("{} is no regular file, and only such can be written", out.display()),
            help: "name a file; --dry-run writes none".to_owned(),
        }),
        Ok(there) if there.is_dir() => Err(Error::Usage {
            what: format!("{} is a folder", out.display()),
            help: "name the file to write within it".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The files of an earlier output of this name that was split otherwise: readers would take them for parts of the new one.
fn earlier(targets: &Targets) -> Result<Vec<PathBuf>> {
    let Some(whole) = targets.out.file_name().and_then(OsStr::to_str) else { return Ok(Vec::new()) };
    let finals = targets.finals();
    let is_of_it = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let is_planned = finals.iter().any(|f| f.file_name() == path.file_name());
        !is_planned && (name == whole || formats::is_of_set(name, whole)) && path.is_file()
    };
    let folder = folder_of(&targets.out);
    let listed = entries(folder)?.into_iter().map(|path| match folder == Path::new(".") {
        true => path.file_name().map(PathBuf::from).unwrap_or(path),
        false => path,
    });
    Ok(listed.filter(is_of_it).collect())
}

/// Refuses to replace a folder in which there is anything that a conversion does not write.
fn refuse_strangers(folder: &Path, planned: &[PathBuf]) -> Result<()> {
    for entry in entries(folder)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        let weights = ["model.safetensors", "model.safetensors.index.json"].contains(&&*name)
            || formats::is_of_set(&name, "model.safetensors");
        if !(weights || planned.contains(&entry)) || !entry.is_file() {
            return Err(Error::Usage {
                what: format!("{} holds {name}, which would be lost", folder.display()),
                help: "give the output another name, or move the folder away".to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}

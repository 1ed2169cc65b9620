//! Finished matrices on disk: what a run that was killed had done already.
//!
//! ```text
//! OUT.calibration/
//!   lock             locked as long as a run works on it
//!   identity         for what exactly its matrices were made
//!   00012.bytes      what tensor 12 of the plan became: blocks, or the section of a compact file
//!   00012.factors    the factors of its branch, if it has one
//!   00012.seal       the CRC-32 of the JSON behind it: the outcome, and length and CRC-32 of the files above
//! ```
//!
//! Checksums are taken in memory when the bytes are made. The seal is written last: what has none, or does not match it, was
//! never made.

mod outcome;

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

use formats::Mapped;
pub use outcome::{Encoded, Gain, Outcome, Rounding, Unencodable};
use quant::EncodeError;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::identity::{Identity, Stated, made_by_older};
use crate::storage::{Checked, Inputs, Sealed, crc32, own};

/// Name of the file that states for which conversion exactly the matrices were made.
const IDENTITY: &str = "identity";
/// Largest such file that is read.
const IDENTITY_BYTES: u64 = 16 << 20;
/// Digits of a tensor's number in the names of its files, at least, and what follows it; the last two in version 0.1.0.
const NUMBER_DIGITS: usize = 5;
const KINDS: [&str; 7] = ["bytes", "factors", "seal", "partial", "for_now", "json", "section"];
/// Endings that may follow the kind: in version 0.1.0 checksums stood in files of their own.
const ENDINGS: [&str; 2] = [".partial", ".sha256"];
/// Sections of fewer bytes are coded again by a run that goes on.
const LARGE_BYTES: u64 = 1 << 20;

/// A finished matrix.
pub(crate) struct Kept {
    /// Its blocks.
    pub bytes: Sealed,
    /// The factors of its branch, if it has one.
    pub factors: Option<Sealed>,
    /// Outcome of encoding it, for reports.
    pub outcome: Outcome,
}

/// Seal that marks a tensor as finished.
#[derive(Debug, Deserialize, Serialize)]
struct Seal {
    bytes: Sum,
    factors: Option<Sum>,
    /// Outcome of calibration; `None` if the tensor was not fitted to a text.
    outcome: Option<Outcome>,
}

/// Length and CRC-32 of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Sum {
    length: u64,
    crc32: u32,
}

impl Sum {
    fn of(bytes: &[u8]) -> Sum {
        Sum { length: bytes.len() as u64, crc32: crc32fast::hash(bytes) }
    }

    /// The file at `path`; `None` if it has another sum.
    fn open(self, path: &Path) -> Result<Option<Sealed>> {
        let file = Mapped::open(path)?;
        let found = Sum { length: file.bytes().len() as u64, crc32: crc32(&file) };
        Ok((found == self).then(|| Sealed::new(file, self.crc32)))
    }
}

/// The folder, locked for this run.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    /// Input files that the matrices are made of: a matrix made of anything else is not kept.
    inputs: Inputs,
    /// Locked as long as the run goes on.
    _lock: File,
}

impl Checkpoint {
    /// The folder for a run of this identity, which reads `inputs`, beside `out`; what a run with other options left there is removed if `force`.
    ///
    /// # Errors
    /// [`Error::Model`] if a run with other options, or another version, left something there and it is not forced;
    /// [`Error::Resources`] if another run works on the same output; [`Error::Io`].
    pub fn open(out: &Path, identity: &Identity, inputs: &Inputs, force: bool) -> Result<Checkpoint> {
        let folder = Checkpoint::folder(out);
        refuse_strangers(&folder)?;
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join("lock");
        let lock = open_lock(&path)?;
        if lock.try_lock().is_err() {
            return Err(Error::Resources {
                what: format!("another run calibrates {} at this moment", out.display()),
                help: "wait for it, or give another output".to_owned(),
            });
        }
        let store = Checkpoint { folder, inputs: inputs.clone(), _lock: lock };
        let path = store.folder.join(IDENTITY);
        if !store.is_of(identity, &path).or_else(|other| if force { Ok(false) } else { Err(other) })? {
            store.clear(&path)?;
            own::replace(&path, identity.to_text().as_bytes())?;
        }
        Ok(store)
    }

    /// True if a run of this identity left what is there; without the file at `path` it is nobody's.
    ///
    /// # Errors
    /// [`Error::Model`] if a run with other options did, or another version of this program, or if nothing tells.
    fn is_of(&self, identity: &Identity, path: &Path) -> Result<bool> {
        const AGAIN: &str = "--force removes it and begins anew; or give the output another name";
        let wrong =
            |what: String| Err(Error::Model { path: self.folder.clone(), what, help: AGAIN.to_owned() });
        if !path.exists() {
            return Ok(false);
        }
        let text = files::text(path, "identity of a checkpoint", IDENTITY_BYTES).unwrap_or_default();
        match Identity::parse(&text) {
            Stated::Sound(found) if found == *identity => Ok(true),
            Stated::Sound(found) => wrong(format!(
                "holds finished matrices of a run with other options, which this one cannot use; they differ in {}",
                found.differences(identity).join(", ")
            )),
            Stated::Older(version) => Err(made_by_older(&self.folder, &version, AGAIN)),
            Stated::Damaged => wrong(
                "holds finished matrices, and nothing tells any more of what run: \
                                      its identity is damaged"
                    .to_owned(),
            ),
        }
    }

    /// True if a checkpoint of this version or an earlier one is in `folder`, and nothing else.
    pub(crate) fn is_at(folder: &Path) -> bool {
        if !folder.is_dir() || refuse_strangers(folder).is_err() {
            return false;
        }
        if fs::read_dir(folder).is_ok_and(|listed| listed.flatten().all(|entry| entry.file_name() == "lock"))
        {
            return folder.join("lock").metadata().is_ok_and(|meta| meta.len() == 0);
        }
        let text = files::text(&folder.join(IDENTITY), "identity of a checkpoint", IDENTITY_BYTES);
        text.is_ok_and(|text| !matches!(Identity::parse(&text), Stated::Damaged))
    }

    /// Removes all that another run left but the lock; the identity first, so that what may stay is nobody's.
    fn clear(&self, identity: &Path) -> Result<()> {
        let listed = fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))?;
        let left = listed.filter_map(|e| Some(e.ok()?.path())).filter(|p| !p.ends_with("lock"));
        for path in [identity.to_owned()].into_iter().chain(left).filter(|p| p.exists()) {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    /// Finished tensor `write` of the plan, if it is there and can be read.
    pub(crate) fn get(&self, write: usize) -> Option<Kept> {
        self.read(write).ok().flatten()
    }

    /// Finished tensor `write` of the plan, if it is there as it was written.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`].
    fn read(&self, write: usize) -> Result<Option<Kept>> {
        let Some(Seal { bytes, factors, outcome: Some(outcome) }) = self.seal(write)? else {
            return Ok(None);
        };
        let open = |sum: Sum, kind| sum.open(&self.file(write, kind));
        let are_factors_there = factors.is_some();
        let factors = factors.map(|sum| open(sum, "factors")).transpose()?.flatten();
        let is_whole = factors.is_some() == are_factors_there;
        Ok(open(bytes, "bytes")?.filter(|_| is_whole).map(|bytes| Kept { bytes, factors, outcome }))
    }

    /// Keeps what tensor `write` of the plan became.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Model`] if an input changed meanwhile, or the disk does not hold what was written.
    pub(crate) fn keep(&self, write: usize, encoded: Encoded) -> Result<Kept> {
        let Encoded { bytes, factors, outcome } = encoded;
        self.inputs.check_unchanged()?;
        own::replace(&self.file(write, "bytes"), &bytes)?;
        if let Some(factors) = &factors {
            own::replace(&self.file(write, "factors"), factors)?;
        }
        let sums = (Sum::of(&bytes), factors.as_deref().map(Sum::of));
        self.put_seal(write, &Seal { bytes: sums.0, factors: sums.1, outcome: Some(outcome) })?;
        self.read(write)?.ok_or_else(|| {
            crate::storage::damaged(&self.folder, &format!("matrix {write} is not what was written"))
        })
    }

    /// Finished section of tensor `write` of the plan, if it is there and can be read.
    pub fn section(&self, write: usize) -> Option<Sealed> {
        let sum = self.seal(write).ok().flatten()?.bytes;
        sum.open(&self.file(write, "bytes")).ok().flatten()
    }

    /// Keeps what `work` writes as what tensor `write` of the plan is coded as; a `second`, smaller one for this run only,
    /// beside the first, which a run that goes on would make too.
    ///
    /// # Errors
    /// [`Error::Io`], and those of `work`; [`Error::Model`] if an input changed meanwhile, or the disk does not hold what was written.
    pub fn keep_section(
        &self,
        write: usize,
        second: bool,
        work: impl FnOnce(BufWriter<&mut Checked>) -> std::result::Result<(), Unencodable>,
    ) -> Result<std::result::Result<Sealed, EncodeError>> {
        let partial = self.file(write, "partial");
        let mut checked = Checked::new(own::create(&partial)?);
        match work(BufWriter::new(&mut checked)) {
            Ok(()) => {}
            Err(Unencodable::Weight(e)) => return Ok(Err(e)),
            Err(Unencodable::Io(e)) => return Err(Error::io("write", &partial)(e)),
            Err(Unencodable::Other(e)) => return Err(e),
        }
        let (file, ledger) = checked.finish();
        // What is coded again in no time need not be found again, so nobody waits for the disk.
        let is_large = file.metadata().map_err(Error::io("write", &partial))?.len() >= LARGE_BYTES;
        let is_kept = is_large && !second;
        if is_kept {
            self.inputs.check_unchanged()?;
            file.sync_all().map_err(Error::io("write", &partial))?;
        }
        ledger.compare(&partial, &|_| Ok(()))?;
        let written = Mapped::open(&partial)?;
        let sum = Sum { length: written.bytes().len() as u64, crc32: crc32(&written) };
        drop(written); // where a file that is mapped cannot be renamed
        let path = self.file(write, if is_kept { "bytes" } else { "for_now" });
        fs::rename(&partial, &path).map_err(Error::io("rename", &partial))?;
        if is_kept {
            self.put_seal(write, &Seal { bytes: sum, factors: None, outcome: None })?;
        }
        let section = sum.open(&path)?;
        section.map(Ok).ok_or_else(|| crate::storage::damaged(&path, "it is not what was written"))
    }

    /// The seal of tensor `write` of the plan, if it is there as it was written.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn seal(&self, write: usize) -> Result<Option<Seal>> {
        let path = self.file(write, "seal");
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(Error::io("read", &path))?,
        };
        let parsed = || {
            let (crc32, json) = std::str::from_utf8(&bytes).ok()?.split_once('\n')?;
            let is_whole = u32::from_str_radix(crc32, 16).ok()? == crc32fast::hash(json.as_bytes());
            is_whole.then(|| serde_json::from_str(json).ok()).flatten()
        };
        Ok(parsed())
    }

    fn put_seal(&self, write: usize, seal: &Seal) -> Result<()> {
        let path = self.file(write, "seal");
        let json = serde_json::to_string(seal).map_err(|e| Error::io("write", &path)(e.into()))?;
        own::replace(&path, format!("{:08x}\n{json}", crc32fast::hash(json.as_bytes())).as_bytes())
    }

    /// Removes the folder: the output is finished.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        Checkpoint::remove_at(&self.folder)
    }

    /// Removes the folder of a run that is over; what tells whose it is goes last, so that who is killed can begin again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn remove_at(folder: &Path) -> Result<()> {
        let listed = fs::read_dir(folder).map_err(Error::io("list", folder))?;
        let names = listed.filter_map(|entry| Some(entry.ok()?.path()));
        let (last, first): (Vec<_>, Vec<_>) =
            names.partition(|path| path.ends_with("lock") || path.ends_with(IDENTITY));
        for path in first.iter().chain(last.iter().filter(|p| !p.ends_with("lock"))) {
            fs::remove_file(path).map_err(Error::io("remove", path))?;
        }
        fs::remove_dir_all(folder).map_err(Error::io("remove", folder))
    }

    /// Removes what a killed run left of the output `out`, unless a run is at work on it or it is somebody's.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard(out: &Path) -> Result<()> {
        let folder = Checkpoint::folder(out);
        if !folder.join(IDENTITY).is_file() || refuse_strangers(&folder).is_err() {
            return Ok(());
        }
        let lock = open_lock(&folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Checkpoint::remove_at(&folder),
            Err(_) => Ok(()),
        }
    }

    /// Folder of the finished matrices of the output `out`.
    pub fn folder(out: &Path) -> PathBuf {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".calibration");
        out.with_file_name(name)
    }

    fn file(&self, write: usize, kind: &str) -> PathBuf {
        self.folder.join(format!("{write:05}.{kind}"))
    }
}

/// Opens the file that tells whether a run is at work; it is empty, so nothing is lost.
fn open_lock(path: &Path) -> Result<File> {
    let is_ours = path.symlink_metadata().map_or(true, |meta| meta.is_file() && meta.len() == 0);
    if !is_ours {
        return Err(Error::Usage {
            what: format!("{} is in the way: it is no lock of this program", path.display()),
            help: "move it away, or give the output another name".to_owned(),
        });
    }
    let opened = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
    opened.map_err(Error::io("create", path))
}

/// Refuses a folder of somebody else's: what is in it would be removed.
fn refuse_strangers(folder: &Path) -> Result<()> {
    if folder.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
        return Err(Error::Usage {
            what: format!("{} is no folder, and is where finished matrices are to be kept", folder.display()),
            help: "move it away, or give the output another name".to_owned(),
        });
    }
    let Ok(listed) = fs::read_dir(folder) else { return Ok(()) };
    let is_ours = |name: &str| {
        let is_number = |text: &str| text.len() >= NUMBER_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
        let numbered = name.split_once('.').is_some_and(|(number, kind)| {
            let kind = ENDINGS.iter().fold(kind, |kind, ending| kind.strip_suffix(ending).unwrap_or(kind));
            is_number(number) && KINDS.contains(&kind)
        });
        numbered || ["lock", "identity", "identity.partial"].contains(&name)
    };
    let names = listed.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    match names.into_iter().find(|name| !is_ours(name)) {
        None => Ok(()),
        Some(name) => Err(Error::Usage {
            what: format!("{} holds {name}, and is where finished matrices are to be kept", folder.display()),
            help: "move the folder away, or give the output another name".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A matrix made of an input that changed meanwhile would be used by the next run, which finds the input as it was.
    #[test]
    fn what_is_made_of_a_changed_input_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("model"), "before").unwrap();
        let mut inputs = Inputs::new();
        inputs.add(&at("model"));
        let store = Checkpoint::open(&at("out"), &Identity::default(), &inputs, false).unwrap();
        let keep = |number, model: &str| {
            let section = store.keep_section(number, false, |mut out| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                fs::write(at("model"), model)?;
                Ok(out.write_all(&vec![1; LARGE_BYTES as usize])?)
            });
            (section.map(drop).map_err(|e| e.to_string()), store.section(number).is_some())
        };
        let unchanged =
            store.keep_section(0, false, |mut out| Ok(out.write_all(&vec![1; LARGE_BYTES as usize])?));
        assert!(unchanged.is_ok() && store.section(0).is_some());
        let (kept, is_there) = keep(1, "behind");
        assert!(kept.unwrap_err().contains("changed while it was read") && !is_there);
    }

    /// A folder in which anything is that no run makes stays as it is, whatever it is called.
    #[test]
    fn files_of_others_are_never_taken_for_a_checkpoint() {
        for (name, is_ours) in [
            ("00012.bytes", true),
            ("00012.seal.partial", true),
            ("123456.for_now", true),
            ("00012.section.sha256", true),
            ("identity", true),
            ("lock", true),
            ("001.txt", false),
            (".notes", false),
            ("00012.notes", false),
            ("1.bytes", false),
            ("00012", false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), "").unwrap();
            assert_eq!(refuse_strangers(folder.path()).is_ok(), is_ours, "{name}");
        }
    }
}

//! Finished matrices on disk: what a run that was killed had done already.
//!
//! A folder beside the output holds `identity`, which says for what exactly its matrices were made, and for each one its
//! bytes, the factors of its branch, and what is to be said about it. Every file is complete: it gets its name when it
//! is. The SHA-256 of what is kept stands in a file of its own beside it; what does not match it was never made.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use formats::Mapped;
use quant::EncodeError;

use super::matrix::{Encoded, Outcome};
use crate::compact::Unencodable;
use crate::error::{Error, Result};
use crate::files::replace;
use crate::verify::sha256;

/// Sections of fewer bytes are coded again by a run that goes on.
const LARGE_BYTES: u64 = 1 << 20;

/// A finished matrix.
pub(super) struct Kept {
    /// Its blocks.
    pub bytes: Mapped,
    /// The factors of its branch, if it has one.
    pub factors: Option<Mapped>,
    /// What is to be said about it.
    pub outcome: Outcome,
}

/// The folder, locked for this run.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// Locked as long as the run goes on.
    _lock: File,
}

impl Store {
    /// The folder for a run of this identity beside `out`; what another kind of run left there is removed.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Resources`] if another run works on the same output.
    pub fn open(out: &Path, identity: &str) -> Result<Store> {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".calibration");
        let folder = out.with_file_name(name);
        refuse_strangers(&folder)?;
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(Error::io("create", &path))?;
        if lock.try_lock().is_err() {
            return Err(Error::Resources {
                what: format!("another run calibrates {} at this moment", out.display()),
                help: "wait for it, or give another output".to_owned(),
            });
        }
        let store = Store { folder, _lock: lock };
        let path = store.folder.join("identity");
        if fs::read_to_string(&path).ok().as_deref() != Some(identity) {
            store.clear(&path)?;
            replace(&path, identity.as_bytes())?;
        }
        Ok(store)
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

    /// What tensor `write` of the plan became, if it is there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn get(&self, write: usize) -> Result<Option<Kept>> {
        let path = self.file(write, "json");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let Ok(outcome) = serde_json::from_str::<Outcome>(&text) else { return Ok(None) };
        let Some(bytes) = sealed(&self.file(write, "bytes"))? else { return Ok(None) };
        let path = self.file(write, "factors");
        let factors = sealed(&path)?;
        let is_whole = factors.is_some() || !path.exists();
        Ok(is_whole.then_some(Kept { bytes, factors, outcome }))
    }

    /// Keeps what tensor `write` of the plan became.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn keep(&self, write: usize, encoded: &Encoded) -> Result<()> {
        let path = self.file(write, "bytes");
        replace(&path, &encoded.bytes)?;
        seal(&path)?;
        if let Some(factors) = &encoded.factors {
            let path = self.file(write, "factors");
            replace(&path, factors)?;
            seal(&path)?;
        }
        // Who finds the outcome finds the rest.
        let outcome = serde_json::to_string(&encoded.outcome).unwrap_or_default();
        replace(&self.file(write, "json"), outcome.as_bytes())
    }

    /// What tensor `write` of the plan was coded as, if it is there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn section(&self, write: usize) -> Result<Option<Mapped>> {
        sealed(&self.file(write, "section"))
    }

    /// Keeps what `work` writes as what tensor `write` of the plan is coded as; a `second`, smaller one for this run only,
    /// beside the first, which a run that goes on would make too.
    ///
    /// # Errors
    /// [`Error::Io`], and those of `work`.
    pub fn keep_section(
        &self,
        write: usize,
        second: bool,
        work: impl FnOnce(&File) -> std::result::Result<(), Unencodable>,
    ) -> Result<std::result::Result<Mapped, EncodeError>> {
        let partial = self.file(write, "partial");
        let file = File::create(&partial).map_err(Error::io("create", &partial))?;
        match work(&file) {
            Ok(()) => {}
            Err(Unencodable::Weight(e)) => return Ok(Err(e)),
            Err(Unencodable::Io(e)) => return Err(Error::io("write", &partial)(e)),
            Err(Unencodable::Other(e)) => return Err(e),
        }
        // What is coded again in no time need not be found again, so nobody waits for the disk.
        let is_large = file.metadata().map_err(Error::io("write", &partial))?.len() >= LARGE_BYTES;
        if is_large {
            file.sync_all().map_err(Error::io("write", &partial))?;
        }
        let path = self.file(write, if is_large && !second { "section" } else { "for_now" });
        fs::rename(&partial, &path).map_err(Error::io("rename", &partial))?;
        if is_large && !second {
            seal(&path)?;
        }
        Ok(Ok(Mapped::open(&path)?))
    }

    /// Removes the folder: the output is finished.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(Error::io("remove", &self.folder))
    }

    fn file(&self, write: usize, kind: &str) -> PathBuf {
        self.folder.join(format!("{write:05}.{kind}"))
    }
}

/// Keeps the SHA-256 of a finished file beside it.
fn seal(path: &Path) -> Result<()> {
    let bytes = Mapped::open(path)?;
    replace(&seal_of(path), sha256(&bytes).as_bytes())
}

fn seal_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".sha256");
    path.with_file_name(name)
}

/// A file that was sealed; `None` if there is none, or if it is no longer what it was.
fn sealed(path: &Path) -> Result<Option<Mapped>> {
    let Ok(sum) = fs::read_to_string(seal_of(path)) else { return Ok(None) };
    if !path.exists() {
        return Ok(None);
    }
    let bytes = Mapped::open(path)?;
    Ok((sha256(&bytes) == sum).then_some(bytes))
}

/// Refuses a folder of somebody else's: what is in it would be removed.
fn refuse_strangers(folder: &Path) -> Result<()> {
    let Ok(listed) = fs::read_dir(folder) else { return Ok(()) };
    let is_ours = |name: &str| {
        let numbered =
            name.split_once('.').is_some_and(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()));
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

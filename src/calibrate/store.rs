//! Finished matrices on disk: what a run that was killed had done already.
//!
//! A folder beside the output holds `identity`, which says for what exactly its matrices were made, and for each one its
//! bytes and what is to be said about it. Every file is complete: it gets its name when it is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use formats::Mapped;

use super::matrix::Outcome;
use crate::error::{Error, Result};
use crate::files::replace;

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

    /// The bytes of tensor `write` of the plan, if they are there.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn get(&self, write: usize) -> Result<Option<(Mapped, Outcome)>> {
        let path = self.outcome_of(write);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let Ok(outcome) = serde_json::from_str(&text) else { return Ok(None) };
        Ok(Some((Mapped::open(&self.bytes_of(write))?, outcome)))
    }

    /// Keeps the bytes of tensor `write` of the plan.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep(&self, write: usize, bytes: &[u8], outcome: &Outcome) -> Result<()> {
        replace(&self.bytes_of(write), bytes)?;
        // Who finds the outcome finds the bytes.
        replace(&self.outcome_of(write), serde_json::to_string(outcome).unwrap_or_default().as_bytes())
    }

    /// Removes the folder: the output is finished.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(Error::io("remove", &self.folder))
    }

    fn bytes_of(&self, write: usize) -> PathBuf {
        self.folder.join(format!("{write:05}.bytes"))
    }

    fn outcome_of(&self, write: usize) -> PathBuf {
        self.folder.join(format!("{write:05}.json"))
    }
}

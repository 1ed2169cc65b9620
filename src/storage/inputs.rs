//! Every file that a run reads.

use std::path::{Path, PathBuf};

use formats::Mapped;

use super::identity::Snapshot;
use super::{entries, folder_of};
use crate::error::{Error, Result};

/// Every file that a run reads, as it was when the run began: model parts, adapters, states, vocabularies, matrices,
/// texts, templates, recipes, job files, records.
///
/// No output of the run may be one of them, under whatever name ([`Inputs::refuse`]), and none may change before the
/// outputs get their names ([`Inputs::check_unchanged`]).
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    files: Vec<Input>,
    /// Mapped files: they know best if what was read is what they held.
    open: Vec<Mapped>,
}

/// A file that is read.
#[derive(Clone, Debug)]
struct Input {
    path: PathBuf,
    canonical: PathBuf,
    snapshot: Snapshot,
    /// True if its content is compared at the end; a file that is only protected may change.
    is_read: bool,
}

/// Extensions of what describes a model in its folder: settings, tokenizers, templates, code.
const DESCRIPTIONS: [&str; 6] = ["json", "txt", "jinja", "model", "md", "py"];

impl Inputs {
    /// Inputs without files yet.
    pub fn new() -> Inputs {
        Inputs::default()
    }

    /// Adds a file, or the folder of a model with what describes it there; what is not there is an error of whoever reads it.
    pub fn add(&mut self, path: &Path) {
        self.insert(path, true);
        if path.is_dir() {
            let describes = |path: &PathBuf| {
                let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
                DESCRIPTIONS.contains(&extension)
            };
            for entry in entries(path).unwrap_or_default().into_iter().filter(describes) {
                self.insert(&entry, true);
            }
        }
    }

    /// Adds all of them.
    pub fn add_all(&mut self, paths: impl IntoIterator<Item = impl AsRef<Path>>) {
        paths.into_iter().for_each(|path| self.add(path.as_ref()));
    }

    /// Adds files that are open already.
    pub fn add_open<'a>(&mut self, files: impl IntoIterator<Item = &'a Mapped>) {
        for file in files {
            self.insert(file.path(), false);
            self.open.push(file.clone());
        }
    }

    fn insert(&mut self, path: &Path, is_read: bool) {
        let (Ok(meta), Ok(canonical)) = (path.metadata(), path.canonicalize()) else { return };
        // The time of a folder changes whenever a file is made in it.
        let is_read = is_read && meta.is_file();
        match self.files.iter_mut().find(|i| i.canonical == canonical) {
            Some(known) => known.is_read |= is_read,
            None => {
                let snapshot = Snapshot::of(&meta);
                self.files.push(Input { path: path.to_owned(), canonical, snapshot, is_read });
            }
        }
    }

    /// Refuses an output that is one of them, by identity: another spelling, a link or another name of it too; or the
    /// folder that one lies in, if the output is a folder.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn refuse(&self, out: &Path) -> Result<()> {
        let Ok(meta) = out.metadata() else { return Ok(()) };
        let (snapshot, real) = (Snapshot::of(&meta), out.canonicalize().unwrap_or_else(|_| out.to_owned()));
        let is_it = |input: &&Input| {
            let holds = meta.is_dir() && folder_of(&input.canonical) == real;
            input.canonical == real || input.snapshot.is_same_file(&snapshot) || holds
        };
        match self.files.iter().find(is_it) {
            None => Ok(()),
            Some(input) => Err(Error::Usage {
                what: match input.path == out {
                    true => format!("{} is the input, which is never changed", out.display()),
                    false => format!(
                        "{} is the input, which is never changed: {} is read",
                        out.display(),
                        input.path.display()
                    ),
                },
                help: "give the output another name".to_owned(),
            }),
        }
    }

    /// Refuses to go on if a file changed since it was added: what was read may be of neither version.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::Format`] with its name.
    pub fn check_unchanged(&self) -> Result<()> {
        self.open.iter().try_for_each(Mapped::check_unchanged)?;
        for input in self.files.iter().filter(|i| i.is_read) {
            let now = input.path.metadata().ok().map(|meta| Snapshot::of(&meta));
            if !now.is_some_and(|now| now.is_unchanged_since(&input.snapshot)) {
                return Err(changed(&input.path));
            }
        }
        Ok(())
    }
}

fn changed(path: &Path) -> Error {
    Error::Model {
        path: path.to_owned(),
        what: "changed while it was read, so nothing was written".to_owned(),
        help: "run the command again once nobody writes the file any more".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    #[cfg(unix)]
    fn an_input_is_known_by_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("model"), "weights").unwrap();
        fs::hard_link(at("model"), at("hard")).unwrap();
        std::os::unix::fs::symlink(at("model"), at("soft")).unwrap();
        fs::write(at("other"), "weights").unwrap();
        let mut inputs = Inputs::new();
        inputs.add(&at("model"));
        for name in ["model", "hard", "soft", "./model"] {
            let error = inputs.refuse(&at(name)).unwrap_err().to_string();
            assert!(error.contains("is the input, which is never changed"), "{error}");
        }
        assert!(inputs.refuse(dir.path()).is_err(), "the folder of an input");
        assert!(inputs.refuse(&at("other")).is_ok() && inputs.refuse(&at("missing")).is_ok());
    }

    #[test]
    fn a_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        let begun = |text: &str| {
            fs::write(&path, text).unwrap();
            let mut inputs = Inputs::new();
            inputs.add(&path);
            inputs.check_unchanged().unwrap();
            // Longer than the clock of the file system takes for a step.
            std::thread::sleep(std::time::Duration::from_millis(20));
            inputs
        };
        let inputs = begun("before");
        fs::write(&path, "behind").unwrap();
        let error = inputs.check_unchanged().unwrap_err().to_string();
        assert!(error.contains("changed while it was read"), "{error}");
        let inputs = begun("before");
        fs::remove_file(&path).unwrap();
        assert!(inputs.check_unchanged().is_err());
        // What was put in its place is another file.
        let inputs = begun("before");
        fs::write(dir.path().join("new"), "before").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(inputs.check_unchanged().is_err());
    }
}

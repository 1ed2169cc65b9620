//! Errors about files, by who is at fault.

use std::io;
use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Reason why a file could not be read or planned.
///
/// The text says what and where; [`help`](Error::help) says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Action that was tried: `open`, `read`, `map`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Reason why the system refused.
        source: io::Error,
    },
    /// The file is no longer what was opened: somebody wrote it meanwhile.
    #[error("{} changed while it was in use: {what}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Change that happened to it: a sentence whose subject is the file.
        what: String,
    },
    /// The content is of no known format.
    #[error("{} is {found}, not a model", path.display())]
    NotAModel {
        /// The file or folder.
        path: PathBuf,
        /// Description of what the content looks like.
        found: String,
        /// Advice on what to do about it.
        help: &'static str,
    },
    /// The file breaks the rules of its format: it is damaged, incomplete or hostile.
    #[error("{} is no valid {format} file: {what}{}", path.display(), place(tensor, offset))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format it was taken for.
        format: &'static str,
        /// The rule it breaks.
        what: String,
        /// The tensor concerned.
        tensor: Option<String>,
        /// The byte offset concerned.
        offset: Option<u64>,
    },
    /// The file is valid but uses something that is not read here.
    #[error("{} uses {what}{}, which is not supported", path.display(), place(tensor, &None))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The format it is in.
        format: &'static str,
        /// Feature that it uses.
        what: String,
        /// The tensor concerned.
        tensor: Option<String>,
        /// Advice on what to do about it.
        help: String,
    },
    /// A count or size is larger than [`Limits`](crate::Limits) allows.
    #[error("{} asks for {value} {what}, more than the limit of {limit}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// Name of the counted things.
        what: &'static str,
        /// The count in the file.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// A file of a sharded set is not there.
    #[error("{} belongs to a model in {count} files, and {} is missing", path.display(), missing.display())]
    MissingShard {
        /// The file that was opened.
        path: PathBuf,
        /// The first file that is missing.
        missing: PathBuf,
        /// Number of files in the set.
        count: usize,
    },
    /// A folder holds no model, or more than one.
    #[error("the folder {} holds {}", path.display(), listed(models))]
    NotOneModel {
        /// The folder.
        path: PathBuf,
        /// The names of the models in it.
        models: Vec<String>,
        /// The names that a model in a folder can have.
        looked_for: &'static str,
    },
    /// The tensors or metadata to write do not fit the format.
    #[error("cannot write this as {format}: {what}{}", place(tensor, &None))]
    CannotHold {
        /// The format to write.
        format: &'static str,
        /// Description of what does not fit.
        what: String,
        /// The tensor concerned.
        tensor: Option<String>,
    },
}

impl Error {
    /// Advice on what to do next.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Error::Io { source, path, .. } => match source.kind() {
                io::ErrorKind::NotFound => match path.parent() {
                    Some(p) if !p.as_os_str().is_empty() && !p.exists() => {
                        format!("the folder {} does not exist either: check the path", p.display())
                    }
                    _ => "check the path and the spelling of the name".to_owned(),
                },
                io::ErrorKind::PermissionDenied => {
                    "check the permissions of the file and its folder".to_owned()
                }
                _ => return None,
            },
            Error::Changed { .. } => "run the command again once nobody writes it".to_owned(),
            Error::NotAModel { help, .. } => (*help).to_owned(),
            Error::Malformed { .. } => {
                "the file is damaged or incomplete: copy or download it again, and compare \
                 its SHA-256 with the one its publisher gives"
                    .to_owned()
            }
            Error::Unsupported { help, .. } => help.clone(),
            Error::Limit { .. } => {
                "no real model comes near this limit: the file is damaged or was made to do harm".to_owned()
            }
            Error::MissingShard { .. } => "copy or download the missing file into the same folder".to_owned(),
            Error::NotOneModel { models, looked_for, .. } if models.is_empty() => {
                format!("these are looked for: {looked_for}")
            }
            Error::NotOneModel { .. } => "name one of them instead of the folder".to_owned(),
            Error::CannotHold { .. } => return None,
        })
    }

    /// An [`Error::Io`] for `path`, to be used with `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// Fills in the tensor's name.
    #[must_use]
    pub fn in_tensor(mut self, name: &str) -> Error {
        if let Error::Malformed { tensor, .. } | Error::Unsupported { tensor, .. } = &mut self {
            tensor.get_or_insert_with(|| name.to_owned());
        }
        self
    }

    /// Fills in the byte offset.
    #[must_use]
    pub fn at(mut self, byte: u64) -> Error {
        if let Error::Malformed { offset, .. } = &mut self {
            offset.get_or_insert(byte);
        }
        self
    }
}

/// Makes errors about one file: its path and format, said once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blame<'a> {
    pub path: &'a Path,
    pub format: &'static str,
}

impl Blame<'_> {
    pub fn malformed(&self, what: impl Into<String>) -> Error {
        Error::Malformed {
            path: self.path.to_owned(),
            format: self.format,
            what: what.into(),
            tensor: None,
            offset: None,
        }
    }

    pub fn unsupported(&self, what: impl Into<String>, help: impl Into<String>) -> Error {
        Error::Unsupported {
            path: self.path.to_owned(),
            format: self.format,
            what: what.into(),
            tensor: None,
            help: help.into(),
        }
    }

    /// `value` if it is within `limit`.
    pub fn within(&self, what: &'static str, value: u64, limit: u64) -> Result<u64> {
        if value <= limit {
            Ok(value)
        } else {
            Err(Error::Limit { path: self.path.to_owned(), what, value, limit })
        }
    }
}

/// `2 models: a, b`; at most ten by name.
fn listed(models: &[String]) -> String {
    const NAMED: usize = 10;
    match models.len() {
        0 => "no model".to_owned(),
        n @ 1..=NAMED => format!("{n} models: {}", models.join(", ")),
        n => format!("{n} models: {} and {} more", models[..NAMED].join(", "), n - NAMED),
    }
}

/// `, in tensor x, at byte y`, as far as they are known.
fn place(tensor: &Option<String>, offset: &Option<u64>) -> String {
    let mut text = String::new();
    if let Some(name) = tensor {
        text += &format!(", in tensor {name:?}");
    }
    if let Some(byte) = offset {
        text += &format!(", at byte {byte}");
    }
    text
}

//! Errors, and the exit status of each.

use std::io;
use std::path::{Path, PathBuf};

use quant::EncodeError;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Reason that the work was not done.
///
/// The text says what and where, [`help`](Error::help) what to do next, [`status`](Error::status) how the
/// program ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is damaged, of no known format, or not readable.
    #[error(transparent)]
    Format(#[from] formats::Error),
    /// The file is sound but holds no model that can be used.
    #[error("{} {what}", path.display())]
    Model {
        /// The file or folder.
        path: PathBuf,
        /// Nature or fault of the file: a sentence whose subject is the path.
        what: String,
        /// Advice to the user.
        help: String,
    },
    /// A tensor is missing, unexpected, or of the wrong shape.
    #[error("{}: the tensor {tensor:?} {what}", path.display())]
    Tensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// Fault: a sentence whose subject is the tensor.
        what: String,
        /// Advice to the user.
        help: String,
    },
    /// A weight cannot be encoded.
    #[error("{}: in the tensor {tensor:?}, {source}", path.display())]
    Weight {
        /// The source file.
        path: PathBuf,
        /// The tensor's canonical name.
        tensor: String,
        /// Faulty weight, and the reason.
        source: EncodeError,
        /// Advice to the user.
        help: String,
    },
    /// The job file of a batch is wrong.
    #[error("{}, line {line}: {what}", path.display())]
    Job {
        /// The job file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// Fault in that line.
        what: String,
        /// Advice to the user.
        help: String,
    },
    /// A batch came to its end, but not with all of its cells.
    #[error("{what}")]
    Batch {
        /// Number of cells that are lacking, and the reason.
        what: String,
        /// Place where the reasons are found.
        help: String,
        /// Exit status of the program.
        status: Status,
    },
    /// Request that makes no sense or asks for something that does not exist.
    #[error("{what}")]
    Usage {
        /// Request and its fault.
        what: String,
        /// Request that would work instead.
        help: String,
    },
    /// The output is there already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Too little disk space or memory.
    #[error("{what}")]
    Resources {
        /// Resource that is short, and by how much.
        what: String,
        /// Advice to the user.
        help: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Action that was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Reason that the system refused.
        source: io::Error,
    },
    /// A small file that was given beside the model cannot be read.
    #[error("cannot read the {what} {}: {source}", path.display())]
    Read {
        /// Kind of the file: `vocabulary`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Reason that the system refused.
        source: io::Error,
    },
    /// A check that was asked for did not pass.
    #[error("{what}")]
    Check {
        /// Check that did not pass.
        what: String,
    },
    /// The user stopped the work.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An [`Error::Io`] for `path`, to be used with `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// An [`Error::Read`] for a `what` at `path`, to be used with `map_err`.
    pub fn read(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Read { what, path, source }
    }

    /// Advice for the next step.
    pub fn help(&self) -> Option<String> {
        match self {
            Error::Format(e) => e.help(),
            Error::Model { help, .. }
            | Error::Tensor { help, .. }
            | Error::Job { help, .. }
            | Error::Batch { help, .. }
            | Error::Usage { help, .. }
            | Error::Weight { help, .. }
            | Error::Resources { help, .. } => Some(help.clone()),
            Error::Exists { .. } => Some("give another name, or --force to replace it".to_owned()),
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("free some space, or write to another disk".to_owned())
                }
                io::ErrorKind::FileTooLarge => Some(
                    "raise the limit on the size of files (ulimit -f), or write to another disk".to_owned(),
                ),
                io::ErrorKind::OutOfMemory => {
                    Some("free some memory, or give a lower --max-memory".to_owned())
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Some("write to a folder that you may write to".to_owned())
                }
                io::ErrorKind::NotFound => Some("check that the folder exists".to_owned()),
                _ => None,
            },
            Error::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some("check the path and the spelling of the name".to_owned()),
                io::ErrorKind::PermissionDenied => {
                    Some("check the permissions of the file and its folder".to_owned())
                }
                _ => None,
            },
            Error::Check { .. } | Error::Interrupted => None,
        }
    }

    /// Exit status of the program.
    pub fn status(&self) -> Status {
        match self {
            Error::Usage { .. } => Status::Usage,
            Error::Check { .. } => Status::CheckFailed,
            Error::Batch { status, .. } => *status,
            Error::Resources { .. } => Status::Resources,
            Error::Io { source, .. } | Error::Read { source, .. } if is_short(source) => Status::Resources,
            Error::Format(formats::Error::Io { source, .. }) if is_short(source) => Status::Resources,
            Error::Interrupted => Status::Interrupted,
            _ => Status::BadInput,
        }
    }
}

/// True if the disk, a quota, a limit on files, or the memory was too small.
fn is_short(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, OutOfMemory, QuotaExceeded, StorageFull};
    matches!(error.kind(), FileTooLarge | OutOfMemory | QuotaExceeded | StorageFull)
}

/// The program's exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The input or data is bad, or a file could not be read or written.
    BadInput = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A check that was asked for did not pass.
    CheckFailed = 3,
    /// Failure of some cells of a batch.
    CellsFailed = 4,
    /// Out of disk space or memory.
    Resources = 5,
    /// Interrupted by the user.
    Interrupted = 130,
}

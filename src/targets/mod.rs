//! What a model becomes: which tensors and metadata a runtime wants, under which names and types.

pub mod gguf;

use std::fmt;

use formats::{Metadata, Placement, Planned};
use quant::Encoding;

use crate::about::About;
use crate::error::{Error, Result};
use crate::model::{Body, Lazy, Model, Role};
use crate::recipe::FileType;

/// A kind of file that can be written for a runtime.
///
/// The order of calls is `check`, `items`, `metadata`, `place`.
pub trait Target: Send + Sync {
    /// Its short name: `GGUF`.
    fn name(&self) -> &'static str;

    /// The programs that load such files.
    fn runtimes(&self) -> &'static str;

    /// The extensions that ask for it, without the dot.
    fn extensions(&self) -> &'static [&'static str];

    /// Says what stands against this model as such a file.
    ///
    /// # Errors
    /// [`Error::Model`] that names a target that works, if the file could not be loaded.
    fn check(&self, model: &Model) -> Result<Vec<Objection>>;

    /// The tensors of the file, in the order they are written.
    ///
    /// # Errors
    /// If a tensor cannot be brought into the form that the runtime wants.
    fn items(&self, model: &Model) -> Result<Vec<Item>>;

    /// The metadata of the file; `weights` is the number of weights of all [`items`](Target::items).
    ///
    /// # Errors
    /// If something that the runtime needs is not known.
    fn metadata(&self, model: &Model, about: &About, file_type: &FileType, weights: u64) -> Result<Metadata>;

    /// Lays out the file.
    ///
    /// # Errors
    /// If the format cannot hold the tensors or metadata.
    fn place(&self, metadata: &Metadata, tensors: &[Planned]) -> formats::Result<Placement>;
}

impl fmt::Debug for dyn Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Every target.
pub static TARGETS: &[&dyn Target] = &[&gguf::Gguf];

/// The target that a file's extension asks for.
///
/// # Errors
/// [`Error::Usage`] that lists the extensions.
pub fn of_path(path: &std::path::Path) -> Result<&'static dyn Target> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let found = TARGETS.iter().copied().find(|t| t.extensions().contains(&extension.as_str()));
    found.ok_or_else(|| {
        let known: Vec<String> =
            TARGETS.iter().map(|t| format!(".{} ({})", t.extensions().join(", ."), t.runtimes())).collect();
        Error::Usage {
            what: match extension.as_str() {
                "" => format!("the output {} has no extension, which tells the format", path.display()),
                e => format!("no format with the extension .{e} can be written"),
            },
            help: format!("these can be written: {}", known.join("; ")),
        }
    })
}

/// For the targets that are not for llama.cpp: refuses the models that llama.cpp alone runs.
///
/// # Errors
/// [`Error::Model`] that names GGUF, if the model is a hybrid with Qwen2.
pub fn refuse_hybrid(model: &Model, runtimes: &str) -> Result<()> {
    if model.version.body == Body::Rwkv {
        return Ok(());
    }
    Err(Error::Model {
        path: model.container.path().to_owned(),
        what: format!("is {}, which {runtimes} cannot run", model.version.about),
        help: "llama.cpp can: give the output the extension .gguf".to_owned(),
    })
}

/// A tensor of the file to be written.
#[derive(Debug)]
pub struct Item {
    /// Its name in the file.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Its values, in the shape and orientation that the runtime wants.
    pub values: Lazy,
    /// The encoding that the runtime insists on.
    pub fixed: Option<Encoding>,
}

/// Why a runtime would load the file and compute something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// What is wrong: a sentence whose subject is the model.
    pub what: String,
    /// What to do instead.
    pub help: String,
}

//! Target formats of a model: the tensors, metadata and files that a runtime wants, and their names and types.
//!
//! A target says what it can hold: versions ([`Target::takes`]) and file types ([`Target::holds`]). Whatever lists
//! targets - messages, the command `targets`, the choice by extension - asks these.

mod adapters;
mod blinkdl;
mod compact;
mod files;
pub mod gguf;
pub(crate) mod hf;
mod modelfile;
mod rwkv_cpp;
pub(crate) mod web_rwkv;

use std::fmt;
use std::path::Path;

use formats::Planned;
use quant::Encoding;

pub(crate) use adapters::{lora_metadata, lora_names};
pub use files::{ADAPTER, Files, LayoutInput, PlannedFile, SmallFile, beside, groups};

use crate::error::{Error, Result};
use crate::metadata::Tokens;
use crate::model::{Model, Role, TensorView, VERSIONS, Version};
use crate::recipe::{FILE_TYPES, FileType, Mix};
use crate::scheme::Coded;
use crate::scheme::Scheme;

/// A kind of file, or folder, that can be written for a runtime.
///
/// The order of calls is [the rules](crate::plan::rules), `check`, `items`, `files`.
pub trait Target: Send + Sync {
    /// Value of `--to` that selects it: `gguf`.
    fn id(&self) -> &'static str;

    /// Its short name: `GGUF`.
    fn name(&self) -> &'static str;

    /// The programs that load it.
    fn runtimes(&self) -> &'static str;

    /// The extensions that ask for it, without the dot; none for a folder.
    fn extensions(&self) -> &'static [&'static str];

    /// True if it can hold models of this version.
    fn takes(&self, version: &Version) -> bool;

    /// True if it can have this file type.
    fn holds(&self, file_type: &FileType) -> bool;

    /// The name of the file type that it has if nothing else is asked for.
    fn default_type(&self) -> Option<&'static str> {
        None
    }

    /// True if it tells how text becomes tokens.
    fn tokens(&self) -> Tokens {
        Tokens::No
    }

    /// True if it is a folder of several files.
    fn is_folder(&self) -> bool {
        false
    }

    /// True if its tensors may be spread over several files.
    fn splits(&self) -> bool {
        false
    }

    /// Part of a model that it holds.
    fn content(&self) -> Content {
        Content::Model
    }

    /// True if blocks can be treated differently: [`Scheme::layers`] and [`Scheme::rescale`].
    fn plans_layers(&self) -> bool {
        false
    }

    /// Type mixes that it can follow.
    fn mixes(&self) -> &'static [Mix] {
        &[Mix::Own]
    }

    /// The types that every tensor whose type is free may have, each on its own; none if they cannot be mixed.
    fn candidates(&self) -> &'static [Encoding] {
        &[]
    }

    /// The types that a recipe may give to such a tensor.
    fn recipe_types(&self) -> &'static [Encoding] {
        self.candidates()
    }

    /// True if an adapter in it says how it is scaled.
    fn keeps_alpha(&self) -> bool {
        false
    }

    /// True if a model in it can have a tuned initial state.
    fn holds_state(&self) -> bool {
        false
    }

    /// True if its files can hold the SHA-256 of every tensor as metadata.
    fn holds_checksums(&self) -> bool {
        false
    }

    /// Coding of the values of an item of this encoding, if they are not stored as they are.
    fn coded(&self, item: &Item, encoding: Encoding, scheme: &Scheme) -> Option<Coded> {
        let _ = (item, encoding, scheme);
        None
    }

    /// True if its tensors can have any number of bits: the file type `coded`.
    fn codes(&self) -> bool {
        false
    }

    /// Says what else, besides version and type, stands against this model as such a file.
    ///
    /// # Errors
    /// [`Error::Model`] that names a target that works, if the file could not be loaded.
    fn check(&self, model: &Model) -> Result<Vec<Objection>>;

    /// The tensors, in the order they are written.
    ///
    /// # Errors
    /// If a tensor cannot be brought into the form that the runtime wants.
    fn items(&self, model: &Model, scheme: &Scheme) -> Result<Vec<Item>>;

    /// Lays out the files: one with tensors for each of `groups`, and what goes with them.
    ///
    /// # Errors
    /// If the format cannot hold the tensors, or something that the runtime needs is not known.
    fn files(&self, order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Files>;
}

/// Part of a model that a target holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Its weights.
    Model,
    /// An adapter of it, alone.
    Adapter,
    /// Its tuned initial state, alone.
    State,
}

impl fmt::Debug for dyn Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Every target.
pub static TARGETS: &[&dyn Target] = &[
    &gguf::Gguf,
    &web_rwkv::St,
    &web_rwkv::Prefab,
    &rwkv_cpp::RwkvCpp,
    &blinkdl::SAFETENSORS,
    &blinkdl::TORCH,
    &compact::Compact,
    &hf::HuggingFace,
    &adapters::GGUF_LORA,
    &adapters::ST_LORA,
    &adapters::ST_STATE,
    &adapters::PTH_STATE,
];

/// The target of that [`id`](Target::id), else the one that a file's extension asks for.
///
/// # Errors
/// [`Error::Usage`] that lists the extensions.
pub fn choose(path: &Path, id: Option<&str>) -> Result<&'static dyn Target> {
    if path.as_os_str() == "-" {
        return Err(Error::Usage {
            what: "models are not written to standard output: what is written is read back and compared"
                .to_owned(),
            help: "name a file, or ./- if it is to have that name".to_owned(),
        });
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let mut all = TARGETS.iter().copied();
    let found = match id {
        Some(id) => all.find(|t| t.id() == id),
        None => all.find(|t| t.content() == Content::Model && t.extensions().contains(&extension.as_str())),
    };
    let others = || TARGETS.iter().any(|t| t.extensions().contains(&extension.as_str()));
    if let Some(target) = found.filter(|t| !t.extensions().contains(&extension.as_str()) && others()) {
        return Err(Error::Usage {
            what: format!(
                "{} would be a {}, and programs take .{extension} for something else",
                path.display(),
                target.name()
            ),
            help: match target.extensions() {
                [] => "give it a name without that extension, or leave --to out".to_owned(),
                extensions => {
                    format!("give it the extension .{}, or leave --to out", extensions.join(" or ."))
                }
            },
        });
    }
    found.ok_or_else(|| {
        let models = TARGETS.iter().filter(|t| t.content() == Content::Model);
        let known: Vec<String> = models.map(|t| format!("{} ({})", asked_for_by(*t), t.runtimes())).collect();
        Error::Usage {
            what: match (id, extension.as_str()) {
                (Some(id), _) => format!("there is no target {id:?}"),
                (_, "") => format!("the output {} has no extension, which tells the format", path.display()),
                (_, e) => format!("no format with the extension .{e} can be written"),
            },
            help: format!("these can be written: {}", known.join("; ")),
        }
    })
}

/// Way to ask for a target: `.gguf`, or `--to hf`.
pub(crate) fn asked_for_by(target: &dyn Target) -> String {
    match target.extensions() {
        _ if target.content() != Content::Model => format!("--to {}", target.id()),
        [] => format!("--to {}", target.id()),
        extensions => format!(".{}", extensions.join(", .")),
    }
}

/// Other targets of this kind that hold the model in files of this type, as the end of a sentence.
pub(crate) fn holders(target: &dyn Target, model: &Model, file_type: &FileType) -> String {
    let others = TARGETS.iter().filter(|t| t.content() == target.content() && t.takes(model.version));
    let others: Vec<String> = others
        .filter(|t| t.holds(file_type))
        .map(|t| format!("{} ({})", asked_for_by(*t), t.runtimes()))
        .collect();
    match others.is_empty() {
        true => String::new(),
        false => format!("; {} is one of {}", file_type.name, others.join("; ")),
    }
}

/// Error for a target that cannot hold models of this version; names those that can.
pub fn refused(target: &dyn Target, model: &Model) -> Error {
    let others = TARGETS.iter().filter(|t| t.content() == target.content() && t.takes(model.version));
    let others: Vec<String> = others.map(|t| format!("{} ({})", asked_for_by(*t), t.runtimes())).collect();
    Error::Model {
        path: model.container.path().to_owned(),
        what: format!(
            "is {}, and {} holds only versions {}",
            model.version.about,
            target.name(),
            version_names(target).join(", ")
        ),
        help: format!("these can hold it: {}", others.join("; ")),
    }
}

/// Advice for a weight that `narrow` is too narrow for: the targets of this kind that hold the model in a type with a
/// larger range.
pub fn wider(narrow: Encoding, target: &dyn Target, model: &Model) -> String {
    let types = FILE_TYPES.iter().filter(|t| matches!(t.matrix, Encoding::F32 | Encoding::BF16));
    let types: Vec<_> = types.filter(|t| t.gguf_number.is_some() && t.matrix != narrow).collect();
    let others = TARGETS.iter().filter(|t| t.content() == target.content() && t.takes(model.version));
    let others = others.filter_map(|target| {
        let fit: Vec<_> = types.iter().filter(|t| target.holds(t)).map(|t| t.name).collect();
        let asked = format!("{} --type {}", asked_for_by(*target), fit.join(" or "));
        (!fit.is_empty()).then(|| format!("{asked} ({})", target.runtimes()))
    });
    format!("these can hold it: {}", others.collect::<Vec<_>>().join("; "))
}

/// The names of the versions that a target takes, newest first, each once.
pub fn version_names(target: &dyn Target) -> Vec<&'static str> {
    let mut names: Vec<_> = VERSIONS.iter().filter(|v| target.takes(v)).map(|v| v.name).collect();
    names.dedup();
    names
}

/// The names of the file types that a target can have.
pub fn type_names(target: &dyn Target) -> Vec<&'static str> {
    FILE_TYPES.iter().filter(|t| target.holds(t)).map(|t| t.name).collect()
}

/// The file type asked for, else the target's own.
///
/// # Errors
/// [`Error::Usage`] that lists the types, if the target has none of its own.
pub fn type_or_default(target: &dyn Target, asked: Option<&'static FileType>) -> Result<&'static FileType> {
    match (asked, target.default_type()) {
        (Some(asked), _) => Ok(asked),
        (None, Some(name)) => FileType::named(name),
        (None, None) => Err(Error::Usage {
            what: format!("{} files have many types, and none was asked for", target.name()),
            help: format!("give --type: {}", type_names(target).join(", ")),
        }),
    }
}

/// A tensor of the file to be written.
#[derive(Debug)]
pub struct Item {
    /// Its name in the file.
    pub name: String,
    /// Role of the tensor.
    pub role: Role,
    /// Its values, in the shape and orientation that the runtime wants.
    pub values: TensorView,
    /// The encoding that the target insists on.
    pub fixed: Option<Encoding>,
    /// True if the runtime wants the tensor and never reads it.
    pub unread: bool,
}

/// Reason that a runtime would load the file and compute something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Fault: a sentence whose subject is the model.
    pub what: String,
    /// Advice to the user.
    pub help: String,
}

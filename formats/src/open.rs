//! The one door: from a path to a model.

use std::path::Path;

use crate::budget::Budget;
use crate::container::Container;
use crate::error::Result;
use crate::format::{FORMATS, Format, Sniff};
use crate::limits::Limits;
use crate::mapped::{Mapped, dangling};
use crate::shards::Part;
use crate::unknown::not_a_model;
use crate::{bitsandbytes, hf, shards};

/// Opens a model: a file of any of the [`FORMATS`], any part of a sharded set, the `*.index.json` of one,
/// or a folder with one model in it.
///
/// A part or an index opens the whole set, whose files must all be there. A `config.json` beside files
/// with Hugging Face's names, or in the folder, comes with it ([`Container::config`]). Matrices that
/// [`bitsandbytes`] serialized are one tensor each.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if it cannot be opened or is no regular file;
/// [`Error::NotAModel`](crate::Error::NotAModel) if the content is of no known format;
/// [`Error::NotOneModel`](crate::Error::NotOneModel) for a folder without a model or with several;
/// [`Error::MissingShard`](crate::Error::MissingShard); else whatever the format's reader says.
pub fn open(path: &Path, limits: &Limits) -> Result<Container> {
    let budget = &Budget::new(limits);
    let container = if std::fs::metadata(path).map_err(dangling(path))?.is_dir() {
        hf::open_folder(path, budget)
    } else {
        open_file(path, budget)
    };
    bitsandbytes::joined(container?, budget)
}

/// Opens a file and what belongs to it.
pub(crate) fn open_file(path: &Path, budget: &Budget<'_>) -> Result<Container> {
    let file = Mapped::open(path)?;
    let Some(format) = format_of(&file) else {
        if hf::is_index(&file) {
            return hf::open_index(path, &file, budget);
        }
        return Err(not_a_model(path, file.bytes()));
    };
    let container = match Part::of(path, format)? {
        Some(part) => shards::open_set(path, &part, format, budget)?,
        None => shards::alone(read(format, &file, budget)?)?,
    };
    match path.parent() {
        Some(folder) if hf::is_hf_name(path) => Ok(container.with_config(hf::config(folder, budget)?)),
        _ => Ok(container),
    }
}

/// Reads one file and nothing beside it.
pub(crate) fn read_part(path: &Path, budget: &Budget<'_>) -> Result<Container> {
    let file = Mapped::open(path)?;
    match format_of(&file) {
        Some(format) => read(format, &file, budget),
        None => Err(not_a_model(path, file.bytes())),
    }
}

/// Reads a file; if it fails and the file changed meanwhile, that is the error.
fn read(format: &dyn Format, file: &Mapped, budget: &Budget<'_>) -> Result<Container> {
    budget.next_file();
    format.read(file.clone(), budget).or_else(|error| file.check_unchanged().and(Err(error)))
}

fn format_of(file: &Mapped) -> Option<&'static dyn Format> {
    let sniff = Sniff { bytes: file.bytes() };
    FORMATS.iter().find(|f| f.sniff(sniff)).copied()
}

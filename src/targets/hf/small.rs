//! The small files of a source that is a Hugging Face folder itself.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::targets::SmallFile;
use crate::{files, links};

/// Largest file that is taken along.
const FILE_BYTES: u64 = 64 << 20;
/// Extensions of tokenizers, settings, templates and code.
const EXTENSIONS: &[&str] = &["json", "txt", "jinja", "model", "py"];

/// The files beside the weights that hold for any form of them, in order of their names; of links, what they lead to.
pub(super) fn carried(model: &Model) -> Result<Vec<SmallFile>> {
    let Some(folder) = folder(model) else { return Ok(Vec::new()) };
    links::check(&folder.join("config.json"))?; // that of the output has its keys
    let own = candidates(folder)?.into_iter().filter_map(|path| Some((links::own(folder, &path)?, path)));
    let read = |(file, path): (PathBuf, PathBuf)| {
        let bytes = files::read(&file, "file beside the model", FILE_BYTES)?;
        Ok(SmallFile { name: path.file_name().unwrap_or_default().to_owned(), bytes })
    };
    own.map(read).collect()
}

/// The links that are left out, as they lead to files that are not the model's.
pub(crate) fn left_out(model: &Model) -> Vec<String> {
    let Some(folder) = folder(model) else { return Vec::new() };
    let card = folder.join("README.md");
    let foreign = candidates(folder).unwrap_or_default().into_iter().chain([card]);
    let foreign = foreign.filter(|path| path.is_symlink() && links::own(folder, path).is_none());
    foreign
        .map(|path| format!("{} is a link out of the model's folder, and is left out", path.display()))
        .collect()
}

/// The folder of a source with a configuration.
fn folder(model: &Model) -> Option<&Path> {
    let source = &model.container;
    source.config()?;
    Some(match source.path() {
        path if path.is_dir() => path,
        path => path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    })
}

/// Files and links that go with the model and are not made anew, in order of their names.
fn candidates(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| belongs(p)).collect();
    paths.sort_unstable(); // the system lists them in any order
    Ok(paths)
}

fn belongs(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default();
    (path.is_file() || path.is_symlink())
        && !name.starts_with('.')
        && name != "config.json"
        && !name.ends_with(formats::INDEX_SUFFIX)
        && EXTENSIONS.iter().any(|e| extension == *e)
}

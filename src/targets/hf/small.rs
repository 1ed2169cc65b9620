//! The small files of a source that is a Hugging Face folder itself.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;
use crate::model::Model;
use crate::targets::SmallFile;

/// Largest file that is taken along.
const FILE_BYTES: u64 = 64 << 20;
/// Extensions of tokenizers, settings, templates and code.
const EXTENSIONS: &[&str] = &["json", "txt", "jinja", "model", "py"];

/// The files beside the weights that hold for any form of them, in order of their names.
pub(super) fn carried(model: &Model) -> Result<Vec<SmallFile>> {
    let source = &model.container;
    if source.config().is_none() {
        return Ok(Vec::new());
    }
    let folder = match source.path() {
        path if path.is_dir() => path,
        path => path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    };
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| belongs(p)).collect();
    paths.sort_unstable(); // the system lists them in any order
    let read = |path: &std::path::PathBuf| {
        let bytes = files::read(path, "file beside the model", FILE_BYTES)?;
        Ok(SmallFile { name: path.file_name().unwrap_or_default().to_owned(), bytes })
    };
    paths.iter().map(read).collect()
}

/// Whether a file goes with the model, and is not made anew.
fn belongs(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default();
    path.is_file()
        && !name.starts_with('.')
        && name != "config.json"
        && !name.ends_with(formats::INDEX_SUFFIX)
        && EXTENSIONS.iter().any(|e| extension == *e)
}

//! Origin of a model: a file of its own, or a folder whose other files belong to it.

use std::path::{Path, PathBuf};

use formats::Container;

use crate::links;

/// The folder of a model that is a folder, a set of several files, or has the name that every model of Hugging Face
/// has; `None` for a file that may stand among other models.
pub(super) fn folder(source: &Container) -> Option<PathBuf> {
    let path = source.path();
    if path.is_dir() {
        return Some(path.to_owned());
    }
    let name = path.file_name()?.to_string_lossy();
    let belongs =
        source.files().len() > 1 || name.ends_with(".index.json") || is_part(&name) || is_usual(&name);
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    belongs.then(|| parent.to_owned())
}

/// The folder whose README.md is the model's card. A GGUF file tells of itself; a card beside it often tells of a
/// whole collection.
pub(super) fn card_folder(source: &Container) -> Option<PathBuf> {
    folder(source).filter(|_| source.format().name() != "GGUF")
}

/// The name of the repository that a folder is a snapshot of in a cache of the Hugging Face Hub, where the folder itself
/// is named by a commit: `models--OWNER--NAME/snapshots/COMMIT`.
pub fn repository(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let cache = links::hub_cache(&folder)?;
    let owned = cache.file_name()?.to_str()?.strip_prefix(links::HUB_MODELS)?;
    let name = owned.split_once("--").map_or(owned, |(_, name)| name);
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// The name of a model that nothing states: that of its folder, else of its file.
pub(super) fn name(source: &Container) -> String {
    let folder = folder(source);
    if let Some(name) = folder.as_deref().and_then(repository) {
        return name;
    }
    let name = match folder {
        // A path like `..` has no name of its own.
        Some(folder) if folder.file_name().is_none() => {
            folder.canonicalize().ok().and_then(|f| f.file_name().map(ToOwned::to_owned))
        }
        Some(folder) => folder.file_name().map(ToOwned::to_owned),
        None => source.path().file_stem().map(ToOwned::to_owned),
    };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// `NAME-00001-of-00003.EXT`.
fn is_part(name: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let numbers = || {
        let (left, right) = name.rsplit_once("-of-")?;
        Some((left.rsplit_once('-')?.1, right.split_once('.')?.0))
    };
    numbers().is_some_and(|(number, count)| digits(number) && digits(count) && number.len() == count.len())
}

/// `model*.safetensors` and `pytorch_model*.bin`.
fn is_usual(name: &str) -> bool {
    let named = |start: &str, end: &str| {
        let middle = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        middle.is_some_and(|m| m.is_empty() || m.starts_with(['.', '-']))
    };
    named("model", ".safetensors") || named("pytorch_model", ".bin")
}

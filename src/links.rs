//! Links in a model's folder: whose contents are the model's, and whose are somebody else's.
//!
//! What stands beside a model is carried into what is made of it. A folder from a stranger may hold a link to any file of
//! the user's; what it points to must not be published. A snapshot in a cache of the Hugging Face Hub is nothing but
//! links to the `blobs` of the same repository.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The start of a model's folder in a cache of the Hub: `models--OWNER--NAME`.
pub const HUB_MODELS: &str = "models--";

/// The file that `path` in `folder` stands for: itself, or where a link leads, if that is a regular file within the
/// folder or among the blobs of the same Hub cache; `None` for anything else.
pub fn own(folder: &Path, path: &Path) -> Option<PathBuf> {
    if path.symlink_metadata().ok()?.is_file() {
        return Some(path.to_owned());
    }
    let (folder, file) = (folder.canonicalize().ok()?, path.canonicalize().ok()?);
    let is_blob = || hub_cache(&folder).is_some_and(|cache| file.starts_with(cache.join("blobs")));
    let is_own = file.is_file() && (file.starts_with(&folder) || is_blob());
    is_own.then_some(file)
}

/// Refuses a file of a model's folder that is a link to somebody else's file.
///
/// # Errors
/// [`Error::Model`].
pub fn check(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !path.is_symlink() || own(folder, path).is_some() {
        return Ok(());
    }
    Err(Error::Model {
        path: path.to_owned(),
        what: "is a link out of the model's folder, and what it leads to would stand in the output"
            .to_owned(),
        help: "put a copy of the file there if it is the model's, or remove the link".to_owned(),
    })
}

/// The folder `models--OWNER--NAME` of a Hub cache that the snapshot `folder` (or a folder in one) is of; all links
/// must be resolved.
pub fn hub_cache(folder: &Path) -> Option<&Path> {
    folder.ancestors().find_map(|snapshots| {
        let cache = snapshots.parent().filter(|_| snapshots.ends_with("snapshots") && snapshots != folder)?;
        let name = cache.file_name()?.to_str()?;
        name.starts_with(HUB_MODELS).then_some(cache)
    })
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_is_the_models_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let cache = root.join("models--owner--name");
        let snapshot = cache.join("snapshots").join("0123456789012345678901234567890123456789");
        fs::create_dir_all(snapshot.join("sub")).unwrap();
        fs::create_dir_all(cache.join("blobs")).unwrap();
        fs::create_dir_all(root.join("models--owner--other/blobs")).unwrap();
        for file in [
            "secret",
            "models--owner--name/blobs/aa",
            "models--owner--name/refs",
            "models--owner--other/blobs/bb",
        ] {
            fs::write(root.join(file), file).unwrap();
        }
        let file = |name: &str| snapshot.join(name);
        fs::write(file("plain.json"), "{}").unwrap();
        fs::write(file("sub/plain.json"), "{}").unwrap();
        for (name, target, own_file) in [
            ("blob", "../../blobs/aa", Some(cache.join("blobs/aa"))),
            ("inside", "sub/plain.json", Some(file("sub/plain.json"))),
            ("twice", "blob", Some(cache.join("blobs/aa"))),
            ("outside", "../../../secret", None),
            ("absolute", "/etc/passwd", None),
            ("refs", "../../refs", None),
            ("other", "../../../models--owner--other/blobs/bb", None),
            ("folder", "sub", None),
            ("dangling", "nothing", None),
        ] {
            symlink(target, file(name)).unwrap();
            assert_eq!(own(&snapshot, &file(name)), own_file, "{name}");
        }
        assert_eq!(own(&snapshot, &file("plain.json")), Some(file("plain.json")));
        assert_eq!(hub_cache(&snapshot), Some(cache.as_path()));
        assert_eq!(hub_cache(&cache.join("snapshots")), None);
        // Blobs are those of a cache only.
        let folder = root.join("folder");
        fs::create_dir(&folder).unwrap();
        symlink("../models--owner--name/blobs/aa", folder.join("x.json")).unwrap();
        assert_eq!(own(&folder, &folder.join("x.json")), None);
    }
}

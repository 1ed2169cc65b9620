//! Small files beside a model: read whole, but never without bound; written whole, or not at all.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// The bytes of a regular file of at most `limit_bytes`; `what` names it in errors: `vocabulary`.
///
/// # Errors
/// [`Error::Read`] if the system refuses, [`Error::Model`] if it is no regular file or larger.
pub fn read(path: &Path, what: &'static str, limit_bytes: u64) -> Result<Vec<u8>> {
    let refused = |source| Error::Read { what, path: path.to_owned(), source };
    let unfit = |why: String| Error::Model {
        path: path.to_owned(),
        what: why,
        help: format!("give the file of the {what}"),
    };
    // Before it is opened: opening a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(refused)?.is_file() {
        return Err(unfit("is no regular file".to_owned()));
    }
    let file = std::fs::File::open(path).map_err(refused)?;
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(unfit(format!("has more than {} MiB, and no {what} is so large", limit_bytes >> 20)));
    }
    Ok(bytes)
}

/// The text of such a file, without a byte order mark.
///
/// # Errors
/// As [`read`], and [`Error::Model`] if it is not UTF-8.
pub fn text(path: &Path, what: &'static str, limit_bytes: u64) -> Result<String> {
    let text = String::from_utf8(read(path, what, limit_bytes)?).map_err(|e| Error::Model {
        path: path.to_owned(),
        what: format!("is not UTF-8: {e}"),
        help: format!("save the {what} as UTF-8, or get a sound copy"),
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// Gives the file at `path` these bytes: whole or not at all. Nobody else may write it meanwhile.
///
/// # Errors
/// [`Error::Io`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_by(path, |file| file.write_all(bytes).map_err(Error::io("write", path)))
}

/// Gives the file at `path` the bytes that `write` writes: whole or not at all. Nobody else may write it meanwhile.
///
/// # Errors
/// [`Error::Io`]; as `write`.
pub fn replace_by(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    refuse_special(path)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = || {
        let mut file = File::create(&partial).map_err(Error::io("write", path))?;
        write(&mut file)?;
        file.sync_all().map_err(Error::io("write", path))?;
        fs::rename(&partial, path).map_err(Error::io("write", path))
    };
    written().inspect_err(|_| drop(fs::remove_file(&partial)))
}

/// An output must be no device, pipe or socket: it would be replaced by a file.
///
/// # Errors
/// [`Error::Usage`].
pub fn refuse_special(out: &Path) -> Result<()> {
    match fs::metadata(out) {
        Ok(there) if !there.is_file() && !there.is_dir() => Err(Error::Usage {
            what: format!("{} is no regular file, and only such can be written", out.display()),
            help: "name a file; --dry-run writes none".to_owned(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn devices_are_no_outputs() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("there");
        assert!(refuse_special(&file).is_ok());
        std::fs::write(&file, "x").unwrap();
        assert!(refuse_special(&file).is_ok() && refuse_special(dir.path()).is_ok());
        let error = replace(Path::new("/dev/null"), b"x").unwrap_err().to_string();
        assert!(error.contains("/dev/null is no regular file"), "{error}");
    }

    #[test]
    fn what_is_too_large_or_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "\u{feff}text").unwrap();
        assert_eq!(text(&path, "list", 7).unwrap(), "text");
        assert!(text(&path, "list", 6).unwrap_err().to_string().contains("has more than"));
        assert!(read(dir.path(), "list", 9).unwrap_err().to_string().contains("no regular file"));
        let missing = read(&dir.path().join("b"), "list", 9).unwrap_err();
        assert_eq!(missing.help().as_deref(), Some("check the path and the spelling of the name"));
    }
}

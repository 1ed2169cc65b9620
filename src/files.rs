//! Small files beside a model: read whole, but never without bound.

use std::io::Read;
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

#[cfg(test)]
mod tests {
    use super::*;

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

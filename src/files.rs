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
    let known = file.metadata().map_or(0, |meta| meta.len().min(limit_bytes));
    let mut bytes = Vec::with_capacity(known as usize + 1);
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
    let mut text = text;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// Most values in a JSON file of another program's making: a tokenizer of 256 thousand tokens has about a million.
const JSON_VALUES: usize = 1 << 21;

/// Refuses JSON of more values than any real file has, before a parser makes large things of them.
///
/// # Errors
/// A sentence about the text.
pub fn check_json(text: &str) -> std::result::Result<(), String> {
    // Every value but the first follows a comma or an opening bracket.
    let values = text.bytes().filter(|b| matches!(b, b',' | b'[' | b'{')).count();
    match values <= JSON_VALUES {
        true => Ok(()),
        false => Err(format!("it has {values} values, which exceeds the limit of {JSON_VALUES}")),
    }
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

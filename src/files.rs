//! Small files: read whole, but never without bound; and paths in them.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A path in a file: as text, or as a list of bytes where it is no Unicode.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum StoredPath {
    /// Unicode.
    Text(String),
    /// Any bytes.
    Bytes(Vec<u8>),
}

impl From<&Path> for StoredPath {
    fn from(path: &Path) -> StoredPath {
        match path.to_str() {
            Some(text) => StoredPath::Text(text.to_owned()),
            None => StoredPath::Bytes(path.as_os_str().as_encoded_bytes().to_vec()),
        }
    }
}

impl From<StoredPath> for PathBuf {
    fn from(stored: StoredPath) -> PathBuf {
        match stored {
            StoredPath::Text(text) => text.into(),
            StoredPath::Bytes(bytes) => os_string(bytes).into(),
        }
    }
}

/// The path of a file that is read, or one of a few words in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "StoredPath", into = "StoredPath")]
pub struct InputFile(pub PathBuf);

impl InputFile {
    /// The path of a file that may be given.
    pub fn path_of(file: &Option<InputFile>) -> Option<&Path> {
        file.as_ref().map(|file| file.0.as_path())
    }

    /// True if it is one of these words, which mean something built in.
    pub fn is_word(&self, words: &[&str]) -> bool {
        self.0.to_str().is_some_and(|text| words.contains(&text))
    }
}

impl From<OsString> for InputFile {
    fn from(path: OsString) -> InputFile {
        InputFile(path.into())
    }
}

impl From<&str> for InputFile {
    fn from(path: &str) -> InputFile {
        InputFile(path.into())
    }
}

impl From<StoredPath> for InputFile {
    fn from(stored: StoredPath) -> InputFile {
        InputFile(stored.into())
    }
}

impl From<InputFile> for StoredPath {
    fn from(file: InputFile) -> StoredPath {
        file.0.as_path().into()
    }
}

/// A name of these bytes, where names are bytes.
#[cfg(unix)]
pub(crate) fn os_string(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

/// A name of these bytes, where names are Unicode.
#[cfg(not(unix))]
pub(crate) fn os_string(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

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

/// The text of such a file of JSON, whose values a parser holds in at most 512 MiB.
///
/// # Errors
/// As [`text`], and [`Error::Model`] if they cannot.
pub fn json(path: &Path, what: &'static str, limit_bytes: u64) -> Result<String> {
    const MOST_PARSED_BYTES: u64 = 512 << 20;
    /// Most bytes of memory that serde_json's own type takes for a value, its name and its place in a growing list.
    const VALUE_BYTES: u64 = 3 * size_of::<serde_json::Value>() as u64 + 96;
    let text = text(path, what, limit_bytes)?;
    // Every value follows a comma or an opening bracket.
    let values = text.bytes().filter(|b| matches!(b, b',' | b'[' | b'{')).count() as u64;
    if values * VALUE_BYTES > MOST_PARSED_BYTES {
        return Err(Error::Model {
            path: path.to_owned(),
            what: format!("holds {values} values, and no {what} has so many"),
            help: format!("give the file of the {what}"),
        });
    }
    Ok(text)
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

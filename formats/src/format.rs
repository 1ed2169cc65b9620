//! The formats that are known, and how one is found.

use std::fmt;
use std::path::Path;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::mapped::Mapped;

/// What a format is recognised by.
#[derive(Clone, Copy, Debug)]
pub struct Sniff<'a> {
    /// All bytes of the file (mapped: only those that are looked at are read).
    pub bytes: &'a [u8],
}

/// A container format that can be read.
///
/// The order of calls is `sniff`, then `read` on a file that it accepted.
pub trait Format: Send + Sync {
    /// Its short name, as it is shown to people and used in `--format`-like choices: `gguf`.
    fn name(&self) -> &'static str;

    /// One line that says what it is.
    fn about(&self) -> &'static str;

    /// The usual extensions, without the dot; the first is the one to suggest.
    fn extensions(&self) -> &'static [&'static str];

    /// Whether the content starts like this format.
    fn sniff(&self, file: Sniff<'_>) -> bool;

    /// Reads the description of the tensors of one file.
    ///
    /// # Errors
    /// If the file breaks the format's rules, uses something unsupported or exceeds `limits`.
    fn read(&self, file: Mapped, limits: &Limits) -> Result<Container>;
}

impl fmt::Debug for dyn Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Every format, in the order they are tried.
pub static FORMATS: &[&dyn Format] = &[&crate::gguf::Gguf, &crate::pth::Pth];

/// Opens a model of any format.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened; [`Error::NotAModel`] if the content is of no known format; else
/// whatever the format's reader says.
pub fn open(path: &Path, limits: &Limits) -> Result<Container> {
    let file = Mapped::open(path)?;
    let sniff = Sniff { bytes: file.bytes() };
    match FORMATS.iter().find(|f| f.sniff(sniff)) {
        Some(format) => format.read(file, limits),
        None => Err(not_a_model(path, file.bytes())),
    }
}

/// Says what a file that is no model looks like.
fn not_a_model(path: &Path, bytes: &[u8]) -> Error {
    let start = bytes[..bytes.len().min(512)].trim_ascii_start();
    let lower = start.to_ascii_lowercase();
    let (found, help) = if bytes.is_empty() {
        ("empty".to_owned(), "copy or download it again")
    } else if lower.starts_with(b"<!doctype") || lower.starts_with(b"<html") {
        (
            "an HTML page".to_owned(),
            "the download saved a web page instead of the file: use the link of the file itself",
        )
    } else if start.starts_with(b"version https://git-lfs") {
        ("a Git LFS pointer".to_owned(), "run `git lfs pull` in its repository to fetch the file itself")
    } else if bytes.iter().take(4096).all(|b| *b == 0) {
        ("a file of zeros".to_owned(), "the download did not finish: download it again")
    } else if start.starts_with(b"\x1f\x8b") {
        ("gzip data".to_owned(), "unpack it first")
    } else if start.starts_with(b"7z\xbc\xaf") || start.starts_with(b"Rar!") {
        ("an archive".to_owned(), "unpack it first")
    } else {
        let head: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
        (
            format!("of no known format (it starts with {})", head.join(" ")),
            "these are read: torch .pth, safetensors, Hugging Face folders, GGUF, rwkv.cpp .bin",
        )
    };
    Error::NotAModel { path: path.to_owned(), found, help }
}

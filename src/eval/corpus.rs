//! Texts to evaluate on: text, JSON lines, or tokens.

use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::encoding::{NotUtf8, utf8, without_mark};
use serde::Deserialize;

use crate::digest::hex;
use crate::error::{Error, Result};
use crate::vocab::{Coder, Token, Vocab};

/// Texts as tokens.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The tokens of all documents.
    pub tokens: Vec<u32>,
    /// The documents, as ranges of tokens.
    pub documents: Vec<Range<usize>>,
    /// Bytes of the files.
    pub file_bytes: u64,
    /// SHA-256 of all files, one after the other.
    pub sha256: String,
    /// Warnings about the texts, to be read before anything is judged by them.
    pub warnings: Vec<String>,
}

/// The SHA-256 of what a vocabulary maps: every id's bytes, each after its length as a little-endian u32.
pub fn vocabulary_sha256(vocab: &Vocab) -> String {
    let mut hash = Sha256::new();
    for token in &vocab.tokens {
        let bytes: &[u8] = if let Token::Bytes(b) = token { b } else { &[] };
        hash.update((bytes.len() as u32).to_le_bytes());
        hash.update(bytes);
    }
    hex(&hash.finalize())
}

impl Corpus {
    /// True if all files hold tokens, for which no vocabulary is needed.
    pub fn are_tokens(paths: &[PathBuf]) -> bool {
        paths.iter().all(|path| matches!(extension(path).as_str(), "npy" | "ids"))
    }

    /// Reads files: `.jsonl` (a document a line: a string, or an object with a string `text`), `.npy` (tokens as
    /// integers of any size), `.ids` (tokens as decimal numbers between blanks), and anything else as text: UTF-8, or
    /// any bytes if `allow_non_utf8`. A byte order mark of UTF-8 is no text; line ends stay as they are.
    ///
    /// # Errors
    /// If a file cannot be read or understood, is in another encoding, or has bytes that the vocabulary has no tokens
    /// for.
    pub fn read(paths: &[PathBuf], coder: &Coder, allow_non_utf8: bool) -> Result<Corpus> {
        let mut corpus = Corpus {
            tokens: Vec::new(),
            documents: Vec::new(),
            file_bytes: 0,
            sha256: String::new(),
            warnings: Vec::new(),
        };
        let mut hash = Sha256::new();
        for path in paths {
            let bytes = std::fs::read(path).map_err(Error::read("text", path))?;
            hash.update(&bytes);
            corpus.file_bytes += bytes.len() as u64;
            let is_tokens = Corpus::are_tokens(std::slice::from_ref(path));
            let mut warnings = Vec::new();
            let mut text = || match utf8(&bytes) {
                Err(found) if allow_non_utf8 => {
                    let what = found.what;
                    warnings.push(format!("{} {what}; its bytes are taken as they are", path.display()));
                    Ok(without_mark(&bytes))
                }
                text => text.map_err(|found| in_other_encoding(path, found)),
            };
            let documents = match extension(path).as_str() {
                "jsonl" => json_lines(text()?, coder),
                "npy" => npy(&bytes).map(|ids| vec![ids]),
                "ids" => decimal(text()?).map(|ids| vec![ids]),
                _ if is_model(&bytes) => {
                    Err("it is a model, or an importance matrix, and no text".to_owned())
                }
                _ => coder.encode(text()?).map(|ids| vec![ids]).map_err(|e| e.to_string()),
            };
            corpus.warnings.append(&mut warnings);
            if !is_tokens && bytes.windows(2).any(|pair| pair == b"\r\n") {
                let name = path.display();
                corpus.warnings.push(format!(
                    "{name} has the line ends of Windows (CRLF), which are part of the text here; dos2unix removes them"
                ));
            }
            for ids in documents.map_err(|what| unreadable(path, &what))? {
                let start = corpus.tokens.len();
                corpus.tokens.extend(ids);
                corpus.documents.push(start..corpus.tokens.len());
            }
        }
        corpus.sha256 = hex(&hash.finalize());
        Ok(corpus)
    }
}

/// The extension of a file in lower case.
fn extension(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// True if a file starts as GGUF, safetensors, torch and compact files do.
fn is_model(bytes: &[u8]) -> bool {
    let starts: [&[u8]; 3] = [b"GGUF", b"PK\x03\x04", b"RWKVZ\0"];
    starts.iter().any(|start| bytes.starts_with(start))
        || bytes.get(8..10).is_some_and(|b| b == b"{\"" && bytes[7] == 0)
}

fn unreadable(path: &Path, what: &str) -> Error {
    Error::Model {
        path: path.to_owned(),
        what: format!("cannot be turned into tokens: {what}"),
        help: "give text of any kind, .jsonl with a \"text\" a line, .npy or .ids with tokens, and --vocab FILE for \
               another vocabulary"
            .to_owned(),
    }
}

fn in_other_encoding(path: &Path, found: NotUtf8) -> Error {
    let name = path.display();
    let convert = match found.iconv {
        Some(encoding) => {
            let extension = path.extension().unwrap_or("txt".as_ref()).display();
            format!("convert it: iconv -f {encoding} -t UTF-8 '{name}' > utf8.{extension}")
        }
        None => "save it as UTF-8".to_owned(),
    };
    Error::Model {
        path: path.to_owned(),
        what: found.what,
        help: format!("{convert}; --allow-non-utf8 takes its bytes as they are"),
    }
}

/// The text of a line of JSON: a string, or the member `text` of an object; no other value takes any memory.
fn json_text(line: &[u8]) -> serde_json::Result<String> {
    #[derive(Deserialize)]
    struct Document {
        text: String,
    }
    match line.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(line).map(|document: Document| document.text),
        _ => serde_json::from_slice(line),
    }
}

fn json_lines(bytes: &[u8], coder: &Coder) -> std::result::Result<Vec<Vec<u32>>, String> {
    let mut documents = Vec::new();
    for (n, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let text = json_text(line).map_err(|e| match e.is_data() {
            true => format!("line {} is no string and has no string \"text\"", n + 1),
            false => format!("line {}: {e}", n + 1),
        })?;
        documents.push(coder.encode(text.as_bytes()).map_err(|e| format!("line {}: {e}", n + 1))?);
    }
    Ok(documents)
}

fn decimal(bytes: &[u8]) -> std::result::Result<Vec<u32>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let shown = |id: &str| {
        if id.len() > 24 {
            format!("{:?}...", id.chars().take(20).collect::<String>())
        } else {
            format!("{id:?}")
        }
    };
    text.split_ascii_whitespace()
        .map(|id| id.parse().map_err(|_| format!("{} is no token", shown(id))))
        .collect()
}

/// A one-dimensional array of numpy's format 1 or 2.
fn npy(bytes: &[u8]) -> std::result::Result<Vec<u32>, String> {
    let header = || -> Option<(&str, &[u8])> {
        let (size, start) = match (bytes.get(..6)? == b"\x93NUMPY", bytes.get(6)?) {
            (true, 1) => (usize::from(u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?)), 10),
            (true, 2) => (u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?) as usize, 12),
            _ => return None,
        };
        let end = size.checked_add(start)?;
        Some((std::str::from_utf8(bytes.get(start..end)?).ok()?, bytes.get(end..)?))
    };
    let (header, data) = header().ok_or("it is no .npy file")?;
    // The type: byte order, kind, and bytes of a number, as in '<u2'.
    let kind = header.split_once("'descr': '").and_then(|(_, rest)| rest.split_once('\''));
    let mut letters = kind.map_or("", |(kind, _)| kind).chars();
    let (order, letter, size) = (letters.next(), letters.next(), letters.as_str());
    let size = match (order, letter, size) {
        (Some('<' | '>' | '|'), Some('i' | 'u'), "1" | "2" | "4" | "8") => {
            usize::from(size.as_bytes()[0] - b'0')
        }
        _ => return Err(format!("it holds no integers: {header}")),
    };
    let shape = header.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')'));
    let dims: Vec<&str> = shape.map_or("", |(dims, _)| dims).split(',').map(str::trim).collect();
    let count: usize = match dims[..] {
        [count] | [count, ""] => count.parse().map_err(|_| format!("its shape is none: {header}"))?,
        _ => return Err(format!("it has {} dimensions, and tokens have one: {header}", dims.len())),
    };
    if count.checked_mul(size) != Some(data.len()) {
        return Err(format!("it has {} bytes of data, not {count} times {size}", data.len()));
    }
    let token = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        if order == Some('>') {
            bytes.reverse();
        }
        let is_negative = letter == Some('i') && bytes[size - 1] > 127;
        bytes.resize(16, if is_negative { 255 } else { 0 });
        let id = i128::from_le_bytes(bytes.try_into().unwrap_or_default());
        u32::try_from(id).map_err(|_| format!("{id} is no token"))
    };
    data.chunks_exact(size).map(token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_of_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let coder = Coder::greedy(Vocab::bytes());
        let mut npy = b"\x93NUMPY\x01\x00".to_vec();
        let header = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }\n";
        npy.extend((header.len() as u16).to_le_bytes());
        npy.extend(header.as_bytes());
        npy.extend([97, 0, 0, 0, 98, 0, 0, 0]);
        let mut paths = Vec::new();
        for (name, bytes) in [
            ("a.txt", &b"a\xff"[..]),
            ("b.jsonl", b"{\"text\": \"ab\"}\n\n\"c\"\n"),
            ("c.ids", b"1 2\n3"),
            ("d.npy", &npy),
        ] {
            paths.push(folder.path().join(name));
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let error = Corpus::read(&paths, &coder, false).unwrap_err().to_string();
        assert!(error.contains("a.txt is likely Latin-1"), "{error}");
        let corpus = Corpus::read(&paths, &coder, true).unwrap();
        assert_eq!(corpus.tokens, [97, 255, 97, 98, 99, 1, 2, 3, 97, 98]);
        assert_eq!(corpus.documents, [0..2, 2..4, 4..5, 5..8, 8..10]);
        std::fs::write(&paths[2], "1 x").unwrap();
        let error = Corpus::read(&paths, &coder, true).unwrap_err().to_string();
        assert!(error.ends_with("c.ids cannot be turned into tokens: \"x\" is no token"), "{error}");
    }

    #[test]
    fn marks_are_no_text_and_line_ends_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let coder = Coder::greedy(Vocab::bytes());
        let path = folder.path().join("a");
        for (bytes, tokens, warnings) in [
            (&b"\xef\xbb\xbfa\nb"[..], &b"a\nb"[..], 0),
            (b"a\r\nb", b"a\r\nb", 1),
            // A sample that begins and ends within a character.
            (b"\x80\x98a\xe2\x80", b"\x80\x98a\xe2\x80", 0),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let corpus = Corpus::read(std::slice::from_ref(&path), &coder, false).unwrap();
            assert!(corpus.tokens.iter().copied().eq(tokens.iter().map(|b| u32::from(*b))), "{bytes:?}");
            assert_eq!(corpus.warnings.len(), warnings, "{:?}", corpus.warnings);
        }
    }
}

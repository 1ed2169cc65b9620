//! Recognition of files that are no model.

use std::path::Path;

use crate::error::Error;

/// Magic bytes of files of other kinds: offset, bytes, what it is, what to do.
#[rustfmt::skip]
const KNOWN: &[(usize, &[u8], &str, &str)] = &[
    (0,   b"version https://git-lfs",   "a Git LFS pointer",     FETCH),
    (0,   b"\x1f\x8b",                  "gzip data",             UNPACK),
    (0,   b"BZh",                       "bzip2 data",            UNPACK),
    (0,   b"\xfd7zXZ\0",                "xz data",               UNPACK),
    (0,   b"\x28\xb5\x2f\xfd",          "zstd data",             UNPACK),
    (0,   b"7z\xbc\xaf\x27\x1c",        "a 7-Zip archive",       UNPACK),
    (0,   b"Rar!",                      "a RAR archive",         UNPACK),
    (257, b"ustar",                     "a tar archive",         UNPACK),
    (0,   b"\x89PNG",                   "a PNG picture",         LINK),
    (0,   b"\xff\xd8\xff",              "a JPEG picture",        LINK),
    (0,   b"GIF8",                      "a GIF picture",         LINK),
    (0,   b"%PDF",                      "a PDF document",        LINK),
    (0,   b"\x7fELF",                   "a program",             OTHER),
    (0,   b"MZ",                        "a Windows program",     OTHER),
    (0,   b"\x89HDF",                   "an HDF5 file",          OTHER),
    (0,   b"\x93NUMPY",                 "a NumPy array",         OTHER),
    (4,   b"TFL3",                      "a TensorFlow Lite model", OTHER),
    (0,   b"7767517\n",                 "an ncnn model",         OTHER),
    (0,   b"lmgg",                      "an unversioned ggml file", OTHER),
    (0,   b"tjgg",                      "a GGJT file of an old llama.cpp", OTHER),
];

const FETCH: &str = "run `git lfs pull` in its repository to fetch the file itself";
const UNPACK: &str = "unpack it first";
const LINK: &str = "the download saved something else: use the link of the file itself";
const OTHER: &str = "start from the checkpoint that it was made from";
const READ: &str = "these are read: torch .pth, safetensors, Hugging Face folders, GGUF, rwkv.cpp .bin, web-rwkv .prefab, .rwkvz";
const AGAIN: &str = "the download did not finish: download it again";

/// The error for a file of no known format: it says what the content looks like.
pub(crate) fn not_a_model(path: &Path, bytes: &[u8]) -> Error {
    let (found, help) = look(bytes);
    Error::NotAModel { path: path.to_owned(), found, help }
}

fn look(bytes: &[u8]) -> (String, &'static str) {
    if bytes.is_empty() {
        return ("empty".to_owned(), AGAIN);
    }
    if bytes.iter().take(4096).all(|b| *b == 0) {
        return ("a file of zeros".to_owned(), AGAIN);
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let start = text.get(..512).unwrap_or(text).trim_ascii_start();
    let lower = start.to_ascii_lowercase();
    if lower.starts_with(b"<!doctype html") || lower.starts_with(b"<html") {
        return (
            "an HTML page".to_owned(),
            "the download saved a web page instead of the file: use the link of the file itself",
        );
    }
    if lower.starts_with(b"<?xml") {
        return ("an XML document".to_owned(), "the download saved a server's answer instead of the file");
    }
    if start.starts_with(b"{") || start.starts_with(b"[") {
        let help = "open the folder it stands in, the file of weights, or the *.index.json of a sharded set";
        return ("a JSON file".to_owned(), help);
    }
    let known = |(at, magic, _, _): &&(usize, &[u8], &str, &str)| {
        bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic))
    };
    if let Some((_, _, found, help)) = KNOWN.iter().find(known) {
        return ((*found).to_owned(), help);
    }
    if let [0x08, 3..=20, 0x12, ..] = bytes {
        return ("an ONNX model".to_owned(), OTHER); // protobuf: the version, then the producer
    }
    let line: Vec<u8> = start.iter().copied().take(40).take_while(|b| *b != b'\n').collect();
    let valid = line.utf8_chunks().next().map(|chunk| chunk.valid()).unwrap_or_default();
    // The cut after 40 bytes may have hit a character of up to four bytes.
    if valid.len() >= 4 && valid.len() + 4 > line.len() && !valid.chars().any(char::is_control) {
        let help = "the download may have saved an error message instead of the file";
        return (format!("a text file (it starts with {valid:?})"), help);
    }
    let head: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
    (format!("of no known format (it starts with {})", head.join(" ")), READ)
}

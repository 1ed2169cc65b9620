//! One conversion spread over machines: each shard encodes some of the tensors, and merging puts the files together.
//!
//! ```text
//! OUT.shard-2of7      a safetensors file of bytes, checksums included (see formats::safetensors::Bundle)
//!   rwkv-quant.shard  metadata: a Head as JSON behind its SHA-256; which conversion, which shard, and where all tensors
//!                     of all shards go
//!   NAME              the data of a tensor, as it will be in the file
//!   frame.0           all of file 0 that is no tensor's data, piece behind piece; then those of the others
//! ```
//!
//! (Those of compact files are compact files.) Every shard tells the whole frame, so merging needs neither the source nor the recipe. What is merged must be of one
//! conversion: the same source, options and layout, and a program that makes the same bytes of them ([`Identity`]).
//! Every byte of a shard is under a checksum: the data under CRC-32s, the head and the frames under SHA-256s.

mod compact;
mod merge;
mod plan;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use formats::safetensors::Bundle;
use formats::{Container, Limits, Mapped, Value, open};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use merge::ShardFile;
pub use merge::{Merged, merge};

use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::identity::{Identity, made_by_older, seal, unseal};
use crate::shard::{KEY, Shard};
use crate::storage::Output;

/// Head of a shard: its part and its conversion.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Head {
    shard: Shard,
    #[serde(flatten)]
    conversion: Conversion,
}

/// Facts that all shards of a conversion share.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Conversion {
    /// All that the bytes of the files depend on.
    identity: Identity,
    output: Output,
    files: Vec<File>,
    /// Places of the tensors.
    tensors: BTreeMap<String, Place>,
}

/// A file that the conversion makes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct File {
    name: String,
    bytes: u64,
    /// Offsets and lengths of the pieces of its frame.
    frame: Vec<(u64, usize)>,
    /// Offset of the SHA-256 of its first tensor, if it holds those of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digests_at: Option<u64>,
    /// SHA-256 of the pieces, one after the other.
    frame_sha256: String,
}

/// Place of a tensor's data.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
struct Place {
    file: usize,
    offset: u64,
    bytes: u64,
}

/// The file of a shard. (`-2-of-7` would make it a part of a set for whoever opens it.)
pub fn path(out: &Path, shard: Shard) -> PathBuf {
    let mut name: OsString = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".shard-{}of{}", shard.index, shard.count));
    out.with_file_name(name)
}

/// The name of the frame of a file.
fn frame_name(file: usize) -> String {
    format!("frame.{file}")
}

/// A shard that was read.
struct Read {
    container: Container,
    head: Head,
    /// The tensors of the model that it holds, with their checksums: numbers within the container.
    sums: BTreeMap<usize, u32>,
}

impl ShardFile for Read {
    fn open(path: &Path) -> Result<Read> {
        let container = open(path, &Limits::default())?;
        let wrong = |what: String| Error::Model {
            path: path.to_owned(),
            what,
            help: "make this shard again".to_owned(),
        };
        let head = match container.value(KEY) {
            Some(Value::String(head)) => head,
            _ => return Err(wrong("is no shard of a conversion".to_owned())),
        };
        let head: Head = head_of(path, head)?;
        let sums = Bundle::sums(&container).unwrap_or_default();
        let sums: BTreeMap<usize, u32> = sums.into_iter().enumerate().collect();
        let frames = head.conversion.files.len();
        if sums.len() + frames + 1 != container.tensors().len() {
            return Err(wrong(format!("has {} checksums, which are not as many as tensors", sums.len())));
        }
        Ok(Read { container, head, sums })
    }

    fn path(&self) -> &Path {
        self.container.path()
    }

    fn shard(&self) -> Shard {
        self.head.shard
    }

    fn identity(&self) -> &Identity {
        &self.head.conversion.identity
    }

    fn is_laid_out_as(&self, other: &Read) -> bool {
        self.head.conversion == other.head.conversion
    }
}

/// Bytes of a file, each run with its offset.
type Pieces<'a> = Vec<(u64, &'a [u8])>;

impl Read {
    /// The frames of all files: for each the pieces by their offsets.
    ///
    /// # Errors
    /// [`Error::Model`] if one is shorter than its pieces.
    fn frames(&self) -> Result<Vec<Pieces<'_>>> {
        let of_file = |(n, file): (usize, &File)| {
            let stored = self.container.tensor(&frame_name(n));
            let mut rest = stored.map(|t| self.container.bytes(t)).unwrap_or_default();
            let piece = |(offset, len): &(u64, usize)| {
                let (piece, after) = rest.split_at_checked(*len).ok_or_else(|| self.damaged(file))?;
                rest = after;
                Ok((*offset, piece))
            };
            file.frame.iter().map(piece).collect()
        };
        self.head.conversion.files.iter().enumerate().map(of_file).collect()
    }

    /// Compares the frames with their SHA-256s.
    ///
    /// # Errors
    /// [`Error::Model`] if one is damaged.
    fn check_frames(&self) -> Result<()> {
        for (file, frame) in self.head.conversion.files.iter().zip(self.frames()?) {
            if sha256(frame.iter().map(|(_, piece)| *piece)) != file.frame_sha256 {
                return Err(self.damaged(file));
            }
        }
        Ok(())
    }

    fn damaged(&self, file: &File) -> Error {
        Error::Model {
            path: self.container.path().to_owned(),
            what: format!("is damaged: the header and metadata of {} are not what was written", file.name),
            help: "copy this shard again, or make it again".to_owned(),
        }
    }

    /// True if all tensors and frames in it are as they were written.
    fn is_sound(&self) -> bool {
        self.check_frames().is_ok()
            && self.sums.iter().all(|(tensor, sum)| {
                let t = &self.container.tensors()[*tensor];
                let file = &self.container.files()[t.file];
                checksum(file, t.offset, t.bytes) == Some(*sum)
            })
    }
}

/// True if a shard of this version or an earlier one is at `path`.
pub(crate) fn is_shard(path: &Path) -> bool {
    let container = path.is_file().then(|| open(path, &Limits::default()).ok()).flatten();
    let said = container.as_ref().and_then(|container| container.value(KEY)).and_then(Value::as_str);
    said.is_some_and(|said| is_of_older(said) || unseal(said).is_some())
}

/// True if version 0.1.0 said it: without a seal.
fn is_of_older(said: &str) -> bool {
    said.starts_with('{')
}

/// Head of a shard, read from the value of its key [`KEY`].
///
/// # Errors
/// [`Error::Model`] if it is damaged, or an earlier version wrote it.
fn head_of<T: DeserializeOwned>(path: &Path, said: &str) -> Result<T> {
    const AGAIN: &str = "run the same command with --force, or remove it: rwkv-quant clean OUTPUT -f";
    if is_of_older(said) {
        return Err(made_by_older(path, "0.1.0", AGAIN));
    }
    let wrong =
        |what: String| Error::Model { path: path.to_owned(), what, help: "make this shard again".to_owned() };
    let json = unseal(said).ok_or_else(|| {
        wrong("is damaged: what it says of its conversion does not match its SHA-256".to_owned())
    })?;
    serde_json::from_str(json)
        .map_err(|e| wrong(format!("describes its conversion in a way that is not understood: {e}")))
}

/// A head as the key [`KEY`] says it.
fn said_by(head: &impl Serialize) -> String {
    // A head is plain data, which always has a JSON.
    seal(&serde_json::to_string(head).unwrap_or_default())
}

/// The CRC-32 of a range of a file, whose pages are let go; `None` if the file is shorter.
fn checksum(file: &Mapped, offset: u64, bytes: u64) -> Option<u32> {
    const STEP: usize = 8 << 20;
    let mut hasher = crc32fast::Hasher::new();
    for (n, piece) in file.slice(offset, bytes)?.chunks(STEP).enumerate() {
        hasher.update(piece);
        let start = offset + (n * STEP) as u64;
        file.release(start..start + piece.len() as u64);
    }
    Some(hasher.finalize())
}

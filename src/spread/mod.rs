//! One conversion spread over machines: each shard encodes some of the tensors, and merging puts the files together.
//!
//! ```text
//! OUT.shard-2of7      a safetensors file of bytes, checksums included (see formats::safetensors::Bundle)
//!   rwkv-quant.shard  metadata: a Head as JSON; which conversion, which shard, and where all tensors of all shards go
//!   NAME              the data of a tensor, as it will be in the file
//!   frame.0           all of file 0 that is no tensor's data, piece behind piece; then those of the others
//! ```
//!
//! (Those of compact files are compact files.) Every shard tells the whole frame, so merging needs neither the source nor the recipe. What is merged must be of one
//! conversion: the same source, recipe and layout, and a program that makes the same bytes of them.

mod compact;
mod merge;
mod plan;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use formats::safetensors::Bundle;
use formats::{Container, Limits, Mapped, Value, open};
use serde::{Deserialize, Serialize};

use merge::ShardFile;
pub use merge::{Merged, merge};

use crate::error::{Error, Result};
use crate::shard::Shard;
use crate::storage::Output;

/// The metadata key of the head.
const KEY: &str = "rwkv-quant.shard";

/// What a shard says of itself.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Head {
    shard: Shard,
    conversion: Conversion,
}

/// What all shards of a conversion have in common.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Conversion {
    /// A SHA-256 of all that the bytes of the files depend on.
    id: String,
    output: Output,
    files: Vec<File>,
    /// Where the tensors go.
    tensors: BTreeMap<String, Place>,
}

/// A file that the conversion makes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct File {
    name: String,
    bytes: u64,
    /// Where the pieces of its frame go, and how long they are.
    frame: Vec<(u64, usize)>,
    /// Where the SHA-256 of its first tensor goes, if it holds those of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digests_at: Option<u64>,
}

/// Where a tensor's data goes.
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
        let head: Head = serde_json::from_str(head)
            .map_err(|e| wrong(format!("describes its conversion in a way that is not understood: {e}")))?;
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

    fn is_of_one_conversion(&self, other: &Read) -> bool {
        self.head.conversion == other.head.conversion
    }
}

impl Read {
    /// Whether all tensors in it are as they were written.
    fn is_sound(&self) -> bool {
        self.sums.iter().all(|(tensor, sum)| {
            let t = &self.container.tensors()[*tensor];
            let file = &self.container.files()[t.file];
            checksum(file, t.offset, t.bytes) == Some(*sum)
        })
    }
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

//! Shards of compact files: each is such a file itself, of some of the tensors.
//!
//! Sections are as long as they become, so where each goes is told when all are there. The key
//! [`KEY`] says which shard of which conversion it is, and in which order the tensors of all of them go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use formats::compact::{Compact, Section, Storage, place};
use formats::{Coded, Container, Format, Layout, Limits, Metadata, Planned, Sum, Tensor, Value, open};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::merge::{Merged, STEP, ShardFile, find, listed, read_back};
use super::{head_of, path, said_by};
use crate::convert::Prepared;
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::pipeline::{Observer, Stop};
use crate::plan::TensorPlan;
use crate::shard::{KEY, Shard};
use crate::storage::{Inputs, Outputs, Targets};

/// Head of a shard: its part, its identity and its tensors.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Head {
    shard: Shard,
    /// All that the bytes of the file depend on.
    identity: Identity,
    /// All tensors, in order.
    tensors: Vec<String>,
}

/// A shard that was read.
struct Read {
    container: Container,
    head: Head,
}

/// Turns a conversion of this identity into one of its shards.
///
/// # Errors
/// As [`Plan::settle`](crate::plan::Plan::settle).
pub(super) fn shard(mut prepared: Prepared, shard: Shard, identity: Identity) -> Result<Prepared> {
    let plan = &mut prepared.plan;
    let tensors = plan.tensors.iter().map(|t| t.name.clone()).collect();
    let bytes: Vec<u64> = plan.tensors.iter().map(TensorPlan::bytes).collect();
    let range = shard.range(&bytes);
    plan.tensors.truncate(range.end);
    plan.tensors.drain(..range.start);
    plan.scheme.shard = Some((KEY.to_owned(), said_by(&Head { shard, identity, tensors })));
    prepared.output = path(&prepared.output, shard);
    plan.settle(&prepared.model, &prepared.about, &prepared.output, &[])?;
    Ok(prepared)
}

/// True if the shard at `path` is whole.
pub(super) fn is_sound(path: &Path) -> bool {
    Read::open(path).is_ok_and(|read| read.check().is_ok())
}

/// True if the shards of `out` are compact files.
///
/// # Errors
/// If their folder cannot be read.
pub(super) fn are_there(out: &Path) -> Result<bool> {
    Ok(listed(out)?.iter().any(|(_, path)| Read::open(path).is_ok()))
}

/// Merges as [`merge`](super::merge()) does.
pub(super) fn merge(out: &Path, force: bool, observer: &dyn Observer, stop: &Stop) -> Result<Merged> {
    let shards: Vec<Read> = find(out)?;
    shards.iter().try_for_each(Read::check)?;
    let parts = parts(&shards)?;
    let sections: Vec<Section> = parts.iter().map(|(_, tensor)| section(tensor)).collect();
    let metadata: Metadata =
        shards[0].container.metadata().iter().filter(|(key, _)| key != KEY).cloned().collect();
    let layout = Layout::from(place(&metadata, &sections)?);
    let mut inputs = Inputs::new();
    inputs.add_open(shards.iter().flat_map(|s| s.container.files()));
    let mut outputs = Outputs::claim(Targets { is_model: true, ..Targets::file(out) }, &inputs, force)?;
    outputs.create(&[layout.total_bytes()])?;
    observer.begins(layout.total_bytes());
    let copied = parts.par_iter().zip(layout.offsets()).map(|((container, tensor), offset)| {
        let (from, mut sha256) = (&container.files()[tensor.file], Sha256::new());
        for start in (0..tensor.bytes).step_by(STEP as usize) {
            stop.check()?;
            let (at, len) = (tensor.offset + start, STEP.min(tensor.bytes - start));
            let bytes = from.slice(at, len).unwrap_or_default();
            sha256.update(bytes);
            outputs.write_at(0, bytes, offset + start)?;
            from.release(at..at + len);
            observer.written(&tensor.name, len);
        }
        Ok(Sum { crc32: 0, sha256: sha256.finalize().into() })
    });
    let sums = copied.collect::<Result<Vec<Sum>>>()?;
    for (offset, bytes) in layout.finish(&sums) {
        outputs.write_at(0, &bytes, offset)?;
    }
    let written = read_back(&outputs, observer, stop)?;
    written.format().verify_checksums(&written, &Limits::default())?;
    let merged = Merged {
        output: out.to_owned(),
        shards: shards.len(),
        tensors: parts.len(),
        bytes: layout.total_bytes(),
    };
    outputs.commit(&inputs)?;
    Ok(merged)
}

impl ShardFile for Read {
    fn open(path: &Path) -> Result<Read> {
        let container = open(path, &Limits::default())?;
        let is_compact = container.format().name() == Compact.name();
        match container.value(KEY).and_then(Value::as_str).filter(|_| is_compact) {
            Some(said) => Ok(Read { head: head_of(path, said)?, container }),
            None => Err(wrong(path, "is no shard of a compact file".to_owned())),
        }
    }

    fn path(&self) -> &Path {
        self.container.path()
    }

    fn shard(&self) -> Shard {
        self.head.shard
    }

    fn identity(&self) -> &Identity {
        &self.head.identity
    }

    fn is_laid_out_as(&self, other: &Read) -> bool {
        let of_all = |read: &Read| -> Vec<(String, Value)> {
            read.container.metadata().iter().filter(|(key, _)| key != KEY).cloned().collect()
        };
        self.head.tensors == other.head.tensors && of_all(self) == of_all(other)
    }
}

impl Read {
    /// Compares what is in it with its checksums.
    fn check(&self) -> Result<()> {
        self.container.format().verify_checksums(&self.container, &Limits::default())?;
        Ok(())
    }
}

/// Every tensor of the conversion, in order, each from the one shard that holds it.
fn parts(shards: &[Read]) -> Result<Vec<(&Container, &Tensor)>> {
    let mut found: BTreeMap<&str, (&Container, &Tensor)> = BTreeMap::new();
    for Read { container, .. } in shards {
        for tensor in container.tensors() {
            if found.insert(&tensor.name, (container, tensor)).is_some() {
                let what = format!("holds {:?}, which another shard holds too", tensor.name);
                return Err(wrong(container.path(), what));
            }
        }
    }
    let tensors = &shards[0].head.tensors;
    let parts = tensors.iter().map(|name| {
        let what = || format!("no shard holds the tensor {name:?}");
        found.remove(name.as_str()).ok_or_else(|| Error::Check { what: what() })
    });
    let parts = parts.collect::<Result<_>>()?;
    match found.first_key_value() {
        None => Ok(parts),
        Some((name, (container, _))) => {
            Err(wrong(container.path(), format!("holds {name:?}, which is not of its conversion")))
        }
    }
}

/// A section as it stands in a shard.
fn section(tensor: &Tensor) -> Section {
    let Tensor { name, encoding, shape, bytes, .. } = tensor.clone();
    let storage = match tensor.coded {
        None => Storage::Plain,
        Some(Coded::Zstd) => Storage::Zstd(bytes),
        Some(Coded::Tiles(tiles)) => Storage::Tiled(tiles, bytes),
    };
    Section { planned: Planned { name, encoding, shape }, storage }
}

fn wrong(path: &Path, what: String) -> Error {
    Error::Model { path: PathBuf::from(path), what, help: "make this shard again".to_owned() }
}

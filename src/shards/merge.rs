//! Putting the shards of a conversion together.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use formats::{Container, Limits, Mapped, model_digest, open, put_digest};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Conversion, Place, Read, compact, path};
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::pipeline::{Observer, Stop};
use crate::shard::Shard;
use crate::storage::{Inputs, Outputs, Targets, folder_of, unopened};

/// Bytes copied at a time.
pub(super) const STEP: u64 = 4 << 20;

/// A conversion that was put together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// The file or folder asked for.
    pub output: PathBuf,
    /// Number of shards.
    pub shards: usize,
    /// Number of tensors.
    pub tensors: usize,
    /// Size of all files.
    pub bytes: u64,
}

/// Puts together what the shards beside `out` hold, and reads it back; they stay where they are.
///
/// # Errors
/// [`Error::Check`] if a shard is missing, or shards are of different conversions; [`Error::Model`] if one is damaged;
/// else as [`pipeline::write`](crate::pipeline::write).
pub fn merge(out: &Path, force: bool, observer: &dyn Observer, stop: &Stop) -> Result<Merged> {
    if compact::are_there(out)? {
        return compact::merge(out, force, observer, stop);
    }
    let shards: Vec<Read> = find(out)?;
    let conversion = &shards[0].head.conversion;
    conversion.check(shards[0].container.path())?;
    shards.iter().try_for_each(Read::check_frames)?;
    let parts = parts(&shards)?;
    let mut inputs = Inputs::new();
    inputs.add_open(shards.iter().flat_map(|s| s.container.files()));
    let targets = Targets {
        output: conversion.output,
        is_model: true,
        names: conversion.files.iter().map(|f| f.name.clone().into()).collect(),
        ..Targets::file(out)
    };
    let mut outputs = Outputs::claim(targets, &inputs, force)?;
    let sizes: Vec<u64> = conversion.files.iter().map(|f| f.bytes).collect();
    outputs.create(&sizes)?;
    observer.begins(sizes.iter().sum());
    let mut frames: Vec<(usize, u64, Vec<u8>)> = Vec::new();
    for (file, frame) in shards[0].frames()?.into_iter().enumerate() {
        frames.extend(frame.into_iter().map(|(offset, bytes)| (file, offset, bytes.to_vec())));
    }
    let digests = parts.par_iter().map(|part| part.copy(conversion, &outputs, observer, stop));
    let digests = digests.collect::<Result<Vec<_>>>()?;
    conversion.put_digests(&mut frames, &parts, &digests);
    for (file, offset, bytes) in &frames {
        outputs.write_at(*file, bytes, *offset)?;
    }
    read_back(&outputs, observer, stop)?;
    let merged = Merged {
        output: out.to_owned(),
        shards: shards.len(),
        tensors: parts.len(),
        bytes: sizes.iter().sum(),
    };
    outputs.commit(&inputs)?;
    Ok(merged)
}

/// Opens merged files as a stranger would, and compares all that is on disk with what was written.
pub(super) fn read_back(outputs: &Outputs, observer: &dyn Observer, stop: &Stop) -> Result<Container> {
    let to_open = outputs.to_open();
    let written = open(&to_open, &Limits::default()).map_err(|e| unopened(&to_open, e))?;
    outputs.read_back(&|bytes| {
        observer.verified(bytes);
        stop.check()
    })?;
    Ok(written)
}

/// A file that holds one shard.
pub(super) trait ShardFile: Sized {
    /// Opens it.
    ///
    /// # Errors
    /// If it is none, or damaged.
    fn open(path: &Path) -> Result<Self>;

    /// Path of the shard.
    fn path(&self) -> &Path;

    /// Part that the shard says it is.
    fn shard(&self) -> Shard;

    /// Everything that the bytes of its conversion depend on.
    fn identity(&self) -> &Identity;

    /// True if the other says the same of the files to be put together.
    fn is_laid_out_as(&self, other: &Self) -> bool;
}

/// All shards of `out`, in order.
///
/// # Errors
/// [`Error::Check`] if one is missing, or they are not of one conversion.
pub(super) fn find<T: ShardFile>(out: &Path) -> Result<Vec<T>> {
    let counts: BTreeMap<usize, PathBuf> = listed(out)?.into_iter().map(|(s, p)| (s.count, p)).collect();
    let mut counts = counts.into_iter();
    let (count, first) = counts.next().ok_or_else(|| Error::Usage {
        what: format!("there are no shards of {}", out.display()),
        help: "make them: rwkv-quant convert MODEL OUTPUT --shard 1/4, and so on, with the same OUTPUT"
            .to_owned(),
    })?;
    if let Some((_, other)) = counts.next() {
        return Err(Error::Check {
            what: format!("{} and {} are not of one number of shards", first.display(), other.display()),
        });
    }
    let mut shards: Vec<T> = Vec::new();
    for index in 1..=count {
        let shard = Shard { index, count };
        let path = path(out, shard);
        if !path.exists() {
            return Err(Error::Check { what: format!("shard {shard} is missing: {}", path.display()) });
        }
        let read = T::open(&path)?;
        if read.shard() != shard {
            let what = format!("{} is shard {}, not {shard}", path.display(), read.shard());
            return Err(Error::Check { what });
        }
        if let Some(why) = shards.first().and_then(|first| apart(first, &read)) {
            return Err(Error::Check { what: why });
        }
        shards.push(read);
    }
    Ok(shards)
}

/// Reason that two shards cannot be put together, if there is one.
fn apart<T: ShardFile>(first: &T, other: &T) -> Option<String> {
    let differences = first.identity().differences(other.identity());
    let why = match (differences.is_empty(), first.is_laid_out_as(other)) {
        (true, true) => return None,
        (true, false) => "they lay the files out differently".to_owned(),
        (false, _) => format!("they differ in {}", differences.join(", ")),
    };
    let (first, other) = (first.path().display(), other.path().display());
    Some(format!("{first} and {other} are of different conversions: {why}"))
}

/// The files that are named as shards of `out`.
pub(super) fn listed(out: &Path) -> Result<Vec<(Shard, PathBuf)>> {
    let folder = folder_of(out);
    let mut list = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let found = entry.map_err(Error::io("read", folder))?.path();
        let name = found.to_string_lossy().into_owned();
        let shard = name.rsplit_once(".shard-").and_then(|(_, s)| s.replacen("of", "/", 1).parse().ok());
        if let Some(shard) = shard.filter(|s: &Shard| path(out, *s).file_name() == found.file_name()) {
            list.push((shard, found));
        }
    }
    Ok(list)
}

impl Conversion {
    /// Puts the SHA-256 of every tensor into the heads of the files that hold those.
    fn put_digests(&self, frames: &mut [(usize, u64, Vec<u8>)], parts: &[Part<'_>], digests: &[[u8; 32]]) {
        let mut all: Vec<_> = parts.iter().zip(digests).collect();
        all.sort_by_key(|(part, _)| (part.place.file, part.place.offset, part.place.bytes));
        let model = model_digest(all.iter().map(|(_, digest)| *digest));
        for (number, file) in self.files.iter().enumerate() {
            let head = frames.iter_mut().find(|(n, offset, _)| (*n, *offset) == (number, 0));
            let (Some(first), Some((_, _, head))) = (file.digests_at, head) else { continue };
            let tensors = all.iter().filter(|(part, _)| part.place.file == number).map(|(_, digest)| *digest);
            for (i, sha256) in tensors.chain([&model]).enumerate() {
                put_digest(head, usize::try_from(first).unwrap_or(usize::MAX), i, sha256);
            }
        }
    }

    /// Refuses what would be written elsewhere than into the files.
    fn check(&self, path: &Path) -> Result<()> {
        let inside = |file: usize, offset: u64, bytes: u64| {
            let end = offset.checked_add(bytes);
            self.files.get(file).zip(end).is_some_and(|(file, end)| end <= file.bytes)
        };
        let plain = |name: &str| Path::new(name).file_name() == Some(OsStr::new(name));
        let frames = self.files.iter().enumerate();
        let mut frames =
            frames.flat_map(|(n, f)| f.frame.iter().map(move |(offset, len)| (n, *offset, *len)));
        let sound = !self.files.is_empty()
            && self.files.iter().all(|f| plain(&f.name))
            && frames.all(|(n, offset, len)| inside(n, offset, len as u64))
            && self.tensors.values().all(|p| inside(p.file, p.offset, p.bytes));
        if sound {
            return Ok(());
        }
        Err(Error::Model {
            path: path.to_owned(),
            what: "describes files that cannot be".to_owned(),
            help: "make all shards again".to_owned(),
        })
    }
}

/// A tensor: where it is, and where it goes.
struct Part<'a> {
    name: &'a str,
    from: &'a Mapped,
    offset: u64,
    sum: u32,
    place: Place,
}

/// Every tensor of the conversion, each from the one shard that holds it.
fn parts(shards: &[Read]) -> Result<Vec<Part<'_>>> {
    let mut parts: BTreeMap<&str, Part> = BTreeMap::new();
    for shard in shards {
        let container = &shard.container;
        let wrong = |what: String| Error::Model {
            path: container.path().to_owned(),
            what,
            help: "make this shard again".to_owned(),
        };
        for (tensor, sum) in &shard.sums {
            let t = &container.tensors()[*tensor];
            let place = shard.head.conversion.tensors.get(&t.name).filter(|p| p.bytes == t.bytes);
            let place =
                *place.ok_or_else(|| wrong(format!("holds {:?}, which is not of its conversion", t.name)))?;
            let part =
                Part { name: &t.name, from: &container.files()[t.file], offset: t.offset, sum: *sum, place };
            if parts.insert(&t.name, part).is_some() {
                return Err(wrong(format!("holds {:?}, which another shard holds too", t.name)));
            }
        }
    }
    match shards[0].head.conversion.tensors.keys().find(|name| !parts.contains_key(name.as_str())) {
        Some(lacking) => Err(Error::Check { what: format!("no shard holds the tensor {lacking:?}") }),
        None => Ok(parts.into_values().collect()),
    }
}

impl Part<'_> {
    /// Copies the tensor to its place, and compares the checksum on the way; gives its SHA-256 if its file holds it.
    fn copy(
        &self,
        conversion: &Conversion,
        outputs: &Outputs,
        observer: &dyn Observer,
        stop: &Stop,
    ) -> Result<[u8; 32]> {
        let mut hasher = crc32fast::Hasher::new();
        let mut sha256 = conversion.files[self.place.file].digests_at.map(|_| Sha256::new());
        for start in (0..self.place.bytes).step_by(STEP as usize) {
            stop.check()?;
            let len = STEP.min(self.place.bytes - start);
            let from = self.offset + start;
            let bytes = self.from.slice(from, len).unwrap_or_default();
            hasher.update(bytes);
            sha256.iter_mut().for_each(|sha256| sha256.update(bytes));
            outputs.write_at(self.place.file, bytes, self.place.offset + start)?;
            self.from.release(from..from + len);
            observer.written(self.name, len);
        }
        if hasher.finalize() == self.sum {
            return Ok(sha256.map_or([0; 32], |sha256| sha256.finalize().into()));
        }
        Err(Error::Model {
            path: self.from.path().to_owned(),
            what: format!("is damaged: the data of {:?} is not what was written", self.name),
            help: "copy this shard again, or make it again".to_owned(),
        })
    }
}

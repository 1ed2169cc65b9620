//! Reads a finished file again, as a stranger would, and compares it with the plan.

use std::path::Path;

use formats::{Container, Limits, open};
use rayon::prelude::*;

use super::chunk::Chunk;
use super::{Observer, Stop};
use crate::error::{Error, Result};
use crate::plan::Plan;

/// Opens the file with the ordinary reader, compares tensors and metadata with the plan, and every chunk's bytes
/// with the checksum taken when they were encoded.
pub(super) fn written(
    plan: &Plan,
    chunks: &[Chunk],
    sums: &[u32],
    path: &Path,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<()> {
    let read = open(path, &Limits::default())?;
    same_description(plan, &read).map_err(|what| damaged(path, what))?;
    chunks.par_iter().zip(sums).try_for_each(|(chunk, sum)| {
        stop.check()?;
        let write = &plan.tensors[chunk.tensor];
        let file = &read.files()[0];
        let (offset, len) = (chunk.offset(plan), chunk.bytes(plan));
        let right = file.slice(offset, len).is_some_and(|bytes| crc32fast::hash(bytes) == *sum);
        file.release(offset..offset + len);
        observer.verified(len);
        if right {
            Ok(())
        } else {
            Err(damaged(
                path,
                format!("the data of {:?} at byte {offset} is not what was written", write.name),
            ))
        }
    })
}

fn same_description(plan: &Plan, read: &Container) -> std::result::Result<(), String> {
    if read.file_bytes() != plan.total_bytes() {
        return Err(format!("it has {} bytes, not {}", read.file_bytes(), plan.total_bytes()));
    }
    if read.tensors().len() != plan.tensors.len() {
        return Err(format!("it has {} tensors, not {}", read.tensors().len(), plan.tensors.len()));
    }
    if read.metadata() != &plan.metadata {
        return Err("its metadata differ".to_owned());
    }
    for (found, write) in read.tensors().iter().zip(&plan.tensors) {
        let same = found.name == write.name
            && found.encoding == write.encoding
            && found.shape == write.values.shape()
            && (found.offset, found.bytes) == (write.offset, write.bytes);
        if !same {
            return Err(format!("the tensor {:?} is described wrongly", write.name));
        }
    }
    Ok(())
}

fn damaged(path: &Path, what: String) -> Error {
    Error::Model {
        path: path.to_owned(),
        what: format!("was read back and found wrong: {what}"),
        help: "the disk or the memory of this machine may be faulty: check them, then try again".to_owned(),
    }
}

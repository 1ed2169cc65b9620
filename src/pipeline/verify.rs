//! Reads finished files again, as a stranger would, and compares them with the plan.

use formats::compact::Storage;
use formats::{Container, Limits, Mapped, Value, open};
use quant::codebook::Codebook;

use crate::error::Result;
use crate::plan::{Plan, TensorPlan};
use crate::storage::{Output, Outputs, Progress, damaged};

/// Opens the files with the ordinary reader, compares tensors, their levels and metadata with the plan, and all bytes
/// with the checksums taken when they were made.
pub(super) fn written(
    plan: &Plan,
    codebooks: &[Option<Codebook>],
    outputs: &Outputs,
    progress: &Progress,
) -> Result<()> {
    let path = &outputs.to_open();
    let read = open(path, &Limits::default())?;
    let files = planned_files(plan, &read).map_err(|what| damaged(path, &what))?;
    same_description(plan, &read, &files).map_err(|what| damaged(path, &what))?;
    for (write, codebook) in plan.tensors.iter().zip(codebooks) {
        let found = read.tensor(&write.name).and_then(|t| read.codebook(t));
        if found != *codebook {
            return Err(damaged(path, &format!("the levels of {:?} are not what was written", write.name)));
        }
    }
    outputs.read_back(progress)
}

/// Number in the plan of each of the files read.
fn planned_files(plan: &Plan, read: &Container) -> std::result::Result<Vec<usize>, String> {
    if read.files().len() != plan.files.len() {
        return Err(format!("there are {} files with tensors, not {}", read.files().len(), plan.files.len()));
    }
    if plan.output == Output::File {
        return Ok(vec![0]); // it has another name for now
    }
    let named = |file: &Mapped, name: &std::ffi::OsStr| file.path().file_name() == Some(name);
    let number = |name: &std::ffi::OsStr| read.files().iter().position(|f| named(f, name));
    let missing = |name: &std::ffi::OsStr| format!("{} is not a part of it", name.display());
    plan.files.iter().map(|f| number(&f.name).ok_or_else(|| missing(&f.name))).collect()
}

fn same_description(plan: &Plan, read: &Container, files: &[usize]) -> std::result::Result<(), String> {
    for (planned, number) in plan.files.iter().zip(files) {
        let (found, wanted) = (read.files()[*number].bytes().len() as u64, planned.layout.total_bytes());
        if found != wanted {
            return Err(format!("it has {found} bytes, not {wanted}"));
        }
    }
    let known: usize = plan.files.iter().map(|f| f.layout.known_tensors()).sum();
    let count = plan.parts().count() + known;
    if read.tensors().len() != count {
        return Err(format!("it has {} tensors, not {count}", read.tensors().len()));
    }
    let same = |((key, value), (name, planned)): (&(String, Value), &(String, Value))| {
        key == name && value.is_same(planned)
    };
    if read.metadata().len() != plan.metadata.len() || !read.metadata().iter().zip(&plan.metadata).all(same) {
        return Err("its metadata differ".to_owned());
    }
    let parts = plan.tensors.iter().flat_map(|t| t.parts.iter().map(move |part| (part, stored(t))));
    for (part, coded) in parts {
        let planned = &part.planned;
        let same = read.tensor(&planned.name).is_some_and(|found| {
            found.encoding == planned.encoding
                && found.shape == planned.shape
                && (found.file, found.offset, found.split) == (files[part.file], part.offset, part.split)
                && found.coded == coded
        });
        if !same {
            return Err(format!("the tensor {:?} is described wrongly", planned.name));
        }
    }
    Ok(())
}

/// Coding of a tensor, as a reader tells.
fn stored(write: &TensorPlan) -> Option<formats::Coded> {
    let coded = write.coded?;
    Some(match coded.storage(write.values.cols(), write.bytes()) {
        Storage::Tiled(tiles, _) => formats::Coded::Tiles(tiles),
        Storage::Zstd(_) | Storage::Plain => formats::Coded::Zstd,
    })
}

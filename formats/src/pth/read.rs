//! Reading torch checkpoints: from file to container.

use std::path::Path;

use crate::aside::LeftAside;
use crate::budget::Budget;
use crate::container::{Container, Tensor};
use crate::error::{Blame, Result};
use crate::mapped::Mapped;
use crate::pth::object::{Storage, TensorView};
use crate::pth::state::Found;
use crate::pth::zip::Archive;
use crate::pth::{NAME, Pth, legacy, pickle, refuse, state};
use crate::value::Metadata;

pub(super) fn read(file: Mapped, budget: &Budget<'_>) -> Result<Container> {
    let path = file.path().to_owned();
    let Described { tensors, metadata, left_aside } = describe(&file, &path, budget)?;
    let container = Container::new(&Pth, &path, vec![file], tensors, metadata, budget)?;
    Ok(container.with_left_aside(left_aside))
}

/// Content of a file.
pub(super) struct Described {
    pub tensors: Vec<Tensor>,
    pub metadata: Metadata,
    pub left_aside: Option<LeftAside>,
}

/// Describes what is in a file.
fn describe(file: &Mapped, path: &Path, budget: &Budget<'_>) -> Result<Described> {
    let blame = Blame { path, format: NAME };
    let bytes = file.bytes();
    if refuse::is_tar(bytes) {
        Err(refuse::tar(bytes, blame))
    } else if refuse::is_zip(bytes) {
        from_zip(file, budget, blame)
    } else if legacy::is_legacy(bytes) {
        legacy::read(bytes, budget, blame)
    } else {
        Err(refuse::plain_pickle(blame))
    }
}

fn from_zip(file: &Mapped, budget: &Budget<'_>, blame: Blame<'_>) -> Result<Described> {
    let bytes = file.bytes();
    let archive = Archive::read(file, budget, blame)?;
    let Some(root) = root(&archive) else {
        return Err(refuse::zip(&archive, blame));
    };
    if refuse::is_torch_script(&archive, root) {
        return Err(refuse::torch_script(blame));
    }
    let range = |name: &str| archive.entry(name).map(|e| e.stored(blame)).transpose();
    let slice = |(offset, len): (u64, u64)| {
        let start = usize::try_from(offset).ok()?;
        bytes.get(start..start.checked_add(usize::try_from(len).ok()?)?)
    };
    if let Some(order) = range(&format!("{root}/byteorder"))?.and_then(slice)
        && order != b"little"
    {
        let help = "load and save it once with torch on an ordinary (little-endian) machine";
        return Err(blame.unsupported("big-endian numbers", help));
    }
    let missing = || blame.malformed("the pickle is missing");
    let (start, len) = range(&format!("{root}/data.pkl"))?.ok_or_else(missing)?;
    blame.within("bytes of pickle", len, budget.header_bytes)?;
    // Up to the end of the pickle and no further; offsets stay those of the file.
    let upto = slice((0, start.saturating_add(len))).ok_or_else(missing)?;
    let pickle = pickle::run(upto, start, budget, blame)?;
    let Found { views, metadata, left_aside } = state::find(&pickle, budget, blame)?;

    let locate = |storage: &Storage<'_>| {
        let name = format!("{root}/data/{}", storage.key);
        let Some((offset, len)) = range(&name)? else {
            return Err(blame.malformed(format!("the storage {name:?} is missing in the archive")));
        };
        if storage.elements.checked_mul(storage.element_bytes()) != Some(len) {
            let what = format!(
                "the storage {name:?} has {len} bytes, and {} elements of {} bytes should be in it",
                storage.elements,
                storage.element_bytes()
            );
            return Err(blame.malformed(what).at(offset));
        }
        Ok(offset)
    };
    let mut tensors = listed(views.len(), budget, blame)?;
    for (name, view) in views {
        let offset = locate(&view.storage).map_err(|e| e.in_tensor(&name))?;
        Tensor::reserve(name.len(), view.shape.len(), budget, blame)?;
        tensors.push(tensor(name, view, offset, bytes.len() as u64, blame)?);
    }
    Ok(Described { tensors, metadata, left_aside })
}

/// An empty list with room for so many tensors.
pub(super) fn listed(tensors: usize, budget: &Budget<'_>, blame: Blame<'_>) -> Result<Vec<Tensor>> {
    budget.reserve((tensors * size_of::<Tensor>()) as u64, blame)?;
    Ok(Vec::with_capacity(tensors))
}

/// The folder that the archive's pickle is in.
fn root<'a>(archive: &Archive<'a>) -> Option<&'a str> {
    let mut roots = archive
        .entries()
        .iter()
        .filter_map(|e| e.name.strip_suffix("/data.pkl"))
        .filter(|root| !root.contains('/') && !root.is_empty());
    roots.next().filter(|_| roots.next().is_none())
}

/// The window that `view` is on a storage whose data starts at `storage_offset` of the file; that the whole
/// storage lies within the file is already known.
pub(super) fn tensor(
    name: String,
    view: &TensorView<'_>,
    storage_offset: u64,
    file_bytes: u64,
    blame: Blame<'_>,
) -> Result<Tensor> {
    let place = || {
        let storage = &view.storage;
        let size = view.encoding.block_bytes() as u64;
        let bytes_of = |count: u64, size: u64| count.checked_mul(size);
        let shape = view.shape.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>()?;
        let strides = view.strides.iter().map(|s| usize::try_from(*s).ok()).collect::<Option<Vec<_>>>()?;
        let elements = view.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
        // A tensor with stride 0 repeats elements. No real one repeats them until it outgrows the file.
        bytes_of(elements, size).filter(|b| *b <= file_bytes)?;

        let strides = (!is_row_major(&shape, &strides)).then_some(strides);
        let bytes = Tensor::span_bytes(view.encoding, &shape, strides.as_deref())?;
        let start = bytes_of(view.offset, size)?;
        let end = start.checked_add(bytes)?;
        // Of the storage's elements, only those from `start` on are meant.
        let before = bytes_of(storage.start, storage.element_bytes())?;
        let all = bytes_of(storage.elements, storage.element_bytes())?;
        let meant = bytes_of(storage.count, storage.element_bytes())?;
        if end > meant || before.checked_add(meant)? > all {
            return None;
        }
        let offset = storage_offset.checked_add(before)?.checked_add(start)?;
        Some((shape, strides, offset, bytes))
    };
    match place() {
        Some((shape, strides, offset, bytes)) => Ok(Tensor {
            name,
            encoding: view.encoding,
            shape,
            strides,
            split: None,
            coded: None,
            file: 0,
            offset,
            bytes,
        }),
        None => {
            let what = format!(
                "the shape {:?} with strides {:?} at element {} does not fit the storage of {} elements",
                view.shape, view.strides, view.offset, view.storage.count
            );
            Err(blame.malformed(what).in_tensor(&name))
        }
    }
}

/// True if elements with these strides lie row by row without gaps. The stride of a dimension of one
/// element says nothing, and a tensor without elements lies any way.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = Some(1usize);
    shape.contains(&0)
        || shape.iter().zip(strides).rev().all(|(dim, stride)| {
            let fits = *dim == 1 || expected == Some(*stride);
            expected = expected.and_then(|e| e.checked_mul(*dim));
            fits
        })
}

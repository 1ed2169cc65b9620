//! Every value of a container, decoded.

use formats::compact::Tiled;
use formats::{Container, Tensor};
use quant::coding::Decoder;
use quant::{check_finite, codec, codec_of_levels};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::model;
use crate::model::Zeros;

/// Values decoded at a time by a thread.
const STEP: usize = 1 << 18;

/// Advice for a weight that is not finite.
pub const DAMAGED: &str = "a model with such a weight computes nothing sensible: get a sound copy, or the release before or after it";

/// Decodes all of a container and looks for values that are not finite; gives the tensors that it decoded.
///
/// # Errors
/// [`Error::Weight`] with the first such value.
pub fn finite(container: &Container) -> Result<Vec<&Tensor>> {
    let scans = scan(container)?;
    Ok(container.tensors().iter().zip(scans).filter_map(|(t, scan)| scan.map(|_| t)).collect())
}

/// Decodes all of a container, and tells the zeros in each tensor; `None` for those that are not decoded.
///
/// # Errors
/// [`Error::Weight`] with the first value that is not finite.
pub(super) fn scan(container: &Container) -> Result<Vec<Option<Zeros>>> {
    // Of several errors the first, whichever was found first.
    let scans: Vec<Result<Option<Zeros>>> =
        container.tensors().par_iter().map(|t| scan_tensor(container, t)).collect();
    scans.into_iter().collect()
}

/// Decodes a tensor, if it has values that can be decoded.
fn scan_tensor(container: &Container, t: &Tensor) -> Result<Option<Zeros>> {
    if !t.encoding.is_real() {
        return Ok(None);
    }
    if let Some(tiled) = container.tiled(t) {
        return scan_tiles(container, t, &tiled).map(Some);
    }
    let Some(codec) = codec(t.encoding) else { return Ok(None) };
    let (len, size) = (t.encoding.block_len(), t.encoding.block_bytes());
    let of_levels = container.codebook(t).and_then(|levels| codec_of_levels(t.encoding, levels));
    let codec = of_levels.as_deref().unwrap_or(codec);
    let stored = if t.split.is_some() { t.encoding.code_bytes() } else { size };
    // A strided tensor spans elements that are not its own; they are weights of the same storage.
    let cols = t.shape.last().copied().unwrap_or(1).max(1);
    // Rows that are longer than what is decoded at a time are no rows of a matrix.
    let has_rows = cols.is_multiple_of(len) && cols <= STEP && t.strides.is_none();
    let row_blocks = if has_rows { cols / len } else { 1 };
    let (step, blocks) = ((STEP / len / row_blocks).max(1) * row_blocks, container.bytes(t).len() / stored);
    let pieces = (0..blocks.div_ceil(step)).into_par_iter().map(|n| {
        let range = n * step..blocks.min((n + 1) * step);
        let mut values = vec![0.0; range.len() * len];
        codec.decode(&container.blocks(t, range.clone()), &mut values);
        container.release(t, (range.start * size) as u64..(range.end * size) as u64);
        finite_values(container, t, range.start * len, &values)?;
        let cols = if has_rows { cols } else { values.len() };
        Ok(Zeros::of(&values, cols, (row_blocks * size) as u64))
    });
    let pieces = pieces.collect::<Result<Vec<Zeros>>>()?;
    let zeros = pieces.into_iter().fold(Zeros::default(), Zeros::then);
    Ok(Some(if has_rows { zeros } else { zeros.without_rows() }))
}

/// Decodes all tiles of a tensor.
fn scan_tiles(container: &Container, t: &Tensor, tiled: &Tiled<'_>) -> Result<Zeros> {
    let damaged = |e| model::tile_error(container, t, e);
    let cols = t.shape.last().copied().unwrap_or(1);
    let decoder = Decoder::new(tiled.tiles.coding, tiled.head, cols).map_err(damaged)?;
    let rows = tiled.tiles.rows;
    let tiles: Vec<&[u8]> = tiled.from(0).collect();
    let pieces = tiles.into_par_iter().enumerate().map(|(n, tile)| {
        let start = n * rows * cols * t.encoding.block_bytes();
        let mut values = vec![0.0; rows.min(t.rows() - n * rows) * cols];
        decoder.decode(tile, &mut values).map_err(damaged)?;
        let end = start + values.len() * t.encoding.block_bytes();
        container.release(t, start as u64..end as u64);
        finite_values(container, t, n * rows * cols, &values)?;
        Ok(Zeros::of(&values, cols, (cols * t.encoding.block_bytes()) as u64))
    });
    let pieces = pieces.collect::<Result<Vec<Zeros>>>()?;
    Ok(pieces.into_iter().fold(Zeros::default(), Zeros::then))
}

/// Looks for values that are not finite in those from `first` on.
fn finite_values(container: &Container, t: &Tensor, first: usize, values: &[f32]) -> Result<()> {
    check_finite(values).map_err(|mut source| {
        if let quant::EncodeError::NonFinite { index, .. } = &mut source {
            *index += first;
        }
        Error::Weight {
            path: container.files()[t.file].path().to_owned(),
            tensor: t.name.clone(),
            source,
            help: DAMAGED.to_owned(),
        }
    })
}

//! Tensors of compact files: from tiles to values, on demand or all at once.

use formats::compact::Tiled;
use formats::{Coded, Container, Tensor};
use quant::coding::Decoder;
use quant::entropy::EntropyError;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Decodes values of a tensor from element `first` on.
///
/// What cannot be decoded becomes NaN, which nobody takes for a weight; [`verify`](crate::verify) tells what is wrong.
pub fn read(tensor: &Tensor, tiled: &Tiled<'_>, first: usize, out: &mut [f32]) {
    let decoder = Decoder::new(tiled.tiles.coding, tiled.head, cols(tensor));
    let (of_tile, all) = (tiled.tiles.rows.saturating_mul(cols(tensor)).max(1), tensor.elements() as usize);
    let (mut at, mut rest, mut whole) = (first, out, Vec::new());
    for (n, tile) in (first / of_tile..).zip(tiled.from(first / of_tile)) {
        if rest.is_empty() {
            break;
        }
        let start = n * of_tile;
        let len = of_tile.min(all - start);
        let (now, later) = rest.split_at_mut(rest.len().min(start + len - at));
        let decoded = decoder.as_ref().map_err(|e| *e).and_then(|decoder| {
            if now.len() == len {
                return decoder.decode(tile, now);
            }
            whole.resize(len, 0.0);
            decoder.decode(tile, &mut whole)?;
            now.copy_from_slice(&whole[at - start..][..now.len()]);
            Ok(())
        });
        if decoded.is_err() {
            now.fill(f32::NAN);
        }
        at += now.len();
        rest = later;
    }
}

/// Decodes all tensors that are in tiles and keeps their values in memory, on all threads.
///
/// # Errors
/// [`Error::Format`] that names the first tensor that is damaged.
pub fn hold(container: &mut Container) -> Result<()> {
    let tiled = |t: &&Tensor| matches!(t.coded, Some(Coded::Tiles(_)));
    let names: Vec<String> = container.tensors().iter().filter(tiled).map(|t| t.name.clone()).collect();
    for name in names {
        let Some(tensor) = container.tensor(&name) else { continue };
        let Some(tiled) = container.tiled(tensor) else { continue };
        let error = |e| tile_error(container, tensor, e);
        let decoder = Decoder::new(tiled.tiles.coding, tiled.head, cols(tensor)).map_err(error)?;
        let row_bytes = tensor.encoding.row_bytes(cols(tensor) as u64).unwrap_or(0) as usize;
        let mut values = vec![0; tensor.rows() * row_bytes];
        let of_tile = tiled.tiles.rows.saturating_mul(row_bytes).max(1);
        let tiles: Vec<&[u8]> = tiled.from(0).collect();
        values
            .par_chunks_mut(of_tile)
            .zip(tiles)
            .try_for_each(|(out, tile)| decoder.decode_bytes(tile, out))
            .map_err(error)?;
        container.release(tensor, 0..values.len() as u64);
        container.hold(&name, values);
    }
    Ok(())
}

/// Error for a tensor that cannot be decoded.
pub fn tile_error(container: &Container, tensor: &Tensor, source: EntropyError) -> Error {
    Error::from(formats::Error::Malformed {
        path: container.path().to_owned(),
        format: container.format().name(),
        what: source.to_string(),
        tensor: Some(tensor.name.clone()),
        offset: Some(tensor.offset),
    })
}

fn cols(tensor: &Tensor) -> usize {
    tensor.shape.last().copied().unwrap_or(1)
}

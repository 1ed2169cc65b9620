//! Whether a file is sound: every byte read, every weight finite, every checksum right.

use formats::compact::Tiled;
use formats::{Checksums, Container, Limits, Tensor};
use quant::coding::Decoder;
use quant::{check_finite, codec, codec_of_levels};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::compact;
use crate::error::{Error, Result};

/// Values decoded at a time by a thread.
const STEP: usize = 1 << 18;

/// What to do about a weight that is not finite.
pub const DAMAGED: &str = "a model with such a weight computes nothing sensible: get a sound copy, or the release before or after it";

/// What was found sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Number of checksums in the container, all found right.
    pub checksums: usize,
    /// Number of tensors whose every value was decoded and found finite.
    pub tensors: usize,
    /// Number of values.
    pub values: u64,
    /// SHA-256 of every file, in lower-case hex.
    pub sha256: Vec<String>,
}

/// Reads all of a container: each tensor is decoded, and each file hashed meanwhile.
///
/// # Errors
/// [`Error::Format`] if a file changed meanwhile;
/// [`Error::Weight`] with the first value that is not finite; [`Error::Format`] if a checksum in the container
/// disagrees with its data; [`Error::Model`] if a file goes on behind its end.
pub fn verify(container: &Container) -> Result<Verified> {
    let (sound, sha256) =
        rayon::join(|| sound(container), || container.files().par_iter().map(sha256).collect());
    container.check_unchanged()?;
    Ok(Verified { sha256, ..sound? })
}

/// Compares the checksums in a container with its bytes, and nothing else: no weight is decoded.
///
/// # Errors
/// [`Error::Format`] with the first that disagrees; [`Error::Usage`] if there are none.
pub fn checksums(container: &Container) -> Result<Verified> {
    let found = own_checksums(container);
    container.check_unchanged()?;
    match found? {
        0 => Err(Error::Usage {
            what: format!("{} holds no checksums", container.path().display()),
            help: "leave --checksums out, and give --sha256 HEX if you know what it must be".to_owned(),
        }),
        checksums => Ok(Verified { checksums, tensors: 0, values: 0, sha256: Vec::new() }),
    }
}

/// How many checksums there are, all of them right.
fn own_checksums(container: &Container) -> Result<usize> {
    Ok(match container.format().verify_checksums(container, &Limits::default())? {
        Checksums::Match(count) => count,
        Checksums::Absent => 0,
    })
}

/// All but the SHA-256 of files.
fn sound(container: &Container) -> Result<Verified> {
    let checksums = own_checksums(container)?;
    if let Some((file, bytes)) = container.format().stray_bytes(container) {
        return Err(Error::Model {
            path: container.files()[file].path().to_owned(),
            what: format!("goes on for {bytes} bytes behind its last tensor"),
            help: "two files may have been joined, or a copy gone wrong: get a sound copy".to_owned(),
        });
    }
    let decoded = finite(container)?;
    let values = decoded.iter().map(|t| t.elements()).sum();
    Ok(Verified { checksums, tensors: decoded.len(), values, sha256: Vec::new() })
}

/// Decodes all of a container and looks for values that are not finite; gives the tensors that it decoded.
///
/// # Errors
/// [`Error::Weight`] with the first such value.
pub fn finite(container: &Container) -> Result<Vec<&Tensor>> {
    // Of several errors the first, whichever was found first.
    let checked: Vec<Result<Option<&Tensor>>> =
        container.tensors().par_iter().map(|t| Ok(finite_tensor(container, t)?.then_some(t))).collect();
    checked.into_iter().filter_map(Result::transpose).collect()
}

/// Decodes a tensor and looks for values that are not finite; whether it has values that can be decoded.
fn finite_tensor(container: &Container, t: &Tensor) -> Result<bool> {
    if !t.encoding.is_real() {
        return Ok(false);
    }
    if let Some(tiled) = container.tiled(t) {
        finite_tiles(container, t, &tiled)?;
        return Ok(true);
    }
    let Some(codec) = codec(t.encoding) else { return Ok(false) };
    let (len, size) = (t.encoding.block_len(), t.encoding.block_bytes());
    let of_levels = container.codebook(t).and_then(|levels| codec_of_levels(t.encoding, levels));
    let codec = of_levels.as_deref().unwrap_or(codec);
    let stored = if t.split.is_some() { t.encoding.code_bytes() } else { size };
    let (step, blocks) = (STEP / len, container.bytes(t).len() / stored);
    (0..blocks.div_ceil(step)).into_par_iter().try_for_each(|n| {
        // A strided tensor spans elements that are not its own; they are weights of the same storage.
        let range = n * step..blocks.min((n + 1) * step);
        let mut values = vec![0.0; range.len() * len];
        codec.decode(&container.blocks(t, range.clone()), &mut values);
        container.release(t, (range.start * size) as u64..(range.end * size) as u64);
        finite_values(container, t, range.start * len, &values)
    })?;
    Ok(true)
}

/// Decodes all tiles of a tensor and looks for values that are not finite.
fn finite_tiles(container: &Container, t: &Tensor, tiled: &Tiled<'_>) -> Result<()> {
    let damaged = |e| compact::tile_error(container, t, e);
    let cols = t.shape.last().copied().unwrap_or(1);
    let decoder = Decoder::new(tiled.tiles.coding, tiled.head, cols).map_err(damaged)?;
    let rows = tiled.tiles.rows;
    let tiles: Vec<&[u8]> = tiled.from(0).collect();
    tiles.into_par_iter().enumerate().try_for_each(|(n, tile)| {
        let start = n * rows * cols * t.encoding.block_bytes();
        let mut values = vec![0.0; rows.min(t.rows() - n * rows) * cols];
        decoder.decode(tile, &mut values).map_err(damaged)?;
        let end = start + values.len() * t.encoding.block_bytes();
        container.release(t, start as u64..end as u64);
        finite_values(container, t, n * rows * cols, &values)
    })
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

/// SHA-256 of a file in lower-case hex, letting go of its pages on the way.
pub fn sha256(file: &formats::Mapped) -> String {
    const STEP: usize = 8 << 20;
    let mut hash = Sha256::new();
    for (n, bytes) in file.bytes().chunks(STEP).enumerate() {
        hash.update(bytes);
        let start = (n * STEP) as u64;
        file.release(start..start + bytes.len() as u64);
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

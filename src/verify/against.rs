//! A file against the model that it was made from: the error of every tensor beside that of plain rounding.

use std::sync::atomic::{AtomicBool, Ordering};

use formats::Coded;
use quant::coding::Coding;
use quant::{Encoding, Rows, codec, codec_of_levels};

use crate::diff::{self, Difference};
use crate::equalize;
use crate::metadata::CalibrationFingerprint;
use crate::model::adapter::RANK_KEY;
use crate::model::{Model, ModelTensor, TensorView};

/// Errors of rounding by this factor are still those of rounding: other programs search for scales otherwise.
const ROUNDING_TOLERANCE: f64 = 1.1;
/// Relative errors that computing in f32 makes.
const F32_ERROR: f64 = 1e-6;

/// Keys of llama.cpp about the importance matrix that a file was quantized with.
const IMATRIX_KEYS: &str = "quantize.imatrix.";

/// The relative error of one tensor.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TensorError {
    /// The canonical name.
    pub name: String,
    /// Encoding of the tensor.
    pub encoding: &'static str,
    /// Root mean square of the errors as a share of that of the source's values.
    pub relative: f64,
    /// Relative error of the source plainly rounded to that encoding; `None` if nothing encodes it so.
    pub rounding: Option<f64>,
}

/// The errors of all tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Errors {
    /// Errors of tensors that both models have.
    pub tensors: Vec<TensorError>,
    /// Tensors that only one has, or that have another shape: sentences.
    pub unlike: Vec<String>,
    /// True if the file says that it was calibrated, or quantized with an importance matrix, rescaled or divided: then
    /// its errors exceed those of plain rounding by design.
    pub is_calibrated: bool,
}

/// Measures the errors of `file`, which was made from `source`.
pub fn compare(source: &Model, file: &Model) -> Errors {
    let diff = diff::compare(source, file);
    let rounding = |name: &str| {
        let held = |model: &Model| model.tensors.iter().position(|held| held.name() == name);
        let (source_held, held) = (held(source)?, held(file)?);
        rounding(source, &source.tensors[source_held], file, &file.tensors[held])
    };
    let tensors = diff.common.iter().map(|t| TensorError {
        name: t.name.clone(),
        encoding: t.encodings.1,
        relative: t.relative,
        rounding: rounding(&t.name),
    });
    let only = |names: &[String], whose: &str| -> Vec<String> {
        names.iter().map(|name| format!("only {whose} has {name}")).collect()
    };
    let mut unlike = only(&diff.only_a, "the source");
    unlike.extend(only(&diff.only_b, "the file"));
    unlike.extend(diff.incomparable.iter().map(|what| format!("the shapes differ: {what}")));
    Errors { tensors: tensors.collect(), unlike, is_calibrated: is_calibrated(file) }
}

impl Errors {
    /// Reason that the file is not what its source was to become: the first tensor that only one has, or the first
    /// whose error is too large. `most` is the largest relative error allowed; without it an uncalibrated file's
    /// tensors may err as plain rounding does, and a calibrated one's by any amount.
    pub fn exceeded(&self, most: Option<f64>) -> Option<String> {
        if let Some(what) = self.unlike.first() {
            return Some(what.clone());
        }
        self.tensors.iter().find_map(|t| {
            let plain = t.rounding.filter(|_| !self.is_calibrated);
            let bound = plain.map(|plain| plain * ROUNDING_TOLERANCE + F32_ERROR);
            let too_large = |bound: f64| t.relative > bound || t.relative.is_nan();
            match (most, bound) {
                (Some(most), _) if too_large(most) => {
                    Some(format!("the relative error of {} is {:.3e}, more than {most}", t.name, t.relative))
                }
                (_, Some(bound)) if too_large(bound) => Some(format!(
                    "the relative error of {} is {:.3e}, and plain rounding to {} makes {:.3e}",
                    t.name,
                    t.relative,
                    t.encoding,
                    t.rounding.unwrap_or_default()
                )),
                _ => None,
            }
        })
    }
}

/// True if the file says that more than rounding was done to it.
fn is_calibrated(file: &Model) -> bool {
    let metadata = file.container.metadata();
    let is_marked = |key: &str| key.starts_with(IMATRIX_KEYS) || [RANK_KEY, equalize::KEY].contains(&key);
    CalibrationFingerprint::read(metadata).is_some() || metadata.iter().any(|(key, _)| is_marked(key))
}

/// The relative error of the source's values rounded to the encoding that the file has them in.
fn rounding(source: &Model, from: &ModelTensor, file: &Model, held: &ModelTensor) -> Option<f64> {
    let encoding = held.values.encoding()?;
    let (container, tensor) = held.values.origin(&file.container)?;
    let has_rate = match tensor.coded {
        Some(Coded::Tiles(tiles)) => tiles.coding != Coding::Lossless,
        Some(Coded::Zstd) | None => false,
    };
    if has_rate || held.values.is_altered() {
        return None; // what was rounded to that encoding is something else
    }
    let levels = container.codebook(tensor).and_then(|levels| codec_of_levels(encoding, levels));
    let codec = levels.as_deref().or_else(|| codec(encoding)).filter(|codec| codec.can_encode())?;
    // As it lies in the file: blocks go along its rows.
    let values = oriented(&from.values, &tensor.shape)?;
    let (rows, cols) = (values.rows(), values.cols());
    let whole = whole_rows(encoding, cols);
    let rows_at_once = rows.div_ceil(whole);
    let failed = AtomicBool::new(false);
    let difference = Difference::of(rows_at_once, whole * cols, |range, x, y| {
        let range = range.start * whole..(range.end * whole).min(rows);
        let len = range.len() * cols;
        let blocks = len.div_ceil(encoding.block_len());
        let mut bytes = vec![0; blocks * encoding.block_bytes()];
        values.read(&source.container, range.clone(), &mut x[..len]);
        match codec.encode(Rows::new(&x[..len], cols), &mut bytes) {
            Ok(()) => codec.decode(&bytes, &mut y[..len]),
            Err(_) => failed.store(true, Ordering::Relaxed),
        }
        values.release(&source.container, range);
    });
    (!failed.into_inner()).then(|| difference.relative())
}

/// Values with the dimensions that they have in the file: as they are, or turned.
fn oriented(values: &TensorView, stored: &[usize]) -> Option<TensorView> {
    let squeezed = |shape: &[usize]| -> Vec<usize> { shape.iter().copied().filter(|d| *d > 1).collect() };
    let (own, stored) = (squeezed(values.shape()), squeezed(stored));
    let reversed: Vec<usize> = own.iter().rev().copied().collect();
    if own != stored && reversed == stored { values.transposed() } else { Some(values.clone()) }
}

/// The fewest rows that are whole blocks.
fn whole_rows(encoding: Encoding, cols: usize) -> usize {
    let len = encoding.block_len();
    (1..=len).find(|rows| (rows * cols).is_multiple_of(len)).unwrap_or(len)
}

//! Statistics of a model's activations on a text, in a file, so that they are measured once for many conversions:
//! safetensors with
//!
//! ```text
//! text.tokens        I32 [tokens]          the text's sequences, one after the other
//! text.fit           I32 [sequences]       lengths of those that matrices are fitted to, which come first
//! text.held_out      I32 [sequences]       lengths of those that judge
//! MATRIX.squares     F32 [n]               E[x^2] of what meets a matrix, over all tokens
//! MATRIX.fit         F32 [n (n + 1) / 2]   E[x x^T] over the tokens to fit to: the lower triangle, row by row
//! MATRIX.held_out    F32 [n (n + 1) / 2]   the same over the others
//! ```
//! for every matrix under BlinkDL's name, and the keys `rwkv-quant.calibration` (the version of this layout), `texts` (a JSON
//! list), `model` and `weights` (what it was measured on, see [`described`] and [`fingerprint`]). Activations are those
//! of the model as it is: nothing of it was rounded.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::{Container, Limits, Metadata, Planned, Tensor, Value};
use quant::Encoding;

use super::Text;
use super::encode::{TOGETHER, slices};
use super::measure::{ActivationRecorder, over_both};
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::model::{Model, ModelTensor, Role};
use crate::pipeline::Stop;
use crate::runner::{ActivationHook, BlockHalf, ForwardPass, Inputs, Key, Moments, Options, Runner};
use crate::storage::Outputs;

/// The key that tells such a file from others, and its value.
const KEY: (&str, &str) = ("rwkv-quant.calibration", "1");
const TEXTS: &str = "texts";
const MODEL: &str = "model";
const WEIGHTS: &str = "weights";
const TOKENS: &str = "text.tokens";
const FIT: &str = "text.fit";
const HELD_OUT: &str = "text.held_out";

/// Statistics file of a text and a model.
#[derive(Debug)]
pub struct Stats {
    container: Container,
    text: Text,
}

impl Stats {
    /// Opens the file at `path`, measured on `model`.
    ///
    /// # Errors
    /// [`Error::Format`] if it is damaged, [`Error::Model`] if it is no such file, or one of another model.
    pub fn open(path: &Path, model: &Model) -> Result<Stats> {
        let container = formats::open(path, &Limits::default())?;
        let unfit = |what: &str| Err(unfit(&container, what));
        let stated = |key: &str| container.value(key).and_then(Value::as_str).unwrap_or_default();
        if stated(KEY.0) != KEY.1 {
            return unfit("holds no measurements to calibrate with");
        }
        let (theirs, ours) = (stated(MODEL), described(model));
        if theirs != ours {
            return unfit(&format!("was measured on another model: {theirs}; this one is {ours}"));
        }
        if stated(WEIGHTS) != fingerprint(model) {
            return unfit("was measured on a model of this shape with other weights");
        }
        let tokens = numbers(&container, TOKENS)?;
        let mut rest = tokens.as_slice();
        let mut sequences = |name: &str| -> Result<Option<Vec<Vec<u32>>>> {
            let cut = |len: u32| {
                let (now, later) = rest.split_at_checked(len as usize)?;
                rest = later;
                Some(now.to_vec())
            };
            Ok(numbers(&container, name)?.into_iter().map(cut).collect())
        };
        let (Some(fit), Some(held_out)) = (sequences(FIT)?, sequences(HELD_OUT)?) else {
            return unfit("is damaged: there are fewer tokens than its sequences are long");
        };
        if fit.is_empty() || held_out.is_empty() {
            return unfit("is damaged: it has no tokens to fit to, or none to judge by");
        }
        let sources: Vec<PathBuf> = serde_json::from_str(stated(TEXTS)).unwrap_or_default();
        let text = Text { fit, held_out, sources, warnings: Vec::new(), is_judged: true };
        Ok(Stats { text, container })
    }

    /// The text that it was measured on.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// The mean squares of what meets a matrix of the model, over all tokens; `None` if it is none that is measured.
    ///
    /// # Errors
    /// If they are missing or damaged.
    pub fn mean_squares(&self, held: &ModelTensor) -> Result<Option<Vec<f32>>> {
        let squares = |n| floats(&self.container, &format!("{}.squares", held.name()), n);
        channels(held).map(squares).transpose()
    }

    /// The moments of what meets a matrix of the model: of the tokens to fit to, and of those that judge; `None` if it is
    /// none that is measured.
    ///
    /// # Errors
    /// If they are missing or damaged.
    pub fn moments(&self, held: &ModelTensor) -> Result<Option<[Moments; 2]>> {
        let Some(n) = channels(held) else { return Ok(None) };
        let part = |name: &str, sequences: &[Vec<u32>]| -> Result<Moments> {
            let rows = floats(&self.container, &format!("{}.{name}", held.name()), n * (n + 1) / 2)?;
            let tokens: usize = sequences.iter().map(Vec::len).sum();
            Ok(Moments::from_rows(n, tokens as u64, &rows))
        };
        Ok(Some([part("fit", &self.text.fit)?, part("held_out", &self.text.held_out)?]))
    }
}

fn unfit(container: &Container, what: &str) -> Error {
    Error::Model {
        path: container.path().to_owned(),
        what: what.to_owned(),
        help: "measure it on this very model: rwkv-quant calibrate MODEL TEXT -o FILE.safetensors".to_owned(),
    }
}

/// A list of this encoding and, if it is given, this length.
fn list<'a>(
    container: &'a Container,
    name: &str,
    encoding: Encoding,
    length: Option<usize>,
) -> Result<(&'a Tensor, &'a [u8])> {
    let fits = |t: &&Tensor| {
        t.encoding == encoding && t.shape.len() == 1 && length.is_none_or(|length| t.shape[0] == length)
    };
    match container.tensor(name).filter(fits) {
        Some(tensor) => Ok((tensor, container.bytes(tensor))),
        None => {
            let length = length.map_or(String::new(), |n| format!(" of {n} values"));
            Err(unfit(container, &format!("is damaged: it has no {encoding} list {name:?}{length}")))
        }
    }
}

fn numbers(container: &Container, name: &str) -> Result<Vec<u32>> {
    let (numbers, _) = list(container, name, Encoding::I32, None)?.1.as_chunks::<4>();
    Ok(numbers.iter().map(|n| u32::from_le_bytes(*n)).collect())
}

fn floats(container: &Container, name: &str, length: usize) -> Result<Vec<f32>> {
    let (tensor, bytes) = list(container, name, Encoding::F32, Some(length))?;
    let (floats, _) = bytes.as_chunks::<4>();
    let values: Vec<f32> = floats.iter().map(|v| f32::from_le_bytes(*v)).collect();
    container.release(tensor, 0..bytes.len() as u64);
    match quant::check_finite(&values) {
        Ok(()) => Ok(values),
        Err(e) => Err(unfit(container, &format!("is damaged: in {name:?}, {e}"))),
    }
}

/// Two that observe together. (The mean squares are summed by themselves, in f64, so they are those that [`mean_squares`]
/// gives.)
///
/// [`mean_squares`]: super::mean_squares
struct Both {
    full: Arc<ActivationRecorder>,
    diagonal: Arc<ActivationRecorder>,
}

impl ActivationHook for Both {
    fn hear(&self, key: Key, part: usize, inputs: &Inputs<'_>) {
        self.full.hear(key, part, inputs);
        self.diagonal.hear(key, part, inputs);
    }

    fn needs_product(&self, _: Key) -> bool {
        true
    }
}

/// A matrix that is measured.
struct Heard {
    key: Key,
    name: String,
    /// Channels of its inputs.
    channels: usize,
}

/// Measures what meets every matrix of `model` on a text, and writes it as the file of `outputs`; tells of how many matrices.
///
/// The model is run once, half a block at a time, and what was recorded of a half is written before the next begins. That
/// the model finds the text unlikely is noted among the text's warnings.
///
/// # Errors
/// If the model cannot be run, the file not written, or the work is stopped.
pub fn measure_all(
    model: Model,
    text: &mut Text,
    outputs: &mut Outputs,
    stop: &Stop,
    mut progress: impl FnMut(),
) -> Result<usize> {
    let halves = (0..model.dims.layers).flat_map(|layer| BlockHalf::BOTH.map(|half| Some((layer, half))));
    let stages: Vec<Vec<Heard>> = halves.chain([None]).map(|place| matrices(&model, place)).collect();
    let lengths = |sequences: &[Vec<u32>]| sequences.iter().map(|s| s.len() as u32).collect();
    let numbers: [(&str, Vec<u32>); 3] = [
        (TOKENS, text.fit.iter().chain(&text.held_out).flatten().copied().collect()),
        (FIT, lengths(&text.fit)),
        (HELD_OUT, lengths(&text.held_out)),
    ];
    let flat = |name: String, encoding, len| Planned { name, encoding, shape: vec![len] };
    let mut planned: Vec<Planned> =
        numbers.iter().map(|(name, n)| flat((*name).to_owned(), Encoding::I32, n.len())).collect();
    for Heard { name, channels: n, .. } in stages.iter().flatten() {
        for (part, len) in [("squares", *n), ("fit", n * (n + 1) / 2), ("held_out", n * (n + 1) / 2)] {
            planned.push(flat(format!("{name}.{part}"), Encoding::F32, len));
        }
    }
    let placement = formats::safetensors::place(&keys(&model, text), &planned)?;
    let path = model.container.path().to_owned();
    let runner = Runner::new(model, Options { stream: true, ..Options::default() })?;
    let mut walk = ForwardPass::new(runner, &[&slices(&text.fit), &slices(&text.held_out)], TOGETHER)?;
    let values: u64 = planned.iter().filter_map(Planned::bytes).sum();
    outputs.create(&[placement.head.len() as u64 + values])?;
    {
        let out = outputs.to_open();
        let mut file = BufWriter::with_capacity(1 << 20, outputs.stream(0));
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", &out));
        put(&placement.head)?;
        numbers.iter().flat_map(|(_, numbers)| numbers).try_for_each(|n| put(&n.to_le_bytes()))?;
        for stage in &stages {
            let full = ActivationRecorder::full(stage.iter().map(|h| h.key).collect(), Vec::new());
            let recorders = Arc::new(Both { full, diagonal: ActivationRecorder::diagonal() });
            let done = match walk.next() {
                Some(_) => walk.step(Some(recorders.clone()), || stop.check()),
                None => walk.observe(recorders.clone(), || stop.check()),
            };
            walk.runner().model().unless_changed(done)?;
            let (mut recorded, mut squares) = (recorders.full.take(), recorders.diagonal.take());
            for Heard { key, name, .. } in stage {
                let (Some([fit, held_out]), Some(squares)) = (recorded.remove(key), squares.remove(key))
                else {
                    return Err(Error::Tensor {
                        path: path.clone(),
                        tensor: name.clone(),
                        what: "meets nothing when the model runs".to_owned(),
                        help: "calibrate with the text itself: convert --calib TEXT".to_owned(),
                    });
                };
                let squares = over_both(squares);
                let floats = std::iter::once(squares).chain(fit.rows()).chain(held_out.rows());
                for floats in floats {
                    put(&floats.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
                }
            }
            progress();
        }
        file.flush().map_err(Error::io("write", &out))?;
    }
    text.check_likely(&walk, stop)?;
    Ok(stages.iter().map(Vec::len).sum())
}

/// The keys of a file for a model and a text.
fn keys(model: &Model, text: &Text) -> Metadata {
    let texts: Vec<String> = text.sources.iter().map(|p| p.display().to_string()).collect();
    let texts = serde_json::Value::from(texts).to_string();
    let keys =
        [(KEY.0, KEY.1.to_owned()), (TEXTS, texts), (MODEL, described(model)), (WEIGHTS, fingerprint(model))];
    keys.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect()
}

/// The matrices of half a block; of no block, the head.
fn matrices(model: &Model, place: Option<(usize, BlockHalf)>) -> Vec<Heard> {
    let inside = |h: &&ModelTensor| match BlockHalf::of(h.spec.short_name()) {
        Some(half) => place == Some((h.layer, half)),
        None => place.is_none(),
    };
    let recorded = |h: &ModelTensor| {
        let key = (h.spec.name, h.layer);
        Some(Heard { key, name: h.name(), channels: channels(h)? })
    };
    model.tensors.iter().filter(inside).filter_map(recorded).collect()
}

/// Number of input channels of a tensor, if it is a matrix that is multiplied as a whole.
fn channels(held: &ModelTensor) -> Option<usize> {
    let &[rows, cols] = held.values.shape() else { return None };
    match held.spec.role {
        _ if held.is_unread() => None,
        Role::Matrix | Role::Head => Some(cols),
        Role::LowRank => Some(rows),
        Role::Embedding | Role::Vector => None,
    }
}

/// Description of a model, as far as its shape tells.
fn described(model: &Model) -> String {
    let dims = &model.dims;
    format!(
        "RWKV-{} of {} blocks, {} channels ({} in the channel mix) and {} tokens",
        model.version.name, dims.layers, dims.embd, dims.ffn, dims.vocab
    )
}

/// SHA-256 of the first row of every tensor, as f32: the same in whatever exact format a model is stored, another if its
/// matrices are trained further or rounded.
fn fingerprint(model: &Model) -> String {
    let rows = model.tensors.iter().filter(|h| !h.is_unread()).map(|h| {
        let mut row = vec![0.0; h.values.cols()];
        h.values.read(&model.container, 0..1, &mut row);
        row.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()
    });
    let rows: Vec<Vec<u8>> = rows.collect();
    sha256(rows.iter().map(Vec::as_slice))
}

//! Activations of every matrix of a model on a text: the measurement alone, without encoding.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use formats::Imatrix;

use super::Text;
use super::encode::{TOGETHER, slices};
use crate::error::Result;
use crate::model::{Model, ModelTensor};
use crate::pipeline::Stop;
use crate::runner::{ActivationHook, ForwardPass, Inputs, Key, Moments, Options, Runner};

/// Sums up moments of what it hears, of each part of a text by itself.
pub(super) struct ActivationRecorder {
    /// The matrices that are listened to; all if there are none.
    keys: Vec<Key>,
    /// Matrices whose products nothing that is listened to hangs on.
    idle: Vec<Key>,
    /// True if whole moments are wanted, not their diagonals only.
    full: bool,
    recorded: Mutex<Heard>,
}

/// Moments of each part of the text, by matrix.
pub(super) type Heard = BTreeMap<Key, [Moments; 2]>;

impl ActivationRecorder {
    /// Listens to every matrix, for the diagonals of its moments.
    pub fn diagonal() -> Arc<ActivationRecorder> {
        Arc::new(ActivationRecorder {
            keys: Vec::new(),
            idle: Vec::new(),
            full: false,
            recorded: Mutex::default(),
        })
    }

    /// Listens to `keys`, for whole moments; products with `idle` need not be computed for that.
    pub fn full(keys: Vec<Key>, idle: Vec<Key>) -> Arc<ActivationRecorder> {
        Arc::new(ActivationRecorder { keys, idle, full: true, recorded: Mutex::default() })
    }

    /// Takes the recorded activations.
    pub fn take(&self) -> Heard {
        std::mem::take(&mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ActivationHook for ActivationRecorder {
    fn hear(&self, key: Key, part: usize, inputs: &Inputs<'_>) {
        if !self.keys.is_empty() && !self.keys.contains(&key) {
            return;
        }
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let none = || {
            let moments = Moments::new(inputs.channels(), self.full);
            [moments.clone(), moments]
        };
        recorded.entry(key).or_insert_with(none)[part].add(inputs);
    }

    fn needs_product(&self, key: Key) -> bool {
        !self.idle.contains(&key)
    }
}

/// The mean squares of the input channels of every matrix, over all tokens of a text, among whose warnings is noted if
/// the model finds it unlikely.
///
/// # Errors
/// If the model cannot be run, or the work is stopped; as `progress`, which hears of every half block passed, says.
pub fn mean_squares(
    model: Model,
    text: &mut Text,
    stop: &Stop,
    mut progress: impl FnMut(),
) -> Result<BTreeMap<Key, Vec<f32>>> {
    let runner = Runner::new(model, Options { stream: true, ..Options::default() })?;
    let mut walk = ForwardPass::new(runner, &[&slices(&text.fit), &slices(&text.held_out)], TOGETHER)?;
    let recorder = ActivationRecorder::diagonal();
    let mut run = || -> Result<()> {
        while walk.next().is_some() {
            walk.step(Some(recorder.clone()), || stop.check())?;
            progress();
        }
        walk.observe(recorder.clone(), || stop.check())?;
        text.check_likely(&walk, stop)
    };
    let done = run();
    walk.runner().model().unless_changed(done)?;
    Ok(recorder.take().into_iter().map(|(key, parts)| (key, over_both(parts))).collect())
}

/// The mean squares over both parts of a text.
pub(super) fn over_both([mut fit, held_out]: [Moments; 2]) -> Vec<f32> {
    fit.merge(&held_out);
    fit.mean_squares()
}

/// Mean squares as an importance matrix of llama.cpp: under its own names for tensors, or of versions that it does not
/// know under BlinkDL's.
pub fn importance(model: &Model, squares: &BTreeMap<Key, Vec<f32>>, text: &Text) -> Imatrix {
    let name = |held: &ModelTensor| match held.spec.gguf {
        Some(name) => name.replacen("{}", &held.layer.to_string(), 1),
        None => held.name(),
    };
    let of = |held: &ModelTensor| Some((name(held), squares.get(&(held.spec.name, held.layer))?.clone()));
    Imatrix {
        entries: model.tensors.iter().filter_map(of).collect(),
        datasets: text.sources.iter().map(|p| p.display().to_string()).collect(),
        chunks: (text.fit.len() + text.held_out.len()) as u64,
    }
}

//! Sources of the second moments of a model's activations: a forward pass over a text, or a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::encode::{TOGETHER, slices};
use super::measure::ActivationRecorder;
use super::stage::{Stage, Target};
use super::{Stats, Text};
use crate::equalize::Equalization;
use crate::error::Result;
use crate::model::Model;
use crate::pipeline::Stop;
use crate::runner::{ForwardPass, Key, Moments, Options, Runner};

/// Source of the activations of the model's matrices.
#[derive(Debug)]
pub enum Source {
    /// The model runs, its matrices encoded as far as it got.
    Sequential,
    /// The model runs as it is.
    Independent,
    /// Statistics of an earlier forward pass; the channels were rescaled since.
    Stats(Box<Stats>, Equalization),
}

/// Tells moments stage by stage.
pub(super) trait ActivationStages {
    /// The model, whose weights are encoded.
    fn model(&self) -> &Model;

    /// Gets to a stage, of whose matrices `open` are to be encoded.
    ///
    /// # Errors
    /// If the model cannot be run, or the work is stopped.
    fn enter(&mut self, stage: &Stage, open: &[Target], stop: &Stop) -> Result<()>;

    /// The moments of what meets an open matrix of the stage: on the tokens to fit to, and on those that judge. `None`
    /// if there is no such matrix.
    ///
    /// # Errors
    /// If they cannot be read.
    fn moments(&self, key: Key) -> Result<Option<Arc<[Moments; 2]>>>;

    /// True if later stages hang on what became of the matrices of this one.
    fn follows(&self, stage: &Stage) -> bool;

    /// Replaces the matrix from now on by `values`, rows of `cols`.
    fn replace(&mut self, key: Key, values: Vec<f32>, cols: usize);

    /// Notes, behind the last stage, what makes the text unfit, if the model was run on it.
    ///
    /// # Errors
    /// If the model cannot be run, or the work is stopped.
    fn judge(&mut self, text: &mut Text, stop: &Stop) -> Result<()>;
}

/// The activation stages of `model`, which is the source of a plan.
///
/// # Errors
/// If the model cannot be run.
pub(super) fn activation_stages(
    source: Source,
    model: Model,
    text: &Text,
) -> Result<Box<dyn ActivationStages>> {
    let sequential = match source {
        Source::Stats(stats, rescaling) => return Ok(Box::new(Known { stats: *stats, rescaling, model })),
        Source::Sequential => true,
        Source::Independent => false,
    };
    let runner = Runner::new(model, Options { stream: true, ..Options::default() })?;
    let walk = ForwardPass::new(runner, &[&slices(&text.fit), &slices(&text.held_out)], TOGETHER)?;
    Ok(Box::new(OnTheWay { walk, sequential, recorded: BTreeMap::new() }))
}

/// A model on its way through a text.
struct OnTheWay {
    walk: ForwardPass,
    sequential: bool,
    recorded: BTreeMap<Key, Arc<[Moments; 2]>>,
}

impl ActivationStages for OnTheWay {
    fn model(&self) -> &Model {
        self.walk.runner().model()
    }

    fn enter(&mut self, stage: &Stage, open: &[Target], stop: &Stop) -> Result<()> {
        while self.walk.next().is_some() && self.walk.next() != stage.place {
            self.walk.step(None, || stop.check())?;
        }
        if !open.is_empty() {
            let recorder = ActivationRecorder::full(open.iter().map(|t| t.key).collect(), stage.idle.clone());
            self.recorded.clear();
            self.walk.observe(recorder.clone(), || stop.check())?;
            self.recorded =
                recorder.take().into_iter().map(|(key, moments)| (key, Arc::new(moments))).collect();
        }
        Ok(())
    }

    fn moments(&self, key: Key) -> Result<Option<Arc<[Moments; 2]>>> {
        Ok(self.recorded.get(&key).cloned())
    }

    fn follows(&self, stage: &Stage) -> bool {
        self.sequential && stage.place.is_some()
    }

    fn replace(&mut self, key: Key, values: Vec<f32>, cols: usize) {
        self.walk.replace(key, values, cols);
    }

    fn judge(&mut self, text: &mut Text, stop: &Stop) -> Result<()> {
        self.walk.finish(|| stop.check())?;
        text.check_likely(&self.walk, stop)
    }
}

/// A model of which everything was measured.
struct Known {
    stats: Stats,
    rescaling: Equalization,
    model: Model,
}

impl ActivationStages for Known {
    fn model(&self) -> &Model {
        &self.model
    }

    fn enter(&mut self, _: &Stage, _: &[Target], stop: &Stop) -> Result<()> {
        stop.check()
    }

    fn moments(&self, key: Key) -> Result<Option<Arc<[Moments; 2]>>> {
        let Some(held) = self.model.tensor(key.0, key.1) else { return Ok(None) };
        let Some(moments) = self.stats.moments(held)? else { return Ok(None) };
        Ok(Some(Arc::new(match self.rescaling.inputs_of(&self.model, held) {
            Some(exponents) => moments.map(|m| m.rescaled(&exponents)),
            None => moments,
        })))
    }

    fn follows(&self, _: &Stage) -> bool {
        false
    }

    fn replace(&mut self, _: Key, _: Vec<f32>, _: usize) {}

    fn judge(&mut self, _: &mut Text, _: &Stop) -> Result<()> {
        Ok(())
    }
}

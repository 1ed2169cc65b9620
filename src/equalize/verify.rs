//! Check that a rescaled model computes what it did before.

use super::Equalization;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::runner::{Options, Runner};

/// Tokens that both are given.
const TOKENS: usize = 16;

/// Largest difference of a logit, over the largest logit. (Nothing is rounded, so there is none unless a value leaves the
/// range of f32.)
const TOLERANCE: f64 = 1e-6;

impl Equalization {
    /// Rescales `model`, after its logits for a few tokens were seen to stay the same.
    ///
    /// # Errors
    /// As [`Model::rescale`] and [`Runner::run`]; [`Error::Model`] if the logits change.
    pub fn applied(&self, model: Model) -> Result<Model> {
        let (mut model, before) = logits(model)?;
        model.rescale(self)?;
        let (model, after) = logits(model)?;
        let largest = before.iter().fold(0.0_f64, |m, v| m.max(f64::from(v.abs())));
        let differences = before.iter().zip(&after).map(|(a, b)| f64::from(a - b).abs());
        let worst = differences.fold(0.0_f64, |m, d| if d > m || d.is_nan() { d } else { m });
        if worst <= TOLERANCE * largest {
            return Ok(model);
        }
        Err(Error::Model {
            path: model.container.path().to_owned(),
            what: format!("computes other logits with rescaled channels: {worst:.3e} of {largest:.3e} apart"),
            help: "convert it as it is: leave --equalize out".to_owned(),
        })
    }
}

/// The model, and its logits behind tokens from all over the vocabulary.
fn logits(model: Model) -> Result<(Model, Vec<f32>)> {
    let runner = Runner::new(model, Options { stream: true, ..Options::default() })?;
    let vocab = runner.model().dims.vocab;
    let tokens: Vec<u32> = (0..TOKENS).map(|i| (i * 7 % TOKENS * vocab / TOKENS) as u32).collect();
    let hidden = runner.run(&[&tokens], &mut [runner.start()])?;
    let rows: Vec<usize> = (0..hidden.rows()).collect();
    let logits = runner.logits(&hidden, &rows)?;
    let all = rows.iter().flat_map(|row| logits.row(*row).to_vec()).collect();
    Ok((runner.into_model(), all))
}

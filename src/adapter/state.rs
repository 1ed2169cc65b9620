//! Tuned initial states: `blocks.{i}.att.time_state`, a matrix a head and block.

use std::path::Path;

use super::{open, unwrapped};
use crate::error::{Error, Result};
use crate::model::{Dims, Joined, Lazy, Model};

/// How a file of a tuned initial state keeps the matrix of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// [value, key]: files for versions 5 and 6, and what RWKV-Runner takes for version 7.
    #[default]
    ValueKey,
    /// [key, value]: files for web-rwkv and Ai00, and version 7 as trained with flash-linear-attention.
    KeyValue,
}

impl Layout {
    /// A matrix [heads, value, key] kept this way, or one kept this way as [heads, value, key].
    pub fn turn(self, values: &Lazy) -> Option<Lazy> {
        match self {
            Layout::ValueKey => Some(values.clone()),
            Layout::KeyValue => values.transposed(),
        }
    }
}

/// Lets every text start from the state in the file at `path`.
///
/// # Errors
/// [`Error::Model`] if the model has no such state; [`Error::Tensor`] if a block's is missing or does not fit.
pub fn tune(model: &mut Model, path: &Path, layout: Layout) -> Result<()> {
    let Dims { layers, heads, head_size: size, .. } = model.dims;
    if model.version.major() == 4 {
        return Err(Error::Model {
            path: model.container.path().to_owned(),
            what: "is RWKV-4, whose state cannot be tuned".to_owned(),
            help: "use a model of version 5, 6 or 7".to_owned(),
        });
    }
    let container = open(path)?;
    let mut state = Vec::new();
    for layer in 0..layers {
        let name = format!("blocks.{layer}.att.time_state");
        let wrong = |what: String| Error::Tensor {
            path: path.to_owned(),
            tensor: name.clone(),
            what,
            help: format!("give a state that was tuned for this model ({layers} blocks, {heads} heads of {size})"),
        };
        let found = container.tensors().iter().position(|t| unwrapped(&t.name) == name);
        let values = found.and_then(|i| Lazy::of_other(&container, i));
        let values = values.ok_or_else(|| wrong("is missing".to_owned()))?;
        let shape = values.shape().to_vec();
        let turned = (shape == [heads, size, size]).then(|| layout.turn(&values)).flatten();
        let turned =
            turned.ok_or_else(|| wrong(format!("has the shape {shape:?}, not {:?}", [heads, size, size])))?;
        state.push(turned);
    }
    model.state = state;
    model.joined.push(Joined { about: "tuned initial state".to_owned(), files: vec![container] });
    Ok(())
}

//! Tuned initial states: `blocks.{i}.att.time_state`, a matrix a head and block.

use std::path::Path;
use std::sync::Arc;

use formats::Container;

use super::{open, unwrapped};
use crate::choice::choice;
use crate::error::{Error, Result};
use crate::model::{Dims, Model, TensorView};

choice! {
    /// How a file of a tuned initial state keeps the matrix of a head.
    pub enum Layout {
        /// [value, key]: files for versions 5 and 6, and what RWKV-Runner takes for version 7
        ValueKey = "value-key",
        /// [key, value]: files for web-rwkv and Ai00, and version 7 as trained with flash-linear-attention
        KeyValue = "key-value",
    }
}

impl Layout {
    /// Layout of most files with this extension.
    pub fn usual(file: &Path) -> Layout {
        match file.extension().is_some_and(|e| e.eq_ignore_ascii_case("st")) {
            true => Layout::KeyValue,
            false => Layout::ValueKey,
        }
    }

    /// A matrix [heads, value, key] kept this way, or one kept this way as [heads, value, key].
    pub fn turn(self, values: &TensorView) -> Option<TensorView> {
        match self {
            Layout::ValueKey => Some(values.clone()),
            Layout::KeyValue => values.transposed(),
        }
    }
}

/// The state that a model starts every text from.
#[derive(Debug)]
pub struct TunedState {
    /// The file, if it is not the model's.
    pub file: Option<Arc<Container>>,
    /// Layout of the matrices in the file.
    pub layout: Layout,
    /// The matrices [heads, value, key] of every block.
    pub blocks: Vec<TensorView>,
}

impl TunedState {
    /// Reads the file at `path` as a state of `model`.
    ///
    /// # Errors
    /// [`Error::Model`] if the model has no such state; [`Error::Tensor`] if a block's is missing or does not fit.
    pub fn read(path: &Path, model: &Model, layout: Layout) -> Result<TunedState> {
        let Dims { layers, heads, head_size: size, .. } = model.dims;
        if model.version.major() == 4 {
            return Err(Error::Model {
                path: model.container.path().to_owned(),
                what: "is RWKV-4, whose state cannot be tuned".to_owned(),
                help: "use a model of version 5, 6 or 7".to_owned(),
            });
        }
        let file = open(path)?;
        let mut blocks = Vec::new();
        for layer in 0..layers {
            let name = TunedState::name(layer);
            let wrong = |what: String| Error::Tensor {
                path: path.to_owned(),
                tensor: name.clone(),
                what,
                help: format!(
                    "give a state that was tuned for this model ({layers} blocks, {heads} heads of {size})"
                ),
            };
            let found = file.tensors().iter().position(|t| unwrapped(&t.name) == name);
            let values = found.and_then(|i| TensorView::of_other(&file, i));
            let values = values.ok_or_else(|| wrong("is missing".to_owned()))?;
            let shape = values.shape().to_vec();
            let turned = (shape == [heads, size, size]).then(|| layout.turn(&values)).flatten();
            let turned = turned
                .ok_or_else(|| wrong(format!("has the shape {shape:?}, not {:?}", [heads, size, size])))?;
            blocks.push(turned);
        }
        let of_other = |name: &str| {
            name.ends_with(".att.time_state") && !(0..layers).any(|l| name == TunedState::name(l))
        };
        if let Some(extra) = file.tensors().iter().find(|t| of_other(unwrapped(&t.name))) {
            return Err(Error::Tensor {
                path: path.to_owned(),
                tensor: extra.name.clone(),
                what: format!("belongs to no block of the model, which has {layers}"),
                help: format!(
                    "give a state that was tuned for this model ({layers} blocks, {heads} heads of {size})"
                ),
            });
        }
        Ok(TunedState { file: Some(file), layout, blocks })
    }

    /// The name of a block's matrices in every format that holds them.
    pub fn name(block: usize) -> String {
        format!("blocks.{block}.att.time_state")
    }
}

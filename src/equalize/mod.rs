//! Exact rescaling of channels: other weights that compute the same function, and are easier to quantize.
//!
//! ```text
//! ln1, ln2, ln_out   weight and bias * c            all that takes the norm's output, its inputs / c
//! ffn                rows of ffn.key * c            inputs of ffn.value / c^2    (all versions: relu(x)^2)
//! g2                 outputs of att.g2 * c          inputs of att.output / c     (7)
//! ln_x               weight and bias * c            inputs of att.output / c     (5, 6)
//! value              rows of att.value * c          inputs of att.output / c     (4)
//! ```
//! Channels whose activations are large get smaller ones and larger weights, so that the weights that matter most get
//! the smaller share of the error (AWQ, arXiv 2306.00978, does so with scales that the runtime must know; here the tensor
//! before takes them up). All factors are powers of two: no weight is rounded, and the logits are the same to the last bit.
//!
//! What no longer fits afterwards are token-shift states, and adapters that were trained on the weights as they were.

mod pairs;
mod search;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use formats::Value;
pub use pairs::ChannelPair;
pub use search::{Encodings, Moments};

use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::model::{Model, ModelTensor, TensorView};

/// The key of GGUF files that lists the pairs that were rescaled, separated by commas.
pub const KEY: &str = "rwkv-quant.equalized";

/// Largest exponent of a factor: far more than any channel needs, and its square is still an f32.
pub const MOST: i8 = 60;

/// Factors, powers of two, for the channels of some pairs of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Equalization {
    /// Exponent of every channel's factor, by name of the pair and block.
    exponents: BTreeMap<(&'static str, usize), Vec<i8>>,
}

impl Equalization {
    /// Equalization with the factors `2^exponents` for a pair in a block (0 for the pair that stands once); exponents
    /// beyond [`MOST`] are cut.
    #[must_use]
    pub fn with(mut self, pair: &ChannelPair, layer: usize, exponents: Vec<i8>) -> Equalization {
        let exponents: Vec<i8> = exponents.into_iter().map(|e| e.clamp(-MOST, MOST)).collect();
        if exponents.iter().all(|e| *e == 0) {
            self.exponents.remove(&(pair.name, layer));
        } else {
            self.exponents.insert((pair.name, layer), exponents);
        }
        self
    }

    /// The exponents of a pair in a block, if there are any but zeros.
    pub fn of(&self, pair: &ChannelPair, layer: usize) -> Option<&[i8]> {
        self.exponents.get(&(pair.name, layer)).map(Vec::as_slice)
    }

    /// SHA-256 of all exponents; `None` if it changes nothing.
    pub fn digest(&self) -> Option<String> {
        let rows: Vec<String> = self.exponents.iter().map(|entry| format!("{entry:?}")).collect();
        (!self.is_empty()).then(|| sha256(rows.iter().map(String::as_bytes)))
    }

    /// True if it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.exponents.is_empty()
    }

    /// The names of the pairs of `model` that it rescales anywhere.
    pub fn pairs(&self, model: &Model) -> Vec<&'static str> {
        let used = |pair: &&ChannelPair| self.exponents.keys().any(|(name, _)| *name == pair.name);
        ChannelPair::of(model.version).iter().filter(used).map(|pair| pair.name).collect()
    }

    /// Powers of two by which the inputs of a matrix get larger, channel by channel: its columns get as much smaller,
    /// and the mean squares of its inputs are multiplied by the square of the factors. `None` if they stay as they are.
    pub fn inputs_of(&self, model: &Model, held: &ModelTensor) -> Option<Vec<i32>> {
        let takes = |pair: &&ChannelPair| pair.takes.contains(&held.spec.short_name());
        let pair = ChannelPair::of(model.version).iter().find(takes)?;
        let exponents = self.of(pair, held.layer)?;
        Some(exponents.iter().map(|e| pair.power * i32::from(*e)).collect())
    }
}

impl Model {
    /// Rescales channels: from now on the tensors give the other values wherever they are read. Nothing is computed, and
    /// the memory it takes is a factor a channel.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there are not as many factors as channels; the model is then as it was.
    pub fn rescale(&mut self, rescaling: &Equalization) -> Result<()> {
        let mut changed: Vec<(usize, TensorView)> = Vec::new();
        for pair in ChannelPair::of(self.version) {
            for (i, held) in self.tensors.iter().enumerate() {
                let name = held.spec.short_name();
                let Some(exponents) = rescaling.of(pair, held.layer) else { continue };
                let (dim, power) = match (pair.gives.contains(&name), pair.takes.contains(&name)) {
                    (true, _) => (pairs::outputs(held.spec), 1),
                    (_, true) => (pairs::inputs(held.spec), -pair.power),
                    _ => continue,
                };
                let factors: Arc<[f32]> =
                    exponents.iter().map(|e| power_of_two(power * i32::from(*e))).collect();
                let before = changed.iter().rev().find(|(k, _)| *k == i).map_or(&held.values, |(_, v)| v);
                let values = before.rescaled(dim, factors).ok_or_else(|| Error::Tensor {
                    path: self.container.path().to_owned(),
                    tensor: held.name(),
                    what: format!(
                        "has the shape {:?}, which {} factors do not fit",
                        held.values.shape(),
                        exponents.len()
                    ),
                    help: "rescale each model with factors that were found for it".to_owned(),
                })?;
                changed.push((i, values));
            }
        }
        for (i, values) in changed {
            self.tensors[i].values = values;
        }
        Ok(())
    }

    /// The pairs that were rescaled before the model's file was written, as it states.
    pub fn equalized(&self) -> Vec<&str> {
        let stated = self.container.metadata().iter().find(|(key, _)| key == KEY);
        let stated = stated.and_then(|(_, value)| value.as_str()).unwrap_or_default();
        stated.split(',').filter(|name| !name.is_empty()).collect()
    }
}

/// The metadata that say which pairs of a model were rescaled: now, or before its file was written. None if none were.
pub fn key(model: &Model, now: &[&'static str]) -> Option<(String, Value)> {
    let before = model.equalized();
    let all = ChannelPair::of(model.version).iter().map(|pair| pair.name);
    let all: Vec<&str> = all.filter(|name| before.contains(name) || now.contains(name)).collect();
    (!all.is_empty()).then(|| (KEY.to_owned(), Value::from(all.join(",").as_str())))
}

/// `2^exponent`, exactly; the exponent is one of a normal f32.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << 23)
}

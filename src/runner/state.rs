//! What a sequence remembers: a few vectors and one matrix a head and block, however long it is.

use formats::Container;

use super::Runner;
use super::lora::read;
use crate::error::{Error, Result};
use crate::model::{Dims, Lazy, Version};

/// Which of a block's two token shifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    /// The time mix.
    Time,
    /// The channel mix.
    Channel,
}

/// The memory of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    layers: Vec<LayerState>,
}

#[derive(Clone, Debug, PartialEq)]
struct LayerState {
    time: Vec<f32>,
    channel: Vec<f32>,
    /// Version 4: for each block of channels, the numerators, the denominators, and the exponents that both are
    /// scaled by. Later versions: for each head the matrix [key][value].
    recurrent: Vec<f32>,
}

/// Channels of version 4 that are computed together.
pub(super) fn channel_block(att: usize) -> usize {
    [64, 32, 16, 8].into_iter().find(|n| att.is_multiple_of(*n)).unwrap_or(att)
}

impl State {
    /// The state before the first token.
    pub(super) fn zero(version: &Version, dims: &Dims) -> State {
        let recurrent = if version.major() == 4 {
            let block = channel_block(dims.att);
            let one = [vec![0.0; 2 * block], vec![-1e30; block]].concat();
            one.repeat(dims.att / block.max(1))
        } else {
            vec![0.0; dims.heads * dims.head_size * dims.head_size]
        };
        let layer = LayerState { time: vec![0.0; dims.embd], channel: vec![0.0; dims.embd], recurrent };
        State { layers: vec![layer; dims.layers] }
    }

    /// The last input of a token shift.
    pub(super) fn shift(&self, layer: usize, site: Site) -> &[f32] {
        match site {
            Site::Time => &self.layers[layer].time,
            Site::Channel => &self.layers[layer].channel,
        }
    }

    /// The last input of a token shift, to be replaced.
    pub(super) fn shift_mut(&mut self, layer: usize, site: Site) -> &mut [f32] {
        match site {
            Site::Time => &mut self.layers[layer].time,
            Site::Channel => &mut self.layers[layer].channel,
        }
    }

    /// What the recurrence of a block keeps.
    pub(super) fn recurrent_mut(&mut self, layer: usize) -> &mut [f32] {
        &mut self.layers[layer].recurrent
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|l| 4 * (l.time.len() + l.channel.len() + l.recurrent.len()) as u64).sum()
    }
}

/// How a file of a tuned initial state keeps the matrix of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// [value, key]: files for versions 5 and 6, and what RWKV-Runner takes for version 7.
    ValueKey,
    /// [key, value]: files trained with flash-linear-attention, and what RWKV-Infer takes for version 7.
    KeyValue,
}

impl Runner {
    /// Starts every text from the state in `container` (`blocks.{i}.att.time_state`, [heads, size, size]).
    ///
    /// # Errors
    /// [`Error::Model`] if the model has no such state; [`Error::Tensor`] if a block's is missing or does not fit.
    pub fn set_initial_state(&mut self, container: &Container, layout: Layout) -> Result<()> {
        let Dims { layers, heads, head_size: size, .. } = self.model.dims;
        if self.model.version.major() == 4 {
            return Err(Error::Model {
                path: self.model.container.path().to_owned(),
                what: "is RWKV-4, whose state cannot be tuned".to_owned(),
                help: "use a model of version 5, 6 or 7".to_owned(),
            });
        }
        let mut state = State::zero(self.model.version, &self.model.dims);
        for (layer, kept) in state.layers.iter_mut().enumerate() {
            let name = format!("blocks.{layer}.att.time_state");
            let wrong = |what: String| Error::Tensor {
                path: container.path().to_owned(),
                tensor: name.clone(),
                what,
                help: format!(
                    "give a state that was tuned for this model ({layers} blocks, {heads} heads of {size})"
                ),
            };
            let found = container.tensors().iter().position(|t| t.name.ends_with(&name));
            let values = found.and_then(|i| Lazy::of(container, i));
            let values = values.ok_or_else(|| wrong("is missing".to_owned()))?;
            if values.shape() != [heads, size, size] {
                return Err(wrong(format!(
                    "has the shape {:?}, not {:?}",
                    values.shape(),
                    [heads, size, size]
                )));
            }
            let data = read(container, &values);
            for (to, from) in kept.recurrent.chunks_mut(size * size).zip(data.chunks(size * size)) {
                for key in 0..size {
                    for value in 0..size {
                        to[key * size + value] = match layout {
                            Layout::KeyValue => from[key * size + value],
                            Layout::ValueKey => from[value * size + key],
                        };
                    }
                }
            }
        }
        self.initial = Some(state);
        Ok(())
    }
}

//! State of a sequence: a few vectors and one matrix a head and block, however long it is.

use crate::model::{Dims, Model, Version};

/// Token shift of a block: one of its two.
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

    /// The state that every text starts from, if one was tuned.
    pub(super) fn tuned(model: &Model) -> Option<State> {
        let tuned = model.state.as_ref()?;
        let size = model.dims.head_size;
        let mut state = State::zero(model.version, &model.dims);
        for (kept, values) in state.layers.iter_mut().zip(&tuned.blocks) {
            let mut data = vec![0.0; values.elements()];
            values.read(&model.container, 0..values.rows(), &mut data);
            for (to, from) in kept.recurrent.chunks_mut(size * size).zip(data.chunks(size * size)) {
                for (at, to) in to.iter_mut().enumerate() {
                    let (key, value) = (at / size, at % size);
                    *to = from[value * size + key];
                }
            }
        }
        Some(state)
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

    /// State of a block's recurrence.
    pub(super) fn recurrent_mut(&mut self, layer: usize) -> &mut [f32] {
        &mut self.layers[layer].recurrent
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|l| 4 * (l.time.len() + l.channel.len() + l.recurrent.len()) as u64).sum()
    }
}

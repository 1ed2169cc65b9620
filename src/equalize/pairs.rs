//! Table of the channel pairs of every version that can be equalized.

use crate::model::{Body, Role, TensorSpec, Version};

/// Tensors that give the channels of an activation, and all matrices that take them.
///
/// Multiplying channel `j` of what gives by `c_j` and dividing it in what takes by `c_j^power` changes nothing about the
/// model, since whatever lies between is linear in each channel by itself, or for `power` 2 its square.
#[derive(Debug, PartialEq, Eq)]
pub struct ChannelPair {
    /// Name of the pair: `ffn`.
    pub name: &'static str,
    /// Tensors, by their short names, whose outputs are multiplied by the factors.
    pub gives: &'static [&'static str],
    /// Matrices whose inputs are divided by the factors' power: all that take this activation. Those that a model lacks
    /// are passed over.
    pub takes: &'static [&'static str],
    /// Power of the factors by which `takes` is divided.
    pub power: i32,
}

/// The squared ReLU of the channel mix: `relu(c k)^2 = c^2 relu(k)^2`, also where 7a multiplies it by other things.
const FFN: ChannelPair =
    ChannelPair { name: "ffn", gives: &["ffn.key.weight"], takes: &["ffn.value.weight"], power: 2 };

/// The last norm, before the head.
const LN_OUT: ChannelPair = ChannelPair {
    name: "ln_out",
    gives: &["ln_out.weight", "ln_out.bias"],
    takes: &["head.weight"],
    power: 1,
};

/// The norm over heads of versions 5 and 6, behind which the gate multiplies.
const LN_X: ChannelPair = ChannelPair {
    name: "ln_x",
    gives: &["att.ln_x.weight", "att.ln_x.bias"],
    takes: &["att.output.weight"],
    power: 1,
};

/// The norm before the channel mix; token shift mixes each channel with its own past.
const LN2: ChannelPair = ChannelPair {
    name: "ln2",
    gives: &["ln2.weight", "ln2.bias"],
    takes: &["ffn.key.weight", "ffn.receptance.weight"],
    power: 1,
};

/// Version 4: the recurrence is a weighted mean of values, channel by channel.
static V4: &[ChannelPair] = &[
    ChannelPair {
        name: "ln1",
        gives: &["ln1.weight", "ln1.bias"],
        takes: &["att.receptance.weight", "att.key.weight", "att.value.weight"],
        power: 1,
    },
    ChannelPair { name: "value", gives: &["att.value.weight"], takes: &["att.output.weight"], power: 1 },
    LN2,
    FFN,
    LN_OUT,
];

static V5: &[ChannelPair] = &[
    ChannelPair {
        name: "ln1",
        gives: &["ln1.weight", "ln1.bias"],
        takes: &["att.receptance.weight", "att.key.weight", "att.value.weight", "att.gate.weight"],
        power: 1,
    },
    LN_X,
    LN2,
    FFN,
    LN_OUT,
];

static V6: &[ChannelPair] = &[
    ChannelPair {
        name: "ln1",
        gives: &["ln1.weight", "ln1.bias"],
        takes: &[
            "att.receptance.weight",
            "att.key.weight",
            "att.value.weight",
            "att.gate.weight",
            "att.time_maa_w1",
            "att.time_decay_w1",
        ],
        power: 1,
    },
    LN_X,
    LN2,
    FFN,
    LN_OUT,
];

/// Version 7: the bonus is added behind the norm over heads, but the gate multiplies all of it.
static V7: &[ChannelPair] = &[
    ChannelPair {
        name: "ln1",
        gives: &["ln1.weight", "ln1.bias"],
        takes: &[
            "att.receptance.weight",
            "att.key.weight",
            "att.value.weight",
            "att.w1",
            "att.a1",
            "att.v1",
            "att.g1",
        ],
        power: 1,
    },
    ChannelPair { name: "g2", gives: &["att.g2"], takes: &["att.output.weight"], power: 1 },
    ChannelPair {
        name: "ln2",
        gives: &["ln2.weight", "ln2.bias"],
        takes: &["ffn.key.weight", "ffn.s1"],
        power: 1,
    },
    FFN,
    LN_OUT,
];

impl ChannelPair {
    /// The pairs of a version; none for hybrids, which no runner here could check.
    pub fn of(version: &Version) -> &'static [ChannelPair] {
        match (version.body, version.major()) {
            (Body::Qwen2, _) => &[],
            (_, 4) => V4,
            (_, 5) => V5,
            (_, 6) => V6,
            (_, 7) => V7,
            _ => &[],
        }
    }

    /// True if it stands in every block, not once in the model.
    pub fn in_blocks(&self) -> bool {
        *self != LN_OUT
    }
}

/// The dimension of a tensor [`ChannelPair::gives`] along which its outputs lie.
pub(super) fn outputs(spec: &TensorSpec) -> usize {
    match spec.role {
        Role::Matrix | Role::Head | Role::Embedding => 0,
        Role::LowRank | Role::Vector => spec.shape.len() - 1,
    }
}

/// The dimension of a matrix [`ChannelPair::takes`] along which its inputs lie.
pub(super) fn inputs(spec: &TensorSpec) -> usize {
    match spec.role {
        Role::LowRank => 0,
        _ => spec.shape.len() - 1,
    }
}

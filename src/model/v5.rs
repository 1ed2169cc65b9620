//! RWKV-5 "Eagle": heads with a matrix-valued state.
//!
//! ```text
//! per head: S = decay * S + k v^T;  o = r (bonus * k v^T + S);  o = groupnorm(o) [* silu(G mix_g)];  x += O o
//! ```
//! - 5.0: one decay and bonus a head (`time_first` holds the logarithm), no gate;
//! - 5.1: as 5.0, with a gate (some files hold the bonus itself, as `time_faaaa`);
//! - 5.2: decay and bonus a channel (`time_faaaa`, the bonus itself), with a gate.
//!
//! The rest is version 4's. Source: BlinkDL/RWKV-LM, RWKV-v5. (rwkv.cpp calls 5.0 "5.1".)

use super::Version;
use super::spec::Dim::{A, C, H, N, One};
use super::spec::Role::{Matrix, Vector};
use super::spec::TensorSpec;
use super::v4::{CHANNEL_MIX, ENTRY, EXIT, NORMS, TIME_MIX};

const GROUP_NORM: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.att.ln_x.weight", Vector, &[A]),
    TensorSpec::block("blocks.{}.att.ln_x.bias", Vector, &[A]),
];

const GATE: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.att.time_mix_g", Vector, &[One, One, C]),
    TensorSpec::block("blocks.{}.att.gate.weight", Matrix, &[A, C]),
];

const PER_HEAD: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.att.time_decay", Vector, &[H]),
    TensorSpec::block("blocks.{}.att.time_first", Vector, &[H]),
];

const PER_HEAD_REAL: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.att.time_decay", Vector, &[H]),
    TensorSpec::block("blocks.{}.att.time_faaaa", Vector, &[H]),
];

const PER_CHANNEL: &[TensorSpec] = &[
    TensorSpec::block("blocks.{}.att.time_decay", Vector, &[H, N]),
    TensorSpec::block("blocks.{}.att.time_faaaa", Vector, &[H, N]),
];

/// RWKV-5.0: one decay a head, no gate.
pub static V5_0: Version = Version {
    name: "5.0",
    about: "RWKV-5.0 (Eagle, decay per head, no gate)",
    specs: &[ENTRY, NORMS, PER_HEAD, TIME_MIX, GROUP_NORM, CHANNEL_MIX, EXIT],
    markers: &["blocks.{}.att.ln_x.weight", "blocks.{}.att.time_mix_k", "blocks.{}.att.time_first"],
    ..Version::PLAIN
};

/// RWKV-5.1: one decay a head, gate.
pub static V5_1: Version = Version {
    name: "5.1",
    about: "RWKV-5.1 (Eagle, decay per head)",
    specs: &[ENTRY, NORMS, PER_HEAD, TIME_MIX, GATE, GROUP_NORM, CHANNEL_MIX, EXIT],
    markers: &["blocks.{}.att.gate.weight", "blocks.{}.att.time_mix_g", "blocks.{}.att.time_first"],
    ..Version::PLAIN
};

/// RWKV-5.1 whose bonus is not a logarithm.
pub static V5_1_REAL: Version = Version {
    name: "5.1",
    about: "RWKV-5.1 (Eagle, decay per head, real bonus)",
    specs: &[ENTRY, NORMS, PER_HEAD_REAL, TIME_MIX, GATE, GROUP_NORM, CHANNEL_MIX, EXIT],
    markers: &["blocks.{}.att.gate.weight", "blocks.{}.att.time_mix_g", "blocks.{}.att.time_faaaa"],
    ..Version::PLAIN
};

/// RWKV-5.2: one decay a channel, gate.
pub static V5_2: Version = Version {
    name: "5.2",
    about: "RWKV-5.2 (Eagle)",
    specs: &[ENTRY, NORMS, PER_CHANNEL, TIME_MIX, GATE, GROUP_NORM, CHANNEL_MIX, EXIT],
    markers: &["blocks.{}.att.gate.weight", "blocks.{}.att.time_mix_g", "blocks.{}.att.time_faaaa"],
    ..Version::PLAIN
};

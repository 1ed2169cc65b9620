//! RWKV itself: what tensors a model of each version has, and how to find them in a file.
//!
//! The canonical model is BlinkDL's: his tensor names, shapes and orientation. A version ([`Version`]) is a
//! table of [`TensorSpec`]s in his terms ([`v4`], [`v5`], [`v6`], [`v7`], [`qwen2`]); a [`Naming`] says how a family of files
//! stores a spec under another name or in another orientation. [`Model::detect`] finds which version and naming a file
//! has, checks every shape against the others, and gives every tensor of the file a place, a named reason
//! to be dropped, or an error.

pub mod adapter;
mod change;
mod channels;
mod detect;
mod identify;
mod naming;
mod quantized;
pub mod qwen2;
mod refused;
mod shape;
mod source;
mod spec;
mod tensors;
#[cfg(test)]
mod tests;
mod tiled;
pub mod v4;
pub mod v5;
pub mod v6;
pub mod v7;
mod view;
mod zeros;

pub use change::{Change, Map};
pub(crate) use detect::wildcard;
pub use detect::{Dropped, Model, ModelTensor};
pub(crate) use identify::is_unknown;
pub use naming::{FLA, HUGGING_FACE, NAMINGS, Naming, Stored};
pub(crate) use naming::{prefab, web_rwkv};
pub use refused::{HEAD, companion};
pub use shape::{Dims, Ranks};
pub use spec::{Dim, Rank, Role, Scope, TensorSpec};
pub use tiled::{hold, tile_error};
pub use view::TensorView;
pub use zeros::peek;
pub(crate) use zeros::{ZeroRule, Zeros};

/// One version of the architecture.
#[derive(Debug)]
pub struct Version {
    /// The version's number: `7.0`, `5.2`, `7a`; llama.cpp's name for a hybrid: `arwkv7`.
    pub name: &'static str,
    /// Description in a few words.
    pub about: &'static str,
    /// Every tensor of the model, in canonical order.
    pub specs: &'static [&'static [TensorSpec]],
    /// Slots of block 0 that only this version and its successors have: the first version of [`VERSIONS`]
    /// all of whose markers are found is the one.
    pub markers: &'static [&'static str],
    /// Parts ([`TensorSpec::part`]) that a model of this version may lack. A model has all tensors of a part, in every
    /// block, or none of them.
    pub optional: &'static [&'static str],
    /// Body around the time mix.
    pub body: Body,
}

/// Body that a model is built around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// BlinkDL's own architecture: LayerNorms, a channel mix, a tokenizer of byte strings.
    Rwkv,
    /// A Qwen2 model whose attention was replaced by RWKV's time mix: RMS norms, a gated MLP, Qwen2's tokenizer.
    /// Of the programs that files are written for, llama.cpp alone runs it, so only GGUF can hold it.
    Qwen2,
    /// Unknown body: the file is a list of tensors.
    Unknown,
}

impl Version {
    /// Defaults of every version.
    const PLAIN: Version =
        Version { name: "", about: "", specs: &[], markers: &[], optional: &[], body: Body::Rwkv };

    /// All specs, in canonical order.
    pub fn specs(&self) -> impl Iterator<Item = &'static TensorSpec> {
        self.specs.iter().flat_map(|part| part.iter())
    }

    /// The version of the time mix: the first digit of the name.
    pub fn major(&self) -> u32 {
        self.name.bytes().find(u8::is_ascii_digit).map_or(0, |b| u32::from(b - b'0'))
    }

    /// True if a model of this version may lack a spec.
    pub fn may_lack(&self, spec: &TensorSpec) -> bool {
        spec.part.is_some_and(|part| self.optional.contains(&part))
    }
}

/// Every version, in the order in which their markers are looked for.
pub static VERSIONS: &[&Version] = &[
    &qwen2::ARWKV7,
    &qwen2::RWKV6_QWEN2,
    &v7::V7A,
    &v7::V7,
    &v6::V6,
    &v5::V5_2,
    &v5::V5_1,
    &v5::V5_1_REAL,
    &v5::V5_0,
    &v4::V4,
];

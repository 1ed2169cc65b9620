//! Scheme by which the tensors of a file are quantized: a recipe with everything settled.
//!
//! ```text
//! mod.rs         Scheme: types, encoders, and what they are told about the weights
//! importance.rs  which columns matter more than others
//! coded.rs       how tensors of compact files are coded
//! branches.rs    which matrices get branches of low rank
//! ```

mod coded;
mod importance;
mod low_rank;

pub use coded::{Coded, has_rate};
pub use importance::Importance;
pub use low_rank::LowRankOptions;
use quant::Encoding;

use crate::metadata::CalibrationFingerprint;
use crate::model::Role;
use crate::recipe::{Fallback, FileType, Mix, Search, Types};

/// A recipe with everything settled that it leaves open: defaults, files that it names, choices that were measured.
#[derive(Clone, Debug)]
pub struct Scheme {
    /// The file type.
    pub file_type: &'static FileType,
    /// Type mix of the tensors.
    pub mix: Mix,
    /// Treatment of tensors whose row length is not a multiple of the block size of the type wanted.
    pub fallback: Fallback,
    /// Effort of the encoders' search for good codes.
    pub search: Search,
    /// Importance of the input channels.
    pub importance: Option<Importance>,
    /// Calibration fingerprint of the text that the weights are rounded for, if not for themselves.
    pub calibration: Option<CalibrationFingerprint>,
    /// Types of single tensors, before all else.
    pub types: Types,
    /// Names of the pairs of tensors whose channels were rescaled ([`ChannelPair`](crate::equalize::ChannelPair)).
    pub equalized: Vec<&'static str>,
    /// True if activations are computed without fused multiply-add, alike on every processor.
    pub portable: bool,
    /// Options of low-rank branches in an adapter, if any.
    pub branches: Option<LowRankOptions>,
    /// Options of low-rank branches in the file itself, if any.
    pub within: Option<LowRankOptions>,
    /// The key that says of which shard the file is, if it is one.
    pub shard: Option<(String, String)>,
    /// Number of blocks that are quantized, from the first on, if not all.
    pub layers: Option<usize>,
    /// Number of blocks after which the runtime is to halve its activations, if not as usual (0: never).
    pub rescale: Option<usize>,
}

impl Scheme {
    /// A file of this type, with everything else as usual.
    pub fn of(file_type: &'static FileType) -> Scheme {
        Scheme {
            file_type,
            mix: Mix::default(),
            fallback: Fallback::default(),
            search: Search::default(),
            importance: None,
            calibration: None,
            types: Types::default(),
            equalized: Vec::new(),
            portable: false,
            branches: None,
            within: None,
            shard: None,
            layers: None,
            rescale: None,
        }
    }

    /// The encoding that a tensor of this role gets if its rows allow it; `stored` is how the source holds it.
    pub fn wanted(&self, role: Role, stored: Option<Encoding>) -> Encoding {
        match (self.mix, role) {
            (Mix::LlamaCpp, Role::LowRank) => match stored {
                Some(e @ (Encoding::F32 | Encoding::F16 | Encoding::BF16)) => e,
                _ => Encoding::F32,
            },
            (Mix::WebRwkv, Role::LowRank | Role::Head) => Encoding::F16,
            _ => self.file_type.wanted(role),
        }
    }
}

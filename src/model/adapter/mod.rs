//! Results of fine-tuning that are no whole model: changes of matrices, whole small tensors, tuned states.
//!
//! ```text
//! RWKV-LM-LoRA, RWKV-PEFT   <matrix>.lora_A [r, in], .lora_B [out, r]          W + B A * alpha / r
//! PEFT                      and .weight behind them, with adapter_config.json  as LoRA; rsLoRA: alpha / sqrt(r)
//! PiSSA                     and <matrix>.init_lora_A, .init_lora_B beside it   W - init_B init_A + B A
//! DiSHA (new Bone)          <matrix>.disha [r, out]                            W[o, c] + D[c mod r, o]
//! Bone, Bat                 <matrix>.bone or .disha [in / r, r, r]             W_ab + W_ab D_b + D_b in r x r blocks
//! web-rwkv                  <matrix>.lora.0 [in, r], .lora.1 [out, r]          as LoRA
//! llama.cpp                 <tensor>.lora_a [r, in], .lora_b [out, r]          as LoRA; its file holds alpha
//! all of them               whole tensors (norms, mixes, decays)               instead of the model's
//! tuned states              <block>.att.time_state [heads, size, size]         before the first token
//! ```
//!
//! An adapter is read for a model ([`Adapter::read`]) and merged into it ([`Adapter::merge`]): from then on the model's
//! tensors give the merged values wherever they are read, row by row, so that merging takes no memory to speak of.
//! Sources: Blealtan/RWKV-LM-LoRA, JL-er/RWKV-PEFT (`merge/`), cryscan/web-rwkv.

mod adapters;
mod disha;
mod lora;
mod peft;
mod reader;
mod state;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use formats::{Container, Limits, Value};

pub use adapters::Adapters;
pub use disha::{Bat, Disha};
pub use lora::LowRank;
pub use state::{Layout, TunedState};

use crate::error::{Error, Result};
use crate::model::{Model, TensorView};
use crate::verify;
use reader::Reader;
pub(crate) use reader::lonely_factor;

/// Options of an adapter that the user states.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Alpha of a LoRA, which its file does not hold.
    pub alpha: Option<f32>,
    /// File that a PiSSA training started from, with `init_lora_A` and `init_lora_B`.
    pub init: Option<&'a Path>,
    /// True if nobody needs to know how it is scaled: it is written into a file that does not say.
    pub unscaled: bool,
}

/// The key of a LoRA's alpha in a GGUF file.
pub const ALPHA_KEY: &str = "adapter.lora.alpha";
/// The key, in a file and in the adapter that completes it, of the rank of the branches that the adapter holds.
pub const RANK_KEY: &str = "rwkv-quant.low_rank.rank";
/// The key, in such an adapter, of the digest of the model that it completes ([`Container::model_digest`]).
///
/// [`Container::model_digest`]: formats::Container::model_digest
pub const MODEL_KEY: &str = "rwkv-quant.low_rank.model";

/// True if an adapter holds the branches that complete this file. (Files without checksums tell no more than the rank.)
pub fn completes(adapter: &Container, model: &Container) -> bool {
    let is_of_it = match (adapter.value(MODEL_KEY).and_then(Value::as_str), model.model_digest()) {
        (Some(stated), Some(digest)) => stated == digest,
        _ => true,
    };
    is_of_it && adapter.value(RANK_KEY).is_some() && adapter.value(RANK_KEY) == model.value(RANK_KEY)
}

/// Changes that a file makes to a model.
#[derive(Debug)]
pub struct Adapter {
    /// The files it is read from.
    pub files: Vec<Arc<Container>>,
    /// Alpha of a LoRA, if its file or the user says it.
    pub alpha: Option<f32>,
    /// Its parts, in file order.
    pub parts: Vec<Part>,
    /// Notes for the user: the scale, the tensors that are not used.
    pub notes: Vec<String>,
}

/// Change that an adapter makes to one tensor.
#[derive(Debug)]
pub struct Part {
    /// Number of the tensor in [`Model::tensors`].
    pub tensor: usize,
    /// Kind of the change.
    pub kind: Kind,
}

/// Kind of a change of a tensor.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Products of two low-rank matrices are added, one after the other.
    LowRank(Vec<Arc<LowRank>>),
    /// A row of DiSHA is added to every group of columns.
    Disha(Arc<Disha>),
    /// Blocks are multiplied and added.
    Bat(Arc<Bat>),
    /// Another tensor takes its place.
    Whole(TensorView),
}

/// Wrappers that training code leaves before the names.
const WRAPPERS: &[&str] = &["module.", "_forward_module.", "base_model.model.", "model."];

impl Adapter {
    /// Reads the file, or folder of PEFT's, at `path` as an adapter of `model`.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that belongs to no tensor of the model, does not fit it, lacks its counterpart, or
    /// changes what another one changes; [`Error::Usage`] if it is a LoRA and nothing says how to scale it.
    pub fn read(path: &Path, model: &Model, options: Options<'_>) -> Result<Adapter> {
        Reader::open(path, model, options)?.adapter()
    }

    /// Merges the adapter into the model it was read for.
    pub fn merge(self, model: &mut Model) {
        for part in &self.parts {
            let held = &mut model.tensors[part.tensor];
            held.values = match part.kind.clone() {
                Kind::LowRank(all) => all.into_iter().fold(held.values.clone(), |v, d| v.changed(d)),
                Kind::Disha(change) => held.values.changed(change),
                Kind::Bat(change) => held.values.changed(change),
                Kind::Whole(values) => values,
            };
        }
        model.adapters.push(self);
    }

    /// Description in a few words: `LoRA of rank 8 for 14 matrices, 6 whole tensors`.
    pub fn about(&self) -> String {
        let mut ranks: Vec<usize> = Vec::new();
        let mut matrices = 0;
        let (mut whole, mut name) = (0, "");
        for part in &self.parts {
            let (kind, rank) = match &part.kind {
                Kind::LowRank(all) if all.len() > 1 => ("PiSSA", all[0].rank()),
                Kind::LowRank(all) => ("LoRA", all[0].rank()),
                Kind::Disha(change) => ("DiSHA", change.rank()),
                Kind::Bat(change) => ("Bone", change.rank()),
                Kind::Whole(_) => {
                    whole += 1;
                    continue;
                }
            };
            name = kind;
            ranks.push(rank);
            matrices += 1;
        }
        ranks.sort_unstable();
        ranks.dedup();
        let ranks: Vec<String> = ranks.iter().map(ToString::to_string).collect();
        let plural = |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
        let changes =
            format!("{name} of rank {} for {}", ranks.join(", "), plural(matrices, "matrix", "matrices"));
        let whole = (whole > 0).then(|| plural(whole, "whole tensor", "whole tensors"));
        let alpha = self.alpha.map(|alpha| format!("alpha {alpha}"));
        let said: Vec<String> =
            (matrices > 0).then_some(changes).into_iter().chain(alpha).chain(whole).collect();
        let said: Vec<String> = said.into_iter().chain(self.notes.iter().cloned()).collect();
        said.join(", ")
    }
}

/// Opens an adapter's file, which must be sound: what it holds is blamed on it, and not on the model it is merged into.
fn open(path: &Path) -> Result<Arc<Container>> {
    let container = formats::open(path, &Limits::default())?;
    let sums = container.format().verify_checksums(&container, &Limits::default());
    let sound = sums.map_err(Error::from).and_then(|_| verify::finite(&container).map(drop));
    container.check_unchanged()?;
    sound.map(|()| Arc::new(container))
}

const HELP: &str = "give the LoRA, PiSSA, DiSHA or Bone file that was trained on this very model";

/// A name without the wrappers before it.
fn unwrapped(mut name: &str) -> &str {
    while let Some(rest) = WRAPPERS.iter().find_map(|w| name.strip_prefix(w)) {
        name = rest;
    }
    name
}

/// All values of a tensor.
fn read(container: &Container, values: &TensorView) -> Vec<f32> {
    let mut out = vec![0.0; values.elements()];
    values.read(container, 0..values.rows(), &mut out);
    out
}

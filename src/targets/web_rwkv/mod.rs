//! Files for web-rwkv and what is built on it: Ai00, RWKV-Runner (WebGPU), the RWKV App.
//!
//! Two files of the same model: [`st`](St), f16 weights that are quantized, if at all, whenever they are loaded, and
//! [`prefab`](Prefab), the model as web-rwkv keeps it. Both know versions 4, 5.2, 6 and 7. What is common to them:
//!
//! - version 5.1 is made into 5.2, whose channels have decays and bonuses of their own;
//! - low-rank matrices are stored [out, in]. web-rwkv takes their ranks from the first block that has them, and where a
//!   rank is no multiple of 4 it computes wrong values without a word; so all ranks are padded with zeros, which
//!   changes nothing, to a multiple of 4 not below that of any block;
//! - a vocabulary that is no multiple of 8 is padded by web-rwkv with tokens of the logit 0, which can be sampled; of
//!   versions 4 and 5 it forgets the head and then fails, so the file has the rows;
//! - there is no type but f16 for what is not quantized.
//!
//! Source: web-rwkv 0.10.20, `runtime/loader.rs`, `runtime/v4.rs` to `v7.rs` and the shaders (read), and what it
//! computes with files made for it (tests/clients/check_web_rwkv.py).

pub(crate) mod prefab;
mod st;

pub use prefab::Prefab;
pub use st::St;

use super::Objection;
use crate::error::{Error, Result};
use crate::model::{Dim, Map, Model, ModelTensor, Rank, Role, Stored, TensorView, Version};

/// Required divisor of the width of the residual stream and of a head, and of the size of the vocabulary.
const PAD: usize = 8;
/// Required divisor of the rows of f16 matrices.
const LANES: usize = 4;

/// True if web-rwkv runs this version: 5.0 has no gate and is taken for version 4; of 7a the parts that it does not know
/// are passed over without a word.
fn takes(version: &Version) -> bool {
    stored_as(version).is_some()
}

/// The version that a model is stored as, if web-rwkv runs it.
fn stored_as(version: &Version) -> Option<&'static Version> {
    let name = if version.name == "5.1" { "5.2" } else { version.name };
    let version = crate::model::VERSIONS.iter().find(|v| v.name == name)?;
    version.specs().all(|spec| crate::model::web_rwkv(version, spec).is_some()).then_some(version)
}

fn check(model: &Model) -> Result<Vec<Objection>> {
    let dims = &model.dims;
    let refuse = |what: String, help: &str| {
        Err(Error::Model { path: model.container.path().to_owned(), what, help: help.to_owned() })
    };
    if model.version.major() == 7 && dims.layers == 1 {
        return refuse(
            "has one block, and web-rwkv looks for the rank of the value residual in the second".to_owned(),
            "llama.cpp and the pip package rwkv run it: give the output the extension .gguf or .pth",
        );
    }
    for (what, size, unit) in [
        ("n_embd", dims.embd, PAD),
        ("n_att", dims.att, PAD),
        ("n_ffn", dims.ffn, LANES),
        ("head size", dims.head_size, LANES),
    ] {
        if !size.is_multiple_of(unit) {
            return refuse(
                format!("has a {what} of {size}, and web-rwkv computes with multiples of {unit}"),
                "the pip package rwkv runs it: give the output the extension .pth",
            );
        }
    }
    let mut objections = Vec::new();
    let beyond = dims.vocab.next_multiple_of(PAD) - dims.vocab;
    if beyond > 0 {
        objections.push(Objection {
            what: format!(
                "has {} tokens, no multiple of {PAD}, so web-rwkv adds {beyond} that do not exist, with the logit 0: \
                 a sampler can pick them",
                dims.vocab
            ),
            help: "use a runtime that has no such tokens: the pip package rwkv (.pth), or rwkv.cpp".to_owned(),
        });
    }
    Ok(objections)
}

/// A tensor as web-rwkv has it, with what the file calls it; `None` if it is not written or cannot be so.
fn prepared(
    model: &Model,
    held: &ModelTensor,
    store: fn(&Version, &crate::model::TensorSpec) -> Option<Stored>,
) -> Option<(Stored, TensorView)> {
    let version = stored_as(model.version)?;
    // Of version 5.1 the bonus may have the older name.
    let name = match held.spec.short_name() {
        "att.time_first" if version.major() == 5 => "blocks.{}.att.time_faaaa",
        _ => held.spec.name,
    };
    let stored = store(version, version.specs().find(|s| s.name == name)?)?;
    let per_head = held.spec.shape == [Dim::H];
    let values = match (held.spec.role, held.spec.short_name()) {
        (Role::LowRank, _) => low_rank(model, held)?,
        (_, "att.time_decay") if per_head => held.values.repeated(model.dims.head_size)?,
        // The logarithm of the bonus.
        (_, "att.time_first") if per_head => {
            held.values.clone().mapped(Map::Exp).repeated(model.dims.head_size)?
        }
        (_, "att.time_faaaa") if per_head => held.values.repeated(model.dims.head_size)?,
        _ => held.values.clone(),
    };
    Some((stored, values))
}

/// A low-rank matrix [out, in] (or five of them), its rank padded with zeros.
fn low_rank(model: &Model, held: &ModelTensor) -> Option<TensorView> {
    let turned = held.values.transposed()?;
    let mut dims = held.spec.shape.to_vec();
    let n = dims.len();
    dims.swap(n - 2, n - 1);
    let rank = dims.iter().find_map(|dim| match dim {
        Dim::Rank(rank) | Dim::FiveRanks(rank) => Some(*rank),
        _ => None,
    })?;
    let padded = padded_rank(model, rank);
    if let Some(Dim::FiveRanks(_)) = dims.first() {
        let (rows, cols) = (turned.rows(), turned.cols());
        let values = turned.reshaped(&[5, rows / 5, cols])?.padded(&[5, padded, cols])?;
        return values.reshaped(&[5 * padded, cols]);
    }
    let mut shape = turned.shape().to_vec();
    for (size, dim) in shape.iter_mut().zip(&dims) {
        if *dim == Dim::Rank(rank) {
            *size = padded;
        }
    }
    turned.padded(&shape)
}

/// The rank that a branch has in every block of the file.
fn padded_rank(model: &Model, rank: Rank) -> usize {
    let ranks = model.ranks.iter().filter_map(|ranks| ranks.get(&rank));
    ranks.max().copied().unwrap_or(0).next_multiple_of(LANES)
}

/// The embedding or the head with rows of zeros for the tokens that do not exist.
fn padded_vocabulary(model: &Model, values: &TensorView) -> Option<TensorView> {
    values.padded(&[model.dims.vocab.next_multiple_of(PAD), values.cols()])
}

fn unfit(model: &Model, held: &ModelTensor) -> Error {
    Error::Tensor {
        path: model.container.path().to_owned(),
        tensor: held.name(),
        what: "cannot be brought into the layout that web-rwkv wants".to_owned(),
        help: "please report this file as a bug".to_owned(),
    }
}

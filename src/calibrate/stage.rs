//! The order in which matrices are encoded: those whose inputs hang on others come after them.

use crate::model::{Model, ModelTensor, Role};
use crate::plan::{Plan, TensorPlan};
use crate::runner::{BlockHalf, Key};

/// A matrix of a planned file that is multiplied with activations, and can be told from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its number in the plan.
    pub write: usize,
    /// Tensor spec and block of the matrix in the model.
    pub key: Key,
}

/// Matrices whose inputs do not hang on each other (but by branches of low rank, which hardly change when they are
/// rounded).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    /// The block, and the half of it; `None` for the head.
    pub place: Option<(usize, BlockHalf)>,
    /// The matrices, in the plan's order.
    pub targets: Vec<Target>,
    /// Matrices of the half whose products change nothing about the inputs of those.
    pub idle: Vec<Key>,
}

/// The matrices that take what the other ones of their half computed.
const LAST: [&str; 2] = ["att.output.weight", "ffn.value.weight"];

/// All stages of a plan, in the order of the computation.
pub(super) fn stages(plan: &Plan, model: &Model) -> Vec<Stage> {
    let mut stages = Vec::new();
    for layer in 0..model.dims.layers {
        for half in BlockHalf::BOTH {
            for last in [false, true] {
                let inside = |h: &ModelTensor| {
                    let name = h.spec.short_name();
                    h.layer == layer && h.spec.name != name && BlockHalf::of(name) == Some(half)
                };
                let is_last = |h: &ModelTensor| LAST.contains(&h.spec.short_name());
                // All but the low-rank matrices, on which inputs may hang (version 6); of the last ones, only those.
                let is_idle =
                    |h: &&ModelTensor| inside(h) && h.spec.role == Role::Matrix && (!last || is_last(h));
                stages.push(Stage {
                    place: Some((layer, half)),
                    targets: targets(plan, model, |h| inside(h) && is_last(h) == last),
                    idle: model.tensors.iter().filter(is_idle).map(|h| (h.spec.name, h.layer)).collect(),
                });
            }
        }
    }
    let head = targets(plan, model, |h| h.spec.role == Role::Head);
    stages.push(Stage { place: None, targets: head, idle: Vec::new() });
    stages.retain(|s| !s.targets.is_empty());
    stages
}

/// The quantized matrices of the plan that are those of the model, [out, in].
fn targets(plan: &Plan, model: &Model, wanted: impl Fn(&ModelTensor) -> bool) -> Vec<Target> {
    let mut targets = Vec::new();
    for held in model.tensors.iter().filter(|h| wanted(h)) {
        let values = match held.spec.role {
            Role::Matrix | Role::Head => Some(held.values.clone()),
            Role::LowRank => held.values.transposed(),
            Role::Embedding | Role::Vector => None,
        };
        let Some(values) = values.filter(|v| v.shape().len() == 2) else { continue };
        let same = |w: &TensorPlan| w.values.is_same_view(&values) && is_rounded(w);
        let found = plan.tensors.iter().enumerate().filter(|(_, w)| same(w));
        targets.extend(found.map(|(write, _)| Target { write, key: (held.spec.name, held.layer) }));
    }
    targets.sort_by_key(|t| t.write);
    targets
}

/// True if it is rounded: its rows are whole blocks of several values, or coded at some rate.
fn is_rounded(write: &TensorPlan) -> bool {
    if let Some(coded) = write.coded {
        return coded.is_rounded();
    }
    !write.encoding.is_plain() && write.encoding.row_bytes(write.values.cols() as u64).is_some()
}

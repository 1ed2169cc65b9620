//! One block of a model as its forward pass sees it: tensors by their short names.

use std::borrow::Cow;

use super::norm::{GROUP_EPSILON, Norm};
use super::weight::{By, Dense, Hooked, Values, Weight};
use super::{Runner, Vectors};
use crate::model::{Dims, ModelTensor, Role};

/// A block.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    /// The runner whose model it is of.
    pub runner: &'a Runner,
    /// The block's number.
    pub index: usize,
}

/// A decoded low-rank matrix: kept by the runner, or only for now.
pub(super) struct LowRank<'a> {
    dense: Cow<'a, Dense>,
    by: By<'a>,
    hook: Option<Hooked<'a>>,
}

impl LowRank<'_> {
    /// Values as a matrix [out, in].
    pub fn weight(&self) -> Weight<'_> {
        Weight { values: Values::Dense(&self.dense), by: self.by, key: None, hook: self.hook }
    }
}

impl<'a> Layer<'a> {
    /// The model's sizes.
    pub fn dims(&self) -> &'a Dims {
        &self.runner.model.dims
    }

    /// True if the version has this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.runner.model.version.specs().any(|s| s.short_name() == name)
    }

    /// A vector.
    pub fn vector(&self, name: &str) -> &'a [f32] {
        vector(&self.runner.vectors, name, self.index)
    }

    /// A large matrix [out, in].
    pub fn matrix(&self, name: &str) -> Weight<'a> {
        self.runner.weight(self.held(name))
    }

    /// A low-rank matrix, turned to [out, in].
    pub fn low_rank(&self, name: &str) -> LowRank<'a> {
        let held = self.held(name);
        let key = (held.spec.name, self.index);
        let dense = match self.runner.decoded.get(&key) {
            Some(dense) => Cow::Borrowed(dense),
            None => Cow::Owned(self.runner.low_rank(held)),
        };
        LowRank { dense, by: self.runner.by(), hook: self.runner.hooked(key) }
    }

    fn now(&self, dense: Dense) -> LowRank<'a> {
        LowRank { dense: Cow::Owned(dense), by: self.runner.by(), hook: None }
    }

    /// Matrix `k` of a stack of low-rank matrices, turned to [out, in].
    pub fn low_rank_slice(&self, name: &str, k: usize) -> LowRank<'a> {
        let held = self.held(name);
        let container = &self.runner.model.container;
        match held.values.slice(k) {
            Some(values) => self.now(Dense::low_rank(container, &values)),
            None => {
                // A stack made of several stored tensors: read it whole.
                let [_, ins, outs] = [held.values.shape()[0], held.values.shape()[1], held.values.shape()[2]];
                let mut data = vec![0.0; ins * outs];
                held.values.read(container, k * ins..(k + 1) * ins, &mut data);
                self.now(Dense::turned(ins, outs, &data))
            }
        }
    }

    /// The row of an embedding that belongs to a token.
    pub fn embedding(&self, name: &str, token: u32, out: &mut [f32]) {
        let row = token as usize;
        self.held(name).values.read(&self.runner.model.container, row..row + 1, out);
    }

    /// A norm of the residual stream: `ln1` or `ln2`.
    pub fn norm(&self, name: &str) -> Norm<'a> {
        Norm {
            weight: self.vector(&format!("{name}.weight")),
            bias: self.vector(&format!("{name}.bias")),
            epsilon: self.runner.norm_epsilon,
        }
    }

    /// The norm over the heads of the time mix.
    pub fn group_norm(&self) -> Norm<'a> {
        Norm {
            weight: self.vector("att.ln_x.weight"),
            bias: self.vector("att.ln_x.bias"),
            epsilon: self.runner.options.group_norm_epsilon.unwrap_or(GROUP_EPSILON),
        }
    }

    fn held(&self, name: &str) -> &'a ModelTensor {
        let model = &self.runner.model;
        let found = self.runner.places.get(&(name_of(model, name), self.index));
        // Detection gave every spec of the version its tensor, but for those that block 0 need not have.
        &model.tensors[found.copied().unwrap_or_else(|| unreachable!("block {} has no {name}", self.index))]
    }
}

/// The full name of a spec from its short one.
fn name_of(model: &crate::model::Model, short: &str) -> &'static str {
    model.version.specs().find(|s| s.short_name() == short).map_or("", |s| s.name)
}

/// A vector from those that were read.
pub(super) fn vector<'a>(vectors: &'a Vectors, name: &str, layer: usize) -> &'a [f32] {
    vectors.get(&layer).and_then(|v| v.get(name)).map_or(&[], Vec::as_slice)
}

/// True if a tensor is kept decoded from the start: the small ones that every token needs.
pub(super) fn is_vector(held: &ModelTensor) -> bool {
    held.spec.role == Role::Vector
}

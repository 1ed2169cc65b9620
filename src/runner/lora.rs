//! Low-rank adapters: `W + B A * alpha / r`, added to a weight's rows as they are decoded, so that merging takes no
//! memory and the base file stays as it is.
//!
//! A file of RWKV-LM-LoRA or RWKV-PEFT holds `<matrix>.lora_A` [r, in] and `<matrix>.lora_B` [out, r] for some
//! matrices, and whole vectors (norms, mixes, decays) that were trained too and replace the model's. Alpha is not
//! stored.

use std::collections::HashMap;
use std::path::Path;

use formats::Container;

use super::Runner;
use crate::error::{Error, Result};
use crate::model::{Lazy, Role};

/// What an adapter adds to one matrix.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    /// `A` [r, in].
    pub a: Vec<f32>,
    /// `B` [out, r], times alpha / r.
    pub b: Vec<f32>,
    /// r.
    pub rank: usize,
}

impl Delta {
    /// Adds row `row` of the change.
    pub fn add_to(&self, row: usize, out: &mut [f32]) {
        let b = &self.b[row * self.rank..][..self.rank];
        for (b, a) in b.iter().zip(self.a.chunks(out.len())) {
            for (out, a) in out.iter_mut().zip(a) {
                *out += b * a;
            }
        }
    }
}

/// Wrappers that training code leaves before the names.
const WRAPPERS: &[&str] = &["module.", "_forward_module.", "base_model.model.", "model."];

impl Runner {
    /// Adds the adapter in `container` to the model.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that belongs to no tensor of the model, or does not fit it.
    pub fn add_lora(&mut self, container: &Container, alpha: f32) -> Result<()> {
        let mut names: HashMap<String, usize> = HashMap::new();
        for (i, held) in self.model.tensors.iter().enumerate() {
            names.insert(held.name(), i);
        }
        for (i, tensor) in container.tensors().iter().enumerate() {
            let wrong = |what: String| unfit(container.path(), &tensor.name, what);
            let mut name = tensor.name.as_str();
            while let Some(rest) = WRAPPERS.iter().find_map(|w| name.strip_prefix(w)) {
                name = rest;
            }
            let values = Lazy::of(container, i)
                .ok_or_else(|| wrong(format!("is stored as {}, which holds no weights", tensor.encoding)))?;
            let base = |part: &str| {
                name.strip_suffix(part)
                    .or_else(|| name.strip_suffix(&format!("{part}.weight")))
                    .map(str::to_owned)
            };
            if base(".lora_B").is_some() {
                continue; // taken with its A
            }
            if let Some(matrix) = base(".lora_A") {
                let held = names.get(&format!("{matrix}.weight")).map(|i| &self.model.tensors[*i]);
                let held = held
                    .filter(|h| matches!(h.slot.role, Role::Matrix | Role::Head))
                    .ok_or_else(|| wrong("belongs to no matrix of the model".to_owned()))?;
                let other = tensor.name.replace(".lora_A", ".lora_B");
                let b = (container.tensors().iter().position(|t| t.name == other))
                    .and_then(|i| Lazy::of(container, i))
                    .ok_or_else(|| wrong(format!("has no counterpart {other:?}")))?;
                let (rank, outs, ins) = (values.rows(), held.values.rows(), held.values.cols());
                if values.shape() != [rank, ins] || b.shape() != [outs, rank] || rank == 0 {
                    return Err(wrong(format!(
                        "has the shape {:?} and its counterpart {:?}, which do not make the {outs} x {ins} of {}",
                        values.shape(),
                        b.shape(),
                        held.name()
                    )));
                }
                let scale = alpha / rank as f32;
                let b = read(container, &b).into_iter().map(|v| v * scale).collect();
                let delta = Delta { a: read(container, &values), b, rank };
                self.deltas.insert((held.slot.name, held.layer), delta);
                continue;
            }
            let held = names.get(name).map(|i| &self.model.tensors[*i]);
            match held {
                Some(h) if h.slot.role == Role::Vector && h.values.elements() == values.elements() => {
                    let vectors = self.vectors.entry(h.layer).or_default();
                    vectors.insert(h.slot.short_name(), read(container, &values));
                }
                Some(h) => {
                    return Err(wrong(format!(
                        "has the shape {:?} where the model has {:?}, or is no vector",
                        values.shape(),
                        h.values.shape()
                    )));
                }
                None => return Err(wrong("is neither a LoRA matrix nor a vector of the model".to_owned())),
            }
        }
        Ok(())
    }
}

/// All values of a tensor.
pub(super) fn read(container: &Container, values: &Lazy) -> Vec<f32> {
    let mut out = vec![0.0; values.elements()];
    values.read(container, 0..values.rows(), &mut out);
    out
}

fn unfit(path: &Path, tensor: &str, what: String) -> Error {
    Error::Tensor {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        what,
        help: "give the LoRA file that was trained on this very model (lora_A, lora_B and whole vectors)"
            .to_owned(),
    }
}

//! Tensors that hold the right number of values in the wrong shape.

use super::findings::Findings;
use crate::model::{Model, Role};

/// Finds matrices that are stored as vectors: runtimes take the number of rows from the shape.
pub(super) fn compare(model: &Model, findings: &mut Findings) {
    for held in model.tensors.iter().filter(|held| held.spec.role != Role::Vector) {
        let Some((_, tensor)) = held.values.origin(&model.container) else { continue };
        let is_matrix = held.values.shape().iter().filter(|d| **d > 1).count() > 1;
        if is_matrix && tensor.shape.len() == 1 {
            findings.contradict(format!(
                "{} is stored as a vector of {}, and is a matrix of {:?}",
                tensor.name,
                tensor.elements(),
                held.values.shape()
            ));
        }
    }
}

//! Low-rank changes: `W + B A * alpha / r`.

use std::ops::Range;
use std::sync::Arc;

use formats::Container;

use super::read;
use crate::model::{Change, ModelTensor, TensorView};

/// A product of two low-rank matrices that is added to a matrix [out, in].
#[derive(Debug)]
pub struct LowRank {
    /// The file that both factors are in.
    pub container: Arc<Container>,
    /// `A` [r, in].
    pub a: TensorView,
    /// `B` [out, r].
    pub b: TensorView,
    /// Numerator of the product's scale, alpha / r.
    pub alpha: f32,
}

impl LowRank {
    /// Checks that its factors make a change of this tensor; else states the fault of `A`.
    pub(super) fn fitting(self, held: &ModelTensor) -> Result<LowRank, String> {
        let (rank, outs, ins) = (self.rank(), held.values.rows(), held.values.cols());
        if self.a.shape() == [rank, ins] && self.b.shape() == [outs, rank] && rank > 0 {
            return Ok(self);
        }
        Err(format!(
            "has the shape {:?} and its counterpart {:?}, which do not make the {outs} x {ins} of {}",
            self.a.shape(),
            self.b.shape(),
            held.name()
        ))
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.a.rows()
    }

    /// The factor of the product.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank() as f32
    }
}

impl Change for LowRank {
    fn apply(&self, rows: Range<usize>, values: &mut [f32]) {
        let a = read(&self.container, &self.a);
        let mut b = vec![0.0; self.rank()];
        let (cols, scale) = (self.a.cols(), self.scale());
        for (row, out) in rows.zip(values.chunks_mut(cols)) {
            self.b.read(&self.container, row..row + 1, &mut b);
            for (b, a) in b.iter().zip(a.chunks(cols)) {
                let b = b * scale;
                for (out, a) in out.iter_mut().zip(a) {
                    *out += b * a;
                }
            }
        }
    }

    fn scratch_values(&self) -> usize {
        self.a.elements() + self.rank()
    }
}

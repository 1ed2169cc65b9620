//! DiSHA: changes that share their rows (`Disha`) or work on square blocks (`Bat`, the first Bone).
//! Source: RWKV-PEFT, `merge_disha.py` and `merge_bone.py`.

use std::ops::Range;
use std::sync::Arc;

use formats::Container;

use super::read;
use crate::model::{Change, ModelTensor, TensorView};

/// Adds one row to every group of r columns: `W[o, c] + D[c mod r, o]`.
#[derive(Debug)]
pub struct Disha {
    /// The file.
    pub container: Arc<Container>,
    /// `D`, turned to [out, r].
    pub turned: TensorView,
}

impl Disha {
    /// The change by `D` [r, out], if it is one of this tensor; else what is wrong with it.
    pub(super) fn fitting(
        container: Arc<Container>,
        d: &TensorView,
        held: &ModelTensor,
    ) -> Result<Disha, String> {
        let (outs, ins) = (held.values.rows(), held.values.cols());
        let fits = d.cols() == outs && (1..=ins).contains(&d.rows());
        match d.transposed().filter(|_| fits) {
            Some(turned) => Ok(Disha { container, turned }),
            None => Err(format!(
                "has the shape {:?}, which is not [r, {outs}] with r up to {ins}, for {}",
                d.shape(),
                held.name()
            )),
        }
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.turned.cols()
    }
}

impl Change for Disha {
    fn apply(&self, rows: Range<usize>, values: &mut [f32]) {
        let (rank, cols) = (self.rank(), values.len() / rows.len().max(1));
        let mut d = vec![0.0; rows.len() * rank];
        self.turned.read(&self.container, rows, &mut d);
        for (d, row) in d.chunks(rank).zip(values.chunks_mut(cols.max(1))) {
            for group in row.chunks_mut(rank) {
                group.iter_mut().zip(d).for_each(|(out, d)| *out += d);
            }
        }
    }

    fn scratch_values(&self) -> usize {
        self.turned.elements()
    }
}

/// Every block of r x r, in block column `b`, is multiplied and shifted: `W_ab + W_ab D_b + D_b`.
#[derive(Debug)]
pub struct Bat {
    /// The file.
    pub container: Arc<Container>,
    /// `D` [in / r, r, r].
    pub d: TensorView,
}

impl Bat {
    /// The change by `D` [in / r, r, r], if it is one of this tensor; else what is wrong with it.
    pub(super) fn fitting(
        container: Arc<Container>,
        d: TensorView,
        held: &ModelTensor,
    ) -> Result<Bat, String> {
        let (outs, ins) = (held.values.rows(), held.values.cols());
        match *d.shape() {
            [n, r, q] if r > 0 && r == q && n * r == ins && outs.is_multiple_of(r) => {
                Ok(Bat { container, d })
            }
            _ => Err(format!(
                "has the shape {:?}, which is not [{ins} / r, r, r] with an r that divides {outs}, for {}",
                d.shape(),
                held.name()
            )),
        }
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.d.cols()
    }
}

impl Change for Bat {
    fn apply(&self, rows: Range<usize>, values: &mut [f32]) {
        let (d, r) = (read(&self.container, &self.d), self.rank());
        let mut old = vec![0.0; r];
        for (row, out) in rows.zip(values.chunks_mut(d.len() / r)) {
            for (group, d) in out.chunks_mut(r).zip(d.chunks(r * r)) {
                old.copy_from_slice(group);
                for (w, d) in old.iter().zip(d.chunks(r)) {
                    group.iter_mut().zip(d).for_each(|(out, d)| *out += w * d);
                }
                let shift = &d[row % r * r..][..r];
                group.iter_mut().zip(shift).for_each(|(out, d)| *out += d);
            }
        }
    }

    fn scratch_values(&self) -> usize {
        self.d.elements() + self.rank()
    }
}

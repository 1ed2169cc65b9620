//! Low-rank adapters: `W + B A * alpha / r`, added to a weight's rows as they are decoded.

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

//! Factors of a tensor's channels.

use std::sync::Arc;

/// A factor for every index along one dimension of a tensor.
///
/// In row-major order the factors take turns, each for `step` elements, so they stay what they are when the tensor gets
/// another shape.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Channels {
    factors: Arc<[f32]>,
    /// Number of elements from one channel to the next.
    step: usize,
}

impl Channels {
    /// A factor for every `step` elements, from the first one again after the last.
    pub fn new(factors: Arc<[f32]>, step: usize) -> Channels {
        Channels { factors, step }
    }

    /// Multiplies values, the first of which is element `start`.
    pub fn apply(&self, start: usize, values: &mut [f32]) {
        let (count, step) = (self.factors.len(), self.step);
        if step == 1 {
            let factors = self.factors.iter().cycle().skip(start % count);
            values.iter_mut().zip(factors).for_each(|(v, f)| *v *= f);
            return;
        }
        let (mut at, mut rest) = (start, values);
        while !rest.is_empty() {
            let (same, behind) = rest.split_at_mut((step - at % step).min(rest.len()));
            let factor = self.factors[at / step % count];
            same.iter_mut().for_each(|v| *v *= factor);
            at += same.len();
            rest = behind;
        }
    }

    /// Channels of a tensor whose matrices of this shape are transposed.
    pub fn transposed(&self, [rows, cols]: [usize; 2]) -> Option<Channels> {
        let step = match (self.factors.len(), self.step) {
            (count, 1) if count == cols => rows,
            (count, step) if count == rows && step == cols => 1,
            (_, step) if step >= rows * cols => step,
            _ => return None,
        };
        Some(Channels { step, ..self.clone() })
    }

    /// Channels that begin anew after so many elements, if the elements are whole turns of the factors.
    pub fn repeating_in(&self, elements: usize) -> Option<Channels> {
        elements.is_multiple_of(self.factors.len() * self.step).then(|| self.clone())
    }

    /// Channels of a tensor in which every element stands so many times.
    pub fn repeated(&self, times: usize) -> Channels {
        Channels { step: self.step * times, ..self.clone() }
    }
}

//! Bit allocation: the least divergence at a size, or the least size at a divergence.
//!
//! What rounding a tensor costs is measured: the model runs with that tensor alone rounded (to about 4 bits), and the
//! divergence of its predictions is taken. For other types it goes with the square of the rounding errors, weighted by
//! the mean squares of what meets them. Costs add up, as far as they are small. Tensors then get more bits one step
//! after the other, always where a byte saves most.

use quant::Encoding;

use crate::error::{Error, Result};

/// Objective of the choice of types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Maximum bytes of tensor data.
    Bytes(u64),
    /// Maximum divergence (nats a token, as predicted).
    Divergence(f64),
}

/// Tensors that get the same type.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Name for messages.
    pub name: String,
    /// Candidate types, by rising size.
    pub candidates: Vec<Candidate>,
}

/// A type that a unit may get.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The type of each of its tensors (another where rows are no whole blocks of it).
    pub encodings: Vec<Encoding>,
    /// Bytes of them all.
    pub bytes: u64,
    /// Divergence of the model with nothing else rounded, nats a token.
    pub divergence: f64,
}

/// A choice of candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// The candidate of each unit.
    pub chosen: Vec<usize>,
    /// Bytes of all.
    pub bytes: u64,
    /// Sum of the divergences.
    pub divergence: f64,
}

/// Chooses a candidate for every unit.
///
/// # Errors
/// [`Error::Usage`] if the goal cannot be reached with any choice; it says what can.
pub fn allocate(units: &[Unit], goal: Objective) -> Result<Allocation> {
    let mut chosen: Vec<usize> = units.iter().map(cheapest).collect();
    let sum = |chosen: &[usize]| {
        let candidates = || units.iter().zip(chosen).map(|(u, c)| &u.candidates[*c]);
        (candidates().map(|r| r.bytes).sum::<u64>(), candidates().map(|r| r.divergence).sum::<f64>())
    };
    let (mut bytes, mut divergence) = sum(&chosen);
    if let Objective::Bytes(most) = goal
        && bytes > most
    {
        return Err(Error::Usage {
            what: format!("the tensors take {bytes} bytes at least, and {most} are left for them"),
            help: format!("ask for {} bytes more", bytes - most),
        });
    }
    loop {
        if let Objective::Divergence(most) = goal
            && divergence <= most
        {
            break;
        }
        // The step that saves most divergence for a byte, of all that fit.
        let mut best: Option<(f64, usize, usize)> = None;
        for (u, unit) in units.iter().enumerate() {
            let now = &unit.candidates[chosen[u]];
            for (r, candidate) in unit.candidates.iter().enumerate() {
                let (more, less) =
                    (candidate.bytes.saturating_sub(now.bytes), now.divergence - candidate.divergence);
                let fits = match goal {
                    Objective::Bytes(most) => bytes + more <= most,
                    Objective::Divergence(_) => true,
                };
                if more == 0 || less <= 0.0 || !fits {
                    continue;
                }
                let gain = less / more as f64;
                if best.is_none_or(|b| gain > b.0) {
                    best = Some((gain, u, r));
                }
            }
        }
        let Some((_, u, r)) = best else { break };
        chosen[u] = r;
        (bytes, divergence) = sum(&chosen);
    }
    match goal {
        Objective::Divergence(most) if divergence > most => Err(Error::Usage {
            what: format!("a divergence of {most} cannot be reached: the best types give {divergence:.2e}"),
            help: format!("ask for {divergence:.1e} or more, or choose f16"),
        }),
        _ => Ok(Allocation { chosen, bytes, divergence }),
    }
}

/// The candidate of least bytes; of several the best.
fn cheapest(unit: &Unit) -> usize {
    let better = |a: &&(usize, &Candidate), b: &&(usize, &Candidate)| {
        (a.1.bytes, a.1.divergence)
            .partial_cmp(&(b.1.bytes, b.1.divergence))
            .unwrap_or(std::cmp::Ordering::Equal)
    };
    let candidates: Vec<(usize, &Candidate)> = unit.candidates.iter().enumerate().collect();
    candidates.iter().min_by(better).map_or(0, |r| r.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, weights: u64, sensitivity: f64) -> Unit {
        let candidate = |encoding: Encoding, error: f64| Candidate {
            encodings: vec![encoding],
            bytes: weights * encoding.block_bytes() as u64 / encoding.block_len() as u64,
            divergence: sensitivity * error,
        };
        let candidates = vec![
            candidate(Encoding::Q2K, 16.0),
            candidate(Encoding::Q4K, 1.0),
            candidate(Encoding::Q6K, 0.06),
            candidate(Encoding::Q8_0, 0.004),
        ];
        Unit { name: name.to_owned(), candidates }
    }

    #[test]
    fn bits_go_where_they_save_most() {
        let units = [unit("robust", 256 * 100, 0.001), unit("sensitive", 256 * 100, 0.1)];
        // Enough for one at 2 and one at 6 bits.
        let budget = units[0].candidates[0].bytes + units[1].candidates[2].bytes;
        let found = allocate(&units, Objective::Bytes(budget)).unwrap();
        assert_eq!(found.chosen, [0, 2]);
        assert!(found.bytes <= budget);
        let uniform: f64 = units.iter().map(|u| u.candidates[1].divergence).sum();
        assert!(found.divergence < 0.5 * uniform);
    }

    #[test]
    fn a_divergence_is_reached_with_few_bytes() {
        let units = [unit("a", 2560, 0.01), unit("b", 25600, 0.01)];
        let found = allocate(&units, Objective::Divergence(0.012)).unwrap();
        assert!(found.divergence <= 0.012, "{found:?}");
        // What is cheaper by a step does not reach it.
        for u in 0..2 {
            if found.chosen[u] > 0 {
                let mut less = found.chosen.clone();
                less[u] -= 1;
                let sum: f64 = units.iter().zip(&less).map(|(u, c)| u.candidates[*c].divergence).sum();
                assert!(sum > 0.012);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_an_error_that_says_what_can() {
        let units = [unit("a", 2560, 0.01)];
        let error = allocate(&units, Objective::Bytes(100)).unwrap_err();
        assert_eq!(error.to_string(), "the tensors take 840 bytes at least, and 100 are left for them");
        let error = allocate(&units, Objective::Divergence(1e-9)).unwrap_err();
        assert!(error.to_string().contains("the best types give 4.00e-5"), "{error}");
    }
}

//! How many bits which tensor gets: the least divergence at a size, or the least size at a divergence.
//!
//! What rounding a tensor costs is measured: the model runs with that tensor alone rounded (to about 4 bits), and the
//! divergence of its predictions is taken. For other types it goes with the square of the rounding errors, weighted by
//! the mean squares of what meets them. Costs add up, as far as they are small. Tensors then get more bits one step
//! after the other, always where a byte saves most.

use quant::Encoding;

use crate::error::{Error, Result};

/// What is wanted of the choice of types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At most so many bytes of tensor data.
    Bytes(u64),
    /// At most so much divergence (nats a token, as predicted).
    Divergence(f64),
}

/// Tensors that get the same type.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// What it is called in messages.
    pub name: String,
    /// What they may get, by rising size.
    pub rungs: Vec<Rung>,
}

/// A type that a unit may get.
#[derive(Clone, Debug, PartialEq)]
pub struct Rung {
    /// The type of each of its tensors (another where rows are no whole blocks of it).
    pub encodings: Vec<Encoding>,
    /// Bytes of them all.
    pub bytes: u64,
    /// Divergence of the model with nothing else rounded, nats a token.
    pub divergence: f64,
}

/// A choice of rungs.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// The rung of each unit.
    pub chosen: Vec<usize>,
    /// Bytes of all.
    pub bytes: u64,
    /// Sum of the divergences.
    pub divergence: f64,
}

/// Chooses a rung for every unit.
///
/// # Errors
/// [`Error::Usage`] if the goal cannot be reached with any choice; it says what can.
pub fn allocate(units: &[Unit], goal: Goal) -> Result<Allocation> {
    let mut chosen: Vec<usize> = units.iter().map(cheapest).collect();
    let sum = |chosen: &[usize]| {
        let rungs = || units.iter().zip(chosen).map(|(u, c)| &u.rungs[*c]);
        (rungs().map(|r| r.bytes).sum::<u64>(), rungs().map(|r| r.divergence).sum::<f64>())
    };
    let (mut bytes, mut divergence) = sum(&chosen);
    if let Goal::Bytes(most) = goal
        && bytes > most
    {
        return Err(Error::Usage {
            what: format!("the tensors take {bytes} bytes at least, and {most} are left for them"),
            help: format!("ask for {} bytes more", bytes - most),
        });
    }
    loop {
        if let Goal::Divergence(most) = goal
            && divergence <= most
        {
            break;
        }
        // The step that saves most divergence for a byte, of all that fit.
        let mut best: Option<(f64, usize, usize)> = None;
        for (u, unit) in units.iter().enumerate() {
            let now = &unit.rungs[chosen[u]];
            for (r, rung) in unit.rungs.iter().enumerate() {
                let (more, less) = (rung.bytes.saturating_sub(now.bytes), now.divergence - rung.divergence);
                let fits = match goal {
                    Goal::Bytes(most) => bytes + more <= most,
                    Goal::Divergence(_) => true,
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
        Goal::Divergence(most) if divergence > most => Err(Error::Usage {
            what: format!("a divergence of {most} cannot be reached: the best types give {divergence:.2e}"),
            help: format!("ask for {divergence:.1e} or more, or choose f16"),
        }),
        _ => Ok(Allocation { chosen, bytes, divergence }),
    }
}

/// The rung of least bytes; of several the best.
fn cheapest(unit: &Unit) -> usize {
    let better = |a: &&(usize, &Rung), b: &&(usize, &Rung)| {
        (a.1.bytes, a.1.divergence)
            .partial_cmp(&(b.1.bytes, b.1.divergence))
            .unwrap_or(std::cmp::Ordering::Equal)
    };
    let rungs: Vec<(usize, &Rung)> = unit.rungs.iter().enumerate().collect();
    rungs.iter().min_by(better).map_or(0, |r| r.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, weights: u64, sensitivity: f64) -> Unit {
        let rung = |encoding: Encoding, error: f64| Rung {
            encodings: vec![encoding],
            bytes: weights * encoding.block_bytes() as u64 / encoding.block_len() as u64,
            divergence: sensitivity * error,
        };
        let rungs = vec![
            rung(Encoding::Q2K, 16.0),
            rung(Encoding::Q4K, 1.0),
            rung(Encoding::Q6K, 0.06),
            rung(Encoding::Q8_0, 0.004),
        ];
        Unit { name: name.to_owned(), rungs }
    }

    #[test]
    fn bits_go_where_they_save_most() {
        let units = [unit("robust", 256 * 100, 0.001), unit("sensitive", 256 * 100, 0.1)];
        // Enough for one at 2 and one at 6 bits.
        let budget = units[0].rungs[0].bytes + units[1].rungs[2].bytes;
        let found = allocate(&units, Goal::Bytes(budget)).unwrap();
        assert_eq!(found.chosen, [0, 2]);
        assert!(found.bytes <= budget);
        let uniform: f64 = units.iter().map(|u| u.rungs[1].divergence).sum();
        assert!(found.divergence < 0.5 * uniform);
    }

    #[test]
    fn a_divergence_is_reached_with_few_bytes() {
        let units = [unit("a", 2560, 0.01), unit("b", 25600, 0.01)];
        let found = allocate(&units, Goal::Divergence(0.012)).unwrap();
        assert!(found.divergence <= 0.012, "{found:?}");
        // What is cheaper by a step does not reach it.
        for u in 0..2 {
            if found.chosen[u] > 0 {
                let mut less = found.chosen.clone();
                less[u] -= 1;
                let sum: f64 = units.iter().zip(&less).map(|(u, c)| u.rungs[*c].divergence).sum();
                assert!(sum > 0.012);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_an_error_that_says_what_can() {
        let units = [unit("a", 2560, 0.01)];
        let error = allocate(&units, Goal::Bytes(100)).unwrap_err();
        assert_eq!(error.to_string(), "the tensors take 840 bytes at least, and 100 are left for them");
        let error = allocate(&units, Goal::Divergence(1e-9)).unwrap_err();
        assert!(error.to_string().contains("the best types give 4.00e-5"), "{error}");
    }
}

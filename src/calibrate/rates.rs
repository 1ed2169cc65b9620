//! Bit allocation at equal slope: bits per weight of every tensor.
//!
//! Rounding a tensor to `R` bits per weight costs `a 2^(-2R)` of divergence, where `a` is the tensor's own: its error
//! goes down by 6 dB for each bit, and the divergence with the error. Of `n` weights a bit more on each costs `n` bits
//! and saves `2 ln 2 a 2^(-2R)`. The whole is best where that is worth the same everywhere: `R = log2(a / (n s)) / 2`,
//! with one `s` for all tensors that makes the size right.
//!
//! What `a` is: measured ([`probe`](super::probe())) where there is a text to calibrate on. Else it is what it
//! was of small models, by the tensor's name.

use std::collections::BTreeMap;

use super::{Candidate, Objective, Sensitivities};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::recipe::{TensorType, Types};
use crate::scheme::has_rate;
use crate::targets::Item;

/// Most bits per weight of a tensor: above, bf16 without loss is no larger.
pub const MOST_BITS: f64 = 10.0;
/// Fewest and most: below, next to nothing is left.
const BITS: std::ops::RangeInclusive<f64> = 1.0..=MOST_BITS;

/// Approximate bytes of a section beside its rate: the lengths of its tiles, and what it is off by.
const SECTION_BYTES: u64 = 24;

/// Bits per weight of the type that tensors are rounded to when their divergence is measured.
const TRIED_BITS: f64 = 4.5;

/// Bits per weight by the tensor's name in the file.
pub type Rates = BTreeMap<String, f64>;

/// A tensor that is to get a rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighed {
    /// Its name in the file.
    pub name: String,
    /// Its weights.
    pub weights: u64,
    /// Its divergence at no bits, in any unit: `a` above.
    pub cost: f64,
}

impl Weighed {
    /// Its divergence at so many bits per weight.
    pub fn divergence(&self, bits: f64) -> f64 {
        self.cost * (-2.0 * bits).exp2()
    }

    /// Approximate bytes that it then takes.
    pub fn bytes(&self, bits: f64) -> u64 {
        (bits * self.weights as f64 / 8.0).ceil() as u64 + SECTION_BYTES
    }
}

/// Sensitivities of tensors where nothing was measured, by the ends of their names: the means over `rwkv6-bytes` and
/// `rwkv7-bytes` of testdata, of the divergence with one tensor alone rounded (`units` of `rwkv-quant --format json
/// convert MODEL OUT.gguf --calib TEXT --target-bpw 8 --dry-run`) times 4 to the power of the bits of its type.
const COSTS: [(&str, f64); 10] = [
    ("emb.weight", 0.8),
    ("head.weight", 0.5),
    ("att.receptance.weight", 0.01),
    ("att.key.weight", 0.015),
    ("att.value.weight", 0.08),
    ("att.gate.weight", 0.06),
    ("att.output.weight", 0.1),
    ("ffn.key.weight", 0.25),
    ("ffn.receptance.weight", 0.015),
    ("ffn.value.weight", 0.08),
];

/// Sensitivity of a tensor that is none of these: a low-rank matrix.
const OTHERS: f64 = 0.002;

fn cost(name: &str) -> f64 {
    COSTS.iter().find(|(end, _)| name.ends_with(end)).map_or(OTHERS, |(_, cost)| *cost)
}

/// The tensors of a plan that get rates: all but the vectors and small ones, with what they cost where nothing was
/// measured.
pub fn weighed(plan: &Plan) -> Vec<Weighed> {
    let free = plan.tensors.iter().filter(|t| has_rate(t.role, t.values.elements()));
    free.map(|t| Weighed { name: t.name.clone(), weights: t.values.elements() as u64, cost: cost(&t.name) })
        .collect()
}

/// Fewest bytes of so many tensors.
pub fn least_bytes(tensors: &[Weighed]) -> u64 {
    tensors.iter().map(|t| t.bytes(*BITS.start())).sum()
}

/// The types of tensors of these rates.
pub fn types(rates: &Rates) -> Types {
    Types(rates.iter().map(|(name, bits)| (name.clone(), TensorType::Bits(*bits))).collect())
}

/// A rate for every tensor of a plan that gets one: what the file takes beside them can then be told.
pub fn nominal(plan: &Plan) -> Rates {
    // (As long a number as others.)
    weighed(plan).into_iter().map(|t| (t.name, BITS.start() + 1.0 / 1024.0)).collect()
}

/// Tells what tensors cost that were measured. (Divergences of units are those of all their members.)
pub fn weigh(tensors: &mut [Weighed], items: &[Item], probed: &Sensitivities) {
    for (unit, members) in probed.units.iter().zip(&probed.members) {
        let weights: u64 = members.iter().map(|i| items[*i].values.elements() as u64).sum();
        let bits = |candidate: &Candidate| 8.0 * candidate.bytes as f64 / weights.max(1) as f64;
        // The type that was tried, or the nearest to it.
        let off = |candidate: &&Candidate| (bits(candidate) - TRIED_BITS).abs();
        let Some(candidate) = unit.candidates.iter().min_by(|a, b| off(a).total_cmp(&off(b))) else {
            continue;
        };
        let whole = candidate.divergence * (2.0 * bits(candidate)).exp2();
        for item in members.iter().map(|i| &items[*i]) {
            // As if each weight of the unit cost the same.
            let part = item.values.elements() as f64 / weights.max(1) as f64;
            let tensor = tensors.iter_mut().find(|t| t.name == item.name);
            tensor.into_iter().for_each(|t| t.cost = whole * part);
        }
    }
}

/// The rates at which the tensors take no more than so many bytes, or cost no more than that divergence.
///
/// # Errors
/// [`Error::Usage`] if that is less than a bit a weight; if it is more than all bits can do, which is then said.
pub fn rates(tensors: &[Weighed], goal: Objective) -> Result<Rates> {
    let at = |slope: f64| -> Vec<f64> {
        let rate = |t: &Weighed| 0.5 * (t.cost / t.weights.max(1) as f64).max(1e-30).log2() - slope;
        tensors.iter().map(|t| rate(t).clamp(*BITS.start(), *BITS.end())).collect()
    };
    let taken = |rates: &[f64]| -> u64 { tensors.iter().zip(rates).map(|(t, r)| t.bytes(*r)).sum() };
    let lost = |rates: &[f64]| -> f64 { tensors.iter().zip(rates).map(|(t, r)| t.divergence(*r)).sum() };
    // The slope as the logarithm of a root: every rate falls by as much as it rises.
    let (mut low, mut high) = (-200.0, 200.0);
    match goal {
        Objective::Bytes(bytes) if taken(&at(high)) > bytes => {
            let least = taken(&at(high));
            return Err(Error::Usage {
                what: format!("{bytes} bytes are left for the matrices, and they take {least} at least"),
                help: "ask for more".to_owned(),
            });
        }
        Objective::Divergence(most) if lost(&at(low)) > most => {
            return Err(Error::Usage {
                what: format!(
                    "the divergence is {:.1e} at {} bits a weight, which are the most",
                    lost(&at(low)),
                    BITS.end()
                ),
                help: "ask for more, or leave it out: bf16 is then kept without loss".to_owned(),
            });
        }
        Objective::Bytes(_) | Objective::Divergence(_) => {}
    }
    let is_above = |slope: f64| match goal {
        Objective::Bytes(bytes) => taken(&at(slope)) <= bytes,
        Objective::Divergence(most) => lost(&at(slope)) > most,
    };
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        match is_above(middle) {
            true => high = middle,
            false => low = middle,
        }
    }
    // Rounded, so that the last bit of a logarithm changes nothing.
    let rounded = at(high).into_iter().map(|rate| (rate * 1024.0).floor() / 1024.0);
    Ok(tensors.iter().map(|t| t.name.clone()).zip(rounded).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, weights: u64, cost: f64) -> Weighed {
        Weighed { name: name.to_owned(), weights, cost }
    }

    #[test]
    fn every_tensor_is_on_the_same_slope() {
        let tensors = [tensor("a", 1000, 1.0), tensor("b", 4000, 1.0), tensor("c", 4000, 16.0)];
        let found = rates(&tensors, Objective::Bytes(9000 * 4 / 8 + 3 * SECTION_BYTES)).unwrap();
        // A quarter of the weights: a bit more; 16 times the cost: two.
        assert!((found["a"] - found["b"] - 1.0).abs() < 2e-3, "{found:?}");
        assert!((found["c"] - found["b"] - 2.0).abs() < 2e-3, "{found:?}");
        let bits = 1000.0 * found["a"] + 4000.0 * (found["b"] + found["c"]);
        assert!((bits / 9000.0 - 4.0).abs() < 0.01, "{bits}");
    }

    #[test]
    fn rates_have_bounds_and_too_little_is_an_error() {
        let tensors = [tensor("a", 1000, 0.0), tensor("b", 1000, 1.0)];
        let found = rates(&tensors, Objective::Bytes(1 << 20)).unwrap();
        assert!(found.values().all(|r| BITS.contains(r)));
        let error = rates(&tensors, Objective::Bytes(100)).unwrap_err();
        assert_eq!(error.to_string(), "100 bytes are left for the matrices, and they take 298 at least");
    }
    #[test]
    fn a_divergence_is_met() {
        let tensors = [tensor("a", 1000, 1.0), tensor("b", 4000, 1.0)];
        let found = rates(&tensors, Objective::Divergence(1e-3)).unwrap();
        let lost: f64 = found.values().map(|rate| (-2.0 * rate).exp2()).sum();
        assert!((lost / 1e-3 - 1.0).abs() < 5e-3, "{lost}");
        assert!(rates(&tensors, Objective::Divergence(1e-9)).is_err());
    }
}

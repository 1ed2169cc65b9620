//! Objectives of the choice of types, and the search for a choice that meets them.

use super::{Allocation, Objective, Sensitivities, Text, allocate, probe};
use crate::error::{Error, Result};
use crate::model::{Model, Role};
use crate::pipeline::{Observer, Stop};
use crate::plan::{Plan, TensorPlan};
use crate::recipe::{Recipe, TensorType, Types};
use crate::targets::Item;

/// The types chosen, and what is expected of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The types.
    pub types: Types,
    /// Approximate bytes of the tensors.
    pub bytes: u64,
    /// The divergence predicted.
    pub divergence: f64,
    /// Divergence of the model with each unit at its chosen type, by the unit's name.
    pub units: Vec<(String, String, f64)>,
}

/// Chooses the types of the tensors of `plan`; `models` is its source, opened twice.
///
/// # Errors
/// [`Error::Usage`] if the goal makes no sense or cannot be reached; if the model cannot be run.
pub fn choose(
    recipe: &Recipe,
    plan: &Plan,
    models: [Model; 2],
    text: &Text,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<Chosen> {
    let target = plan.target;
    let [model, again] = models;
    let items = target.items(&again, &plan.scheme)?;
    let probed = probe(model, again, &items, target, text, stop, &|done, of| {
        observer.probed(done, of);
    })?;
    let allocation = allocate(&probed.units, goal(recipe, plan, &items, &probed)?)?;
    Ok(Chosen::of(&items, &probed, allocation))
}

/// Chooses the bits of the tensors of `plan`, a file of `most` bytes, or of the divergence asked for; by what rounding
/// them costs if there is a text to measure that on, beside which stands the source, opened twice. (Without one, the
/// divergence predicted has no unit.)
///
/// # Errors
/// As [`choose`].
pub fn rates(
    recipe: &Recipe,
    plan: &Plan,
    most: Option<u64>,
    measured: Option<(&Text, [Model; 2])>,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<Chosen> {
    let mut tensors = super::rates::weighed(plan);
    if let Some((text, [model, again])) = measured {
        let items = plan.target.items(&again, &plan.scheme)?.into_iter().map(turned).collect::<Vec<_>>();
        let probed = probe(model, again, &items, plan.target, text, stop, &|done, of| {
            observer.probed(done, of);
        })?;
        super::rates::weigh(&mut tensors, &items, &probed);
    }
    let theirs: u64 =
        plan.tensors.iter().filter(|t| tensors.iter().any(|w| w.name == t.name)).map(TensorPlan::bytes).sum();
    let others = plan.total_bytes() - theirs;
    let goal = match (most, recipe.target_kl) {
        (Some(most), _) => {
            let least = others + super::rates::least_bytes(&tensors);
            if most < least {
                return Err(too_few(most, least, plan));
            }
            Objective::Bytes(most - others)
        }
        (None, kl) => Objective::Divergence(kl.unwrap_or_default()),
    };
    let rates = super::rates::rates(&tensors, goal)?;
    let mut chosen =
        Chosen { types: super::rates::types(&rates), bytes: 0, divergence: 0.0, units: Vec::new() };
    for (tensor, bits) in tensors.iter().filter_map(|t| Some((t, *rates.get(&t.name)?))) {
        let divergence = tensor.divergence(bits);
        chosen.bytes += tensor.bytes(bits);
        chosen.divergence += divergence;
        chosen.units.push((tensor.name.clone(), TensorType::Bits(bits).to_string(), divergence));
    }
    Ok(chosen)
}

/// The size asked for, in bytes; of a preset, that of `plan`; `None` if a divergence is asked for.
pub fn most_bytes(recipe: &Recipe, plan: &Plan) -> Option<u64> {
    let of_preset = recipe.preset.map(|_| plan.total_bytes());
    let of_bits = |bits: f64| (bits * plan.weights() as f64 / 8.0) as u64;
    of_preset.or(recipe.target_size).or(recipe.target_bpw.map(of_bits))
}

/// The goal in bytes of the tensors that are free, or as a divergence.
fn goal(recipe: &Recipe, plan: &Plan, items: &[Item], probed: &Sensitivities) -> Result<Objective> {
    let Some(most) = most_bytes(recipe, plan) else {
        return Ok(Objective::Divergence(recipe.target_kl.unwrap_or_default()));
    };
    let free = probed.members.iter().flatten().map(|i| items[*i].name.as_str());
    let free: std::collections::BTreeSet<&str> = free.collect();
    let theirs = plan.tensors.iter().filter(|t| free.contains(t.name.as_str()));
    let theirs: u64 = theirs.map(|t| t.bytes().next_multiple_of(super::probe::ALIGNMENT)).sum();
    let others = plan.total_bytes() - theirs;
    let least: u64 = probed.units.iter().filter_map(|u| u.candidates.iter().map(|r| r.bytes).min()).sum();
    match most.checked_sub(others).filter(|left| *left >= least) {
        Some(left) => Ok(Objective::Bytes(left)),
        None => Err(too_few(most, others + least, plan)),
    }
}

/// Error for a target size below that of the smallest file.
fn too_few(most: u64, least: u64, plan: &Plan) -> Error {
    Error::Usage {
        what: format!("{most} bytes are too few for this model: the smallest file has {least}"),
        help: format!(
            "ask for --target-size {least} or more, which is {:.2} bits a weight",
            least as f64 * 8.0 / plan.weights() as f64
        ),
    }
}

/// Low-rank matrices as they are multiplied: [out, in].
fn turned(item: Item) -> Item {
    match item.values.transposed() {
        Some(values) if item.role == Role::LowRank => Item { values, ..item },
        _ => item,
    }
}

impl Chosen {
    fn of(items: &[Item], probed: &Sensitivities, allocation: Allocation) -> Chosen {
        let mut types = Types::default();
        let mut units = Vec::new();
        for ((unit, members), chosen) in probed.units.iter().zip(&probed.members).zip(&allocation.chosen) {
            let candidate = &unit.candidates[*chosen];
            for (item, encoding) in members.iter().zip(&candidate.encodings) {
                types.0.insert(items[*item].name.clone(), TensorType::Encoding(*encoding));
            }
            let first = candidate.encodings.first().map_or("", |e| e.name());
            units.push((unit.name.clone(), first.to_owned(), candidate.divergence));
        }
        let Allocation { bytes, divergence, .. } = allocation;
        Chosen { types, bytes, divergence, units }
    }
}

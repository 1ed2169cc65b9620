//! What is asked for of the choice of types, and how it is found.

use std::path::PathBuf;

use super::{Allocation, Goal, Probed, Text, allocate, probe};
use crate::compact;
use crate::error::{Error, Result};
use crate::model::{Model, Role};
use crate::pipeline::{Observer, Stop};
use crate::plan::{Plan, Write};
use crate::recipe::{Preset, TensorType, Types};
use crate::targets::Item;
use crate::units::parse_bytes;

/// How large or how good a file is to be; at most one of these.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Choice of types")]
pub struct Goals {
    /// Choose the types of all tensors so that the file is as good as can be at the size of a type throughout
    #[arg(
        long,
        value_enum,
        conflicts_with_all = ["file_type", "target_size", "target_bpw", "target_kl", "recipe"]
    )]
    pub preset: Option<Preset>,
    /// Choose the types of all tensors so that the file is no larger, and as good as can be
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, conflicts_with_all = ["target_bpw", "target_kl"])]
    pub target_size: Option<u64>,
    /// The same, with the size given in bits a weight, metadata included
    #[arg(long, visible_alias = "bpw", value_name = "BITS", conflicts_with = "target_kl")]
    pub target_bpw: Option<f64>,
    /// Choose the types so that the divergence predicted of the default encoders is no larger (nats a token), and the
    /// file as small as can be; it is measured once the file is written
    #[arg(long, value_name = "KL", requires = "calib")]
    pub target_kl: Option<f64>,
    /// Take the types of the tensors from a file that --save-recipe wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target_size", "target_bpw", "target_kl"])]
    pub recipe: Option<PathBuf>,
    /// Write the types chosen to a file
    #[arg(long, value_name = "FILE")]
    pub save_recipe: Option<PathBuf>,
}

/// The types chosen, and what is expected of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The types.
    pub types: Types,
    /// About the bytes of the tensors.
    pub bytes: u64,
    /// The divergence predicted.
    pub divergence: f64,
    /// Divergence of the model with each unit at its chosen type, by the unit's name.
    pub units: Vec<(String, String, f64)>,
}

impl Goals {
    /// Whether types are to be chosen by measurement.
    pub fn is_wanted(&self) -> bool {
        self.preset.is_some()
            || self.target_size.is_some()
            || self.target_bpw.is_some()
            || self.target_kl.is_some()
    }

    /// Refuses bits a weight, and divergences, that make no sense.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<()> {
        let is_sound = |v: f64| v.is_finite() && v > 0.0;
        match self.target_bpw.into_iter().chain(self.target_kl).all(is_sound) {
            true => Ok(()),
            false => Err(Error::Usage {
                what: "the bits a weight or the divergence asked for are no positive number".to_owned(),
                help: "give something like --target-bpw 4.5 or --target-kl 0.01".to_owned(),
            }),
        }
    }

    /// Chooses the types of the tensors of `plan`; `models` is its source, opened twice.
    ///
    /// # Errors
    /// [`Error::Usage`] if the goal makes no sense or cannot be reached; if the model cannot be run.
    pub fn choose(
        &self,
        plan: &Plan,
        models: [Model; 2],
        text: &Text,
        observer: &dyn Observer,
        stop: &Stop,
    ) -> Result<Chosen> {
        let target = plan.target;
        if target.rungs().is_empty() {
            return Err(Error::Usage {
                what: format!("the types of {} files cannot be mixed freely", target.name()),
                help: "give --type, or write .gguf".to_owned(),
            });
        }
        let [model, again] = models;
        let items = target.items(&again, &plan.scheme)?;
        let probed = probe(model, again, &items, target, text, stop, &|done, of| {
            observer.probed(done, of);
        })?;
        let allocation = allocate(&probed.units, self.goal(plan, &items, &probed)?)?;
        Ok(Chosen::of(&items, &probed, allocation))
    }

    /// Chooses the bits of the tensors of `plan`, a file of `most` bytes, or of the divergence asked for; by what rounding
    /// them costs if there is a text to measure that on, beside which stands the source, opened twice. (Without one, the
    /// divergence predicted has no unit.)
    ///
    /// # Errors
    /// As [`choose`](Goals::choose).
    pub fn rates(
        &self,
        plan: &Plan,
        most: Option<u64>,
        measured: Option<(&Text, [Model; 2])>,
        observer: &dyn Observer,
        stop: &Stop,
    ) -> Result<Chosen> {
        let mut tensors = compact::weighed(plan);
        if let Some((text, [model, again])) = measured {
            let items = plan.target.items(&again, &plan.scheme)?.into_iter().map(turned).collect::<Vec<_>>();
            let probed = probe(model, again, &items, plan.target, text, stop, &|done, of| {
                observer.probed(done, of);
            })?;
            compact::weigh(&mut tensors, &items, &probed);
        }
        let theirs: u64 =
            plan.tensors.iter().filter(|t| tensors.iter().any(|w| w.name == t.name)).map(Write::bytes).sum();
        let others = plan.total_bytes() - theirs;
        let goal = match (most, self.target_kl) {
            (Some(most), _) => {
                let least = others + compact::least_bytes(&tensors);
                if most < least {
                    return Err(too_few(most, least, plan));
                }
                Goal::Bytes(most - others)
            }
            (None, kl) => Goal::Divergence(kl.unwrap_or_default()),
        };
        let rates = compact::rates(&tensors, goal)?;
        let mut chosen =
            Chosen { types: compact::types(&rates), bytes: 0, divergence: 0.0, units: Vec::new() };
        for (tensor, bits) in tensors.iter().filter_map(|t| Some((t, *rates.get(&t.name)?))) {
            let divergence = tensor.divergence(bits);
            chosen.bytes += tensor.bytes(bits);
            chosen.divergence += divergence;
            chosen.units.push((tensor.name.clone(), TensorType::Bits(bits).to_string(), divergence));
        }
        Ok(chosen)
    }

    /// The size asked for, in bytes; of a preset, that of `plan`; `None` if a divergence is asked for.
    pub fn most_bytes(&self, plan: &Plan) -> Option<u64> {
        let of_preset = self.preset.map(|_| plan.total_bytes());
        let of_bits = |bits: f64| (bits * plan.weights() as f64 / 8.0) as u64;
        of_preset.or(self.target_size).or(self.target_bpw.map(of_bits))
    }

    /// The goal in bytes of the tensors that are free, or as a divergence.
    fn goal(&self, plan: &Plan, items: &[Item], probed: &Probed) -> Result<Goal> {
        let Some(most) = self.most_bytes(plan) else {
            return Ok(Goal::Divergence(self.target_kl.unwrap_or_default()));
        };
        let free = probed.members.iter().flatten().map(|i| items[*i].name.as_str());
        let free: std::collections::BTreeSet<&str> = free.collect();
        let theirs = plan.tensors.iter().filter(|t| free.contains(t.name.as_str()));
        let theirs: u64 = theirs.map(|t| t.bytes().next_multiple_of(super::probe::ALIGNMENT)).sum();
        let others = plan.total_bytes() - theirs;
        let least: u64 = probed.units.iter().filter_map(|u| u.rungs.iter().map(|r| r.bytes).min()).sum();
        match most.checked_sub(others).filter(|left| *left >= least) {
            Some(left) => Ok(Goal::Bytes(left)),
            None => Err(too_few(most, others + least, plan)),
        }
    }
}

/// That no file is as small as was asked for.
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
    fn of(items: &[Item], probed: &Probed, allocation: Allocation) -> Chosen {
        let mut types = Types::default();
        let mut units = Vec::new();
        for ((unit, members), chosen) in probed.units.iter().zip(&probed.members).zip(&allocation.chosen) {
            let rung = &unit.rungs[*chosen];
            for (item, encoding) in members.iter().zip(&rung.encodings) {
                types.0.insert(items[*item].name.clone(), TensorType::Encoding(*encoding));
            }
            let first = rung.encodings.first().map_or("", |e| e.name());
            units.push((unit.name.clone(), first.to_owned(), rung.divergence));
        }
        let Allocation { bytes, divergence, .. } = allocation;
        Chosen { types, bytes, divergence, units }
    }
}

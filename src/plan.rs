//! From a model and what is wanted to a plan: for every tensor its encoding, exact bytes and place. Pure: no
//! file is read or written beyond what describes the tensors.

use std::sync::Arc;

use formats::{Metadata, Placement, Planned};
use quant::{Encoding, codec};

use crate::about::About;
use crate::error::{Error, Result};
use crate::importance::Importance;
use crate::model::{Dropped, Lazy, Model, Role};
use crate::recipe::{Fallback, Recipe, fitting};
use crate::targets::{Objection, Target};

/// Everything about a file to be written, known before any work.
#[derive(Debug)]
pub struct Plan {
    /// What kind of file.
    pub target: &'static dyn Target,
    /// What was wanted.
    pub recipe: Recipe,
    /// Its metadata.
    pub metadata: Metadata,
    /// Where everything lies.
    pub placement: Placement,
    /// Its tensors, in file order.
    pub tensors: Vec<Write>,
    /// Tensors of the source that are not written, each with the rule.
    pub dropped: Vec<Dropped>,
    /// Why the runtime would compute something else, if that was to be ignored.
    pub objections: Vec<Objection>,
}

/// A tensor to be written.
#[derive(Debug)]
pub struct Write {
    /// Its name in the file.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Its values.
    pub values: Lazy,
    /// How they are encoded.
    pub encoding: Encoding,
    /// How they would be encoded if their rows were whole blocks of it.
    pub wanted: Encoding,
    /// How much each of its columns matters.
    pub importance: Option<Arc<[f32]>>,
    /// Where its data starts in the file.
    pub offset: u64,
    /// How many bytes it takes.
    pub bytes: u64,
}

impl Plan {
    /// Plans `model` as a file for `target`.
    ///
    /// # Errors
    /// If the target cannot hold the model, or would compute something else with it and `force` is not set.
    pub fn new(
        model: &Model,
        target: &'static dyn Target,
        recipe: Recipe,
        about: &About,
        force: bool,
    ) -> Result<Plan> {
        let objections = target.check(model)?;
        if let (false, Some(first)) = (force, objections.first()) {
            return Err(Error::Model {
                path: model.container.path().to_owned(),
                what: first.what.clone(),
                help: format!("{}; --force-target writes the file all the same", first.help),
            });
        }
        let items = target.items(model)?;
        let weights = items.iter().map(|i| i.values.elements() as u64).sum();
        let mut metadata = target.metadata(model, about, recipe.file_type, weights)?;

        let mut planned = Vec::new();
        let mut choices = Vec::new();
        for item in &items {
            let wanted = item.fixed.unwrap_or_else(|| recipe.wanted(item.role, item.values.encoding()));
            let encoding = fitting(wanted, item.values.cols());
            if encoding != wanted && recipe.fallback == Fallback::Error {
                return Err(Error::Tensor {
                    path: model.container.path().to_owned(),
                    tensor: item.name.clone(),
                    what: format!(
                        "has rows of {}, which are no whole blocks of {wanted}",
                        item.values.cols()
                    ),
                    help: format!("--fallback warn stores it as {encoding}"),
                });
            }
            if !codec(encoding).is_some_and(quant::Codec::can_encode) {
                return Err(Error::Usage {
                    what: format!("tensors cannot be encoded as {encoding}"),
                    help: "choose another file type".to_owned(),
                });
            }
            planned.push(Planned { name: item.name.clone(), encoding, shape: item.values.shape().to_vec() });
            let importance = match &recipe.importance {
                Some(importance) if !encoding.is_plain() && item.fixed.is_none() => importance.of(item)?,
                _ => None,
            };
            choices.push((wanted, importance));
        }
        metadata.extend(recipe.importance.iter().flat_map(Importance::keys));
        let placement = target.place(&metadata, &planned)?;

        let tensors = items
            .into_iter()
            .zip(&planned)
            .zip(choices)
            .zip(&placement.offsets)
            .map(|(((item, planned), (wanted, importance)), offset)| Write {
                name: item.name,
                role: item.role,
                values: item.values,
                encoding: planned.encoding,
                wanted,
                importance,
                offset: *offset,
                bytes: planned.bytes().unwrap_or(0),
            })
            .collect();
        Ok(Plan { target, recipe, metadata, placement, tensors, dropped: dropped(model), objections })
    }

    /// Size of the file.
    pub fn total_bytes(&self) -> u64 {
        self.placement.total_bytes
    }

    /// Number of weights written.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(|t| t.values.elements() as u64).sum()
    }

    /// Bits a weight of the whole file, metadata included.
    pub fn bits_per_weight(&self) -> f64 {
        self.total_bytes() as f64 * 8.0 / self.weights() as f64
    }

    /// Tensors whose rows are no whole blocks of the encoding wanted.
    pub fn fallbacks(&self) -> impl Iterator<Item = &Write> {
        self.tensors.iter().filter(|t| t.encoding != t.wanted)
    }
}

/// What the reader dropped, and block 0's value residual, which no version ever reads.
fn dropped(model: &Model) -> Vec<Dropped> {
    let unread = model.tensors.iter().filter(|t| t.is_unread());
    let unread = unread.map(|t| Dropped {
        name: t.name(),
        rule: "block 0 has no earlier value to mix in, so it is never read".to_owned(),
    });
    model.dropped.iter().cloned().chain(unread).collect()
}

//! Checkpoints as BlinkDL publishes them - his names, shapes and orientation - in safetensors or torch files.
//!
//! candle, the pip package rwkv and training programs read them. Every tensor, vectors too, has the type asked for,
//! or by default its own.

use formats::{Metadata, Planned, pth};
use quant::Encoding;

use super::files::names;
use super::{Files, Item, Objection, Order, PlannedFile, Target};
use crate::error::{Error, Result};
use crate::model::{Body, Model, Version};
use crate::recipe::{FileType, Recipe};

/// The folder in a torch file's archive: torch's name for what is saved into memory. (It is not taken from the
/// output's name, so that a file's bytes do not depend on its name.)
const ROOT: &str = "archive";

/// The target safetensors.
pub struct Safetensors;

/// The target torch.
pub struct Torch;

impl Target for Safetensors {
    fn id(&self) -> &'static str {
        "safetensors"
    }

    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn runtimes(&self) -> &'static str {
        "candle, training programs"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["safetensors"]
    }

    fn takes(&self, version: &Version) -> bool {
        version.body == Body::Rwkv
    }

    fn holds(&self, file_type: &FileType) -> bool {
        file_type.is_plain()
    }

    fn default_type(&self) -> Option<&'static str> {
        Some("source")
    }

    fn splits(&self) -> bool {
        true
    }

    fn check(&self, _: &Model) -> Result<Vec<Objection>> {
        Ok(Vec::new())
    }

    fn items(&self, model: &Model, recipe: &Recipe) -> Result<Vec<Item>> {
        let mut items = items(model, recipe.file_type)?;
        // As the crate safetensors has it: wide types first, so that all data is aligned; then by name.
        items.sort_by(|a, b| order(a).cmp(&order(b)));
        Ok(items)
    }

    fn files(&self, order: &Order<'_>, groups: &[&[Planned]]) -> Result<Files> {
        Files::safetensors(order.out, groups)
    }
}

/// What safetensors files are sorted by.
fn order(item: &Item) -> (std::cmp::Reverse<usize>, &str) {
    (std::cmp::Reverse(item.fixed.map_or(0, Encoding::block_bytes)), &item.name)
}

impl Target for Torch {
    fn id(&self) -> &'static str {
        "pth"
    }

    fn name(&self) -> &'static str {
        "torch"
    }

    fn runtimes(&self) -> &'static str {
        "the pip package rwkv, RWKV-Runner, candle, training programs"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["pth"]
    }

    fn takes(&self, version: &Version) -> bool {
        version.body == Body::Rwkv
    }

    fn holds(&self, file_type: &FileType) -> bool {
        file_type.is_plain()
    }

    fn default_type(&self) -> Option<&'static str> {
        Some("source")
    }

    fn check(&self, _: &Model) -> Result<Vec<Objection>> {
        Ok(Vec::new())
    }

    fn items(&self, model: &Model, recipe: &Recipe) -> Result<Vec<Item>> {
        items(model, recipe.file_type)
    }

    fn files(&self, order: &Order<'_>, groups: &[&[Planned]]) -> Result<Files> {
        let metadata = Metadata::new(); // whoever loads it expects nothing but tensors
        let mut files = Vec::new();
        for (tensors, name) in groups.iter().zip(names(order.out, groups.len())?) {
            files.push(PlannedFile { name, layout: pth::place(ROOT, &metadata, tensors)?.into() });
        }
        Ok(Files { metadata, files, small: Vec::new() })
    }
}

/// Every tensor that the model has, as it is.
fn items(model: &Model, file_type: &FileType) -> Result<Vec<Item>> {
    let item = |held: &crate::model::Held| {
        let values = held.values.clone();
        let encoding = file_type.plain(values.encoding()).ok_or_else(|| as_stored(model, held))?;
        Ok(Item { name: held.name(), role: held.slot.role, values, fixed: Some(encoding) })
    };
    model.tensors.iter().map(item).collect()
}

/// That a quantized source cannot be kept as it is.
fn as_stored(model: &Model, held: &crate::model::Held) -> Error {
    let stored = held.values.encoding().map_or("several types", Encoding::name);
    Error::Tensor {
        path: model.container.path().to_owned(),
        tensor: held.name(),
        what: format!("is stored as {stored}, which cannot be kept in such a file"),
        help: "choose the type that it is decoded to: --type f16, bf16 or f32".to_owned(),
    }
}

//! `.st`: safetensors of f16 under BlinkDL's names with two words changed.

use formats::{Metadata, Planned};
use quant::Encoding;

use super::{padded_vocabulary, prepared, takes, unfit};
use crate::error::Result;
use crate::model::adapter::Layout;
use crate::model::{Model, Role, Version, web_rwkv};
use crate::recipe::FileType;
use crate::scheme::Scheme;
use crate::targets::adapters::state_items;
use crate::targets::files::{layout, names};
use crate::targets::{Files, Item, LayoutInput, Objection, PlannedFile, Target};

/// The target `.st`.
pub struct St;

impl Target for St {
    fn id(&self) -> &'static str {
        "st"
    }

    fn name(&self) -> &'static str {
        "web-rwkv .st"
    }

    fn runtimes(&self) -> &'static str {
        "web-rwkv, Ai00, RWKV-Runner, RWKV App"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["st"]
    }

    fn takes(&self, version: &Version) -> bool {
        takes(version)
    }

    /// web-rwkv refuses any other type.
    fn holds(&self, file_type: &FileType) -> bool {
        file_type.name == "f16"
    }

    fn default_type(&self) -> Option<&'static str> {
        Some("f16")
    }

    /// Ai00 starts from a state that it finds in the model's file.
    fn holds_state(&self) -> bool {
        true
    }

    fn holds_checksums(&self) -> bool {
        true
    }

    fn check(&self, model: &Model) -> Result<Vec<Objection>> {
        super::check(model)
    }

    fn items(&self, model: &Model, scheme: &Scheme) -> Result<Vec<Item>> {
        let read = model.tensors.iter().filter(|held| !held.is_unread());
        let items = read.map(|held| {
            let (stored, values) = prepared(model, held, web_rwkv).ok_or_else(|| unfit(model, held))?;
            let (name, role) = (stored.name_in(held.layer), held.spec.role);
            // What web-rwkv does itself from version 6 on.
            let pads = model.version.major() < 6 && matches!(role, Role::Embedding | Role::Head);
            let padded = if pads { padded_vocabulary(model, &values) } else { Some(values) };
            let values = padded.ok_or_else(|| unfit(model, held))?;
            Ok(Item { name, role, values, fixed: Some(Encoding::F16), unread: false })
        });
        let mut items = items.collect::<Result<Vec<_>>>()?;
        items.extend(state_items(model, Layout::KeyValue, scheme.file_type)?);
        Ok(items)
    }

    fn files(&self, order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Files> {
        let metadata = Metadata::new(); // never looked at
        let mut files = Vec::new();
        for (tensors, name) in groups.iter().zip(names(order.out, groups.len())?) {
            let layout = layout(&metadata, tensors, order.checksums, formats::safetensors::place)?;
            files.push(PlannedFile { name, layout });
        }
        Ok(Files { metadata, files, small: Vec::new() })
    }
}

//! Checkpoints as BlinkDL publishes them - his names, shapes and orientation - in safetensors or torch files.
//!
//! candle, the pip package rwkv and training programs read them. Every tensor, vectors too, has the type asked for,
//! or by default its own.

use formats::Planned;
use quant::Encoding;

use super::adapters::state_items;
use super::{Files, Item, LayoutInput, Objection, Target};
use crate::error::{Error, Result};
use crate::model::adapter::Layout;
use crate::model::{Body, Model, ModelTensor, Scope, Version};
use crate::recipe::FileType;
use crate::scheme::Scheme;

/// A target of checkpoints as BlinkDL publishes them.
pub struct BlinkDl {
    id: &'static str,
    name: &'static str,
    runtimes: &'static str,
    extensions: &'static [&'static str],
    safetensors: bool,
}

/// The target safetensors.
pub static SAFETENSORS: BlinkDl = BlinkDl {
    id: "safetensors",
    name: "safetensors",
    runtimes: "candle, training programs",
    extensions: &["safetensors"],
    safetensors: true,
};

/// The target torch.
pub static TORCH: BlinkDl = BlinkDl {
    id: "pth",
    name: "torch",
    runtimes: "the pip package rwkv, RWKV-Runner, candle, training programs",
    extensions: &["pth"],
    safetensors: false,
};

impl Target for BlinkDl {
    fn id(&self) -> &'static str {
        self.id
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn runtimes(&self) -> &'static str {
        self.runtimes
    }

    fn extensions(&self) -> &'static [&'static str] {
        self.extensions
    }

    fn takes(&self, version: &Version) -> bool {
        matches!(version.body, Body::Rwkv | Body::Unknown)
    }

    fn holds(&self, file_type: &FileType) -> bool {
        file_type.is_plain()
    }

    fn default_type(&self) -> Option<&'static str> {
        Some("source")
    }

    fn splits(&self) -> bool {
        self.safetensors
    }

    fn holds_state(&self) -> bool {
        true
    }

    fn holds_checksums(&self) -> bool {
        self.safetensors
    }

    fn check(&self, _: &Model) -> Result<Vec<Objection>> {
        Ok(Vec::new())
    }

    fn items(&self, model: &Model, scheme: &Scheme) -> Result<Vec<Item>> {
        let mut items = items(model, scheme.file_type)?;
        if self.safetensors {
            items.extend(placeholders(model, scheme.file_type)?);
            sort(&mut items);
        }
        Ok(items)
    }

    fn files(&self, order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Files> {
        match self.safetensors {
            true => Files::safetensors(order.out, groups, order.checksums),
            false => Files::torch(order.out, groups),
        }
    }
}

/// Copies of block 1's value residual for block 0 of version 7, whose own is never read, if the source has none:
/// candle finds its rank there.
fn placeholders(model: &Model, file_type: &FileType) -> Result<Vec<Item>> {
    let missing = |held: &&ModelTensor| {
        held.spec.scope == Scope::Later && held.layer == 1 && model.tensor(held.spec.name, 0).is_none()
    };
    let held = model.tensors.iter().filter(missing);
    held.map(|held| item(held, held.spec.name_in(0), model, file_type)).collect()
}

/// Sorts tensors as the crate safetensors does: wide types first, so that all data is aligned; then by name.
pub(super) fn sort(items: &mut [Item]) {
    let width = |item: &Item| std::cmp::Reverse(item.fixed.map_or(0, Encoding::block_bytes));
    items.sort_by(|a, b| (width(a), &a.name).cmp(&(width(b), &b.name)));
}

/// Every tensor that the model has, as it is, and its tuned state.
fn items(model: &Model, file_type: &FileType) -> Result<Vec<Item>> {
    let items = model.tensors.iter().map(|held| item(held, held.name(), model, file_type));
    let mut items = items.collect::<Result<Vec<_>>>()?;
    items.extend(state_items(model, Layout::ValueKey, file_type)?);
    Ok(items)
}

fn item(held: &ModelTensor, name: String, model: &Model, file_type: &FileType) -> Result<Item> {
    let fixed = Some(plain(model, held, file_type)?);
    Ok(Item { name, role: held.spec.role, values: held.values.clone(), fixed, unread: false })
}

/// The encoding of a tensor in a file of a plain type.
///
/// # Errors
/// [`Error::Tensor`] if it is to stay as it is, and is quantized.
pub(super) fn plain(model: &Model, held: &ModelTensor, file_type: &FileType) -> Result<Encoding> {
    let stored = held.values.encoding();
    file_type.plain(stored).ok_or_else(|| Error::Tensor {
        path: model.container.path().to_owned(),
        tensor: held.name(),
        what: format!(
            "is stored as {}, and the file is to have the types of its source, which are to be plain",
            stored.map_or("several types", Encoding::name)
        ),
        help:
            "say which type it gets: --type f16, bf16, f32, or any other of the target (`rwkv-quant targets`)"
                .to_owned(),
    })
}

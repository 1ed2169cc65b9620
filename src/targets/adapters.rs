//! Adapters and tuned states alone, for the runtimes that load them beside a model.
//!
//! ```text
//! gguf-lora   llama.cpp         <tensor>.lora_a [r, in], .lora_b [out, r]; alpha in `adapter.lora.alpha`
//! st-lora     web-rwkv, Ai00    <matrix>.lora.0 [in, r], .lora.1 [out, r], F16; alpha is given when it is loaded
//! st-state    web-rwkv, Ai00    blocks.{i}.att.time_state [heads, key, value], F16
//! pth-state   pip, RWKV-Runner  blocks.{i}.att.time_state [heads, value, key]
//! ```

use formats::{Metadata, Planned, Value, pth};
use quant::Encoding;

use super::blinkdl::ROOT;
use super::{Content, Files, Item, Objection, Order, PlannedFile, Target, files, gguf};
use crate::adapter::{Adapter, Kind, Layout, LowRank, Part, TunedState};
use crate::error::{Error, Result};
use crate::model::{Body, Held, Lazy, Model, Role, Version, web_rwkv};
use crate::recipe::{FileType, Recipe};

/// The target of LoRA adapters for llama.cpp.
pub struct GgufLora;

/// The target of LoRA adapters for web-rwkv.
pub struct StLora;

/// The target of tuned states for web-rwkv.
pub struct StState;

/// The target of tuned states for the pip package rwkv.
pub struct PthState;

impl Target for GgufLora {
    fn id(&self) -> &'static str {
        "gguf-lora"
    }

    fn name(&self) -> &'static str {
        "GGUF LoRA"
    }

    fn runtimes(&self) -> &'static str {
        "llama.cpp (--lora), ollama (ADAPTER)"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["gguf"]
    }

    fn content(&self) -> Content {
        Content::Adapter
    }

    fn takes(&self, version: &Version) -> bool {
        version.body == Body::Rwkv && gguf::Gguf.takes(version)
    }

    fn holds(&self, file_type: &FileType) -> bool {
        matches!(file_type.name, "f32" | "f16")
    }

    fn default_type(&self) -> Option<&'static str> {
        Some("f32")
    }

    fn check(&self, _: &Model) -> Result<Vec<Objection>> {
        Ok(Vec::new())
    }

    fn items(&self, model: &Model, recipe: &Recipe) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for (part, held) in parts(model) {
            let low_rank = low_rank(model, part, held, self)?;
            let name = held.slot.gguf.unwrap_or_default().replacen("{}", &held.layer.to_string(), 1);
            for (factor, values) in [("lora_a", &low_rank.a), ("lora_b", &low_rank.b)] {
                items.push(item(format!("{name}.{factor}"), values.clone(), recipe.file_type.matrix));
            }
        }
        Ok(items)
    }

    fn files(&self, order: &Order<'_>, groups: &[&[Planned]]) -> Result<Files> {
        let alpha = order.model.adapters.iter().find_map(|a| a.alpha).unwrap_or_default();
        let metadata: Metadata = [
            ("general.architecture", Value::from(gguf::architecture_name(order.model)?)),
            ("general.type", Value::from("adapter")),
            ("adapter.type", Value::from("lora")),
            ("adapter.lora.alpha", Value::F32(alpha)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let mut all = Vec::new();
        for (tensors, name) in groups.iter().zip(files::names(order.out, groups.len())?) {
            all.push(PlannedFile { name, layout: formats::gguf::place(&metadata, tensors)?.into() });
        }
        Ok(Files { metadata, files: all, small: Vec::new() })
    }
}

impl Target for StLora {
    fn id(&self) -> &'static str {
        "st-lora"
    }

    fn name(&self) -> &'static str {
        "web-rwkv LoRA"
    }

    fn runtimes(&self) -> &'static str {
        "web-rwkv, Ai00"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["st"]
    }

    fn content(&self) -> Content {
        Content::Adapter
    }

    fn takes(&self, version: &Version) -> bool {
        version.body == Body::Rwkv && version.slots().all(|s| web_rwkv(version, s).is_some())
    }

    fn holds(&self, file_type: &FileType) -> bool {
        file_type.name == "f16"
    }

    fn default_type(&self) -> Option<&'static str> {
        Some("f16")
    }

    fn check(&self, _: &Model) -> Result<Vec<Objection>> {
        Ok(Vec::new())
    }

    fn items(&self, model: &Model, recipe: &Recipe) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for (part, held) in parts(model) {
            let cannot = || cannot(model, held, self, "cannot be brought into its layout");
            let stored = web_rwkv(model.version, held.slot).ok_or_else(cannot)?;
            let (name, turned) = (stored.name_in(held.layer), stored.transposed);
            if let Kind::Whole(values) = &part.kind {
                let values = if turned { values.transposed() } else { Some(values.clone()) };
                items.push(item(name, values.ok_or_else(cannot)?, recipe.file_type.matrix));
                continue;
            }
            let low_rank = low_rank(model, part, held, self)?;
            let matrix = name.strip_suffix(".weight").unwrap_or(&name);
            let a = low_rank.a.transposed().ok_or_else(cannot)?;
            items.push(item(format!("{matrix}.lora.0"), a, recipe.file_type.matrix));
            items.push(item(format!("{matrix}.lora.1"), low_rank.b.clone(), recipe.file_type.matrix));
        }
        Ok(items)
    }

    fn files(&self, order: &Order<'_>, groups: &[&[Planned]]) -> Result<Files> {
        Files::safetensors(order.out, groups)
    }
}

impl Target for StState {
    fn id(&self) -> &'static str {
        "st-state"
    }

    fn name(&self) -> &'static str {
        "web-rwkv state"
    }

    fn runtimes(&self) -> &'static str {
        "web-rwkv, Ai00"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["st"]
    }

    fn content(&self) -> Content {
        Content::State
    }

    fn takes(&self, version: &Version) -> bool {
        StLora.takes(version) && version.major() > 4
    }

    fn holds(&self, file_type: &FileType) -> bool {
        file_type.name == "f16"
    }

    fn default_type(&self) -> Option<&'static str> {
        Some("f16")
    }

    fn check(&self, _: &Model) -> Result<Vec<Objection>> {
        Ok(Vec::new())
    }

    fn items(&self, model: &Model, recipe: &Recipe) -> Result<Vec<Item>> {
        state_items(model, Layout::KeyValue, recipe.file_type)
    }

    fn files(&self, order: &Order<'_>, groups: &[&[Planned]]) -> Result<Files> {
        Files::safetensors(order.out, groups)
    }
}

impl Target for PthState {
    fn id(&self) -> &'static str {
        "pth-state"
    }

    fn name(&self) -> &'static str {
        "torch state"
    }

    fn runtimes(&self) -> &'static str {
        "the pip package rwkv, RWKV-Runner"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["pth"]
    }

    fn content(&self) -> Content {
        Content::State
    }

    fn takes(&self, version: &Version) -> bool {
        version.body == Body::Rwkv && version.major() > 4
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
        state_items(model, Layout::ValueKey, recipe.file_type)
    }

    fn files(&self, order: &Order<'_>, groups: &[&[Planned]]) -> Result<Files> {
        let metadata = Metadata::new();
        let mut all = Vec::new();
        for (tensors, name) in groups.iter().zip(files::names(order.out, groups.len())?) {
            all.push(PlannedFile { name, layout: pth::place(ROOT, &metadata, tensors)?.into() });
        }
        Ok(Files { metadata, files: all, small: Vec::new() })
    }
}

/// The tuned state of a model, if it has one, as tensors of a plain file type in this layout.
///
/// # Errors
/// If the source is quantized, and the type asked for is the source's.
pub(super) fn state_items(model: &Model, layout: Layout, file_type: &FileType) -> Result<Vec<Item>> {
    let blocks = model.state.iter().flat_map(|s| &s.blocks).enumerate();
    let one = |(block, values): (usize, &Lazy)| {
        let name = TunedState::name(block);
        let turned = layout.turn(values);
        let typed = turned.and_then(|v| Some((file_type.plain(v.encoding())?, v)));
        let (encoding, values) = typed.ok_or_else(|| Error::Tensor {
            path: model.container.path().to_owned(),
            tensor: name.clone(),
            what: "cannot be kept as it is stored".to_owned(),
            help: "choose the type that it is decoded to: --type f32".to_owned(),
        })?;
        Ok(item(name, values, encoding))
    };
    blocks.map(one).collect()
}

/// What the adapters of a model change, and what of it.
fn parts(model: &Model) -> impl Iterator<Item = (&Part, &Held)> {
    let parts = model.adapters.iter().flat_map(|a: &Adapter| &a.parts);
    parts.map(|part| (part, &model.tensors[part.tensor]))
}

/// The only kind of change that runtimes compute themselves.
fn low_rank<'a>(model: &Model, part: &'a Part, held: &Held, target: &dyn Target) -> Result<&'a LowRank> {
    let what = match &part.kind {
        Kind::LowRank(all) if all.len() == 1 => return Ok(&all[0]),
        Kind::LowRank(_) => "is changed by PiSSA, which such a file cannot hold",
        Kind::Disha(_) => "is changed by DiSHA, which such a file cannot hold",
        Kind::Bat(_) => "is changed by Bone, which such a file cannot hold",
        Kind::Whole(_) => "is replaced as a whole, and such a file holds low-rank changes only",
    };
    Err(cannot(model, held, target, what))
}

fn cannot(model: &Model, held: &Held, target: &dyn Target, what: &str) -> Error {
    let files = model.adapters.iter().flat_map(|a| &a.files);
    Error::Tensor {
        path: files.map(|f| f.path()).next().unwrap_or(model.container.path()).to_owned(),
        tensor: held.name(),
        what: what.to_owned(),
        help: format!("merge the adapter into the model: convert without --to {}", target.id()),
    }
}

fn item(name: String, values: Lazy, encoding: Encoding) -> Item {
    Item { name, role: Role::LowRank, values, fixed: Some(encoding), unread: false }
}

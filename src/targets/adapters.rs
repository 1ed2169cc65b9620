//! Adapters and tuned states alone, for the runtimes that load them beside a model.
//!
//! ```text
//! gguf-lora   llama.cpp         <tensor>.lora_a [r, in], .lora_b [out, r]; alpha in `adapter.lora.alpha`
//! st-lora     web-rwkv, Ai00    <matrix>.lora.0 [in, r], .lora.1 [out, r], F16; alpha is given when it is loaded
//! st-state    web-rwkv, Ai00    blocks.{i}.att.time_state [heads, key, value], F16
//! pth-state   pip, RWKV-Runner  blocks.{i}.att.time_state [heads, value, key]
//! ```

use formats::{Metadata, Planned, Value};
use quant::Encoding;

use super::{Content, Files, Item, LayoutInput, Objection, PlannedFile, Target, files, gguf};
use crate::error::{Error, Result};
use crate::model::adapter::{ALPHA_KEY, Adapter, Kind, Layout, LowRank, Part, TunedState};
use crate::model::{Body, Model, ModelTensor, Role, TensorView, Version, web_rwkv};
use crate::recipe::FileType;
use crate::scheme::Scheme;

/// A target of what a program loads beside a model.
pub struct Beside {
    id: &'static str,
    name: &'static str,
    runtimes: &'static str,
    extensions: &'static [&'static str],
    default_type: &'static str,
    what: What,
}

/// Kind of the adapter, and its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    GgufLora,
    StLora,
    StState,
    PthState,
}

/// LoRA adapters for llama.cpp.
pub static GGUF_LORA: Beside = Beside {
    id: "gguf-lora",
    name: "GGUF LoRA",
    runtimes: "llama.cpp (--lora), ollama (ADAPTER)",
    extensions: &["gguf"],
    default_type: "f32",
    what: What::GgufLora,
};

/// LoRA adapters for web-rwkv.
pub static ST_LORA: Beside = Beside {
    id: "st-lora",
    name: "web-rwkv LoRA",
    runtimes: "web-rwkv, Ai00",
    extensions: &["st"],
    default_type: "f16",
    what: What::StLora,
};

/// Tuned states for web-rwkv.
pub static ST_STATE: Beside =
    Beside { id: "st-state", name: "web-rwkv state", what: What::StState, ..ST_LORA };

/// Tuned states for the pip package rwkv.
pub static PTH_STATE: Beside = Beside {
    id: "pth-state",
    name: "torch state",
    runtimes: "the pip package rwkv, RWKV-Runner",
    extensions: &["pth"],
    default_type: "source",
    what: What::PthState,
};

impl Target for Beside {
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

    fn content(&self) -> Content {
        match self.what {
            What::GgufLora | What::StLora => Content::Adapter,
            What::StState | What::PthState => Content::State,
        }
    }

    fn takes(&self, version: &Version) -> bool {
        let runs = match self.what {
            What::GgufLora => gguf::Gguf.takes(version),
            What::StLora | What::StState => version.specs().all(|s| web_rwkv(version, s).is_some()),
            What::PthState => true,
        };
        let tuned = self.content() == Content::State;
        runs && version.body == Body::Rwkv && (!tuned || version.major() > 4)
    }

    fn holds(&self, file_type: &FileType) -> bool {
        match self.what {
            What::GgufLora => matches!(file_type.name, "f32" | "f16"),
            What::StLora | What::StState => file_type.name == "f16",
            What::PthState => file_type.is_plain(),
        }
    }

    fn default_type(&self) -> Option<&'static str> {
        Some(self.default_type)
    }

    fn keeps_alpha(&self) -> bool {
        self.what == What::GgufLora
    }

    fn holds_checksums(&self) -> bool {
        self.what != What::PthState
    }

    fn check(&self, _: &Model) -> Result<Vec<Objection>> {
        Ok(Vec::new())
    }

    fn items(&self, model: &Model, scheme: &Scheme) -> Result<Vec<Item>> {
        match self.what {
            What::GgufLora => self.gguf_lora(model, scheme.file_type),
            What::StLora => self.st_lora(model, scheme.file_type),
            What::StState => state_items(model, Layout::KeyValue, scheme.file_type),
            What::PthState => state_items(model, Layout::ValueKey, scheme.file_type),
        }
    }

    fn files(&self, order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Files> {
        match self.what {
            What::GgufLora => gguf_files(order, groups),
            What::StLora | What::StState => Files::safetensors(order.out, groups, order.checksums),
            What::PthState => Files::torch(order.out, groups),
        }
    }
}

impl Beside {
    fn gguf_lora(&self, model: &Model, file_type: &FileType) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for (part, held) in parts(model) {
            let low_rank = low_rank(model, part, held, self)?;
            let name = held.spec.gguf.unwrap_or_default().replacen("{}", &held.layer.to_string(), 1);
            for (name, values) in lora_names(&name).into_iter().zip([&low_rank.a, &low_rank.b]) {
                items.push(item(name, values.clone(), file_type.matrix));
            }
        }
        Ok(items)
    }

    fn st_lora(&self, model: &Model, file_type: &FileType) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for (part, held) in parts(model) {
            let cannot = || cannot(model, held, self, "cannot be brought into its layout");
            let stored = web_rwkv(model.version, held.spec).ok_or_else(cannot)?;
            let (name, turned) = (stored.name_in(held.layer), stored.transposed);
            if let Kind::Whole(values) = &part.kind {
                let values = if turned { values.transposed() } else { Some(values.clone()) };
                items.push(item(name, values.ok_or_else(cannot)?, file_type.matrix));
                continue;
            }
            let low_rank = low_rank(model, part, held, self)?;
            let matrix = name.strip_suffix(".weight").unwrap_or(&name);
            let a = low_rank.a.transposed().ok_or_else(cannot)?;
            items.push(item(format!("{matrix}.lora.0"), a, file_type.matrix));
            items.push(item(format!("{matrix}.lora.1"), low_rank.b.clone(), file_type.matrix));
        }
        Ok(items)
    }
}

/// Metadata of a GGUF file with a LoRA for `model`.
///
/// # Errors
/// If llama.cpp does not know such models.
pub(crate) fn lora_metadata(model: &Model, alpha: f32) -> Result<Metadata> {
    Ok([
        ("general.architecture", Value::from(gguf::architecture_name(model)?)),
        ("general.type", Value::from("adapter")),
        ("adapter.type", Value::from("lora")),
        (ALPHA_KEY, Value::F32(alpha)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into())
}

/// The names in a GGUF file of the factors [r, in] and [out, r] that change the tensor `name`.
pub(crate) fn lora_names(name: &str) -> [String; 2] {
    ["lora_a", "lora_b"].map(|factor| format!("{name}.{factor}"))
}

fn gguf_files(order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Files> {
    let metadata = lora_metadata(order.model, common_alpha(order.model)?)?;
    let mut all = Vec::new();
    for (tensors, name) in groups.iter().zip(files::names(order.out, groups.len())?) {
        all.push(PlannedFile {
            name,
            layout: files::layout(&metadata, tensors, order.checksums, formats::gguf::place)?,
        });
    }
    Ok(Files { metadata, files: all, small: Vec::new() })
}

/// The alpha of all matrices, which a GGUF file says once. (Over the rank it is the factor of the product there too, so
/// that rsLoRA's, which are divided by the root of the rank, are multiplied by that.)
fn common_alpha(model: &Model) -> Result<f32> {
    let all = parts(model).filter_map(|(part, held)| match &part.kind {
        Kind::LowRank(all) => all.first().map(|low_rank| (low_rank.alpha, held)),
        _ => None,
    });
    let mut first = None;
    for (alpha, held) in all {
        let first = *first.get_or_insert(alpha);
        if (alpha - first).abs() > f32::EPSILON * first.abs() {
            let what = format!("has the alpha {alpha} and another matrix {first}, and such a file holds one");
            return Err(cannot(model, held, &GGUF_LORA, &what));
        }
    }
    Ok(first.unwrap_or_default())
}

/// The tuned state of a model, if it has one, as tensors of a plain file type in this layout.
///
/// # Errors
/// If the source is quantized, and the type asked for is the source's.
pub(super) fn state_items(model: &Model, layout: Layout, file_type: &FileType) -> Result<Vec<Item>> {
    let blocks = model.state.iter().flat_map(|s| &s.blocks).enumerate();
    let one = |(block, values): (usize, &TensorView)| {
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

/// Parts of the model's adapters, each with the tensor that it changes.
fn parts(model: &Model) -> impl Iterator<Item = (&Part, &ModelTensor)> {
    let parts = model.adapters.iter().flat_map(|a: &Adapter| &a.parts);
    parts.map(|part| (part, &model.tensors[part.tensor]))
}

/// The only kind of change that runtimes compute themselves.
fn low_rank<'a>(
    model: &Model,
    part: &'a Part,
    held: &ModelTensor,
    target: &dyn Target,
) -> Result<&'a LowRank> {
    let what = match &part.kind {
        Kind::LowRank(all) if all.len() == 1 => return Ok(&all[0]),
        Kind::LowRank(_) => "is changed by PiSSA, which such a file cannot hold",
        Kind::Disha(_) => "is changed by DiSHA, which such a file cannot hold",
        Kind::Bat(_) => "is changed by Bone, which such a file cannot hold",
        Kind::Whole(_) => "is replaced as a whole, and such a file holds low-rank changes only",
    };
    Err(cannot(model, held, target, what))
}

fn cannot(model: &Model, held: &ModelTensor, target: &dyn Target, what: &str) -> Error {
    let files = model.adapters.iter().flat_map(|a| &a.files);
    Error::Tensor {
        path: files.map(|f| f.path()).next().unwrap_or(model.container.path()).to_owned(),
        tensor: held.name(),
        what: what.to_owned(),
        help: format!("merge the adapter into the model: convert without --to {}", target.id()),
    }
}

fn item(name: String, values: TensorView, encoding: Encoding) -> Item {
    Item { name, role: Role::LowRank, values, fixed: Some(encoding), unread: false }
}

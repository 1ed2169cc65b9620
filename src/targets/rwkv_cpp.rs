//! Files of rwkv.cpp, which RWKV-Runner's CPU mode loads too: byte for byte what its own converter and quantizer write.
//!
//! ```text
//! FP32, FP16     convert_pytorch_to_ggml.py: decays and bonuses of versions 4 and 5 are stored as they are used,
//!                low-rank matrices [out, in], the token-shift vectors of version 7 stacked, tensors in the order of
//!                the checkpoint; vectors are FP32 in every file
//! quantized      rwkv_quantize_model_file on the FP16 file, or on the source if that is a file of rwkv.cpp:
//!                matrices, and version 6's flat low-rank matrices; everything else stays as it was
//! ```
//!
//! Only where a decay of versions 4 or 5 falls between two values of FP32 may it be the other one of them: torch's
//! exponential is not rounded correctly.

use std::collections::BTreeMap;

use formats::Planned;
use formats::rwkv_cpp::Header;
use quant::Encoding;

use super::{Files, Item, LayoutInput, Objection, PlannedFile, Target, files};
use crate::error::{Error, Result};
use crate::model::{Map, Model, ModelTensor, Role, TensorView, Version};
use crate::recipe::FileType;
use crate::scheme::Scheme;

/// The target rwkv.cpp.
pub struct RwkvCpp;

/// The format whose quantizer keeps the types of what it does not quantize.
const OWN_FORMAT: &str = "rwkv.cpp";

impl Target for RwkvCpp {
    fn id(&self) -> &'static str {
        "rwkv.cpp"
    }

    fn name(&self) -> &'static str {
        "rwkv.cpp"
    }

    fn runtimes(&self) -> &'static str {
        "rwkv.cpp, RWKV-Runner (CPU)"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["bin"]
    }

    fn takes(&self, version: &Version) -> bool {
        matches!(version.name, "4.0" | "5.0" | "5.2" | "6.0" | "7.0")
    }

    fn holds(&self, file_type: &FileType) -> bool {
        matches!(file_type.name, "f32" | "f16" | "q4_0" | "q4_1" | "q5_0" | "q5_1" | "q8_0")
    }

    fn candidates(&self) -> &'static [Encoding] {
        &[Encoding::Q4_0, Encoding::Q4_1, Encoding::Q5_0, Encoding::Q5_1, Encoding::Q8_0, Encoding::F16]
    }

    fn check(&self, _: &Model) -> Result<Vec<Objection>> {
        Ok(Vec::new())
    }

    fn items(&self, model: &Model, scheme: &Scheme) -> Result<Vec<Item>> {
        let mut stacks: BTreeMap<usize, Vec<&ModelTensor>> = BTreeMap::new();
        let mut items = Vec::new();
        for held in &model.tensors {
            let unfit = || unfit(model, held);
            if is_stacked(model, held) {
                let stack = stacks.entry(held.layer).or_default();
                stack.push(held);
                if stack.len() < STACKED {
                    continue;
                }
                stack.sort_by_key(|h| h.spec.stack);
                let parts: Vec<TensorView> = stack.iter().map(|h| h.values.clone()).collect();
                let shape = [STACKED, 1, model.dims.embd];
                let values =
                    TensorView::stacked(&parts).and_then(|v| v.reshaped(&shape)).ok_or_else(unfit)?;
                let name = format!("blocks.{}.att.x_rwkvag", held.layer);
                items.push(Item {
                    name,
                    role: Role::Vector,
                    values,
                    fixed: Some(Encoding::F32),
                    unread: false,
                });
                continue;
            }
            let values = shaped(model, held).ok_or_else(unfit)?;
            let fixed = fixed(model, held, &values, scheme.file_type);
            // Its quantizer starts from FP16.
            let halved = !fixed.unwrap_or(scheme.file_type.matrix).is_plain() && !is_own(model);
            let values = if halved { values.mapped(Map::F16) } else { values };
            items.push(Item { name: held.name(), role: held.spec.role, values, fixed, unread: false });
        }
        // In the order of the checkpoint.
        items.sort_by_key(|item| item.values.sources().min());
        Ok(items)
    }

    fn files(&self, order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Files> {
        let model = order.model;
        let number = |n: usize, what: &str| {
            u32::try_from(n).map_err(|_| Error::Model {
                path: model.container.path().to_owned(),
                what: format!("has {n} {what}, more than rwkv.cpp can count"),
                help: "use a target with larger numbers: .gguf or .safetensors".to_owned(),
            })
        };
        let header = Header {
            n_vocab: number(model.dims.vocab, "tokens")?,
            n_embed: number(model.dims.embd, "channels")?,
            n_layer: number(model.dims.layers, "blocks")?,
            encoding: order.scheme.file_type.matrix,
        };
        let mut all = Vec::new();
        for (tensors, name) in groups.iter().zip(files::names(order.out, groups.len())?) {
            let layout = formats::rwkv_cpp::place(&header, tensors)?.into();
            all.push(PlannedFile { name, layout });
        }
        Ok(Files { metadata: header.metadata()?, files: all, small: Vec::new() })
    }
}

/// Token-shift vectors of version 7 in `att.x_rwkvag`.
const STACKED: usize = 6;

fn is_stacked(model: &Model, held: &ModelTensor) -> bool {
    model.version.major() == 7 && held.spec.stack.is_some()
}

/// True if the source is a file of rwkv.cpp, as its quantizer takes.
fn is_own(model: &Model) -> bool {
    model.container.format().name() == OWN_FORMAT
}

/// Values in rwkv.cpp's shape and, for the decays and bonuses of versions 4 and 5, in its terms.
fn shaped(model: &Model, held: &ModelTensor) -> Option<TensorView> {
    let major = model.version.major();
    let (heads, size) = (model.dims.heads, model.dims.head_size);
    let values = &held.values;
    match (major, held.spec.short_name()) {
        (4, "att.time_decay") => Some(values.clone().mapped(Map::NegExp)),
        (5, "att.time_decay") => {
            let decays = values.clone().mapped(Map::ExpNegExp);
            decays.reshaped(&[heads, values.elements() / heads.max(1), 1])
        }
        (5, "att.time_first") => values.clone().mapped(Map::Exp).reshaped(&[heads, 1, 1]),
        (5 | 6, "att.time_faaaa") | (6, "att.time_decay") => values.reshaped(&[heads, size, 1]),
        (4..=6, name) if held.spec.role == Role::Vector && name.contains(".time_") => {
            values.reshaped(&[values.elements()])
        }
        _ if held.spec.role == Role::LowRank => values.transposed(),
        _ => Some(values.clone()),
    }
}

/// The encoding that the converter or quantizer gives a tensor whatever the recipe says; `None` for the matrices of the
/// file type's encoding.
fn fixed(model: &Model, held: &ModelTensor, values: &TensorView, file_type: &FileType) -> Option<Encoding> {
    let seven = model.version.major() == 7;
    match held.spec.role {
        Role::Matrix => None,
        Role::Vector => Some(Encoding::F32),
        _ if file_type.is_plain() && (seven || held.spec.role != Role::LowRank) => Some(file_type.matrix),
        // Of version 6, whose names begin with `time_`: never FP16.
        Role::LowRank if file_type.is_plain() => Some(Encoding::F32),
        Role::LowRank if !seven && values.shape().len() == 2 => Some(file_type.matrix),
        Role::LowRank if !seven => Some(Encoding::F32),
        _ if is_own(model) && values.encoding() == Some(Encoding::F32) => Some(Encoding::F32),
        _ => Some(Encoding::F16),
    }
}

fn unfit(model: &Model, held: &ModelTensor) -> Error {
    Error::Tensor {
        path: model.container.path().to_owned(),
        tensor: held.name(),
        what: "cannot be brought into the layout that rwkv.cpp wants".to_owned(),
        help: "start from the original checkpoint".to_owned(),
    }
}

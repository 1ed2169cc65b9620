//! GGUF for llama.cpp and what is built on it: ollama, LM Studio, KoboldCpp.
//!
//! llama.cpp runs RWKV-6 and 7, and two hybrids of them with Qwen2. It wants the low-rank matrices [out, in], the token-shift vectors stacked,
//! every vector in F32, and for block 0 of version 7, whose value residual is never read, a copy of the
//! in-context learning rate in its place. It checks the set of tensors exactly.

mod architecture;
mod keys;

pub(crate) use architecture::norm_epsilon;

use std::collections::BTreeMap;

use formats::{Metadata, Planned};
use quant::Encoding;

use super::files::{layout, names};
use super::{Files, Item, LayoutInput, Objection, PlannedFile, Target};
use crate::equalize;
use crate::error::{Error, Result};
use crate::metadata::{CalibrationFingerprint, Tokens};
use crate::model::{Body, Model, ModelTensor, Rank, Role, TensorView, Version};
use crate::recipe::{FileType, Mix};
use crate::scheme::Importance;
use crate::scheme::LowRankOptions;
use crate::scheme::Scheme;
use architecture::Architecture;

/// The target GGUF.
pub struct Gguf;

/// Head sizes that llama.cpp's RWKV-7 kernels compute right on every CPU.
const HEAD_SIZES_7: &[usize] = &[64, 128];

/// Divisor from which the epsilon of the group norm, 64e-5, comes: 1e-5 times its square.
const HEAD_SIZE_DIVISOR: f64 = 8.0;

/// Tensors that llama.cpp computes with in F32 only, besides all vectors.
const F32_ONLY: &[&str] =
    &["time_mix_w1.weight", "time_mix_w2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight"];

/// The name of llama.cpp's architecture of a model, which adapters state too.
///
/// # Errors
/// [`Error::Model`] if llama.cpp has none.
pub(super) fn architecture_name(model: &Model) -> Result<&'static str> {
    let architecture = Architecture::of(model.version).ok_or_else(|| super::refused(&Gguf, model))?;
    Ok(architecture.name)
}

/// Keys, and the numbers that each may have.
pub(crate) type AllowedKeys = Vec<(&'static str, Vec<u64>)>;

/// llama.cpp's name of a model's architecture, and every key of it with the numbers that it may have (none where its
/// tensors do not tell); `None` if llama.cpp has no such architecture.
pub(crate) fn allowed_keys(model: &Model) -> Option<(&'static str, AllowedKeys)> {
    let architecture = Architecture::of(model.version)?;
    let keys = architecture.keys.iter().map(|(key, holds)| (*key, holds.allowed(model)));
    Some((architecture.name, keys.collect()))
}

impl Target for Gguf {
    fn id(&self) -> &'static str {
        "gguf"
    }

    fn name(&self) -> &'static str {
        "GGUF"
    }

    fn runtimes(&self) -> &'static str {
        "llama.cpp, ollama, LM Studio, KoboldCpp"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["gguf"]
    }

    fn takes(&self, version: &Version) -> bool {
        Architecture::of(version).is_some() && version.specs().all(|s| s.gguf.is_some())
    }

    fn holds(&self, file_type: &FileType) -> bool {
        file_type.gguf_number.is_some()
    }

    fn tokens(&self) -> Tokens {
        Tokens::Yes
    }

    fn splits(&self) -> bool {
        true
    }

    fn mixes(&self) -> &'static [Mix] {
        &[Mix::Own, Mix::LlamaCpp]
    }

    fn candidates(&self) -> &'static [Encoding] {
        use Encoding::{F16, IQ4NL, IQ4XS, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        &[Q2K, Q3K, IQ4XS, Q4K, IQ4NL, Q4_0, Q4_1, Q5K, Q5_0, Q5_1, Q6K, Q8_0, F16]
    }

    fn holds_checksums(&self) -> bool {
        true
    }

    fn check(&self, model: &Model) -> Result<Vec<Objection>> {
        let refuse = |what: String, help: &str| {
            Err(Error::Model { path: model.container.path().to_owned(), what, help: help.to_owned() })
        };
        let version = model.version;
        for rank in Rank::ALL {
            let has = model.ranks.iter().any(|r| r.contains_key(&rank));
            if has && model.uniform_rank(rank).is_none() {
                return refuse(
                    format!(
                        "has different {} ranks in different blocks, and llama.cpp knows one",
                        rank.name()
                    ),
                    "this model needs a runtime that reads the ranks of every block, such as the pip package rwkv",
                );
            }
        }
        let dims = &model.dims;
        let whole = |width: usize, unit: usize| unit > 0 && width.is_multiple_of(unit);
        if dims.kv != dims.att && !(whole(dims.kv, dims.head_size) && whole(dims.att, dims.kv)) {
            return refuse(
                format!(
                    "has keys and values {} wide, which {} heads of size {} cannot share",
                    dims.kv, dims.heads, dims.head_size
                ),
                "see that config.json is that of this model, above all num_attention_heads",
            );
        }
        let mut objections = Vec::new();
        if version.major() == 7 && !HEAD_SIZES_7.contains(&dims.head_size) {
            objections.push(Objection {
                what: format!(
                    "has heads of size {}, for which llama.cpp's RWKV-7 kernels compute wrong values on some CPUs \
                     (right: 64 and 128)",
                    dims.head_size
                ),
                help: match version.body {
                    Body::Rwkv => "use another runtime, such as the pip package rwkv".to_owned(),
                    Body::Qwen2 | Body::Unknown => "no other runtime of quantized files knows this model".to_owned(),
                },
            });
        }
        // The code of ARWKV-7 divides by this before the group norm; llama.cpp has BlinkDL's value built in.
        let divisor =
            model.container.config().and_then(|c| c.get("head_size_divisor")).and_then(|d| d.as_f64());
        let normed = model.tensors.iter().any(|t| t.spec.short_name() == "att.ln_x.weight");
        if version.body == Body::Qwen2 && normed && divisor.is_some_and(|d| d != HEAD_SIZE_DIVISOR) {
            objections.push(Objection {
                what: format!(
                    "has the head_size_divisor {}, and llama.cpp computes with {HEAD_SIZE_DIVISOR}",
                    divisor.unwrap_or_default()
                ),
                help: "no other runtime of quantized files knows this model".to_owned(),
            });
        }
        Ok(objections)
    }

    fn items(&self, model: &Model, _: &Scheme) -> Result<Vec<Item>> {
        let mut stacks: BTreeMap<String, Vec<(usize, TensorView)>> = BTreeMap::new();
        let mut items = Vec::new();
        for held in &model.tensors {
            if held.is_unread() {
                continue;
            }
            let name = name(held);
            let values = oriented(held).ok_or_else(|| unfit(model, held))?;
            if let Some(k) = held.spec.stack {
                let stack = stacks.entry(name.clone()).or_default();
                stack.push((k, values));
                let twins = |t: &&ModelTensor| t.layer == held.layer && t.spec.gguf == held.spec.gguf;
                let size = model.tensors.iter().filter(twins).count();
                if stack.len() < size {
                    continue;
                }
                stack.sort_by_key(|(k, _)| *k);
                let parts: Vec<TensorView> = stack.iter().map(|(_, values)| values.clone()).collect();
                let values = TensorView::stacked(&parts)
                    .and_then(|v| v.reshaped(&[size, 1, 1, model.dims.embd]))
                    .ok_or_else(|| unfit(model, held))?;
                items.push(item(name, held, values));
                continue;
            }
            if held.layer == 0
                && let Some(twin) = placeholder(&name)
            {
                items.push(Item { unread: true, ..item(twin, held, values.clone()) });
            }
            items.push(item(name, held, values));
        }
        Ok(items)
    }

    fn files(&self, order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Files> {
        let model = order.model;
        let architecture = Architecture::of(model.version).ok_or_else(|| super::refused(self, model))?;
        let file_type = order.scheme.file_type;
        let called = match order.scheme.types.0.is_empty() {
            true => file_type,
            false => file_type.called(groups.iter().copied().flatten().map(|t| {
                let weights: usize = t.shape.iter().product();
                (t.encoding, weights as u64)
            })),
        };
        let mut metadata = keys::metadata(order, architecture, called)?;
        metadata.extend(order.scheme.importance.iter().flat_map(Importance::keys));
        metadata.extend(order.scheme.calibration.iter().flat_map(CalibrationFingerprint::keys));
        metadata.extend(equalize::key(model, &order.scheme.equalized));
        metadata.extend(order.scheme.branches.iter().map(LowRankOptions::key));
        keys::set(&mut metadata, order, architecture)?;
        let tensors: usize = groups.iter().map(|g| g.len()).sum();
        let mut files = Vec::new();
        for (i, (group, name)) in groups.iter().zip(names(order.out, groups.len())?).enumerate() {
            let mut keys = if i == 0 { metadata.clone() } else { Metadata::new() };
            if groups.len() > 1 {
                keys.extend(formats::split_keys(i, groups.len(), tensors)?);
            }
            let layout = layout(&keys, group, order.checksums, formats::gguf::place)?;
            files.push(PlannedFile { name, layout });
        }
        Ok(Files { metadata, files, small: Vec::new() })
    }
}

fn name(held: &ModelTensor) -> String {
    held.spec.gguf.unwrap_or_default().replacen("{}", &held.layer.to_string(), 1)
}

/// Values in llama.cpp's shape: low-rank matrices turned, vectors flat, but the bonus of version 6 per head.
fn oriented(held: &ModelTensor) -> Option<TensorView> {
    match held.spec.role {
        Role::LowRank => held.values.transposed(),
        Role::Vector if held.spec.short_name() != "att.time_faaaa" => {
            held.values.reshaped(&[held.values.elements()])
        }
        _ => Some(held.values.clone()),
    }
}

fn item(name: String, held: &ModelTensor, values: TensorView) -> Item {
    let f32_only = held.spec.role == Role::Vector || F32_ONLY.iter().any(|n| name.ends_with(n));
    Item { name, role: held.spec.role, values, fixed: f32_only.then_some(Encoding::F32), unread: false }
}

/// The name under which block 0 of version 7 holds another copy of this tensor.
fn placeholder(name: &str) -> Option<String> {
    let (before, after) = name.split_once(".time_mix_a")?;
    matches!(after, "0.weight" | "1.weight" | "2.weight").then(|| format!("{before}.time_mix_v{after}"))
}

fn unfit(model: &Model, held: &ModelTensor) -> Error {
    Error::Tensor {
        path: model.container.path().to_owned(),
        tensor: held.name(),
        what: "cannot be brought into the layout that llama.cpp wants".to_owned(),
        help: "please report this file as a bug".to_owned(),
    }
}

//! `.prefab`: the model as web-rwkv keeps it, quantized matrices and all, so that nothing is left to do when it is
//! loaded.
//!
//! With `--mix web-rwkv` the files are those that web-rwkv saves, byte for byte: it quantizes the large matrices of the
//! blocks and nothing else. (Decays of versions 4 and 5, exponentials, are rounded here and not as some GPU does.) It
//! loads more than it makes: our own mix quantizes the head and the low-rank matrices too, a sixth of the file of a
//! 1.5B model.
//!
//! Its kernels for many tokens read one scale for every 32 (int8) or 64 (fp4) values along a row, so rows that are no
//! whole multiples of that fall back ([`fitting`](crate::recipe::fitting)). web-rwkv does not look: its own nf4 of a
//! model with rows of 224 gives other logits for 32 tokens at a time than for one after the other.

use formats::{Metadata, Planned, Value};
use quant::Encoding;

use super::{padded_rank, padded_vocabulary, prepared, stored_as, takes, unfit};
use crate::error::Result;
use crate::model::{Map, Model, ModelTensor, Rank, Role, TensorView, Version, prefab};
use crate::recipe::{FileType, Mix};
use crate::scheme::Scheme;
use crate::targets::files::names;
use crate::targets::{Files, Item, LayoutInput, Objection, PlannedFile, Target};

/// The target `.prefab`.
pub struct Prefab;

/// Runtimes that load such files.
pub(crate) const RUNTIMES: &str = "web-rwkv, Ai00, RWKV App";

/// The fields outside the layers, in the order of web-rwkv's structures; the norms are called otherwise before
/// version 7.
const OUTSIDE: &[&str] = &["embed.ln.w", "embed.ln.b", "embed.w", "head.ln.w", "head.ln.b", "head.w"];

/// The fields of a layer up to version 6; each version has some of them.
const LAYER: &[&str] = &[
    "att_layer_norm.w",
    "att_layer_norm.b",
    "ffn_layer_norm.w",
    "ffn_layer_norm.b",
    "att.time_decay",
    "att.time_first",
    "att.time_mix_x",
    "att.time_mix",
    "att.time_decay_w1",
    "att.time_decay_w2",
    "att.time_mix_w1",
    "att.time_mix_w2",
    "att.time_mix_k",
    "att.time_mix_v",
    "att.time_mix_r",
    "att.time_mix_g",
    "att.w_k",
    "att.w_v",
    "att.w_r",
    "att.w_g",
    "att.w_o",
    "att.group_norm.w",
    "att.group_norm.b",
    "ffn.time_mix_k",
    "ffn.time_mix_r",
    "ffn.w_k",
    "ffn.w_v",
    "ffn.w_r",
];

/// The fields of a layer of version 7.
#[rustfmt::skip]
const LAYER_7: &[&str] = &[
    "att_ln.w", "att_ln.b", "ffn_ln.w", "ffn_ln.b",
    "att.x_r", "att.x_w", "att.x_k", "att.x_v", "att.x_a", "att.x_g", "att.w0", "att.a0", "att.v0",
    "att.w1", "att.w2", "att.a1", "att.a2", "att.g1", "att.g2", "att.v1", "att.v2",
    "att.r_k", "att.k_k", "att.k_a", "att.w_k", "att.w_v", "att.w_r", "att.w_o", "att.gn.w", "att.gn.b",
    "ffn.x_k", "ffn.w_k", "ffn.w_v",
];

/// Interval in layers at which web-rwkv halves the activations of versions 4 to 6, so that they stay within f16.
const RESCALE: usize = 6;
/// Halving interval for version 7, which needs no halving: more than any model has.
const NEVER: usize = 1024;
/// Interval in layers at which web-rwkv sends its commands to the GPU.
const SEPARATE: u64 = 1024;

impl Target for Prefab {
    fn id(&self) -> &'static str {
        "prefab"
    }

    fn name(&self) -> &'static str {
        "web-rwkv .prefab"
    }

    fn runtimes(&self) -> &'static str {
        RUNTIMES
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["prefab"]
    }

    fn takes(&self, version: &Version) -> bool {
        takes(version)
    }

    fn holds(&self, file_type: &FileType) -> bool {
        matches!(file_type.matrix, Encoding::F16 | Encoding::Int8 | Encoding::Fp4)
    }

    fn recipe_types(&self) -> &'static [Encoding] {
        &[Encoding::F16, Encoding::Int8, Encoding::Fp4]
    }

    fn mixes(&self) -> &'static [Mix] {
        &[Mix::Own, Mix::WebRwkv]
    }

    fn check(&self, model: &Model) -> Result<Vec<Objection>> {
        super::check(model)
    }

    fn plans_layers(&self) -> bool {
        true
    }

    fn items(&self, model: &Model, scheme: &Scheme) -> Result<Vec<Item>> {
        let mut fields = Vec::new();
        for held in model.tensors.iter().filter(|held| !held.is_unread()) {
            fields.push(Field::of(model, held, rescale(model, scheme)).ok_or_else(|| unfit(model, held))?);
        }
        let mut items = Vec::new();
        let seven = model.version.major() == 7;
        for name in OUTSIDE {
            let name = if seven { (*name).to_owned() } else { name.replace(".ln.", ".layer_norm.") };
            items.extend(Field::item(&fields, &name, &name));
        }
        for layer in 0..model.dims.layers {
            for field in if seven { LAYER_7 } else { LAYER } {
                let name = format!("layers.{layer}.{field}");
                // Block 0 has no value residual, and web-rwkv puts the learning rate in its place.
                let twin = match layer {
                    0 => name.replace("att.v", "att.a"),
                    _ => name.clone(),
                };
                let item = Field::item(&fields, &name, &twin);
                let plain = scheme.layers.is_some_and(|layers| layer >= layers).then_some(Encoding::F16);
                items.extend(item.map(|item| Item { fixed: item.fixed.or(plain), ..item }));
            }
        }
        Ok(items)
    }

    fn files(&self, order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Files> {
        let metadata = metadata(order.model, rescale(order.model, order.scheme));
        let mut files = Vec::new();
        for (tensors, name) in groups.iter().zip(names(order.out, groups.len())?) {
            let layout = formats::prefab::place(&metadata, tensors, is_matrix)?.into();
            files.push(PlannedFile { name, layout });
        }
        Ok(Files { metadata, files, small: Vec::new() })
    }
}

/// A tensor under the name of its field; parts of a stack still apart.
struct Field<'a> {
    name: String,
    stack: Option<usize>,
    held: &'a ModelTensor,
    values: TensorView,
}

impl<'a> Field<'a> {
    fn of(model: &Model, held: &'a ModelTensor, rescale: usize) -> Option<Field<'a>> {
        let (stored, values) = prepared(model, held, prefab)?;
        let version = stored_as(model.version)?;
        let dims = &model.dims;
        let values = match (version.major(), held.spec.short_name()) {
            (_, "emb.weight" | "head.weight") => padded_vocabulary(model, &values)?,
            (4, "att.time_decay") => flat(&values.mapped(Map::F16).mapped(Map::NegExp))?,
            (5, "att.time_decay") => flat(&values.mapped(Map::F16).mapped(Map::ExpNegExp))?,
            (4..=6, "att.time_faaaa" | "att.time_first") => flat(&values.mapped(Map::F16))?,
            (_, "att.ln_x.weight" | "att.ln_x.bias") => values.reshaped(&[dims.heads, dims.head_size])?,
            (_, "att.r_k") => values,
            (_, "att.output.weight" | "ffn.value.weight") => match held.layer / rescale {
                0 => values,
                n => values.mapped(Map::F16).mapped(Map::Scale((-(n as f32)).exp2())),
            },
            _ if held.spec.role == Role::Vector => flat(&values)?,
            _ => values,
        };
        Some(Field { name: stored.name_in(held.layer), stack: stored.stack, held, values })
    }

    /// The item `name`, made of the fields called `twin`; `None` if the version has no such field.
    fn item(fields: &[Field<'_>], name: &str, twin: &str) -> Option<Item> {
        let mut parts: Vec<&Field<'_>> = fields.iter().filter(|f| f.name == twin).collect();
        parts.sort_by_key(|f| f.stack);
        let first = parts.first()?;
        let values = if first.stack.is_some() {
            let stacked = TensorView::stacked(&parts.iter().map(|f| f.values.clone()).collect::<Vec<_>>())?;
            let (count, cols) = (parts.len(), stacked.cols());
            stacked.reshaped(&[count, 1, cols])?
        } else {
            let shape = first.values.shape();
            // A blob does not tell dimensions of one at its end from none.
            let ones = shape.iter().take(shape.len() - 1).take_while(|dim| **dim == 1).count();
            first.values.reshaped(&shape[ones..])?
        };
        let spec = first.held.spec;
        let fixed = match spec.role {
            Role::Embedding => Some(Encoding::F16),
            Role::Vector if name.ends_with("time_first") => Some(Encoding::F32),
            // Version 6 adds what depends on the data before it takes the exponential.
            Role::Vector if name.ends_with("time_decay") && spec.shape.len() < 3 => Some(Encoding::F32),
            Role::Vector => Some(Encoding::F16),
            _ => None,
        };
        Some(Item { name: name.to_owned(), role: spec.role, values, fixed, unread: false })
    }
}

fn flat(values: &TensorView) -> Option<TensorView> {
    values.reshaped(&[values.elements()])
}

/// Interval in layers at which the activations are halved.
fn rescale(model: &Model, scheme: &Scheme) -> usize {
    match scheme.rescale {
        Some(0) => NEVER,
        Some(layers) => layers,
        None if model.version.major() == 7 => NEVER,
        None => RESCALE,
    }
}

/// True if a field is a matrix of whatever kind: the head, the large matrices, the low-rank ones.
fn is_matrix(name: &str) -> bool {
    let field = name.rsplit('.').next().unwrap_or_default();
    name == "head.w" || field.starts_with("w_") || field.ends_with(['1', '2'])
}

/// Metadata that web-rwkv wants to know of the model.
fn metadata(model: &Model, rescale: usize) -> Metadata {
    let (dims, version) = (&model.dims, model.version);
    let number = |n: usize| Value::U64(n as u64);
    let mut keys: Metadata = vec![
        ("context".into(), Value::from(Vec::<u8>::new())),
        ("info.version".into(), Value::String(format!("V{}", version.major()))),
        ("info.num_layer".into(), number(dims.layers)),
        ("info.num_emb".into(), number(dims.embd)),
        ("info.num_hidden".into(), number(dims.ffn)),
        ("info.num_vocab".into(), number(dims.vocab)),
        ("info.num_head".into(), number(dims.heads.max(1))),
    ];
    let ranks: &[(&str, Rank)] = match version.major() {
        6 => &[("time_mix", Rank::Mix), ("time_decay", Rank::Decay)],
        7 => &[("w", Rank::Decay), ("a", Rank::Iclr), ("g", Rank::Gate), ("v", Rank::Value)],
        _ => &[],
    };
    if ranks.is_empty() {
        keys.push(("info.custom".into(), "None".into()));
    }
    for (name, rank) in ranks {
        let key = format!("info.custom.V{}.{name}", version.major());
        keys.push((key, number(padded_rank(model, *rank))));
    }
    keys.push(("rescale".into(), number(rescale)));
    keys.push(("sep".into(), Value::U64(SEPARATE)));
    keys
}

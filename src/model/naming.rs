//! Names and orientations of the tensors in families of files.

use super::spec::{Role, TensorSpec, fill};
use super::{Body, Map, Version};

/// Storage of a model's tensors in a family of files.
#[derive(Debug)]
pub struct Naming {
    /// Common name of the family.
    pub name: &'static str,
    /// The container formats ([`formats::Format::name`]) that it is found in.
    pub formats: &'static [&'static str],
    /// True if names may stand behind wrappers such as `module.`.
    pub wrapped: bool,
    /// Storage of a spec of a version; `None` if this naming does not know the version or spec.
    store: fn(&Version, &TensorSpec) -> Option<Stored>,
}

/// Storage of one spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its name; `{}` stands for the block's number.
    pub name: String,
    /// True if its last two dimensions are swapped against BlinkDL's.
    pub transposed: bool,
    /// Its place along the first dimension, if it is stacked with others under this name.
    pub stack: Option<usize>,
    /// The dimension whose groups are stored in another order than BlinkDL's, and where each of his is stored.
    pub regroup: Option<(usize, &'static [usize])>,
    /// Map that turns the stored values into BlinkDL's.
    pub undo: Option<Map>,
}

impl Stored {
    fn named(name: impl Into<String>) -> Stored {
        Stored { name: name.into(), transposed: false, stack: None, regroup: None, undo: None }
    }

    /// The name in block `layer`.
    pub fn name_in(&self, layer: usize) -> String {
        fill(&self.name, layer)
    }
}

impl Naming {
    /// Storage of `spec` of `version`, if this naming has it.
    pub fn store(&self, version: &Version, spec: &TensorSpec) -> Option<Stored> {
        (self.store)(version, spec)
    }
}

const TENSOR_FILES: &[&str] = &["safetensors", "torch"];

/// Naming of flash-linear-attention's folders.
pub const FLA: Naming =
    Naming { name: "flash-linear-attention", formats: TENSOR_FILES, wrapped: true, store: fla };

/// Naming of transformers' folders of RWKV-4, and of those of the remote code of RWKV-5 and 6.
pub const HUGGING_FACE: Naming =
    Naming { name: "Hugging Face", formats: TENSOR_FILES, wrapped: true, store: hugging_face };

/// Every naming, in the order they are tried.
pub static NAMINGS: &[Naming] = &[
    Naming { name: "llama.cpp", formats: &["GGUF"], wrapped: false, store: gguf },
    Naming { name: "rwkv.cpp", formats: &["rwkv.cpp"], wrapped: false, store: rwkv_cpp },
    FLA,
    Naming {
        name: "flash-linear-attention (stacked x_x)",
        formats: TENSOR_FILES,
        wrapped: true,
        store: fla_x_x,
    },
    Naming { name: "Hugging Face (Qwen2 hybrid)", formats: TENSOR_FILES, wrapped: false, store: qwen2 },
    HUGGING_FACE,
    Naming { name: "Hugging Face (model.blocks)", formats: TENSOR_FILES, wrapped: true, store: hf_blocks },
    Naming { name: "BlinkDL", formats: TENSOR_FILES, wrapped: true, store: blinkdl },
    Naming { name: "BlinkDL", formats: &["compact"], wrapped: false, store: blinkdl },
    Naming { name: "web-rwkv", formats: &["safetensors"], wrapped: false, store: web_rwkv },
    Naming { name: "web-rwkv", formats: &["prefab"], wrapped: false, store: prefab },
];

fn blinkdl(_: &Version, spec: &TensorSpec) -> Option<Stored> {
    Some(Stored::named(spec.name))
}

/// GGUF files of llama.cpp: own names, low-rank matrices [out, in], token-shift vectors stacked.
fn gguf(_: &Version, spec: &TensorSpec) -> Option<Stored> {
    let transposed = spec.role == Role::LowRank;
    Some(Stored { transposed, stack: spec.stack, ..Stored::named(spec.gguf?) })
}

/// Folders of flash-linear-attention, RWKV-7 only: low-rank matrices are `nn.Linear`, so [out, in].
fn fla(_: &Version, spec: &TensorSpec) -> Option<Stored> {
    Some(Stored { transposed: spec.role == Role::LowRank, ..Stored::named(spec.fla?) })
}

/// Folders of flash-linear-attention of early 2025: one tensor `x_x` [6, C] for the six token-shift vectors.
fn fla_x_x(version: &Version, spec: &TensorSpec) -> Option<Stored> {
    let stored = fla(version, spec)?;
    Some(match spec.stack {
        Some(_) => Stored { stack: spec.stack, ..Stored::named("model.layers.{}.attn.x_x") },
        None => stored,
    })
}

/// Folders of transformers (RWKV-4) and of BBuf's remote code (RWKV-5 and 6).
fn hugging_face(version: &Version, spec: &TensorSpec) -> Option<Stored> {
    if version.major() > 6 {
        return None;
    }
    let name = match spec.name {
        "head.weight" => "head.weight".to_owned(),
        "emb.weight" => "rwkv.embeddings.weight".to_owned(),
        other => {
            let mut name = format!("rwkv.{other}")
                .replace(".att.", ".attention.")
                .replace(".ffn.", ".feed_forward.")
                .replace(".ln0.", ".pre_ln.");
            for (short, long) in [("k", "key"), ("v", "value"), ("r", "receptance"), ("g", "gate")] {
                if name.ends_with(&format!(".time_mix_{short}")) {
                    name.truncate(name.len() - 1);
                    name += long;
                }
            }
            name
        }
    };
    Some(Stored::named(name))
}

/// The other Hugging Face naming of RWKV-7, in BlinkDL's orientation.
fn hf_blocks(version: &Version, spec: &TensorSpec) -> Option<Stored> {
    if version.major() != 7 {
        return None;
    }
    Some(Stored::named(match spec.name {
        "head.weight" => "head.weight".to_owned(),
        "emb.weight" => "model.embeddings.weight".to_owned(),
        other => format!("model.{}", other.replace("blocks.0.ln0.", "pre_ln."))
            .replace(".att.", ".attention.")
            .replace(".ffn.", ".feed_forward."),
    }))
}

/// Folders of the hybrids with Qwen2, whose own parts keep Qwen2's names. RWKV6-Qwen2 stores the five branches of
/// its token shift in the order r, k, v, w, g instead of w, k, v, r, g.
fn qwen2(version: &Version, spec: &TensorSpec) -> Option<Stored> {
    const ORDER: &[usize] = &[3, 1, 2, 0, 4];
    if version.body != Body::Qwen2 {
        return None;
    }
    let seven = version.major() == 7;
    let name = match spec.name {
        "emb.weight" => "model.embed_tokens.weight".to_owned(),
        "head.weight" => "lm_head.weight".to_owned(),
        "ln_out.weight" => "model.norm.weight".to_owned(),
        "blocks.{}.ln1.weight" => "model.layers.{}.input_layernorm.weight".to_owned(),
        "blocks.{}.ln2.weight" => "model.layers.{}.post_attention_layernorm.weight".to_owned(),
        other => {
            let (part, leaf) = other.strip_prefix("blocks.{}.")?.split_once('.')?;
            let projected = |short: &str| {
                leaf.split_once('.')
                    .map(|(_, kind)| format!("model.layers.{{}}.self_attn.{short}_proj.{kind}"))
            };
            match (part, leaf.split('.').next()?) {
                ("ffn", name) => format!("model.layers.{{}}.mlp.{name}_proj.weight"),
                (_, _) if seven => format!("model.layers.{{}}.self_attn.time_mixer.{leaf}"),
                (_, "receptance") => projected("q")?,
                (_, "key") => projected("k")?,
                (_, "value") => projected("v")?,
                (_, "output") => projected("o")?,
                (_, _) => format!("model.layers.{{}}.self_attn.{leaf}"),
            }
        }
    };
    let regroup = match spec.short_name() {
        "att.time_maa_w1" => Some((1, ORDER)),
        "att.time_maa_w2" => Some((0, ORDER)),
        _ => None,
    };
    Some(Stored { regroup, ..Stored::named(name) })
}

/// Files for web-rwkv and Ai00: BlinkDL's names with two words changed, low-rank matrices [out, in]. (Of version 5 they
/// know 5.2 only: 5.1 is made into it.)
pub(crate) fn web_rwkv(version: &Version, spec: &TensorSpec) -> Option<Stored> {
    if matches!(version.name, "5.0" | "5.1" | "7a") || version.body != Body::Rwkv {
        return None;
    }
    let name = spec.name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix");
    Some(Stored { transposed: spec.role == Role::LowRank, ..Stored::named(name) })
}

/// Prefabs of web-rwkv: the names of its structures' fields, which differ between version 7 and those before; decays
/// of versions 4 and 5 are stored transformed, the token-shift vectors of version 6 stacked.
pub(crate) fn prefab(version: &Version, spec: &TensorSpec) -> Option<Stored> {
    let stored = web_rwkv(version, spec)?;
    let seven = version.major() == 7;
    let norm = if seven { "ln" } else { "layer_norm" };
    let group_norm = if seven { "gn" } else { "group_norm" };
    let short = |kind: &str| if kind == "bias" { "b" } else { "w" };
    let parts: Vec<&str> = stored.name.split('.').collect();
    let name = match parts.as_slice() {
        ["emb", _] => "embed.w".to_owned(),
        ["head", _] => "head.w".to_owned(),
        ["ln_out", kind] => format!("head.{norm}.{}", short(kind)),
        ["blocks", "0", "ln0", kind] => format!("embed.{norm}.{}", short(kind)),
        ["blocks", n, "ln1", kind] => format!("layers.{n}.att_{norm}.{}", short(kind)),
        ["blocks", n, "ln2", kind] => format!("layers.{n}.ffn_{norm}.{}", short(kind)),
        ["blocks", n, "att", "ln_x", kind] => format!("layers.{n}.att.{group_norm}.{}", short(kind)),
        ["blocks", n, part, matrix, "weight"] => {
            let letter = if *matrix == "output" { "o" } else { matrix.get(..1)? };
            format!("layers.{n}.{part}.w_{letter}")
        }
        ["blocks", n, "att", _] if version.major() == 6 && spec.stack.is_some() => {
            format!("layers.{n}.att.time_mix")
        }
        ["blocks", n, part, vector] => format!("layers.{n}.{part}.{vector}"),
        _ => return None,
    };
    let stack = spec.stack.filter(|_| version.major() == 6);
    let undo = match (version.major(), spec.short_name()) {
        (4, "att.time_decay") => Some(Map::LnNeg),
        (5, "att.time_decay") => Some(Map::LnNegLn),
        _ => None,
    };
    Some(Stored { name, stack, undo, ..stored })
}

/// Files of rwkv.cpp: BlinkDL's names; decays and bonuses of versions 4 and 5 are stored transformed, low-rank
/// matrices [out, in], the token-shift vectors of version 7 stacked.
fn rwkv_cpp(version: &Version, spec: &TensorSpec) -> Option<Stored> {
    let mut stored = Stored { transposed: spec.role == Role::LowRank, ..Stored::named(spec.name) };
    match (version.major(), spec.short_name()) {
        (4, "att.time_decay") => stored.undo = Some(Map::LnNeg),
        (5, "att.time_decay") => stored.undo = Some(Map::LnNegLn),
        (5, "att.time_first") => stored.undo = Some(Map::Ln),
        (7, _) if spec.stack.is_some() => {
            stored = Stored { stack: spec.stack, ..Stored::named("blocks.{}.att.x_rwkvag") };
        }
        _ => {}
    }
    Some(stored)
}

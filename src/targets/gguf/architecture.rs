//! llama.cpp's architectures: which keys each one reads, and in which order its converter writes them.

use formats::Value;

use crate::error::{Error, Result};
use crate::model::{Body, Model, Rank, Version};
use crate::recipe::FileType;

/// One architecture of llama.cpp.
pub(super) struct Architecture {
    /// Its name: the value of `general.architecture`.
    pub name: &'static str,
    /// Its keys, and what they hold.
    pub keys: &'static [(&'static str, Holds)],
}

/// Content of a key.
#[derive(Clone, Copy)]
pub(super) enum Holds {
    /// A constant.
    Constant(u32),
    /// Longest text: any number.
    Context,
    /// Number of heads: 0, since it follows from their size.
    Heads,
    /// Number of blocks after which two matrices are halved: never.
    Rescale,
    /// Number of blocks.
    Blocks,
    /// Width of the residual stream.
    Width,
    /// Width of the channel mix.
    Hidden,
    /// Size of a head.
    HeadSize,
    /// Number of heads that the keys and values have.
    KeyHeads,
    /// A rank; the key is left out if the model has no such branch.
    Rank(Rank),
    /// A rank, 0 if the model has no such branch.
    RankOrZero(Rank),
    /// Epsilon of the LayerNorms.
    NormEpsilon,
    /// Epsilon of the RMS norms.
    RmsEpsilon,
    /// GGUF's number of the file type.
    FileTypeNumber,
}

use Holds::{
    Blocks, Constant, Context, FileTypeNumber, HeadSize, Heads, Hidden, KeyHeads, NormEpsilon,
    Rank as OfRank, RankOrZero, Rescale, RmsEpsilon, Width,
};

/// RWKV has no limit; this is the number that llama.cpp's own converter writes.
const CONTEXT_LENGTH: u32 = 1 << 20;

const RWKV6: Architecture = Architecture {
    name: "rwkv6",
    keys: &[
        ("rwkv6.context_length", Context),
        ("rwkv6.embedding_length", Width),
        ("rwkv6.block_count", Blocks),
        ("rwkv6.attention.layer_norm_epsilon", NormEpsilon),
        ("rwkv6.rescale_every_n_layers", Rescale),
        ("rwkv6.wkv.head_size", HeadSize),
        ("rwkv6.time_mix_extra_dim", OfRank(Rank::Mix)),
        ("rwkv6.time_decay_extra_dim", OfRank(Rank::Decay)),
        ("rwkv6.feed_forward_length", Hidden),
        ("general.file_type", FileTypeNumber),
        ("rwkv6.attention.head_count", Heads),
    ],
};

const RWKV7: Architecture = Architecture {
    name: "rwkv7",
    keys: &[
        ("rwkv7.context_length", Context),
        ("rwkv7.embedding_length", Width),
        ("rwkv7.block_count", Blocks),
        ("rwkv7.attention.layer_norm_epsilon", NormEpsilon),
        ("rwkv7.wkv.head_size", HeadSize),
        ("rwkv7.attention.decay_lora_rank", OfRank(Rank::Decay)),
        ("rwkv7.attention.iclr_lora_rank", OfRank(Rank::Iclr)),
        ("rwkv7.attention.value_residual_mix_lora_rank", OfRank(Rank::Value)),
        ("rwkv7.attention.gate_lora_rank", OfRank(Rank::Gate)),
        ("rwkv7.feed_forward_length", Hidden),
        ("general.file_type", FileTypeNumber),
        ("rwkv7.attention.head_count", Heads),
    ],
};

const ARWKV7: Architecture = Architecture {
    name: "arwkv7",
    keys: &[
        ("arwkv7.context_length", Context),
        ("arwkv7.embedding_length", Width),
        ("arwkv7.block_count", Blocks),
        ("arwkv7.attention.layer_norm_rms_epsilon", RmsEpsilon),
        ("arwkv7.wkv.head_size", HeadSize),
        ("arwkv7.attention.decay_lora_rank", OfRank(Rank::Decay)),
        ("arwkv7.attention.iclr_lora_rank", OfRank(Rank::Iclr)),
        ("arwkv7.attention.value_residual_mix_lora_rank", OfRank(Rank::Value)),
        ("arwkv7.attention.gate_lora_rank", RankOrZero(Rank::Gate)),
        ("arwkv7.feed_forward_length", Hidden),
        ("general.file_type", FileTypeNumber),
        ("arwkv7.token_shift_count", Constant(1)),
        ("arwkv7.attention.head_count", Heads),
    ],
};

const RWKV6_QWEN2: Architecture = Architecture {
    name: "rwkv6qwen2",
    keys: &[
        ("rwkv6qwen2.context_length", Context),
        ("rwkv6qwen2.embedding_length", Width),
        ("rwkv6qwen2.block_count", Blocks),
        ("rwkv6qwen2.wkv.head_size", HeadSize),
        ("rwkv6qwen2.time_mix_extra_dim", OfRank(Rank::Mix)),
        ("rwkv6qwen2.time_decay_extra_dim", OfRank(Rank::Decay)),
        ("rwkv6qwen2.feed_forward_length", Hidden),
        ("general.file_type", FileTypeNumber),
        ("rwkv6qwen2.attention.layer_norm_rms_epsilon", RmsEpsilon),
        ("rwkv6qwen2.token_shift_count", Constant(1)),
        ("rwkv6qwen2.attention.head_count_kv", KeyHeads),
        ("rwkv6qwen2.attention.head_count", Heads),
    ],
};

impl Architecture {
    /// The architecture that a version is in llama.cpp.
    pub fn of(version: &Version) -> Option<&'static Architecture> {
        Some(match (version.major(), version.body) {
            (6, Body::Rwkv) => &RWKV6,
            (7, Body::Rwkv) => &RWKV7,
            (6, Body::Qwen2) => &RWKV6_QWEN2,
            (7, Body::Qwen2) => &ARWKV7,
            _ => return None,
        })
    }
}

impl Holds {
    /// The value for `model`; `None` if the key is to be left out.
    pub fn value(self, model: &Model, file_type: &FileType) -> Result<Option<Value>> {
        // Far below 2^32: every dimension was fitted to a tensor in the file.
        let number = |size: usize| Value::U32(size as u32);
        let dims = &model.dims;
        Ok(Some(match self {
            Constant(n) => Value::U32(n),
            Context => Value::U32(CONTEXT_LENGTH),
            Heads | Rescale => Value::U32(0),
            Blocks => number(dims.layers),
            Width => number(dims.embd),
            Hidden => number(dims.ffn),
            HeadSize => number(dims.head_size),
            KeyHeads => number(dims.kv.checked_div(dims.head_size).unwrap_or(0)),
            // A model of one block mixes no values, and llama.cpp wants the rank all the same.
            OfRank(Rank::Value) => {
                let ranks = [Rank::Value, Rank::Iclr].map(|rank| model.uniform_rank(rank));
                return Ok(ranks.into_iter().flatten().next().map(number));
            }
            OfRank(rank) => return Ok(model.uniform_rank(rank).map(number)),
            RankOrZero(rank) => number(model.uniform_rank(rank).unwrap_or(0)),
            FileTypeNumber => match file_type.gguf_number {
                Some(number) => Value::U32(number),
                None => return Ok(None),
            },
            NormEpsilon => Value::F32(norm_epsilon(model)?),
            RmsEpsilon => match epsilon(model, &["rms_norm_eps"], "layer_norm_rms_epsilon")? {
                Some(stated) => Value::F32(stated),
                None => return Err(no_epsilon(model)),
            },
        }))
    }
}

impl Holds {
    /// The numbers that the key may have in a file of `model`; none if its tensors do not tell.
    pub fn allowed(self, model: &Model) -> Vec<u64> {
        let dims = &model.dims;
        let ranks = |rank| model.ranks.iter().filter_map(move |ranks| ranks.get(&rank).copied());
        match self {
            Constant(n) => vec![n.into()],
            Blocks => vec![dims.layers as u64],
            Width => vec![dims.embd as u64],
            Hidden => vec![dims.ffn as u64],
            HeadSize => vec![dims.head_size as u64],
            Heads => vec![0, dims.heads as u64],
            KeyHeads => dims.kv.checked_div(dims.head_size).map(|n| n as u64).into_iter().collect(),
            OfRank(rank) | RankOrZero(rank) => {
                let mut all: Vec<u64> = ranks(rank).map(|n| n as u64).collect();
                all.sort_unstable();
                all.dedup();
                if all.is_empty() && matches!(self, RankOrZero(_)) { vec![0] } else { all }
            }
            Context | Rescale | FileTypeNumber | NormEpsilon | RmsEpsilon => Vec::new(),
        }
    }
}

/// The epsilon of every LayerNorm of BlinkDL's models.
const LAYER_NORM_EPSILON: f32 = 1e-5;

/// The epsilon of the LayerNorms: what a Hugging Face folder or a GGUF file states, else BlinkDL's.
pub(crate) fn norm_epsilon(model: &Model) -> Result<f32> {
    let stated = epsilon(model, &["layer_norm_epsilon", "norm_eps"], "layer_norm_epsilon")?;
    Ok(stated.unwrap_or(LAYER_NORM_EPSILON))
}

/// The epsilon that a Hugging Face folder (under one of `stated_as`) or a GGUF file states.
fn epsilon(model: &Model, stated_as: &[&str], key: &str) -> Result<Option<f32>> {
    let stated = model.container.config().and_then(|config| {
        stated_as.iter().find_map(|key| config.get(*key)).and_then(serde_json::Value::as_f64)
    });
    let carried = model.container.metadata().iter().find_map(|(k, value)| match value {
        Value::F32(epsilon) if k.strip_suffix(key).is_some_and(|k| k.ends_with(".attention.")) => {
            Some(*epsilon)
        }
        _ => None,
    });
    let Some(epsilon) = stated.map(|e| e as f32).or(carried) else { return Ok(None) };
    if epsilon.is_finite() && epsilon > 0.0 {
        return Ok(Some(epsilon));
    }
    Err(Error::Model {
        path: model.container.path().to_owned(),
        what: format!("states {epsilon} as the epsilon of its norms"),
        help: format!("correct {} in config.json (1e-05 for released RWKV, 1e-06 for Qwen2)", stated_as[0]),
    })
}

fn no_epsilon(model: &Model) -> Error {
    Error::Model {
        path: model.container.path().to_owned(),
        what: "does not tell the epsilon of its norms: that stands in the config.json of its folder, as \
               rms_norm_eps"
            .to_owned(),
        help: "give the whole folder, with its config.json".to_owned(),
    }
}

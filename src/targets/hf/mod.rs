//! Hugging Face folders: what `from_pretrained` opens.
//!
//! ```text
//! RWKV-4     transformers' own RwkvForCausalLM (up to its version 4)
//! RWKV-5.2   the remote code Rwkv5ForCausalLM          RWKV-6   the remote code Rwkv6ForCausalLM
//! RWKV-7     RWKV7ForCausalLM of flash-linear-attention
//! ```
//!
//! The folder gets `config.json`, the weights (with an index if they are split), the vocabulary if it is known, and,
//! if the source is such a folder itself, its other small files: the tokenizer's, the code's, the settings of
//! generation. Code is never made up: a folder made from a checkpoint needs that of its architecture installed.
//!
//! Weights are plain, or those of the blocks' matrices in the 4 bits of [bitsandbytes], loaded without quantizing.

mod bitsandbytes;
pub(crate) mod config;
mod small;
mod vocabulary;

pub(crate) use small::left_out;

use std::ffi::OsString;
use std::path::Path;

use formats::Planned;

use super::blinkdl::{plain, sort};
use super::{Files, Item, LayoutInput, Objection, SmallFile, Target};
use crate::error::{Error, Result};
use crate::metadata::Tokens;
use crate::model::{Body, FLA, HUGGING_FACE, Model, ModelTensor, Naming, Rank, Role, TensorView, Version};
use crate::recipe::FileType;
use crate::scheme::Scheme;
use crate::vocab::Tokenizer;

/// The target Hugging Face folder.
pub struct HuggingFace;

/// The name of the weights in one file.
const WEIGHTS: &str = "model.safetensors";

/// The head size at which flash-linear-attention's group norm has BlinkDL's epsilon.
const HEAD_SIZE_7: usize = 64;

impl Target for HuggingFace {
    fn id(&self) -> &'static str {
        "hf"
    }

    fn name(&self) -> &'static str {
        "Hugging Face folder"
    }

    fn runtimes(&self) -> &'static str {
        "transformers, flash-linear-attention"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &[]
    }

    fn takes(&self, version: &Version) -> bool {
        version.body == Body::Rwkv && config::architecture(version).is_some()
    }

    fn holds(&self, file_type: &FileType) -> bool {
        file_type.is_plain() || bitsandbytes::is_wanted(file_type)
    }

    fn default_type(&self) -> Option<&'static str> {
        Some("source")
    }

    fn tokens(&self) -> Tokens {
        Tokens::IfKnown
    }

    fn is_folder(&self) -> bool {
        true
    }

    fn splits(&self) -> bool {
        true
    }

    fn holds_checksums(&self) -> bool {
        true
    }

    fn check(&self, model: &Model) -> Result<Vec<Objection>> {
        if model.version.major() < 7 {
            return Ok(Vec::new());
        }
        for rank in Rank::ALL {
            let has = model.ranks.iter().any(|r| r.contains_key(&rank));
            if has && model.uniform_rank(rank).is_none() {
                return Err(Error::Model {
                    path: model.container.path().to_owned(),
                    what: format!(
                        "has different {} ranks in different blocks, and flash-linear-attention knows one",
                        rank.name()
                    ),
                    help: "write .pth or .safetensors, which hold any".to_owned(),
                });
            }
        }
        let mut objections = Vec::new();
        if model.dims.head_size != HEAD_SIZE_7 {
            objections.push(Objection {
                what: format!(
                    "has heads of size {}, for which flash-linear-attention's group norm has another epsilon (right: \
                     {HEAD_SIZE_7})",
                    model.dims.head_size
                ),
                help: "write .pth or .safetensors for the pip package rwkv or candle".to_owned(),
            });
        }
        Ok(objections)
    }

    fn items(&self, model: &Model, scheme: &Scheme) -> Result<Vec<Item>> {
        let naming = if model.version.major() == 7 { &FLA } else { &HUGGING_FACE };
        let read = model.tensors.iter().filter(|t| !t.is_unread());
        let mut items =
            read.map(|held| item(held, naming, model, scheme.file_type)).collect::<Result<Vec<_>>>()?;
        sort(&mut items);
        Ok(items)
    }

    fn files(&self, order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Files> {
        let mut files = if bitsandbytes::is_wanted(order.scheme.file_type) {
            Files::bitsandbytes(Path::new(WEIGHTS), groups, bitsandbytes::dtype(order.model, groups))?
        } else {
            Files::safetensors(Path::new(WEIGHTS), groups, order.checksums)?
        };
        let mut put = |name: &str, text: String| {
            files.small.push(SmallFile { name: OsString::from(name), bytes: text.into_bytes() });
        };
        put("config.json", format!("{:#}\n", config::config(order, groups)?));
        let carried = small::carried(order.model)?;
        if let (Some(Tokenizer::Rwkv(vocab)), true) =
            (&order.about.tokenizer, carried.iter().all(|f| f.name != vocabulary::FILE))
        {
            put(vocabulary::FILE, vocabulary::text(vocab));
        }
        files.small.extend(carried);
        Ok(files)
    }
}

/// A tensor under its name there, and in its shape there.
fn item(held: &ModelTensor, naming: &Naming, model: &Model, file_type: &FileType) -> Result<Item> {
    let unfit = || Error::Tensor {
        path: model.container.path().to_owned(),
        tensor: held.name(),
        what: "has no place in such a folder".to_owned(),
        help: "please report this file as a bug".to_owned(),
    };
    let stored = naming.store(model.version, held.spec).ok_or_else(unfit)?;
    let fixed = match bitsandbytes::is_wanted(file_type) {
        true => bitsandbytes::encoding(model, held)?,
        false => plain(model, held, file_type)?,
    };
    let values = if stored.transposed { held.values.transposed() } else { shaped(held, model.version) };
    Ok(Item {
        name: stored.name_in(held.layer),
        role: held.spec.role,
        values: values.ok_or_else(unfit)?,
        fixed: Some(fixed),
        unread: false,
    })
}

/// flash-linear-attention keeps the two dimensions of one of its token-shift vectors only.
fn shaped(held: &ModelTensor, version: &Version) -> Option<TensorView> {
    let shift = held.spec.short_name().starts_with("att.x_");
    let flat = version.major() == 7 && held.spec.role == Role::Vector && !shift;
    if !flat || held.spec.short_name() == "att.r_k" {
        return Some(held.values.clone());
    }
    held.values.reshaped(&[held.values.elements()])
}

//! Compact files, in BlinkDL's names and shapes: what this program runs itself and expands to all other files.

use formats::compact::{Section, place};
use formats::{Metadata, Planned, Value};
use quant::coding::Coding;
use quant::{Codec, Encoding, codec};

use super::files::names;
use super::{Files, Item, LayoutInput, Objection, PlannedFile, Target, blinkdl};
use crate::equalize;
use crate::error::{Error, Result};
use crate::metadata::{CalibrationFingerprint, Tokens, gguf_tokenizer};
use crate::model::{Body, Model, ModelTensor, Role, Version};
use crate::recipe::{FileType, Levels, Recipe};
use crate::scheme::Importance;
use crate::scheme::Scheme;
use crate::scheme::{Coded, has_rate};
use crate::vocab::{Tokenizer, Vocab, WORLD};

/// Key of the version of the model.
const VERSION: &str = "rwkv-quant.model";
/// The file type.
const TYPE: &str = "rwkv-quant.type";
/// The program.
const PROGRAM: &str = "rwkv-quant.program";
/// Bits per weight of the tensors that are coded, as `--recipe` reads them.
const RECIPE: &str = "rwkv-quant.recipe";
/// Sizes of the model: blocks, channels, those of the channel mix, heads, tokens.
const SIZES: [&str; 5] =
    ["rwkv-quant.layers", "rwkv-quant.embd", "rwkv-quant.ffn", "rwkv-quant.heads", "rwkv-quant.vocab"];
/// SHA-256 of every file of the source.
const SOURCES: &str = "rwkv-quant.source.sha256";

/// The target of compact files.
pub struct Compact;

impl Target for Compact {
    fn id(&self) -> &'static str {
        "compact"
    }

    fn name(&self) -> &'static str {
        "compact"
    }

    fn runtimes(&self) -> &'static str {
        "rwkv-quant, which expands it to the others"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["rwkvz"]
    }

    fn takes(&self, version: &Version) -> bool {
        matches!(version.body, Body::Rwkv | Body::Unknown)
    }

    fn holds(&self, file_type: &FileType) -> bool {
        file_type.levels == Levels::Nf4 // of sf4, the levels could not be told
    }

    fn default_type(&self) -> Option<&'static str> {
        Some("source")
    }

    fn tokens(&self) -> Tokens {
        Tokens::IfKnown
    }

    fn codes(&self) -> bool {
        true
    }

    fn candidates(&self) -> &'static [Encoding] {
        &[Encoding::Q8_0, Encoding::Q6K, Encoding::Q5K, Encoding::Q4K, Encoding::Q3K, Encoding::Q2K]
    }

    fn recipe_types(&self) -> &'static [Encoding] {
        use Encoding::*;
        &[F32, F16, BF16, Q8_0, Q6K, Q5K, Q5_1, Q5_0, Q4K, Q4_1, Q4_0, IQ4NL, IQ4XS, Q3K, Q2K, Int8, Fp4, Nf4]
    }

    fn coded(&self, item: &Item, encoding: Encoding, scheme: &Scheme) -> Option<Coded> {
        match scheme.types.bits(&item.name) {
            Some(bits) => {
                let branches =
                    scheme.within.as_ref().filter(|b| b.wants(&item.name, item.role, &item.values));
                Some(Coded::Codes { bits, rank: branches.map_or(0, |b| b.rank) })
            }
            None if encoding == Encoding::Nf4 && !scheme.file_type.is_source() => {
                is_whole(encoding, item).then_some(Coded::Nf4Dq)
            }
            None => Coded::exactly(encoding, item.values.elements()),
        }
    }

    fn check(&self, _: &Model) -> Result<Vec<Objection>> {
        Ok(Vec::new())
    }

    fn items(&self, model: &Model, scheme: &Scheme) -> Result<Vec<Item>> {
        let held = model.tensors.iter().filter(|held| !held.is_unread());
        held.map(|held| item(held, model, scheme.file_type)).collect()
    }

    fn files(&self, order: &LayoutInput<'_>, groups: &[&[Planned]]) -> Result<Files> {
        let metadata = metadata(order)?;
        let tensors = groups.iter().flat_map(|group| group.iter());
        let sections: Vec<Section> = tensors
            .zip(order.storages)
            .map(|(planned, storage)| Section { planned: planned.clone(), storage: *storage })
            .collect();
        let layout = place(&metadata, &sections)?;
        let file = |name| PlannedFile { name, layout: layout.clone().into() };
        let files = names(order.out, 1)?.into_iter().map(file).collect();
        Ok(Files { metadata, files, small: Vec::new() })
    }
}

/// Vectors are kept as they are, where all weights are those too, and where they are coded small matrices.
fn item(held: &ModelTensor, model: &Model, file_type: &FileType) -> Result<Item> {
    let fixed = match held.spec.role {
        _ if file_type.is_plain() => Some(plain(held, model, file_type)?),
        role if file_type.coded && !has_rate(role, held.values.elements()) => Some(as_it_is(held)),
        Role::Vector => Some(as_it_is(held)),
        _ => None,
    };
    let (name, values) = (held.name(), held.values.clone());
    Ok(Item { name, role: held.spec.role, values, fixed, unread: false })
}

/// The encoding of a tensor in a file of a plain type. Blocks that can be copied stay what they are.
///
/// # Errors
/// [`Error::Tensor`] if it is to stay as it is, and cannot.
fn plain(held: &ModelTensor, model: &Model, file_type: &FileType) -> Result<Encoding> {
    if !file_type.is_source() {
        return blinkdl::plain(model, held, file_type);
    }
    let coding = |i: usize| {
        let tensor = model.container.tensors().get(i);
        let tiled = tensor.and_then(|t| model.container.tiled(t));
        tiled.map(|tiled| tiled.tiles.coding).filter(|coding| *coding != Coding::Lossless)
    };
    if let Some(coding) = held.values.sources().find_map(coding) {
        return Err(Error::Tensor {
            path: model.container.path().to_owned(),
            tensor: held.name(),
            what: format!(
                "is stored as {}, which cannot be copied: its values would take 4 bytes each",
                coding.name()
            ),
            help: "give it a size (--bpw, --target-size), or the type that it is decoded to: --type f16, bf16 or f32"
                .to_owned(),
        });
    }
    match held.values.encoding() {
        Some(e) if held.values.stored(&model.container, 0..held.values.rows()).is_some() && can_encode(e) => {
            Ok(e)
        }
        _ => blinkdl::plain(model, held, file_type),
    }
}

/// True if its rows are whole blocks.
fn is_whole(encoding: Encoding, item: &Item) -> bool {
    encoding.row_bytes(item.values.cols() as u64).is_some()
}

fn can_encode(encoding: Encoding) -> bool {
    codec(encoding).is_some_and(Codec::can_encode)
}

/// The plain type that loses nothing, or next to nothing.
fn as_it_is(held: &ModelTensor) -> Encoding {
    match held.values.encoding() {
        Some(e @ (Encoding::BF16 | Encoding::F16)) => e,
        _ => Encoding::F32,
    }
}

fn metadata(order: &LayoutInput<'_>) -> Result<Metadata> {
    let LayoutInput { model, about, scheme, sources, .. } = *order;
    let mut keys = about.general_with("general.type", Value::from("model"));
    let mut put = |key: &str, value: Value| keys.push((key.to_owned(), value));
    if let Some((key, head)) = &scheme.shard {
        put(key, Value::from(head.as_str()));
    }
    put(VERSION, Value::from(model.version.name));
    let dims = &model.dims;
    for (key, size) in SIZES.into_iter().zip([dims.layers, dims.embd, dims.ffn, dims.heads, dims.vocab]) {
        put(key, Value::U32(size.try_into().unwrap_or(u32::MAX)));
    }
    put(TYPE, Value::from(scheme.file_type.name));
    if scheme.file_type.coded {
        let recipe =
            Recipe { file_type: Some(scheme.file_type), tensors: scheme.types.clone(), ..Recipe::default() };
        put(RECIPE, Value::from(recipe.text(&[])?));
    }
    put(PROGRAM, Value::from(env!("CARGO_PKG_VERSION")));
    put(SOURCES, Value::strings(sources.iter().cloned()));
    keys.extend(scheme.importance.iter().flat_map(Importance::keys));
    keys.extend(scheme.calibration.iter().flat_map(CalibrationFingerprint::keys));
    keys.extend(equalize::key(model, &scheme.equalized));
    // The usual vocabulary of this size goes without saying, and so does its chat template.
    let usual = Vocab::usual(model.dims.vocab);
    let is_usual = match &about.tokenizer {
        Some(Tokenizer::Rwkv(vocab)) => usual.is_some_and(|usual| usual.tokens == vocab.tokens),
        _ => true,
    };
    let template = about.chat_template.as_deref();
    let said = match &about.tokenizer {
        Some(Tokenizer::Rwkv(vocab)) if vocab.name == WORLD => Some(gguf_tokenizer::WORLD_CHAT_TEMPLATE),
        _ => None,
    };
    if !is_usual || template != said {
        keys.extend(gguf_tokenizer::keys(model, about)?);
    }
    Ok(keys)
}

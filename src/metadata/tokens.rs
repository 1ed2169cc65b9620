//! Choice of the tokenizer and chat template of a model.

use std::path::{Path, PathBuf};

use formats::Value;

use super::{gguf_tokenizer as gguf, origin};
use crate::error::{Error, Result};
use crate::files;
use crate::links;
use crate::model::{Body, Model};
use crate::vocab::{Bpe, Coder, Tokenizer, Vocab, WORLD};

/// The word that asks for no chat template.
pub(super) const NO_TEMPLATE: &str = "none";
/// Largest chat template that is read.
const TEMPLATE_BYTES: u64 = 16 << 20;

/// The tokenizer of a model: for a hybrid, the folder asked for, else the one in the source, else the files beside
/// it; for RWKV's own, see [`vocab`].
pub(super) fn tokenizer(model: &Model, asked: Option<&Path>) -> Result<Tokenizer> {
    let source = &model.container;
    if model.version.body == Body::Rwkv {
        return vocab(model, asked).map(Tokenizer::Rwkv);
    }
    if let (None, Some(carried)) = (asked, gguf::carried(source)) {
        return Ok(carried);
    }
    let beside = || if source.path().is_dir() { Some(source.path()) } else { source.path().parent() };
    let folder = asked.or_else(beside).unwrap_or(Path::new("."));
    Bpe::load(folder, source.config(), model.dims.vocab).map(Tokenizer::Bpe)
}

/// Tokenizer that a model is run with: the one asked for, else the one that its source states, else the usual
/// vocabulary of this size.
///
/// # Errors
/// If a file cannot be read or is no tokenizer that can be run, there is none, or it has more tokens than the model has
/// rows for.
pub fn coder(model: &Model, asked: Option<&Path>) -> Result<Coder> {
    let coder = match asked {
        Some(path) => Coder::load(path)?,
        None => match stated_coder(model)? {
            Some(stated) => stated,
            None => Coder::greedy(usual(model)?),
        },
    };
    if coder.size() > model.dims.vocab {
        return Err(Error::Usage {
            what: format!(
                "the vocabulary {} has {} ids, but {} has rows for {} only",
                coder.vocab().name,
                coder.size(),
                model.container.path().display(),
                model.dims.vocab
            ),
            help: "give the vocabulary that the model was trained with".to_owned(),
        });
    }
    Ok(coder)
}

/// Tokenizer that a model's source states: the vocabulary in it, else the one beside it, else the `tokenizer.json` of
/// its folder.
///
/// # Errors
/// If a file cannot be read or is no tokenizer that can be run.
pub fn stated_coder(model: &Model) -> Result<Option<Coder>> {
    if let Some(vocab) = stated_vocab(model)? {
        return Ok(Some(Coder::greedy(vocab)));
    }
    let whole = origin::folder(&model.container).map(|folder| (folder.join("tokenizer.json"), folder));
    let own = whole.filter(|(path, folder)| links::own(folder, path).is_some()).map(|(path, _)| path);
    own.map(|path| Coder::load(&path)).transpose()
}

/// The vocabulary asked for, else the one that the source states, else the usual one of this size.
fn vocab(model: &Model, asked: Option<&Path>) -> Result<Vocab> {
    if let Some(path) = asked {
        return Vocab::load(path);
    }
    stated_vocab(model)?.map_or_else(|| usual(model), Ok)
}

/// The vocabulary in the source, else the one beside it.
fn stated_vocab(model: &Model) -> Result<Option<Vocab>> {
    if let Some(vocab) = gguf::vocab_of(&model.container) {
        return Ok(Some(vocab));
    }
    origin::folder(&model.container).map_or(Ok(None), |folder| beside(&folder))
}

fn usual(model: &Model) -> Result<Vocab> {
    Vocab::usual(model.dims.vocab).ok_or_else(|| Error::Usage {
        what: format!(
            "no built-in vocabulary has {} tokens, as many as the model has rows for",
            model.dims.vocab
        ),
        help: "give the vocabulary that the model was trained with: --vocab FILE (an RWKV vocabulary text, \
               web-rwkv's JSON, vocab.txt, or to run the model a tokenizer.json such as the 20B_tokenizer.json of Pile \
               models)"
            .to_owned(),
    })
}

/// The vocabulary in a folder; what is a link to somebody else's file is none.
fn beside(folder: &Path) -> Result<Option<Vocab>> {
    let is_own = |path: &Path| links::own(folder, path).is_some();
    let usual = folder.join("rwkv_vocab_v20230424.txt");
    if is_own(&usual) {
        return Vocab::load(&usual).map(Some);
    }
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("rwkv_vocab") && name.ends_with(".txt") && is_own(path)
    };
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut others: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(named).collect();
    others.sort_unstable(); // the system lists them in any order
    if let Some(first) = others.first() {
        return Vocab::load(first).map(Some);
    }
    // Files of this name are of many kinds.
    let common = folder.join("vocab.txt");
    Ok(if is_own(&common) { Vocab::load(&common).ok() } else { None })
}

/// The chat template asked for, else the one in the source, else the one that goes with the tokenizer.
pub(super) fn chat_template(
    model: &Model,
    tokenizer: &Tokenizer,
    asked: Option<&Path>,
) -> Result<Option<String>> {
    let stated = model.container.value("tokenizer.chat_template").and_then(Value::as_str);
    Ok(match (asked.map(|path| (path, path.to_str())), stated) {
        (Some((_, Some(NO_TEMPLATE))), _) => None,
        (Some((_, Some("world"))), _) => Some(gguf::WORLD_CHAT_TEMPLATE.to_owned()),
        (Some((path, _)), _) => Some(files::text(path, "chat template", TEMPLATE_BYTES)?),
        (None, Some(stated)) => Some(stated.to_owned()),
        (None, None) => match tokenizer {
            Tokenizer::Rwkv(vocab) if vocab.name == WORLD => Some(gguf::WORLD_CHAT_TEMPLATE.to_owned()),
            Tokenizer::Bpe(bpe) => bpe.chat_template.clone(),
            _ => None,
        },
    })
}

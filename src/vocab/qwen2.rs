//! Reads Qwen2's tokenizer from the files of a Hugging Face folder.
//!
//! ```text
//! tokenizer.json          tokens, merges, added tokens, the rules before and after: all that is needed
//! vocab.json, merges.txt  tokens and merges, for folders without tokenizer.json; the rules are those of the class
//! added_tokens.json       added tokens, for folders that name them nowhere else
//! tokenizer_config.json   which tokens are special and what for, the class, the chat template
//! chat_template.jinja     the chat template of newer folders; chat_template.json that of others
//! config.json             ids of special tokens
//! ```
//!
//! What comes of it is what llama.cpp's own converter writes. A tokenizer that cuts text by another rule than
//! Qwen2's is refused: llama.cpp takes the rule from a name, and would cut by the wrong one without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::bpe::{Bpe, Piece, SPECIAL};
use super::post::{self, Named};
use crate::error::{Error, Result};
use crate::{files, links};

/// The rule by which Qwen2 cuts text into words.
const SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The token that DeepSeek's models start every text with.
const DEEPSEEK_BEGIN: &str = "<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}>";
/// Largest file that is read: Qwen2's tokenizer.json has 11 MB.
const FILE_BYTES: u64 = 256 << 20;

/// tokenizer.json.
#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    model: Merging,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// The `model` of tokenizer.json.
#[derive(Deserialize)]
struct Merging {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// A merge as older and as newer files spell it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

/// A folder whose tokenizer is read.
struct Folder<'a> {
    path: &'a Path,
    whole: Option<Whole>,
    /// tokenizer_config.json.
    settings: Option<Map<String, Value>>,
}

impl Bpe {
    /// Reads the tokenizer in `folder` for a model that has rows for `rows` tokens. `config` is the model's
    /// config.json.
    ///
    /// # Errors
    /// If a file cannot be read or understood, or the tokenizer is not of Qwen2's kind.
    pub fn load(folder: &Path, config: Option<&Map<String, Value>>, rows: usize) -> Result<Bpe> {
        if folder.join("tokenizer.model").exists() {
            return Err(Error::Model {
                path: folder.join("tokenizer.model"),
                what: "is a sentencepiece tokenizer, and only Qwen2's BPE tokenizer is converted".to_owned(),
                help: "if tokenizer.json or vocab.json is the one that the model was trained with, copy the \
                       tokenizer's files without tokenizer.model to another folder and give that: --vocab FOLDER"
                    .to_owned(),
            });
        }
        let whole: Option<Whole> = read(&folder.join("tokenizer.json"))?;
        let settings = read(&folder.join("tokenizer_config.json"))?;
        let folder = Folder { path: folder, whole, settings };
        folder.check()?;
        let (vocab, mut merges) = folder.vocab()?;
        if merges.is_empty() {
            merges = folder.merges_txt()?;
        }
        let added = folder.added()?;
        let tokens = folder.tokens(&vocab, &added, rows)?;

        let named = Named::of(folder.settings.as_ref());
        let rules = folder.whole.as_ref().map(|w| w.post_processor.as_ref());
        let (named, mut flags) = post::read(rules, named).map_err(|what| folder.refuse(&what))?;
        let special = folder.special(&named, config, rows);
        for typ in SPECIAL.into_iter().filter(|t| matches!(*t, "bos" | "eos" | "sep")) {
            let flag = folder.setting(&format!("add_{typ}_token")).and_then(Value::as_bool);
            if let (Some(flag), false) = (flag, flags.iter().any(|(t, _)| *t == typ)) {
                flags.push((typ, flag));
            }
        }
        // Both names are of the same rule in llama.cpp; its converter tells DeepSeek's models made from Qwen2's.
        let deepseek = added.values().any(|(text, _)| text == DEEPSEEK_BEGIN);
        let pre = if deepseek { "deepseek-r1-qwen" } else { "qwen2" };
        let chat_template = folder.chat_template()?;
        let name = "Qwen2 BPE of the source".to_owned();
        Ok(Bpe { name, pre, tokens, merges, special, added: flags, chat_template })
    }
}

impl Folder<'_> {
    fn refuse(&self, what: &str) -> Error {
        Error::Model {
            path: self.path.to_owned(),
            what: format!("has a tokenizer that {what}"),
            help: "only the tokenizers of Qwen2 and what was made from it are converted; if the model was trained \
                   with one of these, give the folder of its files: --vocab FOLDER"
                .to_owned(),
        }
    }

    fn setting(&self, key: &str) -> Option<&Value> {
        self.settings.as_ref()?.get(key)
    }

    /// True if text is cut, normalized and merged as Qwen2 does it.
    fn check(&self) -> Result<()> {
        let Some(whole) = &self.whole else {
            let class = self.setting("tokenizer_class").and_then(Value::as_str).unwrap_or("none");
            return match class {
                "Qwen2Tokenizer" | "Qwen2TokenizerFast" => Ok(()),
                _ if !self.path.join("vocab.json").exists() => Err(Error::Model {
                    path: self.path.to_owned(),
                    what: "holds no tokenizer: neither tokenizer.json nor vocab.json and merges.txt"
                        .to_owned(),
                    help: "give the folder that holds the tokenizer's files: --vocab FOLDER".to_owned(),
                }),
                other => Err(self.refuse(&format!("is of the class {other:?}, not Qwen2Tokenizer"))),
            };
        };
        let model = &whole.model;
        let affixed = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
        if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
            return Err(self.refuse(&format!("is {:?}, not BPE", model.kind.as_deref().unwrap_or_default())));
        }
        if model.byte_fallback
            || model.ignore_merges
            || model.dropout.is_some()
            || affixed.iter().any(|affix| affix.as_ref().is_some_and(|a| !a.is_empty()))
        {
            return Err(self.refuse("merges otherwise than Qwen2's"));
        }
        if !splits_as_qwen2(whole.pre_tokenizer.as_ref()) {
            return Err(self.refuse("cuts text into words by another rule than Qwen2's"));
        }
        let normalizer = whole.normalizer.as_ref().and_then(|n| n.get("type")).and_then(Value::as_str);
        match normalizer {
            None | Some("NFC") => Ok(()),
            Some(other) => Err(self.refuse(&format!("normalizes text by {other:?}, and Qwen2's by NFC"))),
        }
    }

    /// Tokens by text, and merges if tokenizer.json has them.
    fn vocab(&self) -> Result<(BTreeMap<String, u32>, Vec<String>)> {
        let Some(whole) = &self.whole else {
            return Ok((read(&self.path.join("vocab.json"))?.unwrap_or_default(), Vec::new()));
        };
        // A space within a part would look like the one between them.
        let spelled = |part: &str| part.replace(' ', "Ġ");
        let merges = whole.model.merges.iter().map(|merge| match merge {
            Merge::Joined(text) => text.clone(),
            Merge::Pair(left, right) => format!("{} {}", spelled(left), spelled(right)),
        });
        Ok((whole.model.vocab.clone(), merges.collect()))
    }

    fn merges_txt(&self) -> Result<Vec<String>> {
        let path = self.path.join("merges.txt");
        let text =
            text(&path)?.ok_or_else(|| self.refuse("has no merges, neither its own nor a merges.txt"))?;
        let lines = text.lines().skip(usize::from(text.starts_with('#')));
        let pairs = lines.map(|l| l.split_whitespace().collect::<Vec<_>>()).filter(|l| l.len() == 2);
        Ok(pairs.map(|pair| pair.join(" ")).collect())
    }

    /// Added tokens by id: the text, and whether it is special.
    fn added(&self) -> Result<BTreeMap<u32, (String, bool)>> {
        let mut added = BTreeMap::new();
        for t in self.whole.iter().flat_map(|w| &w.added_tokens) {
            added.insert(t.id, (t.content.clone(), t.special));
        }
        let decoder = self.setting("added_tokens_decoder").and_then(Value::as_object);
        for (id, token) in decoder.into_iter().flatten() {
            let content = token.get("content").and_then(Value::as_str);
            let (Ok(id), Some(content)) = (id.parse(), content) else {
                return Err(self.refuse(&format!("says of the added token {id:?} what is not understood")));
            };
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            let known = added.entry(id).or_insert_with(|| (content.to_owned(), special));
            if known.0 != content {
                return Err(self.refuse(&format!("has two added tokens of the id {id}")));
            }
            known.1 |= special;
        }
        if self.whole.is_none() && decoder.is_none() {
            let special = Named::of(self.settings.as_ref());
            let more: Option<BTreeMap<String, u32>> = read(&self.path.join("added_tokens.json"))?;
            for (text, id) in more.unwrap_or_default() {
                let is_special = special.names(&text);
                added.insert(id, (text, is_special));
            }
        }
        Ok(added)
    }

    fn tokens(
        &self,
        vocab: &BTreeMap<String, u32>,
        added: &BTreeMap<u32, (String, bool)>,
        rows: usize,
    ) -> Result<Vec<Piece>> {
        let ids = vocab.values().chain(added.keys());
        if let Some(id) = ids.copied().max().filter(|id| *id as usize >= rows) {
            return Err(Error::Usage {
                what: format!("the tokenizer has the id {id}, but the model has rows for {rows} tokens only"),
                help: "give the folder of the tokenizer that the model was trained with: --vocab FOLDER"
                    .to_owned(),
            });
        }
        let mut tokens = vec![Piece::Unused; rows];
        for (text, id) in vocab {
            let slot = &mut tokens[*id as usize];
            if *slot != Piece::Unused {
                return Err(self.refuse(&format!("has two tokens of the id {id}")));
            }
            *slot = Piece::Merged(text.clone());
        }
        for (id, (text, special)) in added {
            let slot = &mut tokens[*id as usize];
            if !matches!(slot, Piece::Unused) && *slot != Piece::Merged(text.clone()) {
                return Err(self.refuse(&format!("has two tokens of the id {id}")));
            }
            *slot = if *special || looks_special(text) {
                Piece::Control(text.clone())
            } else {
                Piece::Added(text.replace('\u{2581}', " "))
            };
        }
        let mut texts = BTreeSet::new();
        for piece in &tokens {
            if let Piece::Merged(text) | Piece::Control(text) | Piece::Added(text) = piece
                && !texts.insert(text)
            {
                return Err(self.refuse(&format!("has the token {text:?} twice")));
            }
        }
        Ok(tokens)
    }

    /// Ids of the special tokens: those that tokenizer_config.json names, else those that config.json numbers.
    fn special(
        &self,
        named: &Named,
        config: Option<&Map<String, Value>>,
        rows: usize,
    ) -> Vec<(&'static str, u32)> {
        let added = || self.whole.iter().filter(|_| self.settings.is_some()).flat_map(|w| &w.added_tokens);
        let by_name = SPECIAL.into_iter().filter_map(|typ| {
            let text = named.get(typ)?;
            Some((typ, added().find(|t| t.content == text)?.id))
        });
        let mut special: Vec<(&'static str, u32)> = by_name.collect();
        for typ in SPECIAL {
            let id = config.and_then(|c| c.get(&format!("{typ}_token_id"))).and_then(Value::as_u64);
            let id = id.filter(|id| *id < rows as u64).and_then(|id| u32::try_from(id).ok());
            if let (Some(id), false) = (id, special.iter().any(|(t, _)| *t == typ)) {
                special.push((typ, id));
            }
        }
        special
    }

    fn chat_template(&self) -> Result<Option<String>> {
        if self.settings.is_none() {
            return Ok(None);
        }
        match self.setting("chat_template") {
            Some(Value::String(template)) => return Ok(Some(template.clone())),
            // Several, by name.
            Some(Value::Array(all)) => {
                let default = all.iter().find(|t| t.get("name").is_some_and(|n| n == "default"));
                let template = default.and_then(|t| t.get("template")?.as_str());
                return Ok(template.map(str::to_owned));
            }
            _ => {}
        }
        if let Some(template) = text(&self.path.join("chat_template.jinja"))? {
            return Ok(Some(template));
        }
        let beside: Option<Map<String, Value>> = read(&self.path.join("chat_template.json"))?;
        Ok(beside.and_then(|b| Some(b.get("chat_template")?.as_str()?.to_owned())))
    }
}

/// True if the pre-tokenizer is Qwen2's rule, then bytes as characters.
fn splits_as_qwen2(pre: Option<&Value>) -> bool {
    let steps = pre.and_then(|p| p.get("pretokenizers")).and_then(Value::as_array);
    let Some([split, bytes]) = steps.map(Vec::as_slice) else { return false };
    let is = |step: &Value, key: &str, value: &str| step.get(key).is_some_and(|v| v == value);
    let off = |step: &Value, key: &str| step.get(key).is_none_or(|v| v == false);
    is(split, "type", "Split")
        && is(split, "behavior", "Isolated")
        && off(split, "invert")
        && split.get("pattern").and_then(|p| p.get("Regex")).is_some_and(|r| r == SPLIT)
        && is(bytes, "type", "ByteLevel")
        && off(bytes, "add_prefix_space")
        && bytes.get("use_regex").is_some_and(|v| v == false)
}

/// True if llama.cpp takes an added token for one that only programs write, though its folder does not say so.
fn looks_special(text: &str) -> bool {
    let within = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<\u{ff5c}", "\u{ff5c}>")
        || within("<unused", ">")
}

/// A file's text; `None` if there is no such file.
fn text(path: &Path) -> Result<Option<String>> {
    links::check(path)?; // it is carried into what is made of the model
    match files::text(path, "tokenizer", FILE_BYTES) {
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some),
    }
}

/// A file of JSON; `None` if there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = text(path)? else { return Ok(None) };
    let parsed =
        files::check_json(&text).and_then(|()| serde_json::from_str(&text).map_err(|e| e.to_string()));
    let parsed = parsed.map_err(|e| Error::Model {
        path: path.to_owned(),
        what: format!("is not what a file of this name holds: {e}"),
        help: "get a sound copy of the tokenizer's files".to_owned(),
    })?;
    Ok(Some(parsed))
}

//! Byte-pair tokenizers of Hugging Face's `tokenizer.json`, run by the crate `tokenizers`.
//!
//! That crate takes text; here the stray bytes of a text that is none are taken care of, and what every id stands
//! for is known as bytes.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use super::{Token, Untokenizable};
use crate::files;

/// The token that ends a text in all tokenizers made after GPT-2's.
const END: &str = "<|endoftext|>";
/// Most ids that a tokenizer may have.
const LIMIT: u32 = 1 << 20;

/// A tokenizer of byte pairs.
#[derive(Clone, Debug)]
pub(super) struct Merging {
    rules: tokenizers::Tokenizer,
    /// The token of every byte alone.
    single: [Option<u32>; 256],
}

impl Merging {
    /// True if `text` is meant to be a tokenizer.json, of whatever kind.
    pub fn is_meant(text: &str) -> bool {
        #[derive(Deserialize)]
        struct Outer {
            #[serde(rename = "model")]
            _model: IgnoredAny,
        }
        text.trim_start().starts_with('{') && serde_json::from_str::<Outer>(text).is_ok()
    }

    /// The tokenizer that `text` describes, what its ids stand for, and the one that ends a text.
    ///
    /// # Errors
    /// A sentence about what is not understood or not of this kind.
    pub fn parse(text: &str) -> Result<(Merging, Vec<Token>, Option<u32>), String> {
        files::check_json(text)?;
        check_merges(text)?;
        let mut rules = tokenizers::Tokenizer::from_bytes(text).map_err(|e| format!("it is damaged: {e}"))?;
        check(&rules)?;
        // These are for batches of a fixed size.
        rules.with_padding(None).with_truncation(None).map_err(|e| e.to_string())?;
        let added = rules.get_added_tokens_decoder();
        let ids = rules.get_vocab(true);
        let size = ids.values().copied().max().ok_or("it has no tokens")?;
        if size >= LIMIT {
            return Err(format!("its id {size} exceeds the limit of {LIMIT} ids"));
        }
        let bytes_of: HashMap<char, u8> = (0..=u8::MAX).map(|b| (spelling(b), b)).collect();
        let mut tokens = vec![Token::Unused; size as usize + 1];
        let mut single = [None; 256];
        for (text, id) in &ids {
            let spelled = || text.chars().map(|c| bytes_of.get(&c).copied()).collect::<Option<Vec<u8>>>();
            let bytes = match added.contains_key(id) {
                true => text.clone().into_bytes(),
                false => spelled().ok_or_else(|| format!("its token {text:?} does not spell bytes"))?,
            };
            if let ([byte], false) = (bytes.as_slice(), added.contains_key(id)) {
                single[usize::from(*byte)] = Some(*id);
            }
            tokens[*id as usize] = Token::Bytes(bytes);
        }
        let end = rules.token_to_id(END).filter(|id| added.get(id).is_some_and(|t| t.special));
        Ok((Merging { rules, single }, tokens, end))
    }

    /// The tokens of a text.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, Untokenizable> {
        let single = |byte: u8| self.single[usize::from(byte)];
        // Every token is made of single ones, and the crate would leave out bytes that have none.
        if let Some(offset) = text.iter().position(|b| single(*b).is_none()) {
            return Err(Untokenizable::Byte { byte: text[offset], offset });
        }
        let mut ids = Vec::new();
        for chunk in text.utf8_chunks() {
            let encoding = self.rules.encode_fast(chunk.valid(), false);
            ids.extend_from_slice(encoding.map_err(|e| Untokenizable::Rule(e.to_string()))?.get_ids());
            ids.extend(chunk.invalid().iter().filter_map(|b| single(*b)));
        }
        Ok(ids)
    }
}

/// The model of a `tokenizer.json`, as far as its merges are concerned.
#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// Two tokens that become one: a list of them, or both in one string with a blank between.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// Refuses merges of or into what is no token: the crate tokenizers takes for granted that all are.
fn check_merges(text: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Outer {
        model: Model,
    }
    let Outer { model } =
        serde_json::from_str(text).map_err(|e| format!("its model is not BPE, or damaged: {e}"))?;
    if model.continuing_subword_prefix.is_some_and(|prefix| !prefix.is_empty()) {
        return Err("its tokens have marks of words".to_owned());
    }
    for merge in &model.merges {
        let pair = match merge {
            Merge::Pair(a, b) => Some((a.as_str(), b.as_str())),
            Merge::Line(line) if line.starts_with("#version") => continue,
            Merge::Line(line) => line.split_once(' '),
        };
        let Some((a, b)) = pair else { return Err("it has a merge of other than two tokens".to_owned()) };
        if ![a, b, &format!("{a}{b}")].iter().all(|token| model.vocab.contains_key(*token)) {
            return Err(format!("its merge of {a:?} and {b:?} is of or into what is no token"));
        }
    }
    Ok(())
}

/// Refuses what is no byte-level BPE, and what does not give every text its one list of tokens.
fn check(rules: &tokenizers::Tokenizer) -> Result<(), String> {
    let ModelWrapper::BPE(bpe) = rules.get_model() else {
        return Err("its model is not BPE".to_owned());
    };
    if bpe.dropout.is_some_and(|p| p > 0.0) {
        return Err("it merges at random (dropout)".to_owned());
    }
    let marks = |mark: &Option<String>| mark.as_ref().is_some_and(|m| !m.is_empty());
    if marks(&bpe.continuing_subword_prefix) || marks(&bpe.end_of_word_suffix) {
        return Err("its tokens have marks of words".to_owned());
    }
    let steps = match rules.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::Sequence(all)) => all.as_ref(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    let levels = steps.iter().filter_map(|step| match step {
        PreTokenizerWrapper::ByteLevel(level) => Some(level.add_prefix_space),
        _ => None,
    });
    match levels.collect::<Vec<bool>>().as_slice() {
        [false] => Ok(()),
        [true] => Err("it puts a space before every text".to_owned()),
        _ => Err("it does not spell text as bytes (ByteLevel)".to_owned()),
    }
}

/// Spelling of a byte in byte-level tokenizers: printable characters of Latin-1 as they are, the others as characters
/// from U+0100 on, in order.
fn spelling(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match printable(byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|b| !printable(*b)).count() as u32;
            char::from_u32(0x100 + before).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::*;
    use crate::vocab::Coder;

    fn testdata(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
    }

    const PILE: &str = "golden/tokenizers/pile.json";

    /// `golden/tokenizers/record.py` recorded the ids with the Python package of Hugging Face.
    #[test]
    fn ids_are_those_of_hugging_face() {
        let record = std::fs::read(testdata("golden/tokenizers/ids.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let texts: Vec<&str> =
            record["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let tokenizers = record["ids"].as_object().unwrap();
        assert_eq!((texts.len(), tokenizers.len()), (10, 2));
        for (name, expected) in tokenizers {
            let coder = Coder::load(&testdata(name)).unwrap();
            for (text, expected) in texts.iter().zip(expected.as_array().unwrap()) {
                let ids = coder.encode(text.as_bytes()).unwrap();
                assert_eq!(serde_json::json!(ids), *expected, "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn special_tokens_are_known_and_text_comes_back() {
        let coder = Coder::load(&testdata(PILE)).unwrap();
        assert_eq!((coder.end(), coder.vocab().name.as_str()), (Some(0), "pile.json"));
        let ids = coder.encode(b"a<|endoftext|>").unwrap();
        assert_eq!(ids.last(), coder.end().as_ref());
        assert_eq!(coder.decode(&ids), b"a<|endoftext|>");
        // The tokenizer says that text is to be composed first.
        assert_eq!(coder.decode(&coder.encode("e\u{301}".as_bytes()).unwrap()), "\u{e9}".as_bytes());
        // No text has this byte, and the vocabulary has no token for it.
        let error = coder.encode(b"ab\xff").unwrap_err();
        assert_eq!(error, Untokenizable::Byte { byte: 0xff, offset: 2 });
    }

    proptest! {
        /// Bytes that are no text come back too; this vocabulary has all of them.
        #[test]
        fn any_bytes_come_back(text: Vec<u8>) {
            thread_local!(static CODER: Coder = {
                // Without NFC.
                let path = testdata("hybrids/arwkv7-gated/tokenizer.json");
                let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
                json["normalizer"] = serde_json::Value::Null;
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("tokenizer.json");
                std::fs::write(&path, json.to_string()).unwrap();
                Coder::load(&path).unwrap()
            });
            let back = CODER.with(|c| c.decode(&c.encode(&text).unwrap()));
            prop_assert_eq!(back, text);
        }
    }

    #[test]
    fn other_kinds_are_refused_with_the_reason() {
        let text = std::fs::read_to_string(testdata(PILE)).unwrap();
        let refused = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            Merging::parse(&text.replace(from, to)).unwrap_err()
        };
        assert_eq!(refused("\"dropout\":null", "\"dropout\":0.1"), "it merges at random (dropout)");
        assert_eq!(
            refused("\"add_prefix_space\":false", "\"add_prefix_space\":true"),
            "it puts a space before every text"
        );
        let level =
            "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}";
        assert_eq!(refused(level, "null"), "it does not spell text as bytes (ByteLevel)");
        assert!(refused("\"merges\":[[", "\"merges\":[[\"Q!\",\"x\"],[").contains("no token"));
        let unigram =
            r#"{"version": "1.0", "model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}}"#;
        assert!(Merging::parse(unigram).unwrap_err().starts_with("its model is not BPE"));
        assert!(
            Merging::is_meant(unigram)
                && !Merging::is_meant("{\"1\": \"a\"}")
                && !Merging::is_meant("1 'a' 1")
        );
    }

    #[test]
    fn bytes_are_spelled_as_printable_characters() {
        let all: Vec<char> = (0..=u8::MAX).map(spelling).collect();
        assert_eq!((all[0], all[b' ' as usize], all[b'\n' as usize], all[0xad]), ('\u{100}', 'Ġ', 'Ċ', 'Ń'));
        let theirs: std::collections::HashSet<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        assert_eq!(all.into_iter().collect::<std::collections::HashSet<char>>(), theirs);
    }
}

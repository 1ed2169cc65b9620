//! The tokenizer keys of a GGUF file; for RWKV's own models, those of llama.cpp's tokenizer `rwkv`: a list of byte
//! strings used greedily.

mod bpe;

use std::collections::BTreeMap;

use formats::{Container, Metadata, Value};

use super::ModelMetadata;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::vocab::{Token, Tokenizer, Vocab};

/// The prompt format of RWKV World and G1 models; the comment in it is what llama.cpp's built-in templates
/// recognise it by.
pub const WORLD_CHAT_TEMPLATE: &str = include_str!("chat_template.jinja");

/// The token after which World models end their turn: two line feeds.
const END_OF_TURN: &[u8] = b"\n\n";

const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// llama.cpp's kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// Keys that list the tokens: they are always those of the vocabulary that is written.
pub(crate) const LISTS: [&str; 3] =
    ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"];

/// All tokenizer keys; the chat template comes last. Those of a source with a tokenizer stay, but what the user gives
/// in their place.
///
/// # Errors
/// If llama.cpp could not load the vocabulary, or the model has no rows for all of it.
pub fn keys(model: &Model, about: &ModelMetadata) -> Result<Metadata> {
    let mut keys = match &about.tokenizer {
        None => return Ok(Metadata::new()),
        Some(Tokenizer::Rwkv(vocab)) => rwkv(model, vocab, about.chat_template.is_some())?,
        Some(Tokenizer::Bpe(bpe)) => bpe::keys(bpe),
        Some(Tokenizer::Carried(keys)) => keys.iter().filter(|(key, _)| !is_template(key)).cloned().collect(),
    };
    if !about.vocab_is_given {
        keep_stated(&mut keys, model.container.metadata());
    }
    if let Some(template) = &about.chat_template {
        keys.push((CHAT_TEMPLATE.to_owned(), Value::from(template.as_str())));
    }
    if !about.no_chat_template {
        let others = model.container.metadata().iter();
        keys.extend(others.filter(|(key, _)| is_template(key) && key != CHAT_TEMPLATE).cloned());
    }
    Ok(keys)
}

/// True for the chat template and its variants: `tokenizer.chat_template.tool_use`, `tokenizer.chat_templates`.
fn is_template(key: &str) -> bool {
    key.starts_with(CHAT_TEMPLATE)
}

/// Special tokens and whatever else the source says of its tokenizer (llama.cpp#6321, ollama#10759), but lists that go
/// with tokens of another number.
fn keep_stated(keys: &mut Metadata, source: &Metadata) {
    let length = |value: &Value| match value {
        Value::Array(items) => items.len(),
        _ => 0,
    };
    let tokens = |keys: &Metadata| keys.iter().find(|(k, _)| k == LISTS[1]).map(|(_, value)| length(value));
    let (ours, theirs) = (tokens(keys), tokens(source));
    for (key, value) in source.iter().filter(|(key, _)| key.starts_with("tokenizer.") && !is_template(key)) {
        let is_of_other_tokens = ours != theirs && Some(length(value)) == theirs;
        if LISTS.contains(&key.as_str()) || is_of_other_tokens {
            continue;
        }
        match keys.iter_mut().find(|(k, _)| k == key) {
            Some((_, generated)) => *generated = value.clone(),
            None => keys.push((key.clone(), value.clone())),
        }
    }
}

/// The tokenizer of a GGUF file as it is, if it has one.
pub fn carried(container: &Container) -> Option<Tokenizer> {
    container.value("tokenizer.ggml.tokens")?;
    let keys = container.metadata().iter();
    let keys = keys.filter(|(key, _)| key.starts_with("tokenizer.") && key != CHAT_TEMPLATE);
    Some(Tokenizer::Carried(keys.cloned().collect()))
}

fn rwkv(model: &Model, vocab: &Vocab, chats: bool) -> Result<Metadata> {
    let Some(vocab) = vocab.clone().padded(model.dims.vocab) else {
        return Err(Error::Usage {
            what: format!(
                "the vocabulary {} has {} ids, but the model has rows for {} only",
                vocab.name,
                vocab.tokens.len(),
                model.dims.vocab
            ),
            help: "give the vocabulary that the model was trained with".to_owned(),
        });
    };
    check(&vocab)?;
    let mut keys = Metadata::new();
    let mut put = |key: &str, value: Value| keys.push((format!("tokenizer.{key}"), value));
    put("ggml.model", Value::from("rwkv"));
    put("ggml.tokens", Value::strings(vocab.tokens.iter().enumerate().map(|(id, t)| text(t, id))));
    put("ggml.token_type", Value::from(vocab.tokens.iter().map(kind).collect::<Vec<i32>>()));
    if let Some(end) = id_of(&vocab, |t| *t == Token::End) {
        put("ggml.bos_token_id", Value::U32(end));
        put("ggml.eos_token_id", Value::U32(end));
    }
    if chats && let Some(turn) = id_of(&vocab, |t| matches!(t, Token::Bytes(b) if b == END_OF_TURN)) {
        put("ggml.eot_token_id", Value::U32(turn));
    }
    Ok(keys)
}

/// Refuses vocabularies on which llama.cpp aborts (a token that stands twice) or hangs while it loads (two line
/// feeds without one).
fn check(vocab: &Vocab) -> Result<()> {
    let mut seen = BTreeMap::new();
    for (id, token) in vocab.tokens.iter().enumerate() {
        if let Token::Bytes(bytes) = token
            && let Some(first) = seen.insert(bytes.as_slice(), id)
        {
            return Err(Error::Usage {
                what: format!("the ids {first} and {id} of the vocabulary {} are the same bytes", vocab.name),
                help: "llama.cpp cannot load such a vocabulary: correct the file".to_owned(),
            });
        }
    }
    if seen.contains_key(END_OF_TURN) && !seen.contains_key(&b"\n"[..]) {
        return Err(Error::Usage {
            what: format!("the vocabulary {} has a token of two line feeds, but none of one", vocab.name),
            help: "llama.cpp cannot load such a vocabulary: correct the file".to_owned(),
        });
    }
    Ok(())
}

/// The vocabulary of a GGUF file, if it has one of this kind.
pub fn vocab_of(container: &Container) -> Option<Vocab> {
    if container.value("tokenizer.ggml.model")?.as_str() != Some("rwkv") {
        return None;
    }
    let array = |key: &str| container.value(key).and_then(Value::as_array);
    let kinds = array("tokenizer.ggml.token_type")?;
    let tokens = array("tokenizer.ggml.tokens")?.iter().zip(kinds.iter()).map(|(text, kind)| {
        Some(match kind {
            Value::I32(CONTROL) => Token::End,
            Value::I32(UNUSED) => Token::Unused,
            _ => Token::Bytes(bytes(text.as_str()?)?),
        })
    });
    Some(Vocab { name: "of the source".to_owned(), tokens: tokens.collect::<Option<_>>()? })
}

/// The bytes of a token's [`text`].
fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        out.push(match rest.next()? {
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some(out)
}

fn id_of(vocab: &Vocab, is: impl Fn(&Token) -> bool) -> Option<u32> {
    vocab.tokens.iter().position(is).and_then(|id| u32::try_from(id).ok())
}

fn kind(token: &Token) -> i32 {
    match token {
        Token::End => CONTROL,
        Token::Bytes(_) => NORMAL,
        Token::Unused => UNUSED,
    }
}

/// A token as llama.cpp reads it back: what stands between the quotes of the token as a Python bytes literal.
fn text(token: &Token, id: usize) -> String {
    let bytes = match token {
        Token::End => return "<s>".to_owned(),
        Token::Unused => return format!("[PAD{id}]"),
        Token::Bytes(bytes) => bytes,
    };
    // Python quotes with " if there is a ' and no ", so only a token with both escapes the '.
    let escape_quote = bytes.contains(&b'\'') && bytes.contains(&b'"');
    let mut text = String::new();
    for b in bytes {
        match b {
            b'\t' => text += "\\t",
            b'\n' => text += "\\n",
            b'\r' => text += "\\r",
            b'\\' => text += "\\\\",
            b'\'' if escape_quote => text += "\\'",
            b' '..=b'~' => text.push(char::from(*b)),
            _ => text += &format!("\\x{b:02x}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_written_as_python_writes_bytes() {
        for (bytes, expected) in [
            (&b"a b"[..], "a b"),
            (b"\x00\xff", "\\x00\\xff"),
            (b"it's", "it's"),
            (b"'\"", "\\'\""),
            (b"\\\n", "\\\\\\n"),
            ("é".as_bytes(), "\\xc3\\xa9"),
        ] {
            assert_eq!(text(&Token::Bytes(bytes.to_vec()), 7), expected);
            assert_eq!(super::bytes(expected).as_deref(), Some(bytes));
        }
        assert_eq!(text(&Token::Unused, 65530), "[PAD65530]");
    }
}

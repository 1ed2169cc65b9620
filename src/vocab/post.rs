//! Special tokens of a Hugging Face folder: their names, and which of them are put around a text.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::bpe::SPECIAL;

/// The texts of special tokens, by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    by_kind: BTreeMap<&'static str, String>,
    others: Vec<String>,
}

/// True if a token of a kind is added to a text.
pub(super) type Flags = Vec<(&'static str, bool)>;

impl Named {
    /// Special tokens that tokenizer_config.json names.
    pub fn of(settings: Option<&Map<String, Value>>) -> Named {
        let Some(settings) = settings else { return Named::default() };
        let text = |value: &Value| -> Option<String> {
            Some(value.as_str().or_else(|| value.get("content")?.as_str())?.to_owned())
        };
        let kinds = SPECIAL.into_iter();
        let by_kind = kinds.filter_map(|kind| Some((kind, text(settings.get(&format!("{kind}_token"))?)?)));
        let others = settings.get("additional_special_tokens").and_then(Value::as_array);
        Named { by_kind: by_kind.collect(), others: others.into_iter().flatten().filter_map(text).collect() }
    }

    /// The text of the special token of this kind.
    pub fn get(&self, kind: &str) -> Option<&str> {
        self.by_kind.get(kind).map(String::as_str).filter(|t| !t.is_empty())
    }

    /// True if a token is special.
    pub fn names(&self, text: &str) -> bool {
        self.by_kind.values().chain(&self.others).any(|t| t == text)
    }

    fn stand_in(&mut self, kind: &'static str, other: &str) {
        if let (None, Some(text)) = (self.get(kind), self.get(other).map(str::to_owned)) {
            self.by_kind.insert(kind, text);
        }
    }
}

/// Special tokens that the `post_processor` of tokenizer.json puts around a text; the outer `None` says that there is
/// no tokenizer.json. A token that it names and tokenizer_config.json does not is taken from it.
///
/// The error is the end of a sentence whose subject is the tokenizer.
pub(super) fn read(
    post: Option<Option<&Value>>,
    mut named: Named,
) -> std::result::Result<(Named, Flags), String> {
    let mut flags = Flags::new();
    let Some(post) = post else { return Ok((named, flags)) };
    named.stand_in("bos", "cls");
    named.stand_in("eos", "sep");
    let Some(post) = post else { return Ok((named, flags)) };
    let steps = post.get("processors").and_then(Value::as_array);
    for step in steps.map_or(std::slice::from_ref(post), Vec::as_slice) {
        match step.get("type").and_then(Value::as_str) {
            Some("ByteLevel") => {
                for kind in ["bos", "eos"] {
                    if !flags.iter().any(|(k, _)| *k == kind) {
                        flags.push((kind, false));
                    }
                }
            }
            Some("TemplateProcessing") => template(step, &mut named, &mut flags)?,
            other => {
                return Err(format!("puts tokens around a text by the rule {:?}", other.unwrap_or("none")));
            }
        }
    }
    Ok((named, flags))
}

/// A template: nothing or a special token, the text, nothing or a special token.
fn template(step: &Value, named: &mut Named, flags: &mut Flags) -> std::result::Result<(), String> {
    let parts = |key: &str| step.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let special = |part: &Value| Some(part.get("SpecialToken")?.get("id")?.as_str()?.to_owned());
    let single = parts("single");
    let (first, last) = match single {
        [_] | [] => (None, None),
        [first, .., last] => (special(first), special(last)),
    };
    if single.iter().filter(|p| p.get("SpecialToken").is_some()).count()
        != usize::from(first.is_some()) + usize::from(last.is_some())
    {
        return Err("puts more than one token before or after a text".to_owned());
    }
    for (kind, token) in [("bos", &first), ("eos", &last)] {
        let Some(token) = token else { continue };
        named.by_kind.entry(kind).or_insert_with(|| token.clone());
        if named.get(kind) != Some(token) {
            return Err(format!("puts {token:?} around a text, which is not its {kind} token"));
        }
        flags.retain(|(k, _)| *k != kind);
        flags.push((kind, true));
    }
    // Between two texts: what is left of `pair` without the tokens around both.
    let mut pair = parts("pair");
    if let (Some(f), [head, rest @ ..]) = (&first, pair)
        && special(head).as_ref() == Some(f)
    {
        pair = rest;
    }
    if let (Some(l), [rest @ .., tail]) = (&last, pair)
        && special(tail).as_ref() == Some(l)
    {
        pair = rest;
    }
    if let [_, between @ .., _] = pair
        && !between.is_empty()
    {
        let separates =
            |p: &Value| special(p).is_some_and(|t| [named.get("sep"), named.get("eos")].contains(&Some(&*t)));
        let first = between.first().is_some_and(|p| separates(p) && last.is_none());
        flags.push(("sep", first || between.get(1).is_some_and(separates)));
    }
    Ok(())
}

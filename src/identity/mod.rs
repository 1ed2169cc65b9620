//! Identity of a result: everything that its bytes depend on, by name, and one digest of it.
//!
//! ```text
//! mod.rs       Identity: ingredients, digest, differences
//! seal.rs      texts that carry their own SHA-256
//! ```
//!
//! Checkpoints of a run, shards and the artifacts of a release are used again only if the identity agrees. Each of them
//! keeps the ingredients, so that a refusal names the option that differs. Threads, memory, `--force` and progress change
//! no byte and are no ingredients.

mod seal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use seal::{digest_of, seal, unseal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::sha256;
use crate::error::Error;

/// Generation of the bytes that this program makes. Raised whenever it makes other bytes of the same options and inputs,
/// or keeps checkpoints and shards in another way; version 0.1.0 had 1.
pub(crate) const GENERATION: u32 = 2;

/// Ingredients that follow from the options and the inputs. A difference in one of them is told only if no option
/// differs.
const DERIVED: [&str; 7] =
    [ARITHMETIC, TENSOR_TYPES, IMPORTANCE, EQUALIZATION, CALIBRATION_TOKENS, METADATA, BYTES_GENERATION];
pub(crate) const ARITHMETIC: &str = "fused multiply-add, which --portable does without";
pub(crate) const TENSOR_TYPES: &str = "the types of the tensors";
pub(crate) const IMPORTANCE: &str = "the importance of the columns";
pub(crate) const EQUALIZATION: &str = "the factors of --equalize";
pub(crate) const CALIBRATION_TOKENS: &str = "the calibration tokens";
pub(crate) const METADATA: &str = "the metadata";
pub(crate) const BYTES_GENERATION: &str = "the version of this program";

/// Everything that the bytes of a result depend on, by name. An option that is not given is no ingredient.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Identity(BTreeMap<String, Value>);

/// Identity that a text states.
#[derive(Clone, Debug, PartialEq)]
pub enum Stated {
    /// The text is sound.
    Sound(Identity),
    /// An earlier version of this program wrote it.
    Older(String),
    /// The text does not match its SHA-256, or is no identity.
    Damaged,
}

impl Identity {
    /// SHA-256 of the ingredients as JSON, in lower-case hex.
    pub fn digest(&self) -> String {
        sha256([self.json().as_bytes()])
    }

    /// Names of the ingredients in which the two differ, options before all else, with short values of `self` and
    /// `other`; nothing if they are equal.
    pub fn differences(&self, other: &Identity) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let differing = names.into_iter().filter(|name| self.0.get(*name) != other.0.get(*name));
        let (derived, options): (Vec<&String>, Vec<&String>) =
            differing.partition(|name| DERIVED.contains(&name.as_str()));
        let told = if options.is_empty() { derived } else { options };
        told.into_iter().map(|name| told_apart(name, self.0.get(name), other.0.get(name))).collect()
    }

    /// The line that a checkpoint keeps: the digest and the ingredients.
    pub fn to_text(&self) -> String {
        seal(&self.json()) + "\n"
    }

    /// The identity in such a line.
    pub fn parse(text: &str) -> Stated {
        if let Some(version) = older(text) {
            return Stated::Older(version.to_owned());
        }
        let json = unseal(text.trim_end_matches('\n'));
        match json.and_then(|json| serde_json::from_str(json).ok()) {
            Some(identity) => Stated::Sound(identity),
            None => Stated::Damaged,
        }
    }

    fn json(&self) -> String {
        // Names and plain values always have a JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Sets an ingredient, or removes it if it is absent.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.remove(name);
        self.add(name, value);
    }

    /// Adds an ingredient; nothing for an option that is not given.
    pub(crate) fn add(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        let is_absent = match &value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(values) => values.is_empty(),
            _ => false,
        };
        if !is_absent {
            self.0.insert(name.to_owned(), value);
        }
    }
}

/// Version that a checkpoint of version 0.1.0 begins with.
fn older(text: &str) -> Option<&str> {
    let version = text.split(' ').next()?;
    let is_version =
        version.split('.').count() == 3 && version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_version.then_some(version)
}

/// A file of an earlier version, which this one does not continue; `again` is the command or flag that makes it anew.
pub(crate) fn made_by_older(path: &Path, version: &str, again: &str) -> Error {
    Error::Model {
        path: path.to_owned(),
        what: format!("was made by rwkv-quant {version}; make it again"),
        help: again.to_owned(),
    }
}

/// An ingredient in which two identities differ: its name, and both values if they are short.
fn told_apart(name: &str, ours: Option<&Value>, theirs: Option<&Value>) -> String {
    match (shown(ours), shown(theirs)) {
        (Some(ours), Some(theirs)) if ours != theirs => format!("{name} ({ours}, {theirs})"),
        _ => name.to_owned(),
    }
}

/// A value in a word; `None` if it is the digest of a file or a list.
fn shown(value: Option<&Value>) -> Option<String> {
    const LONGEST: usize = 32;
    match value {
        None => Some("not given".to_owned()),
        Some(Value::Bool(_)) => Some("given".to_owned()),
        Some(Value::Array(_)) => None,
        Some(Value::String(text)) => (text.len() <= LONGEST).then(|| text.clone()),
        Some(other) => Some(other.to_string()),
    }
}

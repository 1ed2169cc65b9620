//! Metadata of a model besides its tensors: name, author, license, origin, tokenizer, chat template.
//!
//! It comes from the source, and what a person says goes before it. Nothing is guessed but the name.
//!
//! ```text
//! GGUF source          its keys general.*, but those that tell of the file and not of the model
//! Hugging Face source  the model card: the YAML at the top of the README.md beside the weights
//! any                  the name, if nothing states it: that of the folder or file
//! ```

mod card;
mod fingerprint;
mod general;
pub(crate) mod gguf_tokenizer;
mod origin;
mod overrides;
mod set_key;
mod tokens;

pub use tokens::{coder, stated_coder};

use std::path::Path;

pub use fingerprint::{CalibrationFingerprint, share_of};
use formats::{Metadata, Value};
pub use origin::repository;
pub use overrides::MetadataOptions;
pub use set_key::SetKey;

use crate::error::Result;
use crate::model::Model;
use crate::vocab::Tokenizer;

/// True if a target tells how text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Target that does not tell.
    No,
    /// Tokenizer, if the vocabulary is known.
    IfKnown,
    /// Target that tells, so a vocabulary must be known.
    Yes,
}

/// Metadata of the model besides its tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelMetadata {
    /// Description of the model, under GGUF's keys `general.*`, in no order.
    general: Metadata,
    /// The tokenizer; `None` if the runtime is to have none.
    pub tokenizer: Option<Tokenizer>,
    /// True if the user named the vocabulary, so that what the source says of its own no longer holds.
    pub vocab_is_given: bool,
    /// The chat template (Jinja), if the model has one.
    pub chat_template: Option<String>,
    /// True if the user wants no chat template at all.
    pub no_chat_template: bool,
    /// Keys of a GGUF file that the user sets.
    pub set_keys: Vec<SetKey>,
}

impl ModelMetadata {
    /// Metadata that the source of `model` states, and the name; the model card is left aside unless `use_card`. The
    /// tokenizer is still to be told ([`ModelMetadata::tokenize`]).
    ///
    /// # Errors
    /// If the model card cannot be read or understood.
    pub fn stated(model: &Model, use_card: bool) -> Result<ModelMetadata> {
        let source = &model.container;
        let mut about = ModelMetadata::default();
        about.general.extend(source.metadata().iter().filter(|(key, _)| general::is_carried(key)).cloned());
        if let (Some(folder), true) = (origin::card_folder(source), use_card) {
            for (key, value) in card::read(&folder)? {
                if about.value(&key).is_none() {
                    about.general.push((key, value));
                }
            }
        }
        if about.value("general.name").is_none() {
            about.set("name", &origin::name(source));
        }
        Ok(about)
    }

    /// Says that the key `general.FIELD` is `text`, whatever the source states.
    pub fn set(&mut self, field: &str, text: &str) {
        let key = format!("general.{field}");
        // The name and address of another licence would be wrong now.
        self.general.retain(|(k, _)| *k != key && !(field == "license" && k.starts_with("general.license.")));
        self.general.push((key, Value::from(text)));
    }

    /// Says what the model was made from (`organization/name`, an address, or a name), whatever the source states.
    pub fn set_base_model(&mut self, id: &str) {
        self.general.retain(|(key, _)| !key.starts_with("general.base_model."));
        self.general.extend(general::entries("base_model", &[general::entry(id)]));
    }

    /// Tells how text becomes tokens: by the vocabulary or tokenizer given, else by the one that the source states
    /// or that stands beside it, else by the usual one of its size. `chat_template` is a file, `world` or `none`;
    /// otherwise it is what the source states, else what goes with the tokenizer.
    ///
    /// # Errors
    /// If a file cannot be read or understood, or no tokenizer is known.
    pub fn tokenize(
        &mut self,
        model: &Model,
        vocab: Option<&Path>,
        chat_template: Option<&Path>,
    ) -> Result<()> {
        let tokenizer = tokens::tokenizer(model, vocab)?;
        self.chat_template = tokens::chat_template(model, &tokenizer, chat_template)?;
        self.no_chat_template = chat_template == Some(Path::new(tokens::NO_TEMPLATE));
        self.vocab_is_given = vocab.is_some();
        self.tokenizer = Some(tokenizer);
        Ok(())
    }

    /// The keys `general.*` in the order of llama.cpp's converter, with one more that tells of the file.
    pub fn general_with(&self, key: &str, value: Value) -> Metadata {
        let mut keys = self.general.clone();
        keys.push((key.to_owned(), value));
        general::sort(&mut keys);
        keys
    }

    /// The text of `general.FIELD`.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.value(&format!("general.{field}"))?.as_str()
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.general.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }
}

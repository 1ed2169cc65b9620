//! Metadata that the user states of a model.

use serde::{Deserialize, Serialize};

use super::{ModelMetadata, SetKey, Tokens};
use crate::error::{Error, Result};
use crate::files::InputFile;
use crate::model::{Body, Model};

/// Metadata that the user states of a model, in place of the source's: the table `[metadata]` of a recipe.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetadataOptions {
    /// Vocabulary: a file, or `world` or `bytes`; for hybrids with Qwen2, the folder of the tokenizer's files
    /// [default: in the source or beside it, else by the number of tokens]
    pub vocab: Option<InputFile>,
    /// Chat template: a Jinja file, or `world` or `none` [default: what the source states, else world for the
    /// World vocabulary]
    pub chat_template: Option<InputFile>,
    /// Name of the model [default: what the source states, else the name of its folder or file]
    pub name: Option<String>,
    /// Author of the model
    pub author: Option<String>,
    /// Version of the model
    pub model_version: Option<String>,
    /// Organization behind the model
    pub organization: Option<String>,
    /// A sentence about the model
    pub description: Option<String>,
    /// Licence, as an SPDX name: apache-2.0
    pub license: Option<String>,
    /// Home page of the model
    pub url: Option<String>,
    /// The model that this one was made from: organization/name
    pub base_model: Option<String>,
    /// Set any key of a GGUF file: tokenizer.ggml.eos_token_id=u32:24, rwkv7.context_length=u32:4096, my.tags=str[]:["a"]
    /// (u8 to u64, i8 to i64, f32, f64, bool, str; [] behind it for a JSON array); may be given several times
    pub set_key: Vec<SetKey>,
    /// Leave the model card (README.md) of a Hugging Face folder aside
    pub no_card: bool,
}

impl MetadataOptions {
    /// Metadata stated here, else by the source of `model`; with a tokenizer if the target has one: `tokens`.
    ///
    /// # Errors
    /// If a file that is named here, or the model card beside the source, cannot be read or understood.
    pub fn applied(&self, model: &Model, tokens: Tokens) -> Result<ModelMetadata> {
        let mut about = ModelMetadata::stated(model, !self.no_card)?;
        for (field, flag) in [
            ("name", &self.name),
            ("author", &self.author),
            ("version", &self.model_version),
            ("organization", &self.organization),
            ("description", &self.description),
            ("license", &self.license),
            ("url", &self.url),
        ] {
            if let Some(text) = flag {
                about.set(field, text);
            }
        }
        about.set_keys.clone_from(&self.set_key);
        if let Some(id) = &self.base_model {
            about.set_base_model(id);
        }
        let path = InputFile::path_of;
        let mut tokenize = || about.tokenize(model, path(&self.vocab), path(&self.chat_template));
        match tokens {
            Tokens::No => {}
            // Nothing tells how a model of an unknown architecture is run.
            _ if model.version.body == Body::Unknown => {}
            Tokens::Yes => tokenize()?,
            Tokens::IfKnown => match tokenize() {
                Err(Error::Usage { .. }) if self.vocab.is_none() => {}
                told => told?,
            },
        }
        Ok(about)
    }
}

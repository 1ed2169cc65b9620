//! Adapters merged into a model as it is opened: the table `[adapters]` of a recipe.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Adapter, Layout, Options, TunedState};
use crate::error::Result;
use crate::files::InputFile;
use crate::model::Model;

/// An adapter and a tuned state.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adapters {
    /// A LoRA, PiSSA, DiSHA or Bone file to merge into the model, or the folder of a LoRA that PEFT wrote.
    pub lora: Option<InputFile>,
    /// The LoRA's alpha, if its files do not hold it.
    pub lora_alpha: Option<f32>,
    /// The file that a PiSSA training started from.
    pub lora_init: Option<InputFile>,
    /// A tuned initial state that every text starts from.
    pub state: Option<InputFile>,
    /// Layout of a head's matrix in the state file, if not the usual one of its extension.
    pub state_layout: Option<Layout>,
}

impl Adapters {
    /// The files that are read, and the configuration that PEFT writes beside an adapter.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let given =
            [&self.lora, &self.lora_init, &self.state].into_iter().flatten().map(|file| file.0.clone());
        given.chain(self.lora.as_ref().map(|lora| super::peft::config_beside(&lora.0)))
    }

    /// Merges what was asked for into `model`.
    ///
    /// # Errors
    /// If a file cannot be read, or does not go with the model.
    pub fn merge_into(&self, model: &mut Model) -> Result<()> {
        if let Some(adapter) = self.adapter(model, false)? {
            adapter.merge(model);
        }
        self.tune(model)
    }

    /// Adds what was asked for to `model`, whose weights stay as they are; a LoRA may be `unscaled`.
    ///
    /// # Errors
    /// If a file cannot be read, or does not go with the model.
    pub fn add_to(&self, model: &mut Model, unscaled: bool) -> Result<()> {
        model.adapters.extend(self.adapter(model, unscaled)?);
        self.tune(model)
    }

    /// Layout of a head's matrix in the state file, if there is one.
    pub fn layout(&self) -> Option<Layout> {
        let state = self.state.as_ref()?;
        Some(self.state_layout.unwrap_or_else(|| Layout::usual(&state.0)))
    }

    fn adapter(&self, model: &Model, unscaled: bool) -> Result<Option<Adapter>> {
        let options = Options {
            alpha: self.lora_alpha,
            init: self.lora_init.as_ref().map(|file| file.0.as_path()),
            unscaled,
        };
        self.lora.as_ref().map(|lora| Adapter::read(&lora.0, model, options)).transpose()
    }

    fn tune(&self, model: &mut Model) -> Result<()> {
        if let (Some(state), Some(layout)) = (&self.state, self.layout()) {
            model.state = Some(TunedState::read(&state.0, model, layout)?);
        }
        Ok(())
    }
}

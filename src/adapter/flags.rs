//! Adapters and tuned states on the command line: what is merged into the model as it is opened.

use std::path::PathBuf;

use super::{Adapter, Layout, Options, TunedState};
use crate::error::Result;
use crate::model::Model;

/// What is merged into the model.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Adapters")]
pub struct Flags {
    /// A LoRA, PiSSA, DiSHA or Bone file to merge into the model, or the folder of a LoRA that PEFT wrote
    #[arg(long, value_name = "FILE")]
    pub lora: Option<PathBuf>,
    /// The LoRA's alpha, which files of most training programs do not hold (its rank, if it was trained without scaling)
    /// [default: that of the adapter_config.json beside it, or of a GGUF file]
    #[arg(long, value_name = "ALPHA", requires = "lora")]
    pub lora_alpha: Option<f32>,
    /// The file that a PiSSA training started from (init_pissa.pth)
    #[arg(long, value_name = "FILE", requires = "lora", conflicts_with = "lora_alpha")]
    pub lora_init: Option<PathBuf>,
    /// A tuned initial state that every text starts from
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// How the state file keeps the matrix of a head [default: key-value for .st files, which are web-rwkv's, else
    /// value-key]
    #[arg(long, value_enum, value_name = "LAYOUT", requires = "state")]
    pub state_layout: Option<Layout>,
}

impl Flags {
    /// The files that are read, and the configuration that PEFT writes beside an adapter.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let given = [&self.lora, &self.lora_init, &self.state].into_iter().flatten().cloned();
        given.chain(self.lora.as_deref().map(super::peft::config_beside))
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

    fn adapter(&self, model: &Model, unscaled: bool) -> Result<Option<Adapter>> {
        let options = Options { alpha: self.lora_alpha, init: self.lora_init.as_deref(), unscaled };
        self.lora.as_ref().map(|lora| Adapter::read(lora, model, options)).transpose()
    }

    fn tune(&self, model: &mut Model) -> Result<()> {
        if let Some(state) = &self.state {
            let layout = self.state_layout.unwrap_or_else(|| Layout::usual(state));
            model.state = Some(TunedState::read(state, model, layout)?);
        }
        Ok(())
    }
}

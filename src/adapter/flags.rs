//! Adapters and tuned states on the command line: what is merged into the model as it is opened.

use std::path::PathBuf;

use super::{Adapter, Layout, Options, TunedState};
use crate::error::Result;
use crate::model::Model;

/// What is merged into the model.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Adapters")]
pub struct Flags {
    /// A LoRA, PiSSA, DiSHA or Bone file to merge into the model
    #[arg(long, value_name = "FILE")]
    pub lora: Option<PathBuf>,
    /// The LoRA's alpha, which its file does not hold (its rank, if it was trained without scaling)
    #[arg(long, value_name = "ALPHA", requires = "lora")]
    pub lora_alpha: Option<f32>,
    /// The file that a PiSSA training started from (init_pissa.pth)
    #[arg(long, value_name = "FILE", requires = "lora", conflicts_with = "lora_alpha")]
    pub lora_init: Option<PathBuf>,
    /// A tuned initial state that every text starts from
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// How the state file keeps the matrix of a head
    #[arg(long, value_enum, default_value = "value-key", requires = "state")]
    pub state_layout: Layout,
}

impl Flags {
    /// Merges what was asked for into `model`.
    ///
    /// # Errors
    /// If a file cannot be read, or does not go with the model.
    pub fn merge_into(&self, model: &mut Model) -> Result<()> {
        if let Some(adapter) = self.adapter(model)? {
            adapter.merge(model);
        }
        self.tune(model)
    }

    /// Adds what was asked for to `model`, whose weights stay as they are.
    ///
    /// # Errors
    /// If a file cannot be read, or does not go with the model.
    pub fn add_to(&self, model: &mut Model) -> Result<()> {
        model.adapters.extend(self.adapter(model)?);
        self.tune(model)
    }

    fn adapter(&self, model: &Model) -> Result<Option<Adapter>> {
        let options = Options { alpha: self.lora_alpha, init: self.lora_init.as_deref() };
        self.lora.as_ref().map(|lora| Adapter::read(lora, model, options)).transpose()
    }

    fn tune(&self, model: &mut Model) -> Result<()> {
        if let Some(state) = &self.state {
            model.state = Some(TunedState::read(state, model, self.state_layout)?);
        }
        Ok(())
    }
}

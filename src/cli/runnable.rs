//! What the commands that run a model have in common: flags, vocabulary, threads.

use std::path::{Path, PathBuf};

use formats::Limits;

use crate::about;
use crate::error::Result;
use crate::model::Model;
use crate::pipeline;
use crate::runner::{Layout, Options, Runner};
use crate::size;
use crate::vocab::Vocab;

/// How a model is run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Running the model")]
pub(super) struct RunArgs {
    /// Vocabulary: a file, or `world` or `bytes` [default: the model's own, else by the number of tokens]
    #[arg(long, value_name = "FILE")]
    pub vocab: Option<PathBuf>,
    /// Multiply on the processor's matrix unit where it has one (Intel AMX), with 16 of the 24 bits of f32
    #[arg(long)]
    pub fast: bool,
    /// Threads [default: as many as the machine runs at once]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Most memory to take; blocks are then streamed from the file
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub max_memory: Option<u64>,
    /// A LoRA file to add to the model
    #[arg(long, value_name = "FILE", requires = "lora_alpha")]
    pub lora: Option<PathBuf>,
    /// The LoRA's alpha, which its file does not hold (its rank, if it was trained without scaling)
    #[arg(long, value_name = "ALPHA")]
    pub lora_alpha: Option<f32>,
    /// A tuned initial state that every text starts from
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// How the state file keeps the matrix of a head
    #[arg(long, value_enum, default_value = "value-key", requires = "state")]
    pub state_layout: Layout,
    /// Epsilon of the norm over heads [default: 64e-5, the official runner's; rwkv.cpp has 1e-5 for version 5]
    #[arg(long, value_name = "EPSILON")]
    pub group_norm_epsilon: Option<f32>,
    /// Leave out the tensors of this name (* stands for anything); may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub drop: Vec<String>,
}

impl RunArgs {
    /// A runner of the model at `path`, with the LoRA and the state if `adapted`.
    pub fn runner(&self, path: &Path, adapted: bool, keep_low_rank: bool, fast: bool) -> Result<Runner> {
        let model = Model::open(path, &self.drop)?;
        let options = Options {
            group_norm_epsilon: self.group_norm_epsilon,
            keep_low_rank,
            fast,
            stream: self.max_memory.is_some(),
        };
        let mut runner = Runner::new(model, options)?;
        if let (Some(lora), Some(alpha), true) = (&self.lora, self.lora_alpha, adapted) {
            runner.add_lora(&formats::open(lora, &Limits::default())?, alpha)?;
        }
        if let (Some(state), true) = (&self.state, adapted) {
            runner.set_initial_state(&formats::open(state, &Limits::default())?, self.state_layout)?;
        }
        Ok(runner)
    }

    /// The vocabulary asked for, else the model's own, else the usual one of its size.
    pub fn vocabulary(&self, model: &Model) -> Result<Vocab> {
        about::vocabulary(model, self.vocab.as_deref())
    }

    /// Runs `work` with as many threads as asked for.
    pub fn with_threads<R: Send>(&self, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        pipeline::pool(self.threads.unwrap_or(0))?.install(work)
    }
}

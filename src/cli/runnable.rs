//! What the commands that run a model have in common: flags, vocabulary, threads.

use std::path::{Path, PathBuf};

use super::adapters::AdapterArgs;
use super::{open_model, size};
use crate::about;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::runner::{Arithmetic, Options, Runner};
use crate::vocab::Coder;

/// How a model is run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Running the model")]
pub(super) struct RunArgs {
    /// Vocabulary: a file (a tokenizer.json too), or `world` or `bytes` [default: the model's own, else by the number of tokens]
    #[arg(long, value_name = "FILE")]
    pub vocab: Option<PathBuf>,
    /// Multiply on the processor's matrix unit where it has one (Intel AMX), with 16 of the 24 bits of f32
    #[arg(long, conflicts_with = "device")]
    fast: bool,
    /// Where to multiply matrices: `cpu`; `candle` for candle's kernels instead of this program's, as a second
    /// opinion; if built in, `cuda`, `cuda:N` or `metal`
    #[arg(long, value_name = "DEVICE", default_value = "cpu", hide_default_value = true)]
    device: Arithmetic,
    /// Threads [default: as many as the machine runs at once]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Most memory to take; blocks are then streamed from the file
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub max_memory: Option<u64>,
    /// Epsilon of the norm over heads [default: 64e-5, the official runner's; rwkv.cpp has 1e-5 for version 5]
    #[arg(long, value_name = "EPSILON")]
    pub group_norm_epsilon: Option<f32>,
    /// Leave out the tensors of this name (* stands for anything); may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub drop: Vec<String>,
    #[command(flatten)]
    pub adapters: AdapterArgs,
}

impl RunArgs {
    /// How matrices are to be multiplied.
    pub fn arithmetic(&self) -> Arithmetic {
        if self.fast { Arithmetic::Fast } else { self.device.clone() }
    }

    /// A runner of the model at `path`, with the LoRA and the state if `adapted`.
    pub fn runner(
        &self,
        path: &Path,
        adapted: bool,
        keep_low_rank: bool,
        arithmetic: Arithmetic,
    ) -> Result<Runner> {
        let mut model = open_model(path, &self.drop)?;
        let options = Options {
            group_norm_epsilon: self.group_norm_epsilon,
            keep_low_rank,
            arithmetic,
            stream: self.max_memory.is_some(),
        };
        if adapted {
            self.adapters.merge_into(&mut model)?;
        }
        Runner::new(model, options)
    }

    /// The tokenizer asked for, else the model's own, else the usual one of its size.
    pub fn coder(&self, model: &Model) -> Result<Coder> {
        let coder = about::coder(model, self.vocab.as_deref())?;
        if coder.size() > model.dims.vocab {
            return Err(Error::Usage {
                what: format!(
                    "the vocabulary {} has {} ids, but {} has rows for {} only",
                    coder.vocab().name,
                    coder.size(),
                    model.container.path().display(),
                    model.dims.vocab
                ),
                help: "give the vocabulary that the model was trained with".to_owned(),
            });
        }
        Ok(coder)
    }

    /// Runs `work` with as many threads as asked for.
    pub fn with_threads<R: Send>(&self, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.unwrap_or(0)).build();
        let pool = pool.map_err(|e| Error::Resources {
            what: format!("cannot start {} threads: {e}", self.threads.unwrap_or(0)),
            help: "give fewer: --threads 1".to_owned(),
        })?;
        pool.install(work)
    }
}

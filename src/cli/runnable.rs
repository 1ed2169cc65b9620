//! What the commands that run a model have in common: flags, vocabulary, threads.

use std::path::{Path, PathBuf};

use super::recipe_args::{AdapterArgs, laid_over};
use crate::error::Result;
use crate::escape;
use crate::files::InputFile;
use crate::hub;
use crate::low_rank;
use crate::metadata;
use crate::model::Model;
use crate::model::adapter::Adapters;
use crate::pipeline;
use crate::runner::{Arithmetic, Options, Runner};
use crate::units::parse_bytes;
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
    /// Threads [default: as many as the machine runs at once, up to 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Most memory to take, all models together; blocks are then streamed from the files
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_memory: Option<u64>,
    /// Epsilon of the norm over heads [default: 64e-5, the official runner's; rwkv.cpp has 1e-5 for version 5]
    #[arg(long, value_name = "EPSILON", value_parser = epsilon)]
    pub group_norm_epsilon: Option<f32>,
    /// Leave out the tensors of this name (* stands for anything); may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub drop: Vec<String>,
    #[command(flatten)]
    adapters: AdapterArgs,
}

impl RunArgs {
    /// How matrices are to be multiplied.
    pub fn arithmetic(&self) -> Arithmetic {
        if self.fast { Arithmetic::Fast } else { self.device.clone() }
    }

    /// The files that are read besides models and texts.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let adapters = self.adapters()?;
        Ok(self.vocab.iter().cloned().chain(adapters.files()).collect())
    }

    /// What is merged into models.
    pub fn adapters(&self) -> Result<Adapters> {
        laid_over(&Adapters::default(), &self.adapters)
    }

    /// How models are run, all of them in the same buffers.
    pub fn options(&self) -> Options {
        Options {
            group_norm_epsilon: self.group_norm_epsilon,
            arithmetic: self.arithmetic(),
            stream: self.max_memory.is_some(),
            ..Options::default()
        }
    }

    /// A runner of the model at `path`, with the LoRA and the state if `adapted`.
    pub fn runner(&self, path: &Path, adapted: bool, options: Options) -> Result<Runner> {
        let mut model = Model::open(&hub::local(path)?, &self.drop)?;
        let adapters = self.adapters()?;
        if adapted {
            adapters.merge_into(&mut model)?;
        }
        let lora = InputFile::path_of(&adapters.lora).filter(|_| adapted);
        if let Some(half) = low_rank::lacking(&model.container, lora) {
            eprintln!("warning: {} (--lora FILE takes it)", escape::line(&half));
        }
        Runner::new(model, options)
    }

    /// The tokenizer asked for, else the model's own, else the usual one of its size.
    pub fn coder(&self, model: &Model) -> Result<Coder> {
        metadata::coder(model, self.vocab.as_deref())
    }

    /// Runs `work` with as many threads as asked for.
    pub fn with_threads<R: Send>(&self, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        pipeline::pool(self.threads.map_or_else(pipeline::default_threads, usize::from))?.install(work)
    }
}

/// An epsilon that can be added to a variance.
fn epsilon(text: &str) -> std::result::Result<f32, String> {
    let epsilon = text.parse().ok().filter(|e: &f32| e.is_finite() && *e > 0.0);
    epsilon.ok_or_else(|| "give a small number above 0, such as 64e-5".to_owned())
}

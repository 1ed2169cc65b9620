//! What the commands that write a small file about a model have in common.

use std::path::PathBuf;

use super::stop_on_ctrl_c;
use crate::error::{Error, Result};
use crate::hub;
use crate::metadata;
use crate::model::Model;
use crate::pipeline;
use crate::recipe::SELF;
use crate::storage::{Inputs, Outputs, Targets};
use crate::vocab::Coder;

/// The model, the file to write, and how.
#[derive(Debug, clap::Args)]
pub(super) struct DerivedArgs {
    /// The model: any file, sharded set or folder that can be converted
    pub model: PathBuf,
    /// The file to write
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: PathBuf,
    /// Vocabulary: a file, or `world` or `bytes` [default: the model's own, else by the number of tokens]
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Threads [default: as many as the machine runs at once, up to 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Leave out the tensors of this name (* stands for anything); may be given several times
    #[arg(long, value_name = "PATTERN")]
    drop: Vec<String>,
    /// Replace the output if it exists
    #[arg(long, short = 'f')]
    force: bool,
}

impl DerivedArgs {
    /// Opens the model.
    pub fn open(&self) -> Result<Model> {
        Model::open(&hub::local(&self.model)?, &self.drop)
    }

    /// The tokenizer asked for, else the model's own, else the usual one of its size.
    pub fn coder(&self, model: &Model) -> Result<Coder> {
        metadata::coder(model, self.vocab.as_deref())
    }

    /// Runs `work`, which fills the output, with as many threads as asked for, if the output may be written: its extension
    /// is one of `extensions`, and nothing stands there. `what` is to be written: `an importance matrix`; `texts` are read.
    pub fn run<R: Send>(
        &self,
        what: &str,
        extensions: &[&str],
        texts: &[PathBuf],
        work: impl FnOnce(&mut Outputs) -> Result<R> + Send,
    ) -> Result<R> {
        let extension = self.output.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if !extensions.contains(&extension) {
            return Err(Error::Usage {
                what: format!("{what} cannot be written as {}", self.output.display()),
                help: format!("give a name that ends in .{}", extensions.join(" or .")),
            });
        }
        stop_on_ctrl_c();
        let mut inputs = Inputs::new();
        let texts = texts.iter().filter(|path| path.as_os_str() != SELF);
        inputs.add_all([&self.model].into_iter().chain(&self.vocab).chain(texts).map(PathBuf::as_path));
        inputs.add_open(self.open()?.files());
        let mut outputs = Outputs::claim(Targets::file(&self.output), &inputs, self.force)?;
        let pool = pipeline::pool(self.threads.map_or_else(pipeline::default_threads, usize::from))?;
        pool.install(|| {
            let made = work(&mut outputs)?;
            outputs.commit(&inputs)?;
            Ok(made)
        })
    }
}

//! One conversion from start to end: what the command `convert` does, and a cell of a batch.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::about::{About, Overrides};
use crate::adapter::Flags;
use crate::error::{Error, Result};
use crate::importance::Importance;
use crate::model::Model;
use crate::pipeline::{self, Budget, Observer, Stop};
use crate::plan::{Plan, Wishes};
use crate::recipe::{Fallback, FileType, Mix, Recipe, Search};
use crate::report::Conversion;
use crate::size;
use crate::targets::{self, Chat, Content, Output, TARGETS, Target};

/// What is asked for: from what to what, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Request {
    /// The model: a .pth, .safetensors, .st, .gguf or rwkv.cpp .bin file, any part of a sharded set, or a folder
    pub input: PathBuf,
    /// The file or folder to write; a file's extension tells the format
    pub output: PathBuf,
    /// File type; see `rwkv-quant targets` for who has which [default: where there is no quantization, `source`: as
    /// it is]
    #[arg(long = "type", short = 't', value_name = "TYPE", value_parser = file_type(), ignore_case = true)]
    pub file_type: Option<&'static FileType>,
    /// What to write, whatever the extension
    #[arg(long, value_name = "TARGET", value_parser = target())]
    pub to: Option<String>,
    /// Whose choice of types for the tensors
    #[arg(long, value_enum, default_value_t)]
    pub mix: Mix,
    /// What to do where rows are no whole blocks of a type, so that another stands in
    #[arg(long, value_enum, default_value_t)]
    pub fallback: Fallback,
    /// How long to search for the codes of quantized types
    #[arg(long, value_enum, default_value_t)]
    pub search: Search,
    /// Importance matrix of llama.cpp (GGUF or .dat): columns that matter more get the smaller errors
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Spread the tensors over files that hold at most so much of them
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub split_max_size: Option<u64>,
    /// Quantize the first N blocks only (.prefab)
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Have the runtime halve its activations every N blocks, so that they stay within f16; 0 for never (.prefab)
    /// [default: 6 up to version 6, never from version 7 on]
    #[arg(long, value_name = "N")]
    pub rescale: Option<usize>,
    /// Write the file even if the runtime is known to compute something else with it
    #[arg(long)]
    pub force_target: bool,
    /// Leave out the tensors of this name (* stands for anything); may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub drop: Vec<String>,
    /// Most memory that the conversion may take [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub max_memory: Option<u64>,
    /// Threads [default: as many as the machine runs at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Also write a Modelfile for ollama, NAME.Modelfile, with the prompt format of these models
    #[arg(long, value_enum, value_name = "MODELS")]
    pub modelfile: Option<Chat>,
    /// What is merged into the model
    #[command(flatten)]
    pub adapters: Flags,
    /// What is said of the model in place of what its source states
    #[command(flatten)]
    pub about: Overrides,
}

fn file_type() -> impl TypedValueParser<Value = &'static FileType> {
    PossibleValuesParser::new(FileType::names()).try_map(|name| FileType::named(&name))
}

fn target() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(TARGETS.iter().map(|t| t.id()))
}

/// A conversion that is planned to the last byte.
#[derive(Debug)]
pub struct Prepared {
    /// The source.
    pub model: Model,
    /// What is to be written.
    pub plan: Plan,
    /// With how much memory and how many threads.
    pub budget: Budget,
    /// What is said of the model.
    pub about: About,
    /// The importance matrix that was read.
    pub imatrix: Option<PathBuf>,
    /// The file or folder to write.
    pub output: PathBuf,
}

impl Request {
    /// Opens the source and plans the conversion; nothing is written.
    ///
    /// # Errors
    /// If a file that is read is missing or damaged, or what is asked for cannot be.
    pub fn prepare(&self) -> Result<Prepared> {
        let target = targets::choose(&self.output, self.to.as_deref())?;
        let file_type = targets::type_or_default(target, self.file_type)?;
        self.refuse_idle(target, file_type)?;
        self.plan(self.open(target)?, target, file_type)
    }

    /// Refuses flags that would change nothing.
    fn refuse_idle(&self, target: &dyn Target, file_type: &FileType) -> Result<()> {
        let (content, plain) = (target.content(), file_type.is_plain());
        let (adapter, gguf) = (content == Content::Adapter, target.id() == targets::gguf::Gguf.id());
        for (flag, idle) in [
            ("--imatrix", self.imatrix.is_some() && (plain || !gguf)),
            ("--search best", self.search == Search::Best && plain),
            ("--layers", self.layers.is_some() && plain && target.plans_layers()),
            ("--state", self.adapters.state.is_some() && adapter),
            ("--lora", self.adapters.lora.is_some() && content == Content::State),
            ("--lora-alpha", self.adapters.lora_alpha.is_some() && adapter && !target.keeps_alpha()),
        ] {
            if idle {
                let file_type = file_type.name;
                return Err(Error::Usage {
                    what: format!(
                        "{flag} changes nothing in {} files of the type {file_type}",
                        target.name()
                    ),
                    help: "leave it out".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Opens the source, with what is merged into it for that target.
    ///
    /// # Errors
    /// As [`Model::open`], or if an adapter cannot be read or does not go with the model.
    pub fn open(&self, target: &dyn Target) -> Result<Model> {
        let mut model = Model::open(&self.input, &self.drop)?;
        match target.content() {
            Content::Adapter => self.adapters.add_to(&mut model, !target.keeps_alpha())?,
            Content::Model | Content::State => self.adapters.merge_into(&mut model)?,
        }
        Ok(model)
    }

    /// Plans the conversion of `model`, which is the source.
    ///
    /// # Errors
    /// If a file that is read is missing or damaged, or what is asked for cannot be.
    pub fn plan(
        &self,
        model: Model,
        target: &'static dyn Target,
        file_type: &'static FileType,
    ) -> Result<Prepared> {
        targets::admit(target, &model, file_type)?;
        let about = self.about.applied(&model, target)?;
        let recipe = Recipe {
            file_type,
            mix: self.mix,
            fallback: self.fallback,
            search: self.search,
            importance: self.imatrix.as_deref().map(Importance::load).transpose()?,
            layers: self.layers,
            rescale: self.rescale,
        };
        let wishes = Wishes {
            force: self.force_target,
            split_max_bytes: self.split_max_size,
            modelfile: self.modelfile,
        };
        let plan = Plan::new(&model, target, recipe, &about, &self.output, wishes)?;
        let threads = match self.threads {
            Some(n) => n.into(),
            None => std::thread::available_parallelism().map_or(1, Into::into),
        };
        let budget = Budget::new(&plan, threads, self.max_memory)?;
        Ok(Prepared {
            model,
            plan,
            budget,
            about,
            imatrix: self.imatrix.clone(),
            output: self.output.clone(),
        })
    }
}

impl Prepared {
    /// What will be written, for people and programs.
    pub fn report(&self) -> Conversion {
        let vocabulary = self.about.tokenizer.as_ref().map(ToString::to_string);
        Conversion::planned(&self.model, &self.plan, &self.budget, &self.output, vocabulary)
    }

    /// What opens the finished model: the output, or of a set its first part.
    pub fn to_open(&self) -> PathBuf {
        match (self.plan.output, self.plan.files.first()) {
            (Output::Set, Some(first)) => self.output.with_file_name(&first.name),
            _ => self.output.clone(),
        }
    }

    /// The files to be written.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let names = self.plan.files.iter().map(|f| &f.name).chain(self.plan.small.iter().map(|f| &f.name));
        names.map(|name| match self.plan.output {
            Output::Folder => self.output.join(name),
            Output::File | Output::Set => self.output.with_file_name(name),
        })
    }

    /// Looks through the weights for those that the target cannot hold; nothing is written.
    ///
    /// # Errors
    /// As [`pipeline::check`].
    pub fn check(&self, stop: &Stop) -> Result<()> {
        pipeline::check(&self.plan, &self.model, &self.budget, stop)
    }

    /// Writes it; what is there is replaced if `force`.
    ///
    /// # Errors
    /// As [`pipeline::write`].
    pub fn write(&self, force: bool, observer: &dyn Observer, stop: &Stop) -> Result<()> {
        pipeline::write(&self.plan, &self.model, &self.output, force, &self.budget, observer, stop)
    }
}

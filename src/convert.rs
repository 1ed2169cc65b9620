//! One conversion from start to end: what the command `convert` does, and a cell of a batch.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use formats::Mapped;
use quant::Encoding;

use crate::about::{self, About, Overrides};
use crate::adapter::Flags;
use crate::branches::{self, Branches};
use crate::calibrate::{
    self, Calibration, Chosen, Done, Goals, Judge, Settings, Source, Stats, Store, Text, Trace,
};
use crate::compact;
use crate::error::{Error, Result};
use crate::eval::Estimate;
use crate::files::replace;
use crate::importance::Importance;
use crate::model::{Held, Model, Role};
use crate::pipeline::{self, Budget, Observer, Stop};
use crate::plan::{Plan, Wishes, Write};
use crate::recipe::{CODED, Fallback, FileType, Mix, Preset, Recipe, Search, Types};
use crate::report::Conversion;
use crate::rescale::{Pair, Rescaling};
use crate::runner::{Key, Options, Runner};
use crate::size;
use crate::targets::{self, Chat, Content, Output, TARGETS, Target};
use crate::verify::sha256;

/// The file type beside goals, which choose the types themselves: what the file calls itself.
///
/// # Errors
/// [`Error::Usage`] if the target's types cannot be chosen one by one.
pub(crate) fn beside_goals(target: &dyn Target) -> Result<&'static FileType> {
    const USUAL: [&str; 2] = ["q4_k_m", "q5_1"];
    if target.codes() {
        return FileType::named(CODED);
    }
    let usual = USUAL.into_iter().map(FileType::named).find(|t| t.as_ref().is_ok_and(|t| target.holds(t)));
    match usual {
        Some(file_type) if !target.rungs().is_empty() => file_type,
        _ => Err(Error::Usage {
            what: format!("the types of {} files cannot be mixed freely", target.name()),
            help: "give --type, or write .gguf".to_owned(),
        }),
    }
}

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
    /// Rescale channels, which changes nothing about what the model computes, so that quantization errs less; needs
    /// --imatrix. Adapters and token-shift states made for the model no longer fit
    #[arg(long)]
    pub equalize: bool,
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
    /// What it is calibrated on
    #[command(flatten)]
    pub calibration: Settings,
    /// Fit every matrix to what meets it in the source, not to what the matrices rounded before it make of that: a
    /// little worse, but each can be done on another machine (--shard)
    #[arg(long, requires = "calib", help_heading = "Calibration")]
    pub calib_independent: bool,
    /// How large or good it is to be
    #[command(flatten)]
    pub goals: Goals,
    /// What is kept apart from its matrices
    #[command(flatten)]
    pub branches: branches::BranchFlags,
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
    /// What it is calibrated on.
    pub(crate) calibration: Option<Calibration>,
    /// What else the calibrated bytes depend on, besides source, plan and text.
    how: String,
    /// What became of the matrices that are encoded before the file is written.
    pub(crate) done: Done,
    /// Size of the adapter with the branches of low rank: at most, then really.
    pub(crate) adapter_bytes: u64,
    /// How large the file may be, if it is coded for a size.
    pub(crate) most_bytes: Option<u64>,
    /// The chat that a Modelfile describes.
    pub(crate) modelfile: Option<Chat>,
    /// The types that were chosen by measurement.
    pub(crate) chosen: Option<Chosen>,
    /// What the file is judged by if they were, and the most divergence that was asked for.
    pub(crate) judge: Option<Judge>,
    most_divergence: Option<f64>,
    /// The divergence of the written file.
    reached: Option<Estimate>,
    /// Where to write the types of the tensors.
    pub(crate) save_recipe: Option<PathBuf>,
}

impl Request {
    /// Opens the source and plans the conversion; nothing is written.
    ///
    /// # Errors
    /// If a file that is read is missing or damaged, or what is asked for cannot be.
    pub fn prepare(&self, observer: &dyn Observer, stop: &Stop) -> Result<Prepared> {
        let target = targets::choose(&self.output, self.to.as_deref())?;
        let asked = match (&self.goals.recipe, self.file_type) {
            _ if self.goals.preset.is_some() => self.goals.preset.map(Preset::file_type).transpose()?,
            (None, None) if self.goals.is_wanted() => Some(beside_goals(target)?),
            (None, asked) => asked,
            (Some(path), asked) => {
                let (stated, _) = Types::load(path)?;
                if asked.is_some_and(|asked| asked != stated) {
                    return Err(Error::Usage {
                        what: format!(
                            "the recipe {} is for files of the type {}",
                            path.display(),
                            stated.name
                        ),
                        help: "leave --type out".to_owned(),
                    });
                }
                Some(stated)
            }
        };
        let file_type = targets::type_or_default(target, asked)?;
        self.refuse_idle(target, file_type)?;
        self.admit_goals(target, file_type)?;
        self.plan(self.open(target)?, target, file_type, observer, stop)
    }

    /// Refuses flags that would change nothing.
    fn refuse_idle(&self, target: &dyn Target, file_type: &FileType) -> Result<()> {
        let (content, plain) = (target.content(), file_type.is_plain());
        let (adapter, gguf) = (content == Content::Adapter, target.id() == targets::gguf::Gguf.id());
        for (flag, idle) in [
            ("--imatrix", self.imatrix.is_some() && (plain || !gguf)),
            ("--search best", self.search == Search::Best && (plain || file_type.coded)),
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

    /// Refuses goals that nothing tells how to reach, and rates without a goal.
    fn admit_goals(&self, target: &dyn Target, file_type: &FileType) -> Result<()> {
        let wanted = self.goals.is_wanted();
        if wanted && !target.codes() && !self.calibration.is_wanted() {
            return Err(Error::Usage {
                what: "types are chosen by what they cost on a text, and none is given".to_owned(),
                help: "give one: --calib TEXT; only .rwkvz files are made for a size without".to_owned(),
            });
        }
        if wanted && !target.codes() && self.branches.low_rank.is_some() {
            return Err(Error::Usage {
                what: "the types are chosen for a size or an error, and branches of low rank change both"
                    .to_owned(),
                help: "leave --low-rank out; or choose the types first, with --save-recipe, and then give --recipe"
                    .to_owned(),
            });
        }
        if file_type.coded && !wanted && self.goals.recipe.is_none() {
            return Err(Error::Usage {
                what: format!("files of the type {} have any size, and none is asked for", file_type.name),
                help: "give --bpw BITS, --target-size SIZE, or --recipe FILE".to_owned(),
            });
        }
        if wanted && target.codes() && self.goals.preset.is_none() && !file_type.coded {
            return Err(Error::Usage {
                what: format!("the type {} has a size of its own", file_type.name),
                help: "leave --type out, or the size".to_owned(),
            });
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
        mut model: Model,
        target: &'static dyn Target,
        file_type: &'static FileType,
        observer: &dyn Observer,
        stop: &Stop,
    ) -> Result<Prepared> {
        targets::admit(target, &model, file_type)?;
        let about = self.about.applied(&model, target)?;
        let (text, stats) = self.text(&model, target, file_type, stop)?.unzip();
        let stats = stats.flatten();
        let types = match &self.goals.recipe {
            Some(path) => Types::load(path)?.1,
            None => Types::default(),
        };
        let mut recipe = Recipe {
            file_type,
            types,
            mix: self.mix,
            fallback: self.fallback,
            search: if text.is_some() { Search::Best } else { self.search },
            importance: self.imatrix.as_deref().map(Importance::load).transpose()?,
            calibration: text.as_ref().map(Trace::of).or_else(|| Trace::read(model.container.metadata())),
            equalized: Vec::new(),
            shard: None,
            branches: self.branches.wanted().filter(|_| !target.codes()),
            within: self.branches.wanted().filter(|_| target.codes()),
            layers: self.layers,
            rescale: self.rescale,
        };
        let wishes = Wishes {
            force: self.force_target,
            split_max_bytes: self.split_max_size,
            modelfile: self.modelfile,
        };
        let rescaling = match self.equalize {
            true => {
                let squares = || self.mean_squares(&model, target, text.as_ref(), stats.as_ref(), stop);
                Some(self.equalizing(&model, &recipe, &about, target, squares)?)
            }
            false => None,
        };
        if let Some(rescaling) = &rescaling {
            model = rescaling.applied(model)?;
            recipe.equalized = rescaling.pairs(&model);
            recipe.importance = recipe.importance.map(|i| i.rescaled(&model, rescaling));
        }
        // The source once more, as it is to be written.
        let again = || -> Result<Model> {
            let mut model = self.open(target)?;
            rescaling.iter().try_for_each(|r| model.rescale(r))?;
            Ok(model)
        };
        let make = |recipe: &Recipe| Plan::new(&model, target, recipe.clone(), &about, &self.output, wishes);
        let mut plan = make(&recipe)?;
        if self.goals.recipe.is_some() {
            refuse_gaps(&plan)?;
        }
        let (mut chosen, mut most, mut judge) = (None, None, None);
        if self.goals.is_wanted() && target.codes() {
            let measured = match &text {
                Some(text) => Some((text, [again()?, again()?])),
                None => None,
            };
            most = self.goals.most_bytes(&plan)?;
            recipe.file_type = FileType::named(CODED)?;
            recipe.types = compact::types(&compact::nominal(&plan));
            plan = make(&recipe)?;
            let found = self.goals.rates(&plan, most, measured, observer, stop)?;
            recipe.types = found.types.clone();
            plan = make(&recipe)?;
            chosen = text.is_some().then_some(found);
        } else if let (true, Some(text)) = (self.goals.is_wanted(), &text) {
            let found = self.goals.choose(&plan, [again()?, again()?], text, observer, stop)?;
            recipe.types = found.types.clone();
            plan = make(&recipe)?;
            chosen = Some(found);
        }
        if let Some(branches) = self.branches.wanted() {
            branches.admit(&plan)?;
        }
        if let (true, Some(text)) = (self.goals.is_wanted(), &text) {
            judge = Some(Judge { source: again()?, held_out: text.held_out.clone() });
        }
        let mut budget = Budget::new(&plan, self.thread_count(), self.max_memory)?;
        let calibration = match text {
            None => None,
            Some(text) => {
                let source = match stats {
                    Some(stats) => Source::Stats(stats.into(), rescaling.clone().unwrap_or_default()),
                    None if self.calib_independent => Source::Independent,
                    None => Source::Sequential,
                };
                let calibration = Calibration { text, model: again()?, source };
                budget.calibrating(calibrate::peak_bytes(&plan, &calibration), self.max_memory)?;
                Some(calibration)
            }
        };
        if let (Some(branches), None) = (&recipe.branches, &calibration) {
            budget.calibrating(branches.peak_bytes(&plan), self.max_memory)?;
        }
        if target.codes() {
            budget.calibrating(compact::peak_bytes(&plan, budget.threads), self.max_memory)?;
        }
        let most_bytes = recipe.branches.as_ref().map(|b| b.most_bytes(&plan, &model)).transpose()?;
        let adapter_bytes = most_bytes.unwrap_or_default();
        Ok(Prepared {
            model,
            plan,
            budget,
            about,
            imatrix: self.imatrix.clone(),
            output: self.output.clone(),
            calibration,
            how: format!("{:?} {:?} {:?}", self.is_independent(), self.equalize, self.adapters),
            done: Done::default(),
            adapter_bytes,
            most_bytes: most,
            modelfile: self.modelfile,
            chosen,
            judge,
            most_divergence: self.goals.target_kl,
            reached: None,
            save_recipe: self.goals.save_recipe.clone(),
        })
    }

    /// Whether every matrix is fitted to what meets it in the source.
    pub(crate) fn is_independent(&self) -> bool {
        self.calib_independent || self.calibration.stats().is_ok_and(|path| path.is_some())
    }

    /// The text to calibrate on, if that is asked for, and what was measured on it, if that is in a file.
    fn text(
        &self,
        model: &Model,
        target: &dyn Target,
        file_type: &FileType,
        stop: &Stop,
    ) -> Result<Option<(Text, Option<Stats>)>> {
        if !self.calibration.is_wanted() {
            return Ok(None);
        }
        if file_type.is_plain() {
            return Err(Error::Usage {
                what: format!(
                    "nothing is rounded to fewer bits as {}, so there is nothing to calibrate",
                    file_type.name
                ),
                help: "leave --calib out, or choose a quantized --type".to_owned(),
            });
        }
        if self.imatrix.is_some() {
            return Err(Error::Usage {
                what: "both an importance matrix and a text to calibrate on are given".to_owned(),
                help: "leave --imatrix out: calibration measures more than it holds".to_owned(),
            });
        }
        if let Some(path) = self.calibration.stats()? {
            let stats = Stats::open(path, model)?;
            return Ok(Some((stats.text().clone(), Some(stats))));
        }
        let coder = about::coder(model, self.about.vocab.as_deref())?;
        let runner = || Runner::new(self.open(target)?, Options { stream: true, ..Options::default() });
        Text::new(&self.calibration, &coder, runner, stop).map(|text| Some((text, None)))
    }

    /// The mean squares of what meets every matrix, as far as a text tells them.
    fn mean_squares(
        &self,
        model: &Model,
        target: &'static dyn Target,
        text: Option<&Text>,
        stats: Option<&Stats>,
        stop: &Stop,
    ) -> Result<Option<BTreeMap<Key, Vec<f32>>>> {
        let Some(stats) = stats else {
            let run = |text| calibrate::mean_squares(self.open(target)?, text, stop, || ());
            return text.map(run).transpose();
        };
        let mut squares = BTreeMap::new();
        for held in &model.tensors {
            if let Some(found) = stats.mean_squares(held)? {
                squares.insert((held.slot.name, held.layer), found);
            }
        }
        Ok(Some(squares))
    }

    /// By which factors channels are rescaled.
    fn equalizing(
        &self,
        model: &Model,
        recipe: &Recipe,
        about: &About,
        target: &'static dyn Target,
        squares: impl FnOnce() -> Result<Option<BTreeMap<Key, Vec<f32>>>>,
    ) -> Result<Rescaling> {
        let refuse = |what: &str, help: &str| {
            Err(Error::Usage { what: format!("--equalize {what}"), help: help.to_owned() })
        };
        if target.content() != Content::Model {
            return refuse(
                &format!("rescales a model's weights, and {} files hold none", target.name()),
                "leave it out: adapters and states belong to the model as it is",
            );
        }
        if recipe.file_type.is_plain() {
            return refuse(
                &format!(
                    "makes quantization err less, and {} files are not quantized",
                    recipe.file_type.name
                ),
                "leave it out, or choose another --type",
            );
        }
        if Pair::of(model.version).is_empty() {
            return refuse(
                &format!("needs to run the model to check it, and cannot run {}", model.version.about),
                "leave it out",
            );
        }
        let squares = match (squares()?, &recipe.importance) {
            (Some(squares), _) => squares,
            (None, Some(_)) => BTreeMap::new(),
            (None, None) => {
                return refuse(
                    "needs to know how large activations are",
                    "give a text or an importance matrix: --calib TEXT, or --imatrix FILE",
                );
            }
        };
        let moments = |held: &Held| match &recipe.importance {
            Some(importance) => importance.moments(held),
            None => squares.get(&(held.slot.name, held.layer)).cloned(),
        };
        let wishes = Wishes { force: true, ..Wishes::default() };
        let plan = Plan::new(model, target, recipe.clone(), about, &self.output, wishes)?;
        let written: BTreeMap<(usize, Role), Encoding> = plan
            .tensors
            .iter()
            .flat_map(|t| t.values.sources().map(move |source| ((source, t.role), t.encoding)))
            .collect();
        let encoding = |held: &Held| {
            let source = held.values.sources().next()?;
            written.get(&(source, held.slot.role)).copied()
        };
        Rescaling::search(model, &moments, &encoding)
    }

    /// How many threads work.
    pub(crate) fn thread_count(&self) -> usize {
        match self.threads {
            Some(n) => n.into(),
            None => std::thread::available_parallelism().map_or(1, Into::into),
        }
    }
}

/// That a file cannot be made as small as was asked for.
fn too_small(least: u64) -> Error {
    Error::Usage {
        what: format!("the file has {least} bytes at least as it is calibrated, more than was asked for"),
        help: format!("ask for --target-size {least} or more"),
    }
}

/// Refuses a recipe of a coded file that leaves a matrix out: nothing else tells its bits.
fn refuse_gaps(plan: &Plan) -> Result<()> {
    let types = &plan.recipe.types;
    let is_gap =
        |t: &&Write| compact::has_rate(t.role, t.values.elements()) && !types.0.contains_key(&t.name);
    match plan.tensors.iter().find(is_gap).filter(|_| plan.recipe.file_type.coded) {
        None => Ok(()),
        Some(gap) => Err(Error::Usage {
            what: format!("the recipe says nothing of {}", gap.name),
            help: "use the recipe of this very model and target, or give it bits a weight there".to_owned(),
        }),
    }
}

impl Prepared {
    /// What will be written, for people and programs.
    pub fn report(&self) -> Conversion {
        let vocabulary = self.about.tokenizer.as_ref().map(ToString::to_string);
        Conversion::planned(&self.model, &self.plan, &self.budget, &self.output, vocabulary)
            .calibrated(&self.done.outcomes)
            .branched(self.adapter(), self.adapter_bytes)
            .chosen(self.chosen.as_ref(), self.reached)
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
        let files = names.map(|name| match self.plan.output {
            Output::Folder => self.output.join(name),
            Output::File | Output::Set => self.output.with_file_name(name),
        });
        files.chain(self.adapter().map(|(path, _)| path))
    }

    /// Where the adapter with branches of low rank is to be, and which branches they are.
    fn adapter(&self) -> Option<(PathBuf, &Branches)> {
        self.plan.recipe.branches.as_ref().map(|branches| (branches::path(&self.output), branches))
    }

    /// Looks through the weights for those that the target cannot hold; nothing is written.
    ///
    /// # Errors
    /// As [`pipeline::check`].
    pub fn check(&self, stop: &Stop) -> Result<()> {
        pipeline::check(&self.plan, &self.model, &self.budget, stop)
    }

    /// The divergence of the written file, if its types were chosen.
    pub(crate) fn divergence(&self) -> Option<f64> {
        self.reached.map(|reached| reached.value)
    }

    /// Whether the written file is as near to its source as was asked for.
    ///
    /// # Errors
    /// [`Error::Check`] if it is not.
    pub fn check_goal(&self) -> Result<()> {
        match (self.most_divergence, self.reached) {
            (Some(most), Some(reached)) if reached.value > most => Err(Error::Check {
                what: format!(
                    "the divergence of {} is {:.2e}, more than the {most} asked for: ask for less, say --target-kl {:.1e}",
                    self.output.display(),
                    reached.value,
                    0.9 * most * most / reached.value
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Calibrates it and keeps branches of low rank apart if that is asked for, and writes it; what is there is replaced
    /// if `force`. If its types were chosen, its divergence is then measured.
    ///
    /// # Errors
    /// As [`calibrate::encode`], [`calibrate::divide`], [`pipeline::write`] and [`Judge::divergence`].
    pub fn write(&mut self, force: bool, observer: &dyn Observer, stop: &Stop) -> Result<()> {
        let store = self.encode(force, observer, stop)?;
        // The adapter first: without the model it does no harm, and the model without it would be a worse one.
        let adapter = self.write_adapter()?;
        pipeline::write(&self.plan, &self.model, &self.output, force, &self.budget, observer, stop)
            .inspect_err(|_| adapter.iter().for_each(|path| drop(fs::remove_file(path))))?;
        // The folder cannot be removed everywhere while its files are mapped.
        self.plan.tensors.iter_mut().for_each(|t| t.encoded = None);
        if let Some(judge) = self.judge.take() {
            let written = Model::open(&self.to_open(), &[])?;
            let divergence = || judge.divergence(written, stop);
            self.reached = pipeline::pool(self.budget.threads)?.install(divergence)?;
        }
        if let Some(path) = &self.save_recipe {
            replace(path, self.recipe_text().as_bytes())?;
        }
        store.map_or(Ok(()), Store::remove)
    }

    /// The types of all tensors that are not as the file type says, as a file that `--recipe` reads.
    fn recipe_text(&self) -> String {
        let recipe = &self.plan.recipe;
        let mut remarks = vec![format!("rwkv-quant {}", env!("CARGO_PKG_VERSION"))];
        remarks.extend(
            self.chosen
                .iter()
                .map(|c| format!("{} bytes of tensors, divergence predicted: {:.3e}", c.bytes, c.divergence)),
        );
        remarks.extend(self.reached.map(|kl| format!("divergence reached: {:.3e}", kl.value)));
        recipe.types.text(recipe.file_type, &remarks)
    }

    /// Writes the branches of low rank, if there are any, and tells where; what an earlier run left there is no part of
    /// this model.
    fn write_adapter(&mut self) -> Result<Option<PathBuf>> {
        let parts = std::mem::take(&mut self.done.branches);
        let Some((path, branches)) = self.adapter() else { return Ok(None) };
        if !parts.is_empty() {
            let bytes = branches.adapter(&self.plan, &self.model, &parts)?;
            replace(&path, &bytes)?;
            self.adapter_bytes = bytes.len() as u64;
            return Ok(Some(path));
        }
        self.adapter_bytes = 0;
        if path.exists() {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        if let Some(chat) = self.modelfile {
            self.plan.small = vec![chat.modelfile(self.plan.target, &self.plan.files, false)?];
        }
        Ok(None)
    }

    /// Encodes the matrices that are encoded as wholes: those that a text tells something about, and those with branches.
    fn encode(&mut self, force: bool, observer: &dyn Observer, stop: &Stop) -> Result<Option<Store>> {
        let calibration = self.calibration.take();
        let coded = self.plan.target.codes();
        if calibration.is_none() && self.plan.recipe.branches.is_none() && !coded {
            return Ok(None);
        }
        if let Some(path) = self.paths().find(|path| !force && path.exists()) {
            return Err(Error::Exists { path });
        }
        let inputs: Vec<&Mapped> = self.model.files().collect();
        self.paths().try_for_each(|path| pipeline::refuse_input(&inputs, &path))?;
        let store = Store::open(&self.output, &calibrate::identity(&self.plan, &self.model, &self.how))?;
        let (plan, source) = (&mut self.plan, &self.model);
        let (about, out, most) = (&self.about, &self.output, self.most_bytes);
        let work = || {
            let done = match calibration {
                Some(calibration) => calibrate::encode(plan, calibration, &store, observer, stop),
                None => calibrate::divide(plan, source, &store, observer, stop),
            }?;
            if coded {
                compact::encode(plan, source, &store, observer, stop)?;
                let sources: Vec<String> = source.files().map(sha256).collect();
                plan.settle(source, about, out, &sources)?;
                // Rates are met nearly, a size is to be met.
                while let Some(over) = most.and_then(|most| plan.total_bytes().checked_sub(most + 1)) {
                    if !compact::shrink(plan, over + 1, source, &store, stop)? {
                        return Err(too_small(plan.total_bytes()));
                    }
                    plan.settle(source, about, out, &sources)?;
                }
            }
            Ok::<_, Error>(done)
        };
        self.done = pipeline::pool(self.budget.threads)?.install(work)?;
        Ok(Some(store))
    }
}

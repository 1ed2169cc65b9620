//! From what is asked for to a plan.

use std::collections::BTreeMap;
use std::path::PathBuf;

use quant::Encoding;

use super::{Prepared, Request, beside_goals};
use crate::about::{self, About};
use crate::calibrate::{self, Calibration, CrossCheck, Done, Judge, SELF, Source, Stats, Text, Trace};
use crate::compact;
use crate::error::{Error, Result};
use crate::importance::Importance;
use crate::isa;
use crate::model::{Held, Model, Role};
use crate::pipeline::{self, Budget, CALIBRATION, Observer, Stop};
use crate::plan::{Plan, Wishes, Write};
use crate::recipe::{CODED, FileType, Mix, Preset, Scheme, Search, Types};
use crate::rescale::{Pair, Rescaling};
use crate::runner::{Key, Options, Runner};
use crate::storage::{self, Inputs};
use crate::targets::{self, Content, Target};

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
        if self.as_tensors && !plain {
            return Err(Error::Usage {
                what: format!(
                    "--as-tensors knows no roles of tensors, so it cannot tell which to store as {}",
                    file_type.name
                ),
                help: "choose a plain --type: source, f16, bf16 or f32".to_owned(),
            });
        }
        // Of compact files only codes have branches.
        let by_rate = file_type.coded || self.goals.is_wanted() || self.goals.recipe.is_some();
        let fixed = target.codes() && !by_rate;
        let (adapter, gguf) = (content == Content::Adapter, target.id() == targets::gguf::Gguf.id());
        for (flag, idle) in [
            ("--imatrix", self.imatrix.is_some() && (plain || !gguf)),
            ("--search best", self.search == Search::Best && (plain || file_type.coded)),
            ("--low-rank", self.branches.low_rank.is_some() && fixed),
            ("--set-key", !self.about.set_key.is_empty() && !gguf),
            ("--layers", self.layers.is_some() && plain && target.plans_layers()),
            ("--state", self.adapters.state.is_some() && adapter),
            ("--lora", self.adapters.lora.is_some() && content == Content::State),
            ("--no-checksums", self.no_checksums && !target.holds_checksums()),
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
        self.goals.check()?;
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
        let mut model = match self.as_tensors {
            true => Model::of_tensors(storage::open(&self.input)?, &self.drop)?,
            false => Model::open(&self.input, &self.drop)?,
        };
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
        observer: &dyn Observer,
        stop: &Stop,
    ) -> Result<Prepared> {
        // Texts are run and types measured for it.
        isa::with_portable(self.portable, || {
            let pool = pipeline::pool(self.thread_count())?;
            pool.install(|| self.planned(model, target, file_type, observer, stop))
        })
    }

    /// The same with the threads of this pool.
    fn planned(
        &self,
        mut model: Model,
        target: &'static dyn Target,
        file_type: &'static FileType,
        observer: &dyn Observer,
        stop: &Stop,
    ) -> Result<Prepared> {
        let inputs = self.inputs(&model);
        targets::admit(target, &model, file_type)?;
        let about = self.about.applied(&model, target)?;
        let (mut text, stats) = self.text(&model, target, file_type, stop)?.unzip();
        let stats = stats.flatten();
        let types = match &self.goals.recipe {
            Some(path) => Types::load(path)?.1,
            None => Types::default(),
        };
        let mut scheme = Scheme {
            file_type,
            types,
            mix: self.mix,
            fallback: self.fallback,
            search: if text.is_some() { Search::Best } else { self.search },
            importance: self.imatrix.as_deref().map(Importance::load).transpose()?,
            calibration: text.as_ref().map(Trace::of).or_else(|| Trace::read(model.container.metadata())),
            equalized: Vec::new(),
            shard: None,
            portable: self.portable,
            branches: self.branches.wanted().filter(|_| !target.codes()),
            within: self.branches.wanted().filter(|_| target.codes()),
            layers: self.layers,
            rescale: self.rescale,
        };
        let wishes = Wishes {
            force: self.force_target,
            split_max_bytes: self.split_max_size,
            modelfile: self.modelfile,
            checksums: self.wants_checksums(),
        };
        let rescaling = match self.equalize {
            true => {
                let squares = || self.mean_squares(&model, target, text.as_mut(), stats.as_ref(), stop);
                Some(self.equalizing(&model, &scheme, &about, target, squares)?)
            }
            false => None,
        };
        if let Some(rescaling) = &rescaling {
            model = rescaling.applied(model)?;
            scheme.equalized = rescaling.pairs(&model);
            scheme.importance = scheme.importance.map(|i| i.rescaled(&model, rescaling));
        }
        // The source once more, as it is to be written.
        let again = || -> Result<Model> {
            let mut model = self.open(target)?;
            rescaling.iter().try_for_each(|r| model.rescale(r))?;
            Ok(model)
        };
        let admit = |text: &Text| {
            Budget::admit(
                "measuring what rounding costs",
                calibrate::probing_bytes(&model, text),
                self.max_memory,
            )
        };
        let make = |scheme: &Scheme| Plan::new(&model, target, scheme.clone(), &about, &self.output, wishes);
        let mut plan = make(&scheme)?;
        if self.goals.recipe.is_some() {
            refuse_gaps(&plan)?;
        }
        let (mut chosen, mut most, mut judge) = (None, None, None);
        if self.goals.is_wanted() && target.codes() {
            let measured = match &text {
                Some(text) => {
                    admit(text)?;
                    Some((text, [again()?, again()?]))
                }
                None => None,
            };
            most = self.goals.most_bytes(&plan);
            scheme.file_type = FileType::named(CODED)?;
            scheme.types = compact::types(&compact::nominal(&plan));
            plan = make(&scheme)?;
            let found = self.goals.rates(&plan, most, measured, observer, stop)?;
            scheme.types = found.types.clone();
            plan = make(&scheme)?;
            chosen = text.is_some().then_some(found);
        } else if let (true, Some(text)) = (self.goals.is_wanted(), &text) {
            admit(text)?;
            let found = self.goals.choose(&plan, [again()?, again()?], text, observer, stop)?;
            scheme.types = found.types.clone();
            plan = make(&scheme)?;
            chosen = Some(found);
        }
        if let Some(branches) = self.branches.wanted() {
            branches.admit(&plan)?;
        }
        if let (true, Some(text)) = (self.goals.is_wanted(), &text) {
            judge = Some(Judge { source: again()?, held_out: text.held_out.clone() });
        }
        // What a text does to other texts shows in the file as a whole.
        let is_fitted = text.is_some() && !self.calibration.is_self();
        let cross_check = match is_fitted && !target.codes() && self.branches.wanted().is_none() {
            true => Some(CrossCheck([again()?, again()?])),
            false => None,
        };
        let mut budget = Budget::new(&plan, self.thread_count(), self.max_memory)?;
        let text_warnings = text.as_ref().map(|text| text.warnings.clone()).unwrap_or_default();
        let calibration = match text {
            None => None,
            Some(text) => {
                let source = match stats {
                    Some(stats) => Source::Stats(stats.into(), rescaling.clone().unwrap_or_default()),
                    None if self.calib_independent => Source::Independent,
                    None => Source::Sequential,
                };
                let calibration = Calibration { text, model: again()?, source };
                let bytes = |threads| calibrate::peak_bytes(&plan, &calibration, threads);
                budget.preparing(CALIBRATION, self.max_memory, bytes)?;
                Some(calibration)
            }
        };
        if let (Some(branches), None) = (&scheme.branches, &calibration) {
            budget.preparing("this conversion", self.max_memory, |_| branches.peak_bytes(&plan))?;
        }
        if target.codes() {
            let bytes = |threads| compact::peak_bytes(&plan, threads);
            budget.preparing("this conversion", self.max_memory, bytes)?;
        }
        let most_bytes = scheme.branches.as_ref().map(|b| b.most_bytes(&plan, &model)).transpose()?;
        let adapter_bytes = most_bytes.unwrap_or_default();
        Ok(Prepared {
            model,
            plan,
            budget,
            about,
            inputs,
            imatrix: self.imatrix.clone(),
            output: self.output.clone(),
            text_warnings,
            calibration,
            request: self.clone(),
            equalization: rescaling.as_ref().and_then(Rescaling::digest),
            done: Done::default(),
            adapter_bytes,
            most_bytes: most,
            modelfile: self.modelfile,
            chosen,
            judge,
            cross_check,
            most_divergence: self.goals.target_kl,
            reached: None,
            save_recipe: self.goals.save_recipe.clone(),
            checksum_file: self.checksum_file,
            suspicions: Vec::new(),
        })
    }

    /// Every file that the conversion reads.
    fn inputs(&self, model: &Model) -> Inputs {
        let mut inputs = Inputs::new();
        inputs.add(&self.input);
        inputs.add_open(model.files());
        inputs.add_all(self.adapters.files());
        let texts = self.calibration.calib.iter().filter(|path| path.as_os_str() != SELF);
        let others = [&self.imatrix, &self.goals.recipe, &self.about.vocab, &self.about.chat_template];
        inputs.add_all(others.into_iter().flatten().chain(texts).map(PathBuf::as_path));
        inputs
    }

    /// True if the output is to hold the SHA-256 of every tensor: unless a file like another tool's is asked for.
    fn wants_checksums(&self) -> bool {
        !self.no_checksums && self.mix == Mix::Own
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
        text: Option<&mut Text>,
        stats: Option<&Stats>,
        stop: &Stop,
    ) -> Result<Option<BTreeMap<Key, Vec<f32>>>> {
        let Some(stats) = stats else {
            let run = |text: &mut Text| {
                let bytes = calibrate::running_bytes(model, text.tokens());
                Budget::admit(CALIBRATION, bytes, self.max_memory)?;
                calibrate::mean_squares(self.open(target)?, text, stop, || ())
            };
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
        scheme: &Scheme,
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
        if scheme.file_type.is_plain() {
            return refuse(
                &format!(
                    "makes quantization err less, and {} files are not quantized",
                    scheme.file_type.name
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
        let squares = match (squares()?, &scheme.importance) {
            (Some(squares), _) => squares,
            (None, Some(_)) => BTreeMap::new(),
            (None, None) => {
                return refuse(
                    "needs to know how large activations are",
                    "give a text or an importance matrix: --calib TEXT, or --imatrix FILE",
                );
            }
        };
        let moments = |held: &Held| match &scheme.importance {
            Some(importance) => importance.moments(held),
            None => squares.get(&(held.slot.name, held.layer)).cloned(),
        };
        let wishes = Wishes { force: true, ..Wishes::default() };
        let plan = Plan::new(model, target, scheme.clone(), about, &self.output, wishes)?;
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
        self.threads.map_or_else(pipeline::default_threads, Into::into)
    }
}

/// Refuses a recipe of a coded file that leaves a matrix out: nothing else tells its bits.
fn refuse_gaps(plan: &Plan) -> Result<()> {
    let types = &plan.scheme.types;
    let is_gap =
        |t: &&Write| compact::has_rate(t.role, t.values.elements()) && !types.0.contains_key(&t.name);
    match plan.tensors.iter().find(is_gap).filter(|_| plan.scheme.file_type.coded) {
        None => Ok(()),
        Some(gap) => Err(Error::Usage {
            what: format!("the recipe says nothing of {}", gap.name),
            help: "use the recipe of this very model and target, or give it bits a weight there".to_owned(),
        }),
    }
}

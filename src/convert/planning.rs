//! From what is asked for to a plan.

use std::collections::BTreeMap;

use quant::Encoding;

use super::{Prepared, Request, beside_goals};
use crate::about::{self, About, Trace};
use crate::branches;
use crate::calibrate::{self, Calibration, CrossCheck, Done, Judge, Source, Stats, Text};
use crate::compact;
use crate::error::Result;
use crate::files::InputFile;
use crate::isa;
use crate::model::{Held, Model, Role};
use crate::pipeline::{self, Budget, CALIBRATION, Observer, Stop};
use crate::plan::rules::{self, Asked, Modelled};
use crate::plan::{Plan, Wishes};
use crate::recipe::{CODED, FileType, Mix, Search};
use crate::rescale::Rescaling;
use crate::runner::{Key, Options, Runner};
use crate::scheme::Branches;
use crate::scheme::Importance;
use crate::scheme::Scheme;
use crate::storage::{self, Inputs};
use crate::targets::{self, Content, Target};

impl Request {
    /// Opens the source and plans the conversion; nothing is written.
    ///
    /// # Errors
    /// If a file that is read is missing or damaged, or what is asked for cannot be.
    pub fn prepare(&self, observer: &dyn Observer, stop: &Stop) -> Result<Prepared> {
        let target = targets::choose(&self.output, self.recipe.target.as_deref())?;
        let recipe = &self.recipe;
        let file_type = self.file_type(target)?;
        rules::asked(&Asked { recipe, target, file_type })?;
        self.plan(self.open(target)?, target, file_type, observer, stop)
    }

    /// The file type asked for, or what stands in its place.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none.
    pub(crate) fn file_type(&self, target: &dyn Target) -> Result<&'static FileType> {
        let asked = match (self.recipe.preset, self.recipe.file_type) {
            (Some(preset), _) => Some(preset.file_type()?),
            (None, None) if self.recipe.has_goal() => Some(beside_goals(target)?),
            (None, asked) => asked,
        };
        targets::type_or_default(target, asked)
    }

    /// Opens the source, with what is merged into it for that target.
    ///
    /// # Errors
    /// As [`Model::open`], or if an adapter cannot be read or does not go with the model.
    pub fn open(&self, target: &dyn Target) -> Result<Model> {
        let mut model = match self.recipe.as_tensors {
            true => Model::of_tensors(storage::open(&self.input)?, &self.recipe.drop)?,
            false => Model::open(&self.input, &self.recipe.drop)?,
        };
        match target.content() {
            Content::Adapter => self.recipe.adapters.add_to(&mut model, !target.keeps_alpha())?,
            Content::Model | Content::State => self.recipe.adapters.merge_into(&mut model)?,
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
        isa::with_portable(self.recipe.portable, || {
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
        let half = branches::lacking(&model.container, InputFile::path_of(&self.recipe.adapters.lora));
        rules::modelled(&Modelled {
            half: half.as_deref(),
            model: &model,
            target,
            file_type,
            layers: self.recipe.layers,
            equalize: self.recipe.equalize,
            force: self.recipe.force_target,
        })?;
        let about = self.recipe.metadata.applied(&model, target.tokens())?;
        let (mut text, stats) = self.text(&model, target, stop)?.unzip();
        let stats = stats.flatten();
        let mut scheme = Scheme {
            file_type,
            types: self.recipe.tensors.clone(),
            mix: self.recipe.mix,
            fallback: self.recipe.fallback,
            search: if text.is_some() { Search::Best } else { self.recipe.search },
            importance: self.recipe.imatrix.as_ref().map(|file| Importance::load(&file.0)).transpose()?,
            calibration: text.as_ref().map(Text::trace).or_else(|| Trace::read(model.container.metadata())),
            equalized: Vec::new(),
            shard: None,
            portable: self.recipe.portable,
            branches: Branches::of(&self.recipe).filter(|_| !target.codes()),
            within: Branches::of(&self.recipe).filter(|_| target.codes()),
            layers: self.recipe.layers,
            rescale: self.recipe.rescale,
        };
        let wishes = Wishes {
            force: self.recipe.force_target,
            split_max_bytes: self.recipe.split_max_size,
            modelfile: self.recipe.modelfile,
            checksums: self.wants_checksums(),
        };
        let rescaling = match self.recipe.equalize {
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
                self.options.max_memory,
            )
        };
        let make = |scheme: &Scheme| Plan::new(&model, target, scheme.clone(), &about, &self.output, wishes);
        let mut plan = make(&scheme)?;
        rules::planned(&plan, None)?;
        let (mut chosen, mut most, mut judge) = (None, None, None);
        if self.recipe.has_goal() && target.codes() {
            let measured = match &text {
                Some(text) => {
                    admit(text)?;
                    Some((text, [again()?, again()?]))
                }
                None => None,
            };
            most = calibrate::most_bytes(&self.recipe, &plan);
            scheme.file_type = FileType::named(CODED)?;
            scheme.types = calibrate::types(&calibrate::nominal(&plan));
            plan = make(&scheme)?;
            let found = calibrate::rates(&self.recipe, &plan, most, measured, observer, stop)?;
            scheme.types = found.types.clone();
            plan = make(&scheme)?;
            chosen = text.is_some().then_some(found);
        } else if let (true, Some(text)) = (self.recipe.has_goal(), &text) {
            admit(text)?;
            let found = calibrate::choose(&self.recipe, &plan, [again()?, again()?], text, observer, stop)?;
            scheme.types = found.types.clone();
            plan = make(&scheme)?;
            chosen = Some(found);
        }
        rules::planned(&plan, Branches::of(&self.recipe).as_ref())?;
        if let (true, Some(text)) = (self.recipe.has_goal(), &text) {
            judge = Some(Judge { source: again()?, held_out: text.held_out.clone() });
        }
        // What a text does to other texts shows in the file as a whole.
        let is_fitted = text.is_some() && !self.recipe.calibration.is_self();
        let cross_check = match is_fitted && !target.codes() && Branches::of(&self.recipe).is_none() {
            true => Some(CrossCheck([again()?, again()?])),
            false => None,
        };
        let mut budget = Budget::new(&plan, self.thread_count(), self.options.max_memory)?;
        let text_warnings = text.as_ref().map(|text| text.warnings.clone()).unwrap_or_default();
        let calibration = match text {
            None => None,
            Some(text) => {
                let source = match stats {
                    Some(stats) => Source::Stats(stats.into(), rescaling.clone().unwrap_or_default()),
                    None if self.recipe.calibration.independent => Source::Independent,
                    None => Source::Sequential,
                };
                let calibration = Calibration { text, model: again()?, source };
                let bytes = |threads| calibrate::peak_bytes(&plan, &calibration, threads);
                budget.preparing(CALIBRATION, self.options.max_memory, bytes)?;
                Some(calibration)
            }
        };
        if let (Some(branches), None) = (&scheme.branches, &calibration) {
            budget.preparing("this conversion", self.options.max_memory, |_| branches.peak_bytes(&plan))?;
        }
        if target.codes() {
            let bytes = |threads| compact::peak_bytes(&plan, threads);
            budget.preparing("this conversion", self.options.max_memory, bytes)?;
        }
        let most_bytes = scheme.branches.as_ref().map(|b| b.most_bytes(&plan, &model)).transpose()?;
        let adapter_bytes = most_bytes.unwrap_or_default();
        Ok(Prepared {
            model,
            plan,
            budget,
            about,
            inputs,
            imatrix: self.recipe.imatrix.as_ref().map(|file| file.0.clone()),
            output: self.output.clone(),
            text_warnings,
            calibration,
            request: self.clone(),
            equalization: rescaling.as_ref().and_then(Rescaling::digest),
            done: Done::default(),
            adapter_bytes,
            most_bytes: most,
            modelfile: self.recipe.modelfile,
            chosen,
            judge,
            cross_check,
            most_divergence: self.recipe.target_kl,
            reached: None,
            save_recipe: self.options.save_recipe.clone(),
            checksum_file: self.options.checksum_file,
            suspicions: Vec::new(),
        })
    }

    /// Every file that the conversion reads.
    fn inputs(&self, model: &Model) -> Inputs {
        let mut inputs = Inputs::new();
        inputs.add(&self.input);
        inputs.add_open(model.files());
        inputs.add_all(&self.options.recipe_file);
        inputs.add_all(self.recipe.adapters.files());
        inputs.add_all(self.recipe.files().into_iter().map(|(_, file)| &file.0));
        inputs
    }

    /// True if the output is to hold the SHA-256 of every tensor: unless a file like another tool's is asked for.
    fn wants_checksums(&self) -> bool {
        !self.recipe.no_checksums && self.recipe.mix == Mix::Own
    }

    /// The text to calibrate on, if that is asked for, and what was measured on it, if that is in a file.
    fn text(&self, model: &Model, target: &dyn Target, stop: &Stop) -> Result<Option<(Text, Option<Stats>)>> {
        if !self.recipe.calibration.is_wanted() {
            return Ok(None);
        }
        if let Some(path) = self.recipe.calibration.stats() {
            let stats = Stats::open(path, model)?;
            return Ok(Some((stats.text().clone(), Some(stats))));
        }
        let coder = about::coder(model, InputFile::path_of(&self.recipe.metadata.vocab))?;
        let runner = || Runner::new(self.open(target)?, Options { stream: true, ..Options::default() });
        Text::new(&self.recipe.calibration, &coder, runner, stop).map(|text| Some((text, None)))
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
                Budget::admit(CALIBRATION, bytes, self.options.max_memory)?;
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
        // One of them is given.
        let squares = squares()?.unwrap_or_default();
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
        self.options.threads.unwrap_or_else(pipeline::default_threads)
    }
}

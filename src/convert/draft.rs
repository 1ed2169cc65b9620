//! A plan in the making, stage by stage: the source and its calibration text, channel equalization, bit allocation, memory.

use std::collections::BTreeMap;

use quant::Encoding;

use super::{Prepared, Request};
use crate::calibrate::{self, Calibration, Chosen, CrossCheck, Done, Judge, Source, Stats, Text};
use crate::compact;
use crate::equalize::Equalization;
use crate::error::Result;
use crate::files::InputFile;
use crate::low_rank;
use crate::metadata::{self, CalibrationFingerprint, ModelMetadata};
use crate::model::{Model, ModelTensor, Role};
use crate::pipeline::{Budget, CALIBRATION, Observer, Stop};
use crate::plan::rules::{self, Modelled};
use crate::plan::{OutputOptions, Plan};
use crate::recipe::{CODED, FileType, Search};
use crate::runner::{Key, Options, Runner};
use crate::scheme::{Importance, LowRankOptions, Scheme};
use crate::storage::Inputs;
use crate::targets::Target;

/// Mean squares of the inputs of every linear layer, by the name and the block of its matrix.
type MeanSquares = BTreeMap<Key, Vec<f32>>;

/// Everything that a plan is made of.
pub(super) struct Draft<'a> {
    request: &'a Request,
    target: &'static dyn Target,
    observer: &'a dyn Observer,
    stop: &'a Stop,
    /// Source, with channels equalized.
    model: Model,
    inputs: Inputs,
    metadata: ModelMetadata,
    /// Text to calibrate on.
    text: Option<Text>,
    /// Measurements on that text, if a file holds them.
    stats: Option<Stats>,
    scheme: Scheme,
    equalization: Option<Equalization>,
}

/// A plan, and how its types were chosen.
struct Allocated {
    plan: Plan,
    /// Types that were measured.
    chosen: Option<Chosen>,
    /// Bytes that a compact file may have.
    max_bytes: Option<u64>,
}

impl<'a> Draft<'a> {
    /// Reads everything that is asked for beside the source.
    ///
    /// # Errors
    /// As [`rules::modelled`], or if a file cannot be read.
    pub fn new(
        request: &'a Request,
        model: Model,
        target: &'static dyn Target,
        file_type: &'static FileType,
        observer: &'a dyn Observer,
        stop: &'a Stop,
    ) -> Result<Draft<'a>> {
        let recipe = &request.recipe;
        let inputs = request.inputs(&model);
        let half = low_rank::lacking(&model.container, InputFile::path_of(&recipe.adapters.lora));
        rules::modelled(&Modelled {
            half: half.as_deref(),
            model: &model,
            target,
            file_type,
            layers: recipe.layers,
            equalize: recipe.equalize,
            force: recipe.force_target,
        })?;
        let metadata = recipe.metadata.applied(&model, target.tokens())?;
        let (text, stats) = calibration_text(request, &model, target, stop)?.unzip();
        let fingerprint = text.as_ref().map(Text::fingerprint);
        let branches = LowRankOptions::of(recipe);
        let scheme = Scheme {
            file_type,
            types: recipe.tensors.clone(),
            mix: recipe.mix,
            fallback: recipe.fallback,
            search: if text.is_some() { Search::Best } else { recipe.search },
            importance: recipe.imatrix.as_ref().map(|file| Importance::load(&file.0)).transpose()?,
            calibration: fingerprint.or_else(|| CalibrationFingerprint::read(model.container.metadata())),
            equalized: Vec::new(),
            shard: None,
            portable: recipe.portable,
            branches: branches.clone().filter(|_| !target.codes()),
            within: branches.filter(|_| target.codes()),
            layers: recipe.layers,
            rescale: recipe.rescale,
        };
        let stats = stats.flatten();
        let equalization = None;
        Ok(Draft {
            request,
            target,
            observer,
            stop,
            model,
            inputs,
            metadata,
            text,
            stats,
            scheme,
            equalization,
        })
    }

    /// Runs all stages.
    ///
    /// # Errors
    /// As [`Plan::new`] and [`rules::planned`]; [`Error::Resources`](crate::Error::Resources) if the memory does not suffice.
    pub fn finish(self) -> Result<Prepared> {
        self.equalized()?.prepared()
    }

    /// Runs the stages after equalization.
    fn prepared(mut self) -> Result<Prepared> {
        let recipe = &self.request.recipe;
        let Allocated { plan, chosen, max_bytes } = self.allocate()?;
        let low_rank = LowRankOptions::of(recipe);
        rules::planned(&plan, low_rank.as_ref())?;
        let judge = match (recipe.has_goal(), &self.text) {
            (true, Some(text)) => Some(Judge { source: self.source()?, held_out: text.held_out.clone() }),
            _ => None,
        };
        // A text may make a file worse elsewhere: visible in the file as a whole only.
        let is_fitted = self.text.is_some() && !recipe.calibration.is_self();
        let cross_check = match is_fitted && !self.target.codes() && low_rank.is_none() {
            true => Some(CrossCheck([self.source()?, self.source()?])),
            false => None,
        };
        let text_warnings = self.text.as_ref().map(|text| text.warnings.clone()).unwrap_or_default();
        let calibration = self.calibration()?;
        let budget = self.budget(&plan, calibration.as_ref())?;
        let adapter_bytes = match &self.scheme.branches {
            Some(branches) => branches.most_bytes(&plan, &self.model)?,
            None => 0,
        };
        let options = &self.request.options;
        Ok(Prepared {
            plan,
            budget,
            imatrix: recipe.imatrix.as_ref().map(|file| file.0.clone()),
            output: self.request.output.clone(),
            text_warnings,
            calibration,
            request: self.request.clone(),
            equalization: self.equalization.as_ref().and_then(Equalization::digest),
            done: Done::default(),
            adapter_bytes,
            most_bytes: max_bytes,
            modelfile: recipe.modelfile,
            chosen,
            judge,
            cross_check,
            most_divergence: recipe.target_kl,
            reached: None,
            save_recipe: options.save_recipe.clone(),
            checksum_file: options.checksum_file,
            suspicions: Vec::new(),
            model: self.model,
            about: self.metadata,
            inputs: self.inputs,
        })
    }

    /// Opens the source once more, with channels equalized.
    fn source(&self) -> Result<Model> {
        let mut model = self.request.open(self.target)?;
        self.equalization.iter().try_for_each(|factors| model.rescale(factors))?;
        Ok(model)
    }

    /// Plans the files for the scheme as it is.
    fn plan(&self) -> Result<Plan> {
        let options = OutputOptions::of(&self.request.recipe);
        let Draft { model, target, scheme, metadata, request, .. } = self;
        Plan::new(model, *target, scheme.clone(), metadata, &request.output, options)
    }

    /// Equalizes channels, if that is asked for.
    fn equalized(mut self) -> Result<Draft<'a>> {
        if !self.request.recipe.equalize {
            return Ok(self);
        }
        let factors = self.factors()?;
        let model = factors.applied(self.model)?;
        let mut scheme = self.scheme;
        scheme.equalized = factors.pairs(&model);
        scheme.importance = scheme.importance.map(|importance| importance.rescaled(&model, &factors));
        Ok(Draft { model, scheme, equalization: Some(factors), ..self })
    }

    /// Searches the factors that channels are equalized by.
    fn factors(&mut self) -> Result<Equalization> {
        let squares = self.mean_squares()?;
        let options = OutputOptions { force: true, ..OutputOptions::default() };
        let Draft { model, target, scheme, metadata, request, .. } = &*self;
        let moments = |held: &ModelTensor| match &scheme.importance {
            Some(importance) => importance.moments(held),
            None => squares.get(&(held.spec.name, held.layer)).cloned(),
        };
        let plan = Plan::new(model, *target, scheme.clone(), metadata, &request.output, options)?;
        let written: BTreeMap<(usize, Role), Encoding> = plan
            .tensors
            .iter()
            .flat_map(|t| t.values.sources().map(move |source| ((source, t.role), t.encoding)))
            .collect();
        let encoding = |held: &ModelTensor| {
            let source = held.values.sources().next()?;
            written.get(&(source, held.spec.role)).copied()
        };
        Equalization::search(model, &moments, &encoding)
    }

    /// Mean squares of activations: from the statistics or the text; none without either.
    fn mean_squares(&mut self) -> Result<MeanSquares> {
        if let Some(stats) = &self.stats {
            let mut squares = MeanSquares::new();
            for held in &self.model.tensors {
                if let Some(found) = stats.mean_squares(held)? {
                    squares.insert((held.spec.name, held.layer), found);
                }
            }
            return Ok(squares);
        }
        let Some(text) = &mut self.text else { return Ok(MeanSquares::new()) };
        let bytes = calibrate::running_bytes(&self.model, text.tokens());
        Budget::admit(CALIBRATION, bytes, self.request.options.max_memory)?;
        calibrate::mean_squares(self.request.open(self.target)?, text, self.stop, || ())
    }

    /// Chooses types for an objective, if one is asked for, and plans the files.
    fn allocate(&mut self) -> Result<Allocated> {
        let recipe = &self.request.recipe;
        let mut plan = self.plan()?;
        rules::planned(&plan, None)?;
        if !recipe.has_goal() || (self.text.is_none() && !self.target.codes()) {
            return Ok(Allocated { plan, chosen: None, max_bytes: None });
        }
        let measured = match &self.text {
            Some(text) => {
                let bytes = calibrate::probing_bytes(&self.model, text);
                Budget::admit("measuring what rounding costs", bytes, self.request.options.max_memory)?;
                Some((text, [self.source()?, self.source()?]))
            }
            None => None,
        };
        let is_measured = measured.is_some();
        let mut max_bytes = None;
        let chosen = match measured {
            measured if self.target.codes() => {
                max_bytes = calibrate::most_bytes(recipe, &plan);
                self.scheme.file_type = FileType::named(CODED)?;
                self.scheme.types = calibrate::types(&calibrate::nominal(&plan));
                plan = self.plan()?;
                Some(calibrate::rates(recipe, &plan, max_bytes, measured, self.observer, self.stop)?)
            }
            Some((text, models)) => {
                Some(calibrate::choose(recipe, &plan, models, text, self.observer, self.stop)?)
            }
            None => None,
        };
        if let Some(chosen) = &chosen {
            self.scheme.types = chosen.types.clone();
            plan = self.plan()?;
        }
        Ok(Allocated { plan, chosen: chosen.filter(|_| is_measured), max_bytes })
    }

    /// Takes the text for the calibration.
    fn calibration(&mut self) -> Result<Option<Calibration>> {
        let Some(text) = self.text.take() else { return Ok(None) };
        let source = match self.stats.take() {
            Some(stats) => Source::Stats(stats.into(), self.equalization.clone().unwrap_or_default()),
            None if self.request.recipe.calibration.independent => Source::Independent,
            None => Source::Sequential,
        };
        Ok(Some(Calibration { text, model: self.source()?, source }))
    }

    /// Memory and threads.
    fn budget(&self, plan: &Plan, calibration: Option<&Calibration>) -> Result<Budget> {
        let limit = self.request.options.max_memory;
        let mut budget = Budget::new(plan, self.request.thread_count(), limit)?;
        if let Some(calibration) = calibration {
            let bytes = |threads| calibrate::peak_bytes(plan, calibration, threads);
            budget.preparing(CALIBRATION, limit, bytes)?;
        } else if let Some(branches) = &self.scheme.branches {
            budget.preparing("this conversion", limit, |_| branches.peak_bytes(plan))?;
        }
        if self.target.codes() {
            budget.preparing("this conversion", limit, |threads| compact::peak_bytes(plan, threads))?;
        }
        Ok(budget)
    }
}

/// The text to calibrate on, if that is asked for, with the measurements on it, if a file holds them.
fn calibration_text(
    request: &Request,
    model: &Model,
    target: &dyn Target,
    stop: &Stop,
) -> Result<Option<(Text, Option<Stats>)>> {
    let calibration = &request.recipe.calibration;
    if !calibration.is_wanted() {
        return Ok(None);
    }
    if let Some(path) = calibration.stats() {
        let stats = Stats::open(path, model)?;
        return Ok(Some((stats.text().clone(), Some(stats))));
    }
    let coder = metadata::coder(model, InputFile::path_of(&request.recipe.metadata.vocab))?;
    let runner = || Runner::new(request.open(target)?, Options { stream: true, ..Options::default() });
    Text::new(calibration, &coder, runner, stop).map(|text| Some((text, None)))
}

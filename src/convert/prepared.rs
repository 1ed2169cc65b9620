//! A planned conversion, and carrying it out.

use std::fs;
use std::path::PathBuf;

use formats::Mapped;

use crate::about::About;
use crate::branches::{self, Branches};
use crate::calibrate::{self, Calibration, Chosen, Done, Judge, Store};
use crate::compact;
use crate::error::{Error, Result};
use crate::eval::Estimate;
use crate::files::replace;
use crate::model::Model;
use crate::pipeline::{self, Budget, Observer, Stop};
use crate::plan::Plan;
use crate::report::Conversion;
use crate::targets::{Chat, Output};
use crate::verify::sha256;

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
    pub(super) how: String,
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
    pub(super) most_divergence: Option<f64>,
    /// The divergence of the written file.
    pub(super) reached: Option<Estimate>,
    /// Where to write the types of the tensors.
    pub(crate) save_recipe: Option<PathBuf>,
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
                loop {
                    let over = most.map_or(0, |most| plan.total_bytes().saturating_sub(most));
                    if over == 0 {
                        break;
                    }
                    if !compact::shrink(plan, over, source, &store, stop)? {
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

/// That a file cannot be made as small as was asked for.
fn too_small(least: u64) -> Error {
    Error::Usage {
        what: format!("the file has {least} bytes at least as it is calibrated, more than was asked for"),
        help: format!("ask for --target-size {least} or more"),
    }
}

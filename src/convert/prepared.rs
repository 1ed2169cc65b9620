//! A planned conversion, and carrying it out.

use std::path::{Path, PathBuf};

use formats::Limits;

use super::Request;
use super::keys::ChangedKeys;
use crate::calibrate::{self, Calibration, Chosen, CrossCheck, Done, Judge};
use crate::checkpoint::Checkpoint;
use crate::compact;
use crate::digest::file_sha256;
use crate::error::{Error, Result};
use crate::eval::Estimate;
use crate::identity::Identity;
use crate::isa;
use crate::low_rank::{self, Branch};
use crate::metadata::ModelMetadata;
use crate::model::{self, Model};
use crate::pipeline::{self, Budget, Observer, Stop};
use crate::plan::Plan;
use crate::recipe::{Chat, Recipe};
use crate::scheme::LowRankOptions;
use crate::storage::{self, Inputs, Output, Outputs, Targets, Written};
use crate::verify::checksum_file;

/// A conversion that is planned to the last byte.
#[derive(Debug)]
pub struct Prepared {
    /// The source.
    pub model: Model,
    /// Plan of the files to write.
    pub plan: Plan,
    /// Budget of memory and threads.
    pub budget: Budget,
    /// Metadata of the model.
    pub about: ModelMetadata,
    /// Every file that is read.
    pub inputs: Inputs,
    /// The importance matrix that was read.
    pub imatrix: Option<PathBuf>,
    /// The file or folder to write.
    pub output: PathBuf,
    /// Reasons that the calibration text is unfit.
    pub(crate) text_warnings: Vec<String>,
    /// Calibration, if any.
    pub(crate) calibration: Option<Calibration>,
    /// Request that is being carried out.
    pub(crate) request: Request,
    /// SHA-256 of the factors by which channels were rescaled.
    pub(crate) equalization: Option<String>,
    /// Outcomes of the matrices that are encoded before the file is written.
    pub(crate) done: Done,
    /// Size of the adapter with the branches of low rank: at most, then really.
    pub(crate) adapter_bytes: u64,
    /// Maximum size of the file, if it is coded for a size.
    pub(crate) most_bytes: Option<u64>,
    /// The chat that a Modelfile describes.
    pub(crate) modelfile: Option<Chat>,
    /// The types that were chosen by measurement.
    pub(crate) chosen: Option<Chosen>,
    /// Judge of the file if its types were chosen by measurement, and the most divergence that was asked for.
    pub(crate) judge: Option<Judge>,
    pub(crate) most_divergence: Option<f64>,
    /// Check for files that calibration made worse elsewhere, unless it was calibrated on the model itself.
    pub(crate) cross_check: Option<CrossCheck>,
    /// The divergence of the written file.
    pub(crate) reached: Option<Estimate>,
    /// True if checksums of the files are to stand beside them.
    pub(crate) checksum_file: bool,
    /// Suspicious findings about the source while it was written.
    pub(crate) suspicions: Vec<String>,
    /// Path to write the types of the tensors to.
    pub(crate) save_recipe: Option<PathBuf>,
}

/// A file that tells of the output, and gets its name together with it.
pub(crate) struct Companion<'a> {
    /// Path of the file.
    pub path: &'a Path,
    /// Its bytes, given the files of the output, which are finished but have no names yet.
    pub bytes: &'a mut Describe<'a>,
}

/// Makes the bytes of a file that tells of finished files.
type Describe<'a> = dyn FnMut(&Prepared, Vec<Written>) -> Result<Vec<u8>> + 'a;

impl Prepared {
    /// Suspicious findings about the calibration texts and, once it was written, about the source; and the keys of it
    /// that the file lacks.
    pub fn warnings(&self) -> Vec<String> {
        let found = self.text_warnings.iter().chain(&self.done.warnings).chain(&self.suspicions);
        ChangedKeys::of(&self.model, &self.plan).warnings().into_iter().chain(found.cloned()).collect()
    }

    /// File that opens the finished model: the output, or of a set its first part.
    pub fn to_open(&self) -> PathBuf {
        match (self.plan.output, self.plan.files.first()) {
            (Output::Set, Some(first)) => self.output.with_file_name(&first.name),
            _ => self.output.clone(),
        }
    }

    /// Everything that the bytes to be written depend on.
    ///
    /// # Errors
    /// If an input file cannot be read.
    pub(crate) fn identity(&self) -> Result<Identity> {
        let sources: Vec<String> = self.model.container.files().iter().map(file_sha256).collect();
        Identity::of(&self.request, self, &sources)
    }

    /// The files to be written.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let names = self.plan.files.iter().map(|f| &f.name).chain(self.plan.small.iter().map(|f| &f.name));
        let files = names.map(|name| match self.plan.output {
            Output::Folder => self.output.join(name),
            Output::File | Output::Set => self.output.with_file_name(name),
        });
        let checksums = self.checksum_file.then(|| checksum_file::path(&self.output));
        files.chain(self.adapter().map(|(path, _)| path)).chain(checksums)
    }

    /// Path of the adapter with the low-rank branches, and the options of these branches.
    pub(crate) fn adapter(&self) -> Option<(PathBuf, &LowRankOptions)> {
        self.plan.scheme.branches.as_ref().map(|branches| (low_rank::path(&self.output), branches))
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

    /// True if the written file is as near to its source as was asked for.
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

    /// Calibrates it and keeps branches of low rank apart if that is asked for, and writes it with all that goes beside it;
    /// what is there is replaced if `force`. If its types were chosen, its divergence is measured before it gets its name.
    ///
    /// # Errors
    /// As [`Outputs::claim`], [`calibrate::encode`], [`calibrate::divide`], [`pipeline::write`], [`Judge::divergence`] and
    /// [`Outputs::commit`]. Whatever it is, what was there before is still there.
    pub fn write(&mut self, force: bool, observer: &dyn Observer, stop: &Stop) -> Result<()> {
        self.write_with(None, force, observer, stop)
    }

    /// Writes the output with a file that tells of it.
    ///
    /// # Errors
    /// As [`write`](Prepared::write), and those of the companion.
    pub(crate) fn write_with(
        &mut self,
        companion: Option<Companion<'_>>,
        force: bool,
        observer: &dyn Observer,
        stop: &Stop,
    ) -> Result<()> {
        isa::with_portable(self.plan.scheme.portable, || self.write_here(companion, force, observer, stop))
    }

    /// Writes the output at the instruction sets that this thread may use.
    fn write_here(
        &mut self,
        companion: Option<Companion<'_>>,
        force: bool,
        observer: &dyn Observer,
        stop: &Stop,
    ) -> Result<()> {
        // What a killed run set aside is part of what is replaced: it gets its names back before they are looked at.
        storage::recover(&self.output)?;
        // Checksums of what is replaced would be wrong from now on.
        self.checksum_file |= force && checksum_file::path(&self.output).exists();
        let mut outputs = Outputs::claim(self.targets(companion.as_ref())?, &self.inputs, force)?;
        let store = self.encode(force, observer, stop)?;
        let branches = self.made_branches()?;
        self.suspicions =
            pipeline::write(&self.plan, &self.model, &mut outputs, &self.budget, observer, stop)?;
        if self.plan.target.codes() {
            // What was stored as it is was looked at as a whole already.
            let named = self.suspicions.join("\n");
            let is_new = |said: &String| !said.split_once(": ").is_some_and(|(name, _)| named.contains(name));
            self.suspicions.extend(model::peek(&self.model).into_iter().filter(is_new));
        }
        if let Some((path, bytes)) = self.made_adapter(branches, &outputs.to_open())? {
            outputs.put(&path, &bytes)?;
        }
        // The folder cannot be removed everywhere while its files are mapped.
        self.plan.tensors.iter_mut().for_each(|t| t.encoded = None);
        if let Some(judge) = self.judge.take() {
            let written = Model::open(&outputs.to_open(), &[])?;
            let divergence = || judge.divergence(written, stop);
            self.reached = pipeline::pool(self.budget.threads)?.install(divergence)?;
        }
        if let Some(check) = self.cross_check.take() {
            let written = Model::open(&outputs.to_open(), &[])?;
            let harm = || check.harm(&self.plan, written, stop);
            self.done.warnings.extend(pipeline::pool(self.budget.threads)?.install(harm)?);
        }
        if let Some(path) = self.save_recipe.clone() {
            outputs.put(&path, self.recipe_text()?.as_bytes())?;
        }
        if self.checksum_file {
            let text = checksum_file::text(&self.output, &outputs.written()?)?;
            outputs.put(&checksum_file::path(&self.output), text.as_bytes())?;
        }
        if let Some(Companion { path, bytes }) = companion {
            let bytes = bytes(self, outputs.written()?)?;
            outputs.put(path, &bytes)?;
        }
        outputs.commit(&self.inputs)?;
        store.map_or(Ok(()), Checkpoint::remove)
    }

    /// All names that are given, and those that the output they replace has besides.
    ///
    /// # Errors
    /// As [`low_rank::adapter_of`].
    fn targets(&self, companion: Option<&Companion<'_>>) -> Result<Targets> {
        let names = self.plan.files.iter().map(|f| &f.name).chain(self.plan.small.iter().map(|f| &f.name));
        let adapter = self.adapter().map(|(path, _)| path);
        let checksums = self.checksum_file.then(|| checksum_file::path(&self.output));
        let companion = companion.map(|companion| companion.path.to_owned());
        // Checksums of an earlier output of this name would call the new one damaged.
        let stale = Some(checksum_file::path(&self.output)).filter(|_| !self.checksum_file);
        Ok(Targets {
            out: self.output.clone(),
            output: self.plan.output,
            names: names.cloned().collect(),
            beside: adapter
                .into_iter()
                .chain(self.save_recipe.clone())
                .chain(checksums)
                .chain(companion)
                .collect(),
            obsolete: low_rank::adapter_of(&self.output)?.into_iter().chain(stale).collect(),
            checkpoint: Some(Checkpoint::folder(&self.output)),
            is_model: true,
        })
    }

    /// The recipe with the types that were chosen, as a file that `--recipe` reads.
    ///
    /// # Errors
    /// As [`Recipe::text`].
    fn recipe_text(&self) -> Result<String> {
        let scheme = &self.plan.scheme;
        let mut remarks = vec![format!("rwkv-quant {}", env!("CARGO_PKG_VERSION"))];
        remarks.extend(
            self.chosen
                .iter()
                .map(|c| format!("{} bytes of tensors, divergence predicted: {:.3e}", c.bytes, c.divergence)),
        );
        remarks.extend(self.reached.map(|kl| format!("divergence reached: {:.3e}", kl.value)));
        let recipe = Recipe {
            file_type: Some(scheme.file_type),
            tensors: scheme.types.clone(),
            // What they were chosen for is in them.
            preset: None,
            target_size: None,
            target_bpw: None,
            target_kl: None,
            ..self.request.recipe.clone()
        };
        recipe.text(&remarks)
    }

    /// The branches of low rank that were made. If there are none, nothing beside the file speaks of an adapter.
    fn made_branches(&mut self) -> Result<Vec<Branch>> {
        let made = std::mem::take(&mut self.done.branches);
        if let (true, Some(_), Some(chat)) = (made.is_empty(), self.adapter(), self.modelfile) {
            self.plan.small = vec![chat.modelfile(self.plan.target, &self.plan.files, false)?];
        }
        Ok(made)
    }

    /// The adapter with branches, and where it goes; `written` is the file that it completes.
    fn made_adapter(&mut self, made: Vec<Branch>, written: &Path) -> Result<Option<(PathBuf, Vec<u8>)>> {
        let Some((path, branches)) = self.adapter() else { return Ok(None) };
        if made.is_empty() {
            self.adapter_bytes = 0;
            return Ok(None);
        }
        let written = formats::open(written, &Limits::default())?;
        let bytes = branches.adapter(&self.plan, &self.model, &made, written.model_digest())?;
        self.adapter_bytes = bytes.len() as u64;
        Ok(Some((path, bytes)))
    }

    /// Encodes the matrices that are encoded as wholes: those that a text tells something about, and those with branches.
    fn encode(&mut self, force: bool, observer: &dyn Observer, stop: &Stop) -> Result<Option<Checkpoint>> {
        let calibration = self.calibration.take();
        let coded = self.plan.target.codes();
        if calibration.is_none() && self.plan.scheme.branches.is_none() && !coded {
            return Ok(None);
        }
        // Sections and calibrated blocks are kept until the output has its name.
        storage::check_space(storage::folder_of(&self.output), 2 * self.plan.total_bytes())?;
        let store = Checkpoint::open(&self.output, &self.identity()?, &self.inputs, force)?;
        let (plan, source) = (&mut self.plan, &self.model);
        let (about, out, most) = (&self.about, &self.output, self.most_bytes);
        let work = || {
            let done = match calibration {
                Some(calibration) => calibrate::encode(plan, calibration, &store, observer, stop),
                None => calibrate::divide(plan, source, &store, observer, stop),
            }?;
            if coded {
                compact::encode(plan, source, &store, observer, stop)?;
                let sources: Vec<String> = source.files().map(file_sha256).collect();
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

/// Error for a file that cannot be made as small as was asked for.
fn too_small(least: u64) -> Error {
    Error::Usage {
        what: format!("the file has {least} bytes at least as it is calibrated, more than was asked for"),
        help: format!("ask for --target-size {least} or more"),
    }
}

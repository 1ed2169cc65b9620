//! Planning of a conversion from a request.

use super::draft::Draft;
use super::{Prepared, Request, beside_goals};
use crate::error::Result;
use crate::isa;
use crate::model::Model;
use crate::pipeline::{self, Observer, Stop};
use crate::plan::rules::{self, Asked};
use crate::recipe::FileType;
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
            pool.install(|| Draft::new(self, model, target, file_type, observer, stop)?.finish())
        })
    }

    /// Every file that the conversion reads.
    pub(super) fn inputs(&self, model: &Model) -> Inputs {
        let mut inputs = Inputs::new();
        inputs.add(&self.input);
        inputs.add_open(model.files());
        inputs.add_all(&self.options.recipe_file);
        inputs.add_all(self.recipe.adapters.files());
        inputs.add_all(self.recipe.files().into_iter().map(|(_, file)| &file.0));
        inputs
    }

    /// Number of worker threads.
    pub(crate) fn thread_count(&self) -> usize {
        self.options.threads.unwrap_or_else(pipeline::default_threads)
    }
}

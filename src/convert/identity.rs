//! The ingredients of a conversion.
//!
//! Every key of the recipe is one, under the name of its flag: a new option is in every identity by itself.

use std::fs;
use std::path::Path;

use formats::{Container, Mapped};
use serde_json::{Value, json};

use super::{Prepared, Request};
use crate::choice::Choice;
use crate::digest::{file_sha256, sha256};
use crate::error::{Error, Result};
use crate::files::InputFile;
use crate::identity::{
    ARITHMETIC, BYTES_GENERATION, CALIBRATION_TOKENS, EQUALIZATION, GENERATION, IMPORTANCE, Identity,
    METADATA, TENSOR_TYPES,
};
use crate::model::Model;
use crate::plan::Plan;
use crate::recipe::{Recipe, SELF, flag_of, words};
use crate::runner;

/// Largest file of a vocabulary's folder: the weights that may stand beside it are no part of it.
const VOCABULARY_BYTES: u64 = 64 << 20;

impl Identity {
    /// Identity of what `request` asks for. `sources` are the SHA-256s of the model's files; `prepared` is its plan or, in
    /// a release, that of its sketch.
    ///
    /// # Errors
    /// If an input file cannot be read.
    pub(crate) fn of(request: &Request, prepared: &Prepared, sources: &[String]) -> Result<Identity> {
        let mut identity = Identity::default();
        identity.add(BYTES_GENERATION, GENERATION);
        identity.add("the model", sources);
        identity.recipe(&request.recipe)?;
        identity.adapters(&prepared.model);
        identity.plan(&prepared.plan);
        identity.add(EQUALIZATION, prepared.equalization.clone());
        Ok(identity)
    }

    /// Adds the options of a recipe, by flags; of the files that it names, their contents.
    pub(crate) fn recipe(&mut self, recipe: &Recipe) -> Result<()> {
        // Plain data always has a JSON.
        let Value::Object(keys) = serde_json::to_value(recipe).unwrap_or_default() else { return Ok(()) };
        for (key, value) in &keys {
            match (key.as_str(), value) {
                ("type" | "target" | "tensors", _) => {} // by the plan, which knows the defaults
                ("calibration", _) if !recipe.calibration.is_wanted() => {}
                (table @ ("calibration" | "adapters" | "metadata"), Value::Object(keys)) => {
                    for (key, value) in keys {
                        self.add(&flag_of(&[table, key]), value.clone());
                    }
                }
                (key, value) => self.add(&flag_of(&[key]), value.clone()),
            }
        }
        // A path says nothing of what is there.
        let texts = recipe.calibration.texts.iter();
        let text = |text: &InputFile| {
            if text.is_word(words("--calib")) { Ok(Value::from(SELF)) } else { named(&text.0) }
        };
        self.set("--calib", texts.map(text).collect::<Result<Vec<Value>>>()?);
        for (flag, file) in recipe.files() {
            match flag {
                "--calib" => {}
                "--lora" | "--state" => self.set(flag, Value::Null), // by what was opened
                "--imatrix" => self.set(flag, named(&file.0)?),
                _ => self.set(flag, contents(&file.0)?),
            }
        }
        // Forward passes round once where a processor can multiply and add in one step, and twice elsewhere.
        let rounds_twice = recipe.portable || !runner::is_fused();
        self.add(ARITHMETIC, recipe.calibration.is_wanted().then_some(!rounds_twice));
        self.set("--state-layout", recipe.adapters.layout().map(Choice::name));
        Ok(())
    }

    /// The files of adapters and states, as they were opened for the model.
    fn adapters(&mut self, model: &Model) {
        let of_all = |files: &mut dyn Iterator<Item = &Container>| -> Vec<String> {
            files.flat_map(Container::files).map(file_sha256).collect()
        };
        self.add("--lora", of_all(&mut model.adapters.iter().flat_map(|a| &a.files).map(AsRef::as_ref)));
        self.add("--state", of_all(&mut model.state.iter().filter_map(|s| s.file.as_deref())));
    }

    /// Adds the parts of the plan: defaults of the target, choices that were measured, and all that the source and the
    /// files beside it say.
    fn plan(&mut self, plan: &Plan) {
        self.add("--to", plan.target.id());
        self.add("--type", plan.scheme.file_type.name);
        let tensors: Vec<String> = plan
            .tensors
            .iter()
            .map(|t| format!("{} {} {:?}", Value::from(t.name.as_str()), t.encoding.name(), t.coded))
            .collect();
        self.add(TENSOR_TYPES, sha256(tensors.iter().map(String::as_bytes)));
        let columns =
            plan.tensors.iter().flat_map(|t| t.importance.iter().flat_map(|columns| columns.iter()));
        let importance: Vec<u8> = columns.flat_map(|v| v.to_le_bytes()).collect();
        if !importance.is_empty() {
            self.add(IMPORTANCE, sha256([importance.as_slice()]));
        }
        self.add(CALIBRATION_TOKENS, plan.scheme.calibration.as_ref().map(|trace| trace.sha256.clone()));
        self.add(METADATA, plan.frame_sha256());
    }
}

/// Name and contents of a file, whose name is kept in the result or says what it holds.
fn named(path: &Path) -> Result<Value> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(json!([name, contents(path)?]))
}

/// SHA-256 of a file; of a folder, those of its smaller files.
fn contents(path: &Path) -> Result<Value> {
    let read = |path: &Path| -> Result<String> { Ok(file_sha256(&Mapped::open(path)?)) };
    if !path.is_dir() {
        return read(path).map(Value::from);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
        let file = entry.map_err(Error::io("read", path))?.path();
        if file.metadata().is_ok_and(|found| found.is_file() && found.len() <= VOCABULARY_BYTES) {
            files.push(file);
        }
    }
    files.sort_unstable();
    files.iter().map(|file| named(file)).collect::<Result<Vec<Value>>>().map(Value::from)
}

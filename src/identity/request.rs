//! The ingredients of a conversion.
//!
//! Every option is taken apart by name, without `..`: a new one does not compile until somebody says whether bytes depend
//! on it.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use formats::{Container, Mapped};
use serde_json::{Value, json};

use super::{
    BYTES_GENERATION, CALIBRATION_TOKENS, EQUALIZATION, GENERATION, IMPORTANCE, Identity, METADATA,
    TENSOR_TYPES,
};
use crate::about::Overrides;
use crate::adapter::{Flags, Layout};
use crate::branches::BranchFlags;
use crate::calibrate::{CTX, Goals, SELF, Settings, TOKENS};
use crate::convert::{Prepared, Request};
use crate::digest::{file_sha256, sha256};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::plan::Plan;

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
        identity.options(request)?;
        identity.adapters(&prepared.model);
        identity.plan(&prepared.plan);
        identity.add(EQUALIZATION, prepared.equalization.clone());
        Ok(identity)
    }

    /// The options of a conversion, and the files that they name.
    pub(super) fn options(&mut self, request: &Request) -> Result<()> {
        let Request {
            input: _,     // by its files
            output: _,    // by the metadata, where they hold its name
            file_type: _, // by the plan, which knows the default
            to: _,        // by the plan
            mix,
            fallback,
            search,
            imatrix,
            equalize,
            split_max_size,
            layers,
            rescale,
            force_target,
            drop,
            max_memory: _, // no byte depends on it
            threads: _,    // no byte depends on them
            modelfile,
            adapters,
            calibration,
            calib_independent,
            goals,
            branches,
            as_tensors,
            no_checksums,
            checksum_file: _, // beside the result
            portable,
            about,
        } = request;
        self.add("--as-tensors", *as_tensors);
        self.add("--no-checksums", *no_checksums);
        self.add("--portable", *portable);
        self.add("--mix", word(mix));
        self.add("--fallback", word(fallback));
        self.add("--search", word(search));
        self.add("--imatrix", imatrix.as_deref().map(named).transpose()?);
        self.add("--equalize", *equalize);
        self.add("--split-max-size", *split_max_size);
        self.add("--layers", *layers);
        self.add("--rescale", *rescale);
        self.add("--force-target", *force_target);
        self.add("--drop", drop.clone());
        self.add("--modelfile", modelfile.as_ref().map(word));
        self.add("--calib-independent", *calib_independent);
        self.adapter_options(adapters)?;
        self.calibration(calibration)?;
        self.goals(goals)?;
        self.branches(branches);
        self.overrides(about)
    }

    fn adapter_options(&mut self, adapters: &Flags) -> Result<()> {
        let Flags {
            lora: _, // by its files
            lora_alpha,
            lora_init,
            state, // by its files; its name says the layout
            state_layout,
        } = adapters;
        self.add("--lora-alpha", lora_alpha.map(|alpha| alpha.to_string()));
        self.add("--lora-init", lora_init.as_deref().map(contents).transpose()?);
        let layout = state.as_deref().map(|state| state_layout.unwrap_or_else(|| Layout::usual(state)));
        self.add("--state-layout", layout.as_ref().map(word));
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

    fn calibration(&mut self, settings: &Settings) -> Result<()> {
        let Settings {
            calib,
            calib_tokens,
            calib_ctx,
            calib_seed,
            allow_non_utf8: _, // what is refused without it is read with it
        } = settings;
        if calib.is_empty() {
            return Ok(());
        }
        let text =
            |path: &PathBuf| if path.as_os_str() == SELF { Ok(Value::from(SELF)) } else { named(path) };
        self.add("--calib", calib.iter().map(text).collect::<Result<Vec<Value>>>()?);
        self.add("--calib-tokens", calib_tokens.unwrap_or(TOKENS));
        self.add("--calib-ctx", calib_ctx.unwrap_or(CTX));
        self.add("--calib-seed", calib_seed.unwrap_or(0));
        Ok(())
    }

    fn goals(&mut self, goals: &Goals) -> Result<()> {
        let Goals {
            preset,
            target_size,
            target_bpw,
            target_kl,
            recipe,
            save_recipe: _, // beside the result
        } = goals;
        self.add("--preset", preset.map(|preset| preset.name()));
        self.add("--target-size", *target_size);
        self.add("--target-bpw", target_bpw.map(|bits| bits.to_string()));
        self.add("--target-kl", target_kl.map(|kl| kl.to_string()));
        self.add("--recipe", recipe.as_deref().map(contents).transpose()?);
        Ok(())
    }

    fn branches(&mut self, branches: &BranchFlags) {
        let BranchFlags { low_rank, low_rank_for } = branches;
        self.add("--low-rank", *low_rank);
        self.add("--low-rank-for", low_rank_for.clone());
    }

    fn overrides(&mut self, about: &Overrides) -> Result<()> {
        let Overrides {
            vocab,
            chat_template,
            name,
            author,
            model_version,
            organization,
            description,
            license,
            url,
            base_model,
            no_card,
            set_key,
        } = about;
        self.add("--vocab", or_contents(vocab.as_deref(), &["world", "bytes"])?);
        self.add("--chat-template", or_contents(chat_template.as_deref(), &["world", "none"])?);
        for (flag, text) in [
            ("--name", name),
            ("--author", author),
            ("--model-version", model_version),
            ("--organization", organization),
            ("--description", description),
            ("--license", license),
            ("--url", url),
            ("--base-model", base_model),
        ] {
            self.add(flag, text.clone());
        }
        self.add("--no-card", *no_card);
        self.add("--set-key", set_key.iter().map(ToString::to_string).collect::<Vec<_>>());
        Ok(())
    }

    /// What the plan adds: defaults of the target, choices that were measured, and all that the source and the files
    /// beside it say.
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

/// The name of a choice, as it is typed.
fn word(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

/// One of the words that mean something built in, or the contents of the file that is named.
fn or_contents(path: Option<&Path>, words: &[&str]) -> Result<Value> {
    match path {
        None => Ok(Value::Null),
        Some(path) => match path.to_str().filter(|text| words.contains(text)) {
            Some(word) => Ok(Value::from(word)),
            None => contents(path),
        },
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

//! Record of a finished artifact, kept beside it as `NAME.json`: its origin, its content, its quality.
//!
//! It says nothing of when, where or how fast it was made, so that it is the same wherever it is made.

use std::collections::BTreeMap;
use std::path::Path;

use formats::Mapped;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::job::Job;
use crate::choice::Choice;
use crate::convert::{Prepared, Request};
use crate::diff::{self, TensorDiff};
use crate::digest::{file_sha256, sha256};
use crate::error::{Error, Result};
use crate::eval::{Against, ModelScore, Scored, Setting};
use crate::identity::{Identity, digest_of};
use crate::metadata::ModelMetadata;
use crate::model::Model;
use crate::plan::Plan;
use crate::recipe::{CalibrationOptions, Recipe};
use crate::units::bytes;

/// The field of a record's seal.
pub(super) const SEAL: &str = "seal";
/// Largest record that is read.
pub(super) const FILE_BYTES: u64 = 64 << 20;

/// What is known of a finished artifact.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Record {
    /// The cell's address: the digest of its identity.
    pub cell: String,
    /// Everything that its bytes depend on.
    #[serde(default)]
    pub identity: Identity,
    /// What made it.
    pub program: Program,
    /// What it was made from.
    pub source: SourceRecord,
    /// How.
    pub recipe: RecipeRecord,
    /// What the source, or the job, says of the model.
    pub card: Card,
    /// Its files; names are relative to the model's folder.
    pub files: Vec<FileRecord>,
    /// Size of all files.
    pub bytes: u64,
    /// Bits a weight, all files, metadata included.
    pub bits_per_weight: f64,
    /// Its tensors by their encoding.
    pub encodings: BTreeMap<String, Share>,
    /// Its divergence from the source on the calibration tokens that only judged, nats a token, if its types were chosen.
    #[serde(default)]
    pub divergence: Option<f64>,
    /// How far it is from its source, if that was measured.
    pub quality: Option<Quality>,
    /// What is suspicious about its source and its calibration texts: matrices of zeros, texts of another kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// SHA-256 of all other fields, so that a figure changed by hand is found; records of version 0.1.0 have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub seal: String,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it is at home.
    pub url: String,
}

impl Program {
    /// Program that runs.
    pub fn this() -> Program {
        Program {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            url: env!("CARGO_PKG_REPOSITORY").to_owned(),
        }
    }
}

/// A model that artifacts are made from.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SourceRecord {
    /// Its name in the release.
    pub name: String,
    /// Its version: `7.0`.
    pub version: String,
    /// What it is, in a few words.
    pub about: String,
    /// The container: `torch`.
    pub format: String,
    /// Number of weights.
    pub weights: u64,
    /// Its files.
    pub files: Vec<FileRecord>,
}

/// A file and its content.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FileRecord {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hex.
    pub sha256: String,
}

impl FileRecord {
    /// The file at `path`, called `name`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(path: &Path, name: String) -> Result<FileRecord> {
        Ok(FileRecord::mapped(&Mapped::open(path)?, name))
    }

    /// The file at `path`, by its own name.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn at(path: &Path) -> Result<FileRecord> {
        FileRecord::of(path, path.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    /// A file that is open.
    pub fn mapped(file: &Mapped, name: String) -> FileRecord {
        FileRecord { name, bytes: file.bytes().len() as u64, sha256: file_sha256(file) }
    }
}

/// How an artifact is made.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(missing_docs)] // keys of the job
pub struct RecipeRecord {
    pub target: String,
    #[serde(rename = "type")]
    pub file_type: String,
    pub mix: String,
    pub fallback: String,
    pub search: String,
    pub imatrix: Option<FileRecord>,
    pub split_max_bytes: Option<u64>,
    pub drop: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<ChoiceRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationRecord>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub equalize: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescale: Option<usize>,
}

impl RecipeRecord {
    /// Common name of artifacts of this kind: the preset, or else the type.
    pub fn kind(&self) -> String {
        match &self.chosen {
            Some(ChoiceRecord::Preset(name)) => name.clone(),
            Some(ChoiceRecord::TargetSize(size)) => bytes(*size),
            Some(ChoiceRecord::TargetBpw(bits)) => format!("{bits} bpw"),
            Some(ChoiceRecord::TargetKl(kl)) => format!("KL {kl}"),
            Some(ChoiceRecord::Recipe(_)) | None => self.file_type.clone(),
        }
    }
}

/// By what the types of the tensors are chosen.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // keys of the job
pub enum ChoiceRecord {
    Preset(String),
    Recipe(FileRecord),
    TargetSize(u64),
    TargetBpw(f64),
    TargetKl(f64),
}

impl ChoiceRecord {
    fn of(cell: &Cell, asked: &Recipe, job: &Job) -> Result<Option<ChoiceRecord>> {
        if let Some(path) = &cell.place.artifact.recipe_file {
            return Ok(Some(ChoiceRecord::Recipe(FileRecord::at(&job.resolved(path))?)));
        }
        let preset = asked.preset.map(|p| ChoiceRecord::Preset(p.name().to_owned()));
        let size = asked.target_size.map(ChoiceRecord::TargetSize);
        let bpw = asked.target_bpw.map(ChoiceRecord::TargetBpw);
        Ok(preset.or(size).or(bpw).or(asked.target_kl.map(ChoiceRecord::TargetKl)))
    }
}

/// What an artifact is calibrated on.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CalibrationRecord {
    /// The texts; none are the model's own samples.
    pub texts: Vec<FileRecord>,
    /// Tokens in all.
    pub tokens: Option<usize>,
    /// Tokens of a sequence.
    pub ctx: Option<usize>,
    /// Seed of the model's own samples.
    pub seed: Option<u64>,
}

impl CalibrationRecord {
    fn of(options: &CalibrationOptions) -> Result<Option<CalibrationRecord>> {
        if !options.is_wanted() {
            return Ok(None);
        }
        Ok(Some(CalibrationRecord {
            texts: options.files().map(|file| FileRecord::at(&file.0)).collect::<Result<_>>()?,
            tokens: Some(options.tokens),
            ctx: Some(options.ctx),
            seed: Some(options.seed),
        }))
    }
}

/// What is said of a model.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Card {
    /// Its title.
    pub name: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// Its licence, as an SPDX name.
    pub license: Option<String>,
    /// Where it is at home.
    pub url: Option<String>,
    /// What it was made from, as `organization/name` where that is known.
    pub base_model: Option<String>,
}

impl Card {
    fn of(about: &ModelMetadata) -> Card {
        let text = |field: &str| about.text(field).map(str::to_owned);
        let base = |field: &str| text(&format!("base_model.0.{field}"));
        let base_model = match (base("organization"), base("name")) {
            (Some(organization), Some(name)) => Some(format!("{organization}/{name}")),
            (_, name) => name.or_else(|| base("repo_url")),
        };
        Card {
            name: text("name"),
            author: text("author"),
            license: text("license"),
            url: text("url"),
            base_model,
        }
    }
}

/// Some tensors of an artifact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Share {
    /// How many.
    pub tensors: u64,
    /// Their weights.
    pub weights: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far an artifact is from its source on some text.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Quality {
    /// A SHA-256 of everything that the figures depend on.
    pub measurement: String,
    /// The text, and how it was cut.
    pub setting: Setting,
    /// What was scored.
    pub scored: Scored,
    /// The share of the text that the artifact was calibrated on, if it is any: it is better there than elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated_on: Option<f64>,
    /// The source.
    pub source: ModelScore,
    /// The artifact.
    pub artifact: ModelScore,
    /// The artifact against the source.
    pub against: Against,
    /// How far each tensor is from the source's, block by block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorError>,
}

/// How far a tensor is from that of the source.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TensorError {
    /// Its canonical name.
    pub name: String,
    /// Its encoding in the artifact.
    pub encoding: String,
    /// Its weights.
    pub weights: u64,
    /// Its bytes in the artifact.
    pub bytes: u64,
    /// Root mean square of the differences, as a share of that of the source's values.
    pub relative: f64,
}

impl TensorError {
    /// Errors of all tensors that both models have.
    pub(super) fn all(source: &Model, artifact: &Model) -> Vec<TensorError> {
        let weights: BTreeMap<String, u64> =
            source.tensors.iter().map(|t| (t.name(), t.values.elements() as u64)).collect();
        let row = |t: TensorDiff| TensorError {
            weights: weights.get(&t.name).copied().unwrap_or_default(),
            name: t.name,
            encoding: t.encodings.1.to_owned(),
            bytes: t.bytes.1,
            relative: t.relative,
        };
        diff::compare(source, artifact).common.into_iter().map(row).collect()
    }
}

/// The address of something: the SHA-256 of what it depends on, as JSON.
pub(super) fn address(ingredients: &impl Serialize) -> String {
    // What is addressed is plain data, which always has a JSON.
    let json = serde_json::to_vec(ingredients).unwrap_or_default();
    sha256([json.as_slice()])
}

impl Record {
    /// The record of an artifact that is planned as `request` says: all but its files and quality. `source` are the files
    /// of the source.
    ///
    /// # Errors
    /// If a file that it is made by cannot be read.
    pub(super) fn planned(
        job: &Job,
        cell: &Cell,
        request: &Request,
        prepared: &Prepared,
        source: &[FileRecord],
    ) -> Result<Record> {
        let Prepared { model, plan, about, .. } = prepared;
        let (artifact, asked) = (cell.place.artifact, &request.recipe);
        let recipe = RecipeRecord {
            target: artifact.target.id().to_owned(),
            file_type: cell.place.file_type.name.to_owned(),
            mix: asked.mix.name().to_owned(),
            fallback: asked.fallback.name().to_owned(),
            search: asked.search.name().to_owned(),
            imatrix: asked.imatrix.as_ref().map(|file| FileRecord::at(&file.0)).transpose()?,
            split_max_bytes: asked.split_max_size,
            drop: asked.drop.clone(),
            chosen: ChoiceRecord::of(cell, asked, job)?,
            calibration: CalibrationRecord::of(&asked.calibration)?,
            equalize: asked.equalize,
            layers: asked.layers,
            rescale: asked.rescale,
        };
        let hashes: Vec<String> = source.iter().map(|f| f.sha256.clone()).collect();
        let identity = Identity::of(request, prepared, &hashes)?;
        let record = Record {
            cell: identity.digest(),
            identity,
            program: Program::this(),
            source: SourceRecord {
                name: cell.place.source.name.clone(),
                version: model.version.name.to_owned(),
                about: model.version.about.to_owned(),
                format: model.container.format().name().to_owned(),
                weights: model.weights(),
                files: source.to_vec(),
            },
            recipe,
            card: Card::of(about),
            files: Vec::new(),
            bytes: 0,
            bits_per_weight: 0.0,
            encodings: BTreeMap::new(),
            divergence: None,
            quality: None,
            warnings: Vec::new(),
            seal: String::new(),
        };
        Ok(record.sized(plan))
    }

    /// Record with the sizes of a plan, which are known when it is carried out.
    pub(super) fn sized(self, plan: &Plan) -> Record {
        let mut encodings: BTreeMap<String, Share> = BTreeMap::new();
        for tensor in &plan.tensors {
            let share = encodings.entry(tensor.stored_as().to_owned()).or_default();
            share.tensors += 1;
            share.weights += tensor.values.elements() as u64;
            share.bytes += tensor.bytes();
        }
        Record { bytes: plan.total_bytes(), bits_per_weight: plan.bits_per_weight(), encodings, ..self }
    }

    /// Seals it: the bytes of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn sealed(&mut self, path: &Path) -> Result<Vec<u8>> {
        self.seal.clear();
        let text = json(self, path)?;
        let value = serde_json::from_slice(&text).map_err(|e| Error::io("write", path)(e.into()))?;
        self.seal = digest_of(&value, SEAL);
        json(self, path)
    }

    /// True if none of its files in `folder` has other bytes than it had.
    pub(super) fn owns_all(&self, folder: &Path) -> bool {
        super::found::are_owned(&self.files, folder)
    }

    /// True if its files are in `folder`, as long as they were.
    pub(super) fn is_there(&self, folder: &Path) -> bool {
        let as_long = |f: &FileRecord| folder.join(&f.name).metadata().is_ok_and(|m| m.len() == f.bytes);
        !self.files.is_empty() && self.files.iter().all(as_long)
    }

    /// True if its files are in `folder`, with the bytes that they had.
    pub(super) fn is_whole(&self, folder: &Path) -> bool {
        let is_same = |f: &FileRecord| {
            FileRecord::of(&folder.join(&f.name), f.name.clone()).is_ok_and(|found| found == *f)
        };
        self.is_there(folder) && self.files.par_iter().all(is_same)
    }
}

/// JSON for people and programs, with a line feed at its end.
pub(super) fn json(value: &impl Serialize, path: &Path) -> Result<Vec<u8>> {
    let mut json = serde_json::to_vec_pretty(value).map_err(|e| Error::io("write", path)(e.into()))?;
    json.push(b'\n');
    Ok(json)
}

//! The job file: which models become which artifacts, and what these must be worth.
//!
//! ```toml
//! [release]
//! name = "rwkv7-g1"
//! naming = "{model}-{TYPE}"          # the extension is the target's
//!
//! [evaluation]                       # without it, quality is not measured
//! texts = ["wiki.test.txt"]
//!
//! [gates]                            # what every artifact must keep
//! max_ppl_ratio = 1.02
//!
//! [[model]]
//! source = "RWKV-x070-G1-0.4B.pth"
//! [model.metadata]
//! license = "apache-2.0"
//!
//! [calibration]                      # what presets, goals and `calibrated = true` are calibrated on
//! texts = ["train.txt"]
//!
//! [[artifact]]
//! type = ["q8_0", "q4_k_m"]
//! [artifact.gates]
//! max_size = "500MB"
//!
//! [[artifact]]
//! preset = ["balanced", "small"]
//! ```
//!
//! Paths are relative to the job file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use toml::Spanned;

use crate::choice::unknown;
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::eval::{self, Protocol};
use crate::hub::Address;
use crate::metadata::{self, MetadataOptions};
use crate::model::wildcard;
use crate::recipe::{CalibrationOptions, FileType, Preset, Recipe, explained};
use crate::storage::Inputs;
use crate::targets::{Content, TARGETS, Target};
use crate::{files, units};

/// Largest job file that is read.
const FILE_BYTES: u64 = 1 << 20;

/// A job file that was understood.
#[derive(Clone, Debug)]
pub struct Job {
    /// The file.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: String,
    /// The release as a whole.
    pub release: Release,
    /// Measurement of quality, if any.
    pub evaluation: Option<Evaluation>,
    /// Calibration of models that do not state their own.
    pub calibration: Option<CalibrationOptions>,
    /// Quality gates of every artifact.
    pub gates: Gates,
    /// The models.
    pub models: Vec<Source>,
    /// Artifacts to make of each model.
    pub artifacts: Vec<Artifact>,
}

/// `[release]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Release {
    /// Its name; by default that of the job file.
    pub name: Option<String>,
    /// The folder to write, unless the command line names one; by default the name, beside the job file.
    pub out: Option<PathBuf>,
    /// Author of the artifacts, for the model cards.
    pub quantized_by: Option<String>,
    /// Naming pattern of artifacts that do not state their own.
    pub naming: Option<String>,
}

/// `[evaluation]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// The texts, as [`Corpus::read`](eval::Corpus::read) takes them.
    pub texts: Vec<PathBuf>,
    /// Tokens of a window.
    #[serde(default = "usual_ctx")]
    pub ctx: usize,
    /// Tokens from window to window; by default a whole window.
    pub stride: Option<usize>,
    /// Most windows to score.
    pub windows: Option<usize>,
    /// True if texts may have any bytes.
    #[serde(default)]
    pub allow_non_utf8: bool,
}

fn usual_ctx() -> usize {
    512
}

impl Evaluation {
    /// Protocol by which the texts are cut.
    pub fn protocol(&self) -> Protocol {
        Protocol::Windows { ctx: self.ctx, stride: self.stride.unwrap_or(self.ctx) }
    }
}

/// `[gates]`: what fails a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gates {
    /// Largest perplexity, as a multiple of the source's.
    pub max_ppl_ratio: Option<f64>,
    /// Largest mean divergence from the source, in nats.
    pub max_kl: Option<f64>,
    /// Least share of tokens with the same first choice as the source.
    pub min_top1: Option<f64>,
    /// Most bytes of all files of the artifact.
    #[serde(deserialize_with = "units::bytes_or_text")]
    pub max_size: Option<u64>,
}

impl Gates {
    /// The gates that need an evaluation.
    pub fn quality(&self) -> eval::Gates {
        eval::Gates { max_ppl_ratio: self.max_ppl_ratio, max_kl: self.max_kl, min_top1: self.min_top1 }
    }

    /// Gates stated here, and for what they do not state, `others`.
    pub fn or(&self, others: &Gates) -> Gates {
        Gates {
            max_ppl_ratio: self.max_ppl_ratio.or(others.max_ppl_ratio),
            max_kl: self.max_kl.or(others.max_kl),
            min_top1: self.min_top1.or(others.min_top1),
            max_size: self.max_size.or(others.max_size),
        }
    }
}

/// `[[model]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file or folder.
    pub source: PathBuf,
    /// Name of its folder and, unless they are named otherwise, of its artifacts; by default after the source.
    #[serde(default)]
    pub name: String,
    /// An importance matrix for quantized types.
    pub imatrix: Option<PathBuf>,
    /// Calibration of the model; takes precedence over that of the job.
    pub calibration: Option<CalibrationOptions>,
    /// Tensors to leave out.
    #[serde(default)]
    pub drop: Vec<String>,
    /// Metadata of the model that the job states.
    #[serde(default)]
    pub metadata: MetadataOptions,
    /// Line of the job file.
    #[serde(skip)]
    pub line: usize,
}

/// `[[artifact]]`: a recipe, of which some keys may have a list of values, and what only a release knows of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Artifact {
    /// Target format.
    #[serde(deserialize_with = "target")]
    pub target: &'static dyn Target,
    /// The file types, one or a list; none for the target's own.
    #[serde(rename = "type", deserialize_with = "file_types")]
    pub types: Vec<&'static FileType>,
    /// Presets in place of types, one or a list.
    #[serde(rename = "preset", deserialize_with = "choices")]
    pub presets: Vec<Preset>,
    /// Recipe in a file in place of types, which the other keys go before.
    #[serde(rename = "recipe")]
    pub recipe_file: Option<PathBuf>,
    /// Target sizes in bytes in place of types, one number or a list, for which the types of the tensors are chosen.
    #[serde(rename = "target_size", deserialize_with = "units::sizes")]
    pub target_sizes: Vec<u64>,
    /// Target sizes in bits per weight.
    #[serde(rename = "target_bpw", deserialize_with = "numbers")]
    pub target_bpws: Vec<f64>,
    /// The divergence for which they are chosen, one or a list.
    #[serde(rename = "target_kl", deserialize_with = "numbers")]
    pub target_kls: Vec<f64>,
    /// True if it is calibrated; with presets and goals it always is.
    pub calibrated: bool,
    /// Naming pattern of its artifacts.
    pub name: Option<String>,
    /// The models that they are made of (`*` stands for anything); by default all that the target can hold.
    pub models: Option<Vec<String>>,
    /// True if the model's importance matrix is used, if it has one.
    pub imatrix: bool,
    /// Quality gates of the artifact; take precedence over those of the job.
    pub gates: Gates,
    /// All other keys. Paths are absolute.
    #[serde(skip)]
    pub recipe: Recipe,
    /// Line of the job file.
    #[serde(skip)]
    pub line: usize,
}

impl Default for Artifact {
    fn default() -> Artifact {
        Artifact {
            target: TARGETS[0],
            types: Vec::new(),
            presets: Vec::new(),
            recipe_file: None,
            target_sizes: Vec::new(),
            target_bpws: Vec::new(),
            target_kls: Vec::new(),
            calibrated: false,
            name: None,
            models: None,
            imatrix: true,
            gates: Gates::default(),
            recipe: Recipe::default(),
            line: 0,
        }
    }
}

/// Keys of an artifact that are no recipe's, or that may have a list of values.
const OWN: [&str; 12] = [
    "target",
    "type",
    "preset",
    "recipe",
    "target_size",
    "target_bpw",
    "target_kl",
    "calibrated",
    "name",
    "models",
    "imatrix",
    "gates",
];

/// A table with the places of its keys and values.
type Table = BTreeMap<Spanned<String>, Spanned<toml::Value>>;

impl Artifact {
    /// Artifact of a table of the job file; an error states the byte of the file.
    fn of(table: Table) -> std::result::Result<Artifact, (usize, String)> {
        let (mut own, mut recipe) = (toml::Table::new(), toml::Table::new());
        for (key, value) in table {
            let (at_key, at_value) = (key.span().start, value.span().start);
            let (key, value) = (key.into_inner(), value.into_inner());
            let is_own = OWN.contains(&key.as_str());
            // Each by itself, so that an error knows its place.
            let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
            let checked = match is_own {
                true => Artifact::deserialize(alone).map(drop),
                false => Recipe::deserialize(alone).map(drop),
            };
            checked.map_err(|error| match error.message() {
                unknown if unknown.starts_with(&format!("unknown field `{key}`")) => {
                    (at_key, unknown_key(&key))
                }
                other => (at_value, other.to_owned()),
            })?;
            (if is_own { &mut own } else { &mut recipe }).insert(key, value);
        }
        let whole = |error: toml::de::Error| (0, error.message().to_owned());
        let recipe = Recipe::deserialize(recipe).map_err(whole)?;
        Ok(Artifact { recipe, ..Artifact::deserialize(own).map_err(whole)? })
    }

    /// Takes from a recipe what the job does not say.
    fn begin_with(&mut self, base: Recipe) {
        // Plain data is laid over plain data of the same kind.
        let mut recipe = base.overlaid(&self.recipe.stated()).unwrap_or(base);
        self.presets.extend(recipe.preset.take());
        self.target_sizes.extend(recipe.target_size.take());
        self.target_bpws.extend(recipe.target_bpw.take());
        self.target_kls.extend(recipe.target_kl.take());
        self.recipe = recipe;
    }

    /// True if it is to be made of the model of that name.
    pub fn wants(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|patterns| patterns.iter().any(|p| wildcard(p, model)))
    }

    /// True if a text tells how it is rounded.
    pub fn is_calibrated(&self) -> bool {
        let is_sized =
            !(self.presets.is_empty() && self.target_sizes.is_empty() && self.target_bpws.is_empty());
        let is_chosen = !self.target_kls.is_empty() || (is_sized && !self.target.codes());
        self.calibrated || is_chosen || self.recipe.calibration.is_wanted()
    }
}

/// Error message for a key that no artifact has, in the words of serde.
fn unknown_key(key: &str) -> String {
    let recipe = serde_json::to_value(Recipe::default()).unwrap_or_default();
    let of_recipe = recipe.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let known: BTreeSet<&str> = OWN.into_iter().chain(of_recipe).collect();
    let known: Vec<String> = known.into_iter().map(|known| format!("`{known}`")).collect();
    format!("unknown field `{key}`, expected one of {}", known.join(", "))
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    release: Release,
    evaluation: Option<Evaluation>,
    calibration: Option<CalibrationOptions>,
    #[serde(default)]
    gates: Gates,
    model: Vec<Spanned<Source>>,
    artifact: Vec<Spanned<Table>>,
}

impl Job {
    /// Reads a job file.
    ///
    /// # Errors
    /// [`Error::Job`] with the line, and for a key or value that does not exist the nearest that does.
    pub fn read(path: &Path) -> Result<Job> {
        let text = files::text(path, "job file", FILE_BYTES)?;
        let mut job = Job::parse(path, &text)?;
        for i in 0..job.artifacts.len() {
            if let Some(file) = &job.artifacts[i].recipe_file {
                let file = job.resolved(file);
                let base = Recipe::load(&std::path::absolute(&file).unwrap_or(file))?;
                job.artifacts[i].begin_with(base);
            }
        }
        Ok(job)
    }

    fn parse(path: &Path, text: &str) -> Result<Job> {
        let line = |at: usize| 1 + text.bytes().take(at).filter(|b| *b == b'\n').count();
        let written: Written = from_toml(text).map_err(|e| {
            let (what, help) = explained(e.message());
            Error::Job { path: path.to_owned(), line: line(e.span().map_or(0, |s| s.start)), what, help }
        })?;
        let mut job = Job {
            path: path.to_owned(),
            sha256: sha256([text.as_bytes()]),
            release: written.release,
            evaluation: written.evaluation,
            calibration: written.calibration,
            gates: written.gates,
            models: Vec::new(),
            artifacts: Vec::new(),
        };
        for model in written.model {
            let line = line(model.span().start);
            let mut model = model.into_inner();
            model.line = line;
            if model.name.is_empty() {
                let stem =
                    if model.source.is_dir() { model.source.file_name() } else { model.source.file_stem() };
                let stem = || stem.unwrap_or_default().to_string_lossy().into_owned();
                model.name = metadata::repository(&job.resolved(&model.source)).unwrap_or_else(stem);
            }
            job.models.push(model);
        }
        for artifact in written.artifact {
            let start = artifact.span().start;
            let mut artifact = Artifact::of(artifact.into_inner()).map_err(|(at, message)| {
                let (what, help) = explained(&message);
                job.wrong(line(at.max(start)), what, help)
            })?;
            artifact.line = line(start);
            for file in artifact.recipe.files_mut() {
                let path = job.resolved(&file.0);
                file.0 = std::path::absolute(&path).unwrap_or(path);
            }
            job.artifacts.push(artifact);
        }
        job.check()?;
        Ok(job)
    }

    /// Checks the rules that the types of the keys do not express.
    fn check(&self) -> Result<()> {
        for (count, key) in [(self.models.len(), "model"), (self.artifacts.len(), "artifact")] {
            if count == 0 {
                return Err(self.wrong(1, format!("there is no [[{key}]]"), "add one".to_owned()));
            }
        }
        for (i, model) in self.models.iter().enumerate() {
            if let Some(other) = self.models[..i].iter().find(|m| m.name.eq_ignore_ascii_case(&model.name)) {
                let what = format!("the model {:?} stands in line {} already", model.name, other.line);
                return Err(self.wrong(model.line, what, "give one of them another name".to_owned()));
            }
        }
        self.check_evaluation()?;
        for artifact in &self.artifacts {
            artifact.gates.or(&self.gates).quality().check().map_err(|what| {
                self.wrong(artifact.line, what, "correct it here or in [gates]".to_owned())
            })?;
            self.check_choice(artifact)?;
        }
        let gated = |a: &&Artifact| !a.gates.or(&self.gates).quality().is_empty();
        match (self.artifacts.iter().find(gated), &self.evaluation) {
            (Some(artifact), None) => Err(self.wrong(
                artifact.line,
                "there are gates of quality, but nothing is evaluated".to_owned(),
                "add [evaluation] with texts = [\"FILE\"], or leave max_ppl_ratio, max_kl and min_top1 out"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Checks that the texts can be cut as asked for.
    fn check_evaluation(&self) -> Result<()> {
        let Some(evaluation) = &self.evaluation else { return Ok(()) };
        if evaluation.texts.is_empty() {
            let help = "name one, or leave [evaluation] out".to_owned();
            return Err(self.wrong(1, "[evaluation] has no texts".to_owned(), help));
        }
        if evaluation.windows == Some(0) {
            let what = "[evaluation] scores no window (windows = 0)".to_owned();
            return Err(self.wrong(1, what, "give 1 or more".to_owned()));
        }
        evaluation
            .protocol()
            .check()
            .map_err(|e| self.wrong(1, format!("[evaluation]: {e}"), e.help().unwrap_or_default().to_owned()))
    }

    /// Checks that the files exist that many cells need: texts, importance matrices, recipes.
    ///
    /// # Errors
    /// [`Error::Job`] with the first that is missing. (A missing source is its own cells' trouble.)
    pub fn check_files(&self) -> Result<()> {
        for (line, path) in self.files() {
            let path = self.resolved(path);
            if !path.exists() {
                let help = "correct it; paths are relative to the job file".to_owned();
                return Err(self.wrong(line, format!("there is no file {}", path.display()), help));
            }
        }
        Ok(())
    }

    /// Every file that the release reads, the job file too.
    pub fn inputs(&self) -> Inputs {
        let mut inputs = Inputs::new();
        inputs.add(&self.path);
        let sources = self.models.iter().map(|m| m.source.as_path());
        for path in self.files().map(|(_, path)| path).chain(sources) {
            inputs.add(&self.resolved(path));
        }
        inputs
    }

    /// The files that many cells need, and the lines that name them.
    fn files(&self) -> impl Iterator<Item = (usize, &Path)> {
        let calibrations = self.models.iter().filter_map(|m| Some((m.line, m.calibration.as_ref()?)));
        let calibrations = calibrations.chain(self.calibration.iter().map(|c| (1, c)));
        let texts = calibrations.flat_map(|(line, c)| c.files().map(move |text| (line, &text.0)));
        let evaluated = self.evaluation.iter().flat_map(|e| e.texts.iter().map(|text| (1, text)));
        let matrices = self.models.iter().filter_map(|m| Some((m.line, m.imatrix.as_ref()?)));
        let recipes = self.artifacts.iter().filter_map(|a| Some((a.line, a.recipe_file.as_ref()?)));
        let of_recipes =
            self.artifacts.iter().flat_map(|a| a.recipe.files().into_iter().map(|(_, f)| (a.line, &f.0)));
        let all = evaluated.chain(texts).chain(matrices).chain(recipes).chain(of_recipes);
        all.map(|(line, path)| (line, path.as_path()))
    }

    /// Checks that the types of an artifact are chosen in one way, and by a text that is there.
    fn check_choice(&self, artifact: &Artifact) -> Result<()> {
        let ways = [
            ("preset", !artifact.presets.is_empty()),
            ("recipe", artifact.recipe_file.is_some()),
            ("target_size", !artifact.target_sizes.is_empty()),
            ("target_bpw", !artifact.target_bpws.is_empty()),
            ("target_kl", !artifact.target_kls.is_empty()),
        ];
        let given: Vec<&str> = ways.iter().filter(|w| w.1).map(|w| w.0).collect();
        let typed = !artifact.types.is_empty();
        match given[..] {
            [one, other, ..] => {
                let what = format!("{one} and {other} both choose the types of the tensors");
                return Err(self.wrong(artifact.line, what, "make two artifacts of them".to_owned()));
            }
            [one @ ("preset" | "recipe")] if typed => {
                let what = format!("{one} says of which type the file is");
                return Err(self.wrong(
                    artifact.line,
                    what,
                    "leave type out, or make two artifacts of them".to_owned(),
                ));
            }
            _ => {}
        }
        let without =
            self.models.iter().find(|m| artifact.wants(&m.name) && self.calibration_of(m).is_none());
        match without {
            Some(model) if artifact.is_calibrated() => Err(self.wrong(
                artifact.line,
                format!("this is calibrated, and nothing says on what {:?} is", model.name),
                "add [calibration] with texts = [\"FILE\"], or texts = [\"self\"]".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Calibration of a model, if any.
    pub fn calibration_of<'a>(&'a self, model: &'a Source) -> Option<&'a CalibrationOptions> {
        model.calibration.as_ref().or(self.calibration.as_ref())
    }

    /// Error for a wrong line of the job file.
    pub fn wrong(&self, line: usize, what: String, help: String) -> Error {
        Error::Job { path: self.path.clone(), line, what, help }
    }

    /// A path of the job file as seen from here.
    pub fn resolved(&self, path: &Path) -> PathBuf {
        if Address::is(path) {
            return path.to_owned();
        }
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    /// The release's name.
    pub fn name(&self) -> String {
        let stem = || self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.release.name.clone().unwrap_or_else(stem)
    }

    /// The folder that the job file wants to be written.
    pub fn out(&self) -> PathBuf {
        match &self.release.out {
            Some(out) => self.resolved(out),
            None => self.resolved(Path::new(&self.name())),
        }
    }
}

fn from_toml<T: DeserializeOwned>(text: &str) -> std::result::Result<T, toml::de::Error> {
    toml::from_str(text)
}

/// A choice, or a list of them.
fn choices<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> std::result::Result<Vec<T>, D::Error> {
    let list = match toml::Value::deserialize(from)? {
        toml::Value::Array(list) => list,
        one => vec![one],
    };
    list.into_iter().map(|value| T::deserialize(value).map_err(|e| D::Error::custom(e.message()))).collect()
}

fn target<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<&'static dyn Target, D::Error> {
    let text = String::deserialize(from)?;
    let models = || TARGETS.iter().filter(|t| t.content() == Content::Model);
    let found = models().find(|t| t.id() == text);
    found.copied().ok_or_else(|| unknown(&text, models().map(|t| t.id())))
}

fn file_types<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<&'static FileType>, D::Error> {
    let names = match toml::Value::deserialize(from)? {
        toml::Value::Array(list) => list,
        one => vec![one],
    };
    let named = |value: &toml::Value| {
        let name = value.as_str().ok_or_else(|| D::Error::custom("a type is a text, such as \"q8_0\""))?;
        FileType::named(name).map_err(|_| unknown(name, FileType::names()))
    };
    names.iter().map(named).collect()
}

/// One of something, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn list(self) -> Vec<T> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

fn numbers<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<f64>, D::Error> {
    let list = OneOrMany::<f64>::deserialize(from);
    list.map(OneOrMany::list).map_err(|_| D::Error::custom("this is a number, or a list of numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Job> {
        Job::parse(Path::new("some/release.toml"), text)
    }

    const REST: &str = "\n[[model]]\nsource = \"a/RWKV-x070-0.1B.pth\"\n[[artifact]]\ntype = \"q8_0\"\n";

    #[test]
    fn what_is_not_said_is_usual() {
        let job = parse(REST).unwrap();
        assert_eq!(job.name(), "release");
        assert_eq!(job.out(), Path::new("some/release"));
        assert_eq!(job.models[0].name, "RWKV-x070-0.1B");
        assert_eq!(job.resolved(&job.models[0].source), Path::new("some/a/RWKV-x070-0.1B.pth"));
        let artifact = &job.artifacts[0];
        assert_eq!((artifact.target.id(), artifact.types[0].name), ("gguf", "q8_0"));
        assert!(artifact.imatrix && job.evaluation.is_none());
        assert_eq!((job.models[0].line, artifact.line), (2, 4));
    }

    #[test]
    fn gates_of_an_artifact_go_before_those_of_all() {
        let text =
            "[gates]\nmax_size = \"1.5MB\"\nmax_kl = 0.5\n[evaluation]\ntexts = [\"t\"]".to_owned() + REST;
        let job = parse(&(text + "[artifact.gates]\nmax_kl = 0.1\n")).unwrap();
        let gates = job.artifacts[0].gates.or(&job.gates);
        assert_eq!((gates.max_size, gates.max_kl, gates.min_top1), (Some(1_500_000), Some(0.1), None));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_the_nearest_that_exists() {
        for (text, expected) in [
            (
                "[release]\nnme = 1",
                "line 2: there is no key \"nme\" | did you mean name? (the keys here are name, ",
            ),
            ("[release]\nzzz = 1", "line 2: there is no key \"zzz\" | the keys here are name, out, "),
            ("[evaluation]\nctx = 5", "line 1: missing field `texts` | correct it"),
            (
                "[[artifact]]\ntype = \"q4_km\"",
                "line 2: there is no value \"q4_km\" | did you mean q4_k_m? (",
            ),
            ("[[artifact]]\ntarget = \"ggfu\"", "line 2: there is no value \"ggfu\" | did you mean gguf? ("),
            (
                "[[artifact]]\nmix = \"llama\"",
                "line 2: there is no value \"llama\" | did you mean llama.cpp? (",
            ),
            ("[gates]\nmax_size = \"big\"", "line 2: \"big\" does not start with a number | correct it"),
            ("[gates]\nmin_top1 = 99.0", "line 5: 99 is no limit of the top-1 agreement, which is a share"),
            ("[gates]\nmax_kl = 0.1", "line 5: there are gates of quality, but nothing is evaluated | add ["),
            (
                "[[artifact]]\npreset = [\"balnced\"]",
                "line 2: there is no value \"balnced\" | did you mean balanced? (",
            ),
            (
                "[[artifact]]\npreset = \"small\"\ntype = \"q8_0\"",
                "line 1: preset says of which type the file is | leave type out",
            ),
            (
                "[[artifact]]\nrecipe = \"r.toml\"\ntarget_bpw = 4.5",
                "line 1: recipe and target_bpw both choose the types of the tensors | make two",
            ),
            (
                "[[artifact]]\npreset = \"small\"",
                "line 1: this is calibrated, and nothing says on what \"RWKV-x070-0.1B\" is | add [calibration]",
            ),
            ("[evaluation]\ntexts = []", "line 1: [evaluation] has no texts | name one"),
            (
                "[evaluation]\ntexts = [\"t\"]\nctx = 8\nstride = 9",
                "line 1: [evaluation]: windows of 8 tokens that start 9 apart leave tokens out | give a --stride",
            ),
            ("[[artifact]]\ntarget_bpw = \"x\"", "line 2: this is a number, or a list of numbers"),
            ("[release\n", "line 1: "),
            (
                "[[model]]\nsource = \"RWKV-x070-0.1B.pth\"",
                "line 3: the model \"RWKV-x070-0.1B\" stands in line 1 already",
            ),
        ] {
            let error = parse(&(text.to_owned() + REST)).unwrap_err();
            let said = format!("{error} | {}", error.help().unwrap_or_default());
            assert!(said.starts_with(&format!("some/release.toml, {expected}")), "{text:?}: {said}");
        }
        assert!(parse("").unwrap_err().to_string().contains("missing field `model`"));
    }
}

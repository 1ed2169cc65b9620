//! The cells of a release: every artifact of every model, and what each is called.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::job::{Artifact, Gates, Job, Source};
use super::outputs;
use crate::choice::Choice;
use crate::convert::{Request, RunOptions, beside_goals};
use crate::error::Result;
use crate::escape::is_hidden;
use crate::files::InputFile;
use crate::model::wildcard;
use crate::recipe::{CalibrationOptions, FileType, Preset, Recipe};
use crate::shard::Shard;
use crate::targets::gguf::Gguf;
use crate::targets::{self, Target};

/// Default naming pattern of artifacts.
const NAMING: &str = "{model}-{TYPE}";

/// One artifact of one model.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The model.
    pub source: &'a Source,
    /// Artifact made of the model.
    pub artifact: &'a Artifact,
    /// Type of its files.
    pub file_type: &'static FileType,
    /// Basis on which the types of the tensors were chosen.
    pub aim: Aim,
}

/// Basis for choosing the types of an artifact's tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// The file type alone, or a recipe.
    Type,
    /// A preset.
    Preset(Preset),
    /// The most bytes.
    Size(u64),
    /// The most bits per weight.
    Bits(f64),
    /// The divergence.
    Divergence(f64),
}

impl Aim {
    /// Part of an artifact's name that stands for this aim, beside the name of the type.
    fn name(self) -> Option<String> {
        let of = |bytes: u64, unit: u64, name: &str| {
            bytes.is_multiple_of(unit).then(|| format!("{}{name}", bytes / unit))
        };
        Some(match self {
            Aim::Type => return None,
            Aim::Preset(preset) => preset.name().to_owned(),
            Aim::Size(n) => of(n, 1_000_000, "mb")
                .or_else(|| of(n, 1 << 20, "mib"))
                .or_else(|| of(n, 1000, "kb"))
                .unwrap_or_else(|| format!("{n}b")),
            Aim::Bits(bits) => format!("{bits}bpw"),
            Aim::Divergence(kl) => format!("kl{kl}"),
        })
    }

    /// Puts it into a recipe.
    fn put(self, recipe: &mut Recipe) {
        match self {
            Aim::Type => {}
            Aim::Preset(preset) => recipe.preset = Some(preset),
            Aim::Size(bytes) => recipe.target_size = Some(bytes),
            Aim::Bits(bits) => recipe.target_bpw = Some(bits),
            Aim::Divergence(kl) => recipe.target_kl = Some(kl),
        }
    }
}

/// A cell: its place in the matrix, and where its artifact goes.
#[derive(Clone, Debug)]
pub struct Cell<'a> {
    /// Its place.
    pub place: Place<'a>,
    /// The artifact's file or folder within that of the model.
    pub name: String,
    /// Quality gates of the artifact.
    pub gates: Gates,
}

/// Every cell of a job: model by model, each in the order of the artifacts.
///
/// # Errors
/// [`Error::Job`](crate::Error::Job) if a name cannot be made or be a file's, two cells have the same, or an artifact is of no model.
pub fn cells(job: &Job) -> Result<Vec<Cell<'_>>> {
    let mut cells = Vec::new();
    for artifact in &job.artifacts {
        for pattern in artifact.models.iter().flatten() {
            if !job.models.iter().any(|m| wildcard(pattern, &m.name)) {
                let names: Vec<&str> = job.models.iter().map(|m| m.name.as_str()).collect();
                let help = format!("the models are {}", names.join(", "));
                return Err(job.wrong(artifact.line, format!("no model is called {pattern:?}"), help));
            }
        }
    }
    for source in &job.models {
        plain(&source.name).map_err(|why| {
            job.wrong(
                source.line,
                format!("{:?} names no folder: {why}", source.name),
                "give the model a name".to_owned(),
            )
        })?;
        for artifact in job.artifacts.iter().filter(|a| a.wants(&source.name)) {
            for (file_type, aim) in kinds(job, artifact)? {
                let place = Place { source, artifact, file_type, aim };
                let template = artifact.name.as_deref().or(job.release.naming.as_deref()).unwrap_or(NAMING);
                let name = place.name(template).map_err(|why| {
                    let help =
                        "a name is made of text and of {model}, {type}, {TYPE} and {target}".to_owned();
                    job.wrong(artifact.line, format!("the name {template:?} cannot be used: {why}"), help)
                })?;
                cells.push(Cell { place, name, gates: artifact.gates.or(&job.gates) });
            }
        }
    }
    distinct(job, &cells)?;
    Ok(cells)
}

/// The types of an artifact, and what chooses those of its tensors.
fn kinds(job: &Job, artifact: &Artifact) -> Result<Vec<(&'static FileType, Aim)>> {
    let wrong = |e: crate::Error| job.wrong(artifact.line, e.to_string(), "add type = \"...\"".to_owned());
    if !artifact.presets.is_empty() {
        return artifact.presets.iter().map(|p| Ok((p.file_type()?, Aim::Preset(*p)))).collect();
    }
    let sizes = artifact.target_sizes.iter().map(|n| Aim::Size(*n));
    let bits = artifact.target_bpws.iter().map(|b| Aim::Bits(*b));
    let divergences = artifact.target_kls.iter().map(|kl| Aim::Divergence(*kl));
    let goals: Vec<Aim> = sizes.chain(bits).chain(divergences).collect();
    let types = match (artifact.recipe.file_type, artifact.types.as_slice()) {
        (Some(stated), []) => vec![stated],
        (None, []) if !goals.is_empty() => vec![beside_goals(artifact.target).map_err(wrong)?],
        (None, []) => vec![targets::type_or_default(artifact.target, None).map_err(wrong)?],
        (_, types) => types.to_vec(),
    };
    let choices = if goals.is_empty() { vec![Aim::Type] } else { goals };
    Ok(types.into_iter().flat_map(|t| choices.iter().map(move |choice| (t, *choice))).collect())
}

/// Refuses two cells of the same name, and names of what describes the release. (Some systems take `a` and `A` for the
/// same.)
fn distinct(job: &Job, cells: &[Cell]) -> Result<()> {
    // Where each name stands in the job file; what describes the release, and the cells, stands nowhere.
    let mut seen: BTreeMap<String, Option<usize>> = BTreeMap::new();
    for name in outputs::OF_RELEASE {
        seen.insert(name.to_lowercase(), None);
    }
    for cell in cells {
        let (model, line) = (&cell.place.source.name, cell.place.artifact.line);
        if seen.get(&model.to_lowercase()) == Some(&None) || Shard::is_summary_name(model) {
            let what = format!("{model:?} is the name of a file that describes the release");
            return Err(job.wrong(cell.place.source.line, what, "give the model another name".to_owned()));
        }
        for name in outputs::OF_MODEL {
            seen.insert(format!("{model}/{name}").to_lowercase(), None);
        }
        let record = record_name(&cell.path());
        for (path, owner) in [(cell.path(), Some(line)), (record, None)] {
            let what = match seen.insert(path.to_lowercase(), owner) {
                None => continue,
                Some(None) => {
                    format!("{path} is the name of a file that describes the release or an artifact")
                }
                Some(Some(other)) if other == line => format!("two artifacts are called {path}"),
                Some(Some(other)) => format!("{path} is the name of an artifact of line {other} too"),
            };
            let help =
                "give one of them another name = \"...\", or put {TYPE} or {target} into it".to_owned();
            return Err(job.wrong(line, what, help));
        }
    }
    Ok(())
}

/// File name of an artifact's record.
pub(super) fn record_name(artifact: &str) -> String {
    format!("{artifact}.json")
}

impl Place<'_> {
    /// The name that a template stands for, with the target's extension.
    fn name(&self, template: &str) -> std::result::Result<String, String> {
        let kind = self.aim.name().unwrap_or_else(|| self.file_type.name.to_owned());
        let name = filled(template, |key| {
            Some(match key {
                "model" => self.source.name.clone(),
                "type" => kind.clone(),
                "TYPE" => kind.to_uppercase(),
                "target" => self.artifact.target.id().to_owned(),
                _ => return None,
            })
        })?;
        plain(&name)?;
        Ok(match self.artifact.target.extensions().first() {
            Some(extension) => format!("{name}.{extension}"),
            None => name,
        })
    }
}

impl Cell<'_> {
    /// Path of the artifact within the release, always with `/`; also the name of the cell.
    pub fn path(&self) -> String {
        format!("{}/{}", self.place.source.name, self.name)
    }

    /// The folder of its model in that of the release.
    pub fn folder(&self, out: &Path) -> PathBuf {
        out.join(&self.place.source.name)
    }

    /// The conversion that makes the artifact in `folder`.
    pub fn request(&self, job: &Job, folder: &Path) -> Request {
        let Place { source, artifact, file_type, aim } = self.place;
        let mut recipe = artifact.recipe.clone();
        recipe.target = Some(artifact.target.id().to_owned());
        recipe.file_type = Some(file_type);
        aim.put(&mut recipe);
        recipe.drop.extend(source.drop.iter().cloned());
        let is_calibrated = artifact.is_calibrated();
        let has_imatrix = artifact.imatrix && !is_calibrated && !file_type.is_plain();
        let mut of_model = Recipe {
            imatrix: source.imatrix.clone().filter(|_| has_imatrix).map(InputFile),
            calibration: job.calibration_of(source).filter(|_| is_calibrated).cloned().unwrap_or_default(),
            metadata: source.metadata.clone(),
            ..Recipe::default()
        };
        of_model.files_mut().into_iter().for_each(|file| file.0 = job.resolved(&file.0));
        if artifact.target.id() != Gguf.id() {
            of_model.metadata.set_key.clear(); // they are keys of GGUF files
        }
        // Plain data is laid over plain data of the same kind.
        let recipe = recipe.overlaid(&of_model.stated()).unwrap_or(recipe);
        Request {
            input: job.resolved(&source.source),
            output: folder.join(&self.name),
            recipe,
            options: RunOptions::default(),
        }
    }
}

/// Request without the measurements that need the model to run before planning, if there are any. It has the same
/// source and names, but not the same bytes.
pub fn sketch(request: &Request) -> Option<Request> {
    let recipe = &request.recipe;
    let is_measured = recipe.calibration.is_wanted() || recipe.equalize;
    is_measured.then(|| {
        let recipe = Recipe {
            calibration: CalibrationOptions::default(),
            equalize: false,
            preset: None,
            target_size: None,
            target_bpw: None,
            target_kl: None,
            ..recipe.clone()
        };
        Request { recipe, ..request.clone() }
    })
}

/// A template with the values of its `{key}`s.
fn filled(template: &str, value: impl Fn(&str) -> Option<String>) -> std::result::Result<String, String> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        let (key, after) = after.split_once('}').ok_or("a { without its }")?;
        text += before;
        text += &value(key).ok_or_else(|| format!("{{{key}}} stands for nothing"))?;
        rest = after;
    }
    Ok(text + rest)
}

/// True if `name` is that of a file or folder on every system, and none that begins with a dot.
fn plain(name: &str) -> std::result::Result<(), String> {
    if name.is_empty() || name.starts_with('.') || name.ends_with(['.', ' ']) {
        return Err("it is empty, or begins or ends with what the name of a file must not".to_owned());
    }
    match name.chars().find(|c| is_hidden(*c) || r#"/\:*?"<>|"#.contains(*c)) {
        Some(c) => Err(format!("{c:?} cannot stand in the name of a file")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled() {
        let value = |key: &str| (key == "a").then(|| "x".to_owned());
        assert_eq!(filled("{a}-{a}.b", value).unwrap(), "x-x.b");
        assert_eq!(filled("plain", value).unwrap(), "plain");
        assert_eq!(filled("{b}", value).unwrap_err(), "{b} stands for nothing");
        assert!(filled("{a", value).is_err());
    }

    #[test]
    fn choices_have_names() {
        let name = |choice: Aim| choice.name().unwrap();
        assert_eq!(name(Aim::Size(500_000_000)), "500mb");
        assert_eq!(name(Aim::Size(900 << 20)), "900mib");
        assert_eq!(name(Aim::Bits(4.5)), "4.5bpw");
        assert_eq!(name(Aim::Divergence(0.01)), "kl0.01");
        assert_eq!(Aim::Type.name(), None);
    }

    #[test]
    fn names_are_those_of_files() {
        assert!(plain("RWKV-x070-0.4B-Q8_0").is_ok());
        for name in ["", ".", "..", ".a", "a/b", r"a\b", "a:b", "a\n", "a.", "a\u{202e}b"] {
            assert!(plain(name).is_err(), "{name:?}");
        }
    }
}

//! The cells of a release: every artifact of every model, and what each is called.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::job::{Artifact, Gates, Job, Source};
use crate::calibrate::{Goals, Settings};
use crate::convert::{Request, beside_goals};
use crate::error::Result;
use crate::model::wildcard;
use crate::recipe::{FileType, Preset, Types};
use crate::targets;

/// How artifacts are named where the job says nothing.
const NAMING: &str = "{model}-{TYPE}";

/// One artifact of one model.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The model.
    pub source: &'a Source,
    /// What is made of it.
    pub artifact: &'a Artifact,
    /// In which type.
    pub file_type: &'static FileType,
    /// The preset that says so.
    pub preset: Option<Preset>,
}

/// A cell: its place in the matrix, and where its artifact goes.
#[derive(Clone, Debug)]
pub struct Cell<'a> {
    /// Its place.
    pub place: Place<'a>,
    /// The artifact's file or folder within that of the model.
    pub name: String,
    /// What the artifact must keep.
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
            for (file_type, preset) in kinds(job, artifact)? {
                let place = Place { source, artifact, file_type, preset };
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

/// The types of an artifact, and the presets that say so.
fn kinds(job: &Job, artifact: &Artifact) -> Result<Vec<(&'static FileType, Option<Preset>)>> {
    let wrong = |e: crate::Error| job.wrong(artifact.line, e.to_string(), "add type = \"...\"".to_owned());
    if !artifact.presets.is_empty() {
        return artifact.presets.iter().map(|p| Ok((p.file_type()?, Some(*p)))).collect();
    }
    let types = match (&artifact.recipe, artifact.types.as_slice()) {
        (Some(path), _) => vec![Types::load(&job.resolved(path))?.0],
        (None, []) if artifact.goals(None).is_wanted() => vec![beside_goals(artifact.target).map_err(wrong)?],
        (None, []) => vec![targets::type_or_default(artifact.target, None).map_err(wrong)?],
        (None, types) => types.to_vec(),
    };
    Ok(types.into_iter().map(|t| (t, None)).collect())
}

/// Refuses two cells of the same name. (Some systems take `a` and `A` for the same.)
fn distinct(job: &Job, cells: &[Cell]) -> Result<()> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for cell in cells {
        let line = cell.place.artifact.line;
        if let Some(other) = seen.insert(cell.path().to_lowercase(), line) {
            let what = match other == line {
                true => format!("two artifacts are called {}", cell.path()),
                false => format!("{} is the name of an artifact of line {other} too", cell.path()),
            };
            let help =
                "give one of them another name = \"...\", or put {TYPE} or {target} into it".to_owned();
            return Err(job.wrong(line, what, help));
        }
    }
    Ok(())
}

impl Place<'_> {
    /// The name that a template stands for, with the target's extension.
    fn name(&self, template: &str) -> std::result::Result<String, String> {
        let kind = self.preset.map_or(self.file_type.name, Preset::name);
        let name = filled(template, |key| {
            Some(match key {
                "model" => self.source.name.clone(),
                "type" => kind.to_owned(),
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
    /// Where the artifact is within the release, always with `/`; what the cell is called.
    pub fn path(&self) -> String {
        format!("{}/{}", self.place.source.name, self.name)
    }

    /// The folder of its model in that of the release.
    pub fn folder(&self, out: &Path) -> PathBuf {
        out.join(&self.place.source.name)
    }

    /// The conversion that makes the artifact in `folder`.
    pub fn request(&self, job: &Job, folder: &Path) -> Request {
        let Place { source, artifact, file_type, preset } = self.place;
        let mut about = source.metadata.clone();
        about.vocab = about.vocab.map(|path| named_or_file(job, path, &["world", "bytes"]));
        about.chat_template = about.chat_template.map(|path| named_or_file(job, path, &["world", "none"]));
        let calibrated = artifact.is_calibrated();
        let imatrix = source.imatrix.as_ref();
        let imatrix = imatrix.filter(|_| artifact.imatrix && !calibrated && !file_type.is_plain());
        let calibration = job.calibration_of(source).filter(|_| calibrated);
        let goals = artifact.goals(preset);
        let recipe = goals.recipe.as_deref().map(|path| job.resolved(path));
        Request {
            input: job.resolved(&source.source),
            output: folder.join(&self.name),
            file_type: Some(file_type),
            to: Some(artifact.target.id().to_owned()),
            mix: artifact.mix,
            fallback: artifact.fallback,
            search: artifact.search,
            imatrix: imatrix.map(|path| job.resolved(path)),
            equalize: artifact.equalize,
            layers: artifact.layers,
            rescale: artifact.rescale,
            calibration: calibration.map(|c| c.settings(job)).unwrap_or_default(),
            goals: Goals { recipe, ..goals },
            split_max_size: artifact.split_max_size,
            drop: source.drop.clone(),
            about,
            ..Request::default()
        }
    }
}

/// The same conversion without what a model must be run for before anything is planned, if there is any of that: it has
/// the same source and names, but not the same bytes.
pub fn sketch(request: &Request) -> Option<Request> {
    let measured = request.calibration.is_wanted() || request.equalize;
    measured.then(|| Request {
        calibration: Settings::default(),
        equalize: false,
        goals: Goals { recipe: request.goals.recipe.clone(), ..Goals::default() },
        ..request.clone()
    })
}

/// A path of the job file, unless it is one of the names that mean something else.
fn named_or_file(job: &Job, path: PathBuf, names: &[&str]) -> PathBuf {
    if path.to_str().is_some_and(|p| names.contains(&p)) { path } else { job.resolved(&path) }
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

/// Whether `name` is that of a file or folder on every system, and none that begins with a dot.
fn plain(name: &str) -> std::result::Result<(), String> {
    if name.is_empty() || name.starts_with('.') || name.ends_with(['.', ' ']) {
        return Err("it is empty, or begins or ends with what the name of a file must not".to_owned());
    }
    match name.chars().find(|c| c.is_control() || r#"/\:*?"<>|"#.contains(*c)) {
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
    fn names_are_those_of_files() {
        assert!(plain("RWKV-x070-0.4B-Q8_0").is_ok());
        for name in ["", ".", "..", ".a", "a/b", r"a\b", "a:b", "a\n", "a."] {
            assert!(plain(name).is_err(), "{name:?}");
        }
    }
}

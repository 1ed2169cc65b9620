//! Hugging Face folders: an index of shards, and the `config.json` beside the weights.
//!
//! ```text
//! NAME.safetensors.index.json, pytorch_model.bin.index.json:
//! {"metadata": {"total_size": bytes}, "weight_map": {tensor: file, ...}}
//! ```
//!
//! The index is believed only where the files agree: every tensor that it lists must be in the file that it
//! names, and every tensor of those files must be listed. `total_size` is often wrong in published models;
//! a difference is no error but is kept as the metadata [`TOTAL_SIZE`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::budget::Budget;
use crate::container::Container;
use crate::error::{Blame, Error, Result};
use crate::json::{self, Members};
use crate::mapped::Mapped;
use crate::open::open_file;
use crate::placement::Planned;
use crate::shards::{self, Part};
use crate::value::Value;

/// Suffix in the name of an index, behind the name of the model.
pub const INDEX_SUFFIX: &str = ".index.json";
/// Names that a folder is searched for.
const LOOKED_FOR: &str = "model.safetensors, pytorch_model.bin, *.index.json, *.safetensors, \
     *.st, *.pth, *.gguf, *.rwkvz, pytorch_model*.bin";
/// The bytes of all tensors by the index, kept if the files say otherwise.
const TOTAL_SIZE: &str = "index.total_size";
/// The names that Hugging Face's own tools write, in the order in which they are preferred: a folder often
/// holds the same weights in both formats.
const STANDARD: &[&str] = &[
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
];
/// Extensions that say "model". `.bin` alone says nothing.
const EXTENSIONS: &[&str] = &["safetensors", "st", "pth", "gguf", "rwkvz"];

/// Bytes of memory that an entry of an index takes, beside its text: in the list of entries, and in the tables in which
/// files and tensors are looked up.
const ENTRY_BYTES: u64 = 400;

/// Longest file name on common systems.
const NAME_BYTES: usize = 255;

/// An index file.
#[derive(Deserialize)]
struct Index<'a> {
    weight_map: Members<String>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// The one entry of the index's metadata that is looked at.
#[derive(Deserialize)]
struct TotalSize {
    total_size: u64,
}

/// True if the content is that of an index, or the name says so.
pub(crate) fn is_index(file: &Mapped) -> bool {
    const KEY: &[u8] = b"\"weight_map\"";
    let bytes = file.bytes();
    let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    start.starts_with(b"{")
        && (file.path().to_string_lossy().ends_with(INDEX_SUFFIX)
            || start.windows(KEY.len()).any(|w| w == KEY))
}

/// True if it is named as Hugging Face's tools name weights: `model*.safetensors`, `pytorch_model*.bin`.
pub(crate) fn is_hf_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let named = |start: &str, end: &str| {
        let middle = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        middle.is_some_and(|m| m.is_empty() || m.starts_with(['.', '-']))
    };
    named("model", ".safetensors") || named("pytorch_model", ".bin")
}

/// A `config.json`.
pub(crate) struct Config {
    pub file: Mapped,
    pub members: serde_json::Map<String, serde_json::Value>,
}

/// The `config.json` of a folder, if there is one.
pub(crate) fn config(folder: &Path, budget: &Budget<'_>) -> Result<Option<Config>> {
    let path = folder.join("config.json");
    if !shards::exists(&path) {
        return Ok(None);
    }
    let file = Mapped::open(&path)?;
    let members = json::read(&file, "bytes of config", budget.config_bytes, budget);
    let members = members.or_else(|error| file.check_unchanged().and(Err(error)))?;
    Ok(Some(Config { file, members }))
}

/// The text of an index: which of these files holds which tensors, as transformers writes it.
pub fn index<'a>(files: impl IntoIterator<Item = (&'a str, &'a [Planned])>) -> String {
    let (mut total_bytes, mut places) = (0, BTreeMap::new());
    for (file, tensors) in files {
        total_bytes += tensors.iter().filter_map(Planned::bytes).sum::<u64>();
        places.extend(tensors.iter().map(|t| (t.name.as_str(), file)));
    }
    let value = serde_json::json!({"metadata": {"total_size": total_bytes}, "weight_map": places});
    format!("{value:#}\n")
}

/// Opens the one model in a folder.
pub(crate) fn open_folder(folder: &Path, budget: &Budget<'_>) -> Result<Container> {
    let standard = STANDARD.iter().find(|name| shards::exists(&folder.join(name)));
    let name = match standard {
        Some(name) => (*name).to_owned(),
        None => only_model(folder)?,
    };
    let container = open_file(&folder.join(name), budget)?;
    Ok(Container::join(folder, vec![container], budget)?.with_config(config(folder, budget)?))
}

/// The name of the one file, or of the index or a file of the one set, that stands in the folder.
fn only_model(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        if !entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable(); // the system lists them in any order

    // By the name in one file and whether it is a set: a file and a set of that name are two models.
    let mut models: BTreeMap<(String, bool), String> = BTreeMap::new();
    for name in names.into_iter().filter(|name| !name.starts_with('.')) {
        if let Some(whole) = name.strip_suffix(INDEX_SUFFIX) {
            models.insert((whole.to_owned(), true), name);
        } else if is_model_name(&name) {
            let part = Part::parse(&name);
            let key = part.as_ref().map_or_else(|| name.clone(), Part::whole);
            models.entry((key, part.is_some())).or_insert(name);
        }
    }
    let mut names: Vec<String> = models.into_values().collect();
    match names.pop() {
        Some(name) if names.is_empty() => Ok(name),
        last => {
            names.extend(last);
            Err(Error::NotOneModel { path: folder.to_owned(), models: names, looked_for: LOOKED_FOR })
        }
    }
}

fn is_model_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let extension = Path::new(&lower).extension().unwrap_or_default();
    EXTENSIONS.iter().any(|e| extension == *e) || (lower.starts_with("pytorch_model") && extension == "bin")
}

/// Opens the set that an index describes.
pub(crate) fn open_index(path: &Path, index: &Mapped, budget: &Budget<'_>) -> Result<Container> {
    open(path, index, None, budget)
}

/// Opens the set of `part` by the index beside it.
pub(crate) fn open_index_for(part: &Path, index: &Path, budget: &Budget<'_>) -> Result<Container> {
    open(part, &Mapped::open(index)?, Some(part), budget)
}

fn open(path: &Path, index: &Mapped, part: Option<&Path>, budget: &Budget<'_>) -> Result<Container> {
    let blame = Blame { path: index.path(), format: "index" };
    let text = json::text(index, "bytes of index", budget.header_bytes)?;
    budget.next_file();
    budget.read_to(text.len() as u64);
    json::reserve(text, ENTRY_BYTES, budget, blame)?;
    let Index { weight_map: Members(map), metadata } =
        serde_json::from_slice(text).map_err(|e| json::broken(&e, blame))?;
    blame.within("tensors", map.len() as u64, budget.tensors)?;
    let names: BTreeSet<&str> = map.iter().map(|(_, file)| file.as_str()).collect();
    blame.within("files", names.len() as u64, budget.shards)?;
    for name in &names {
        if !is_plain(name) {
            let what = format!("{:?} is not the name of a file beside it", json::short(name));
            return Err(blame.malformed(what));
        }
    }
    if let Some(part) =
        part.and_then(Path::file_name).filter(|part| names.iter().all(|name| *part != Path::new(name)))
    {
        return Err(
            blame.malformed(format!("it does not list {part:?}, which is named like one of its files"))
        );
    }
    let files: Vec<PathBuf> = names.iter().map(|name| index.path().with_file_name(name)).collect();
    let parts = shards::read_all(path, &files, budget)?;
    let wanted: BTreeMap<&str, &str> = map.iter().map(|(t, file)| (t.as_str(), file.as_str())).collect();
    for (part, name) in parts.iter().zip(&names) {
        check(part, name, &wanted, blame)?;
    }
    let found: BTreeSet<&str> = parts.iter().flat_map(|p| p.tensors()).map(|t| t.name.as_str()).collect();
    if let Some((tensor, file)) = wanted.iter().find(|(tensor, _)| !found.contains(**tensor)) {
        return Err(blame.malformed(format!("{file:?} does not hold what it lists")).in_tensor(tensor));
    }

    let bytes: u64 = parts.iter().flat_map(|p| p.tensors()).map(|t| t.bytes).sum();
    let total =
        metadata.and_then(|m| serde_json::from_str(m.get()).ok()).map(|TotalSize { total_size }| total_size);
    let mut container = Container::join(path, parts, budget)?.with_side_file(index.clone());
    if let Some(total) = total.filter(|total| *total != bytes) {
        container = container.with_metadata(|m| m.push((TOTAL_SIZE.to_owned(), Value::U64(total))));
    }
    let folder = index.path().parent().unwrap_or(Path::new(""));
    Ok(container.with_config(config(folder, budget)?))
}

/// Checks that the index puts every tensor of a file into that file.
fn check(part: &Container, name: &str, wanted: &BTreeMap<&str, &str>, blame: Blame<'_>) -> Result<()> {
    for tensor in part.tensors() {
        let what = match wanted.get(tensor.name.as_str()) {
            Some(file) if *file == name => continue,
            Some(file) => format!("{name:?} holds what it puts into {file:?}"),
            None => format!("{name:?} holds what it does not list"),
        };
        return Err(blame.malformed(what).in_tensor(&tensor.name));
    }
    Ok(())
}

/// True if it is the name of a file and nothing more, on every system.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
        && !name.contains(['/', '\\', ':', '\0'])
        && name.len() <= NAME_BYTES
}

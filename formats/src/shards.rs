//! Models in several files: `NAME-00001-of-00003.EXT`.
//!
//! Hugging Face writes safetensors and torch files so, with an index beside them (see [`crate::hf`]);
//! llama.cpp splits GGUF files so and numbers them by keys too: `split.no` (from 0), `split.count` and
//! `split.tensors.count` (of the whole model). A set is opened whole or not at all.

use std::path::{Path, PathBuf};

use crate::budget::Budget;
use crate::container::Container;
use crate::error::{Blame, Error, Result};
use crate::format::Format;
use crate::open::read_part;
use crate::value::{Metadata, Value};
use crate::{gguf, hf};

const SPLIT_NO: &str = "split.no";
const SPLIT_COUNT: &str = "split.count";
const SPLIT_TENSORS: &str = "split.tensors.count";

/// The name of part `number` (from 1) of `count` of a model that would be named `PREFIX.EXTENSION` in one file.
///
/// ```
/// assert_eq!(formats::part_name("model", 2, 3, "gguf"), "model-00002-of-00003.gguf");
/// ```
pub fn part_name(prefix: &str, number: usize, count: usize, extension: &str) -> String {
    format!("{prefix}-{number:05}-of-{count:05}.{extension}")
}

/// The keys of part `number` (from 0) of `count` of a GGUF model of so many tensors in all, in llama.cpp's order.
///
/// # Errors
/// [`Error::CannotHold`] if there are more than the keys can count.
pub fn split_keys(number: usize, count: usize, tensors: usize) -> Result<Metadata> {
    let cannot = |what: String| Error::CannotHold { format: "GGUF", what, tensor: None };
    let short =
        |n: usize| u16::try_from(n).map_err(|_| cannot(format!("{count} parts, and 65535 can be counted")));
    let tensors = i32::try_from(tensors).map_err(|_| cannot(format!("{tensors} tensors")))?;
    Ok(vec![
        (SPLIT_NO.to_owned(), Value::U16(short(number)?)),
        (SPLIT_TENSORS.to_owned(), Value::I32(tensors)),
        (SPLIT_COUNT.to_owned(), Value::U16(short(count)?)),
    ])
}

/// Fields in the name of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    prefix: String,
    number: u32,
    count: u32,
    width: usize,
    suffix: String,
}

impl Part {
    /// Takes `NAME-00002-of-00003.EXT` apart; both numbers have the same number of digits.
    pub fn parse(name: &str) -> Option<Part> {
        let (left, right) = name.rsplit_once("-of-")?;
        let (prefix, number) = left.rsplit_once('-')?;
        let (count, extension) = right.split_once('.')?;
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(number) || !digits(count) || number.len() != count.len() || extension.is_empty() {
            return None;
        }
        Some(Part {
            prefix: prefix.to_owned(),
            number: number.parse().ok()?,
            count: count.parse().ok()?,
            width: count.len(),
            suffix: format!(".{extension}"),
        })
    }

    /// Parses the name of this file, if it is that of a part.
    pub fn of(path: &Path, format: &'static dyn Format) -> Result<Option<Part>> {
        let Some(name) = path.file_name() else { return Ok(None) };
        match name.to_str() {
            Some(name) => Ok(Part::parse(name)),
            // The names of the other parts cannot be made from this one.
            None if Part::parse(&name.to_string_lossy()).is_some() => {
                let blame = Blame { path, format: format.name() };
                Err(blame.unsupported("a name of a part that is no Unicode", "rename all files of the set"))
            }
            None => Ok(None),
        }
    }

    /// The name of another part of the set.
    fn sibling(&self, number: u32) -> String {
        let Part { prefix, count, width, suffix, .. } = self;
        format!("{prefix}-{number:0width$}-of-{count:0width$}{suffix}")
    }

    /// The name that the model would have in one file.
    pub fn whole(&self) -> String {
        format!("{}{}", self.prefix, self.suffix)
    }
}

/// True if a file of that name belongs to a set, split in whatever way, whose model would be named `whole` in one file:
/// a part, or the index.
///
/// ```
/// assert!(formats::is_of_set("model-00002-of-00003.gguf", "model.gguf"));
/// assert!(formats::is_of_set("model.safetensors.index.json", "model.safetensors"));
/// ```
pub fn is_of_set(name: &str, whole: &str) -> bool {
    name.strip_suffix(hf::INDEX_SUFFIX) == Some(whole)
        || Part::parse(name).is_some_and(|part| part.whole() == whole)
}

/// The name that the model of a part, or of an index, would have in one file.
///
/// ```
/// assert_eq!(formats::whole_name("model-00002-of-00003.gguf").as_deref(), Some("model.gguf"));
/// assert_eq!(formats::whole_name("model.gguf"), None);
/// ```
pub fn whole_name(name: &str) -> Option<String> {
    let of_index = name.strip_suffix(hf::INDEX_SUFFIX).map(str::to_owned);
    of_index.or_else(|| Part::parse(name).map(|part| part.whole()))
}

/// Opens the set that the file `path` is a part of: by its index if there is one, else by the numbers.
pub(crate) fn open_set(
    path: &Path,
    part: &Part,
    format: &'static dyn Format,
    budget: &Budget<'_>,
) -> Result<Container> {
    let index = path.with_file_name(format!("{}{}", part.whole(), hf::INDEX_SUFFIX));
    if exists(&index) {
        return hf::open_index_for(path, &index, budget);
    }
    let parts = read_all(path, &numbered(path, part, format, budget)?, budget)?;
    if format.name() == gguf::Gguf.name() {
        check_splits(path, &parts)?;
    }
    let of_the_split = |key: &str| [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS].contains(&key);
    Ok(Container::join(path, parts, budget)?.with_metadata(|m| m.retain(|(key, _)| !of_the_split(key))))
}

/// The files of the set by their numbers. They start at 1, or at 0 if there is a file of that number.
fn numbered(
    path: &Path,
    part: &Part,
    format: &'static dyn Format,
    budget: &Budget<'_>,
) -> Result<Vec<PathBuf>> {
    let blame = Blame { path, format: format.name() };
    blame.within("files", part.count.into(), budget.shards)?;
    budget.reserve(u64::from(part.count).saturating_mul(path.as_os_str().len() as u64 + 64), blame)?;
    let file = |number| path.with_file_name(part.sibling(number));
    let from_zero = part.number == 0 || exists(&file(0));
    if from_zero && exists(&file(part.count)) {
        let what = format!("its set has a part 0 and also a part {} of {0}", part.count);
        return Err(blame.malformed(what));
    }
    if part.number > part.count || part.count == 0 {
        return Err(
            blame.malformed(format!("its name says that it is part {} of {}", part.number, part.count))
        );
    }
    let first = u32::from(!from_zero);
    Ok((first..first + part.count).map(file).collect())
}

/// Reads the files of a set that was opened as `path`.
pub(crate) fn read_all(path: &Path, files: &[PathBuf], budget: &Budget<'_>) -> Result<Vec<Container>> {
    if let Some(missing) = files.iter().find(|file| !exists(file)) {
        return Err(Error::MissingShard {
            path: path.to_owned(),
            missing: missing.clone(),
            count: files.len(),
        });
    }
    let mut parts: Vec<Container> = Vec::new();
    let mut tensors = 0u64;
    for file in files {
        let part = read_part(file, budget)?;
        let blame = Blame { path: file, format: part.format().name() };
        if let Some(first) = parts.first().filter(|first| first.format().name() != part.format().name()) {
            let what = format!("the first file of its set is of the format {}", first.format().name());
            return Err(blame.malformed(what));
        }
        tensors = tensors.saturating_add(part.tensors().len() as u64);
        blame.within("tensors in all files of its set", tensors, budget.tensors)?;
        parts.push(part);
    }
    Ok(parts)
}

/// A file whose name is not that of a part: it must not be one.
pub(crate) fn alone(container: Container) -> Result<Container> {
    match container.value(SPLIT_COUNT).and_then(|v| v.as_u64()) {
        Some(count) if count > 1 && container.format().name() == gguf::Gguf.name() => {
            let blame = Blame { path: container.path(), format: container.format().name() };
            let what = format!("a name that does not say which of the {count} parts of a model it is");
            Err(blame
                .unsupported(what, "name the parts NAME-00001-of-00003.gguf and so on, as they were made"))
        }
        _ => Ok(container),
    }
}

/// Compares the numbers in the files with those in the names.
fn check_splits(path: &Path, parts: &[Container]) -> Result<()> {
    if parts.len() == 1 && parts.iter().all(|part| part.value(SPLIT_COUNT).is_none()) {
        return Ok(()); // whole, whatever its name says
    }
    let tensors: usize = parts.iter().map(|part| part.tensors().len()).sum();
    for (i, part) in parts.iter().enumerate() {
        let blame = Blame { path: part.path(), format: "GGUF" };
        let expected =
            [(SPLIT_NO, i, true), (SPLIT_COUNT, parts.len(), true), (SPLIT_TENSORS, tensors, false)];
        for (key, expected, required) in expected {
            match part.value(key).map(|v| v.as_u64()) {
                Some(Some(found)) if found == expected as u64 => {}
                None if !required => {}
                found => {
                    let found = found.flatten().map_or("no number".to_owned(), |n| n.to_string());
                    let what = format!("{key} is {found}, and {expected} in the set of {}", path.display());
                    return Err(blame.malformed(what));
                }
            }
        }
    }
    Ok(())
}

/// True if something stands there, even what cannot be read.
pub(crate) fn exists(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_taken_apart_and_put_together() {
        let part = Part::parse("tiny-of-v7-00002-of-00012.safetensors").unwrap();
        assert_eq!((part.number, part.count), (2, 12));
        assert_eq!(part.sibling(11), "tiny-of-v7-00011-of-00012.safetensors");
        assert_eq!(part.whole(), "tiny-of-v7.safetensors");
        assert_eq!(Part::parse("模型 1-00001-of-00002.gguf").unwrap().whole(), "模型 1.gguf");
        for other in [
            "model.safetensors",
            "a-1-of-10.st",
            "a-00001-of-00002",
            "a-+0001-of-00002.st",
            "-of-.st",
            "a--of--.st",
            "a-99999999999-of-99999999999.st",
        ] {
            assert_eq!(Part::parse(other), None, "{other}");
        }
    }
}

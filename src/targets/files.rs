//! The files that a target consists of: with tensors, and small ones beside them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use formats::compact::Storage;
use formats::{
    Checksummed, INDEX_SUFFIX, Layout, Metadata, Placement, Planned, Value, bitsandbytes, index, part_name,
    pth, safetensors,
};

use crate::error::{Error, Result};
use crate::metadata::ModelMetadata;
use crate::model::Model;
use crate::scheme::Scheme;

/// The folder in a torch file's archive: torch's name for what is saved into memory. (It is not taken from the
/// output's name, so that a file's bytes do not depend on its name.)
const ROOT: &str = "archive";

/// Input of a layout: the tensors to be written, and their destination.
#[derive(Clone, Copy, Debug)]
pub struct LayoutInput<'a> {
    /// The model.
    pub model: &'a Model,
    /// Metadata of the model.
    pub about: &'a ModelMetadata,
    /// Scheme that was asked for.
    pub scheme: &'a Scheme,
    /// Number of weights of all items.
    pub weights: u64,
    /// The file or folder asked for.
    pub out: &'a Path,
    /// Storage of the values of each item, if the file is a compact one.
    pub storages: &'a [Storage],
    /// SHA-256 of every file that the model was read from, once they are known.
    pub sources: &'a [String],
    /// True if files whose format has metadata are to hold the SHA-256 of every tensor.
    pub checksums: bool,
}

/// The names of `count` files with tensors: that of `out`, or `NAME-00001-of-00003.EXT` and so on.
///
/// # Errors
/// [`Error::Usage`] if names of several cannot be made from it.
pub(super) fn names(out: &Path, count: usize) -> Result<Vec<OsString>> {
    if count == 1 {
        return Ok(vec![out.file_name().unwrap_or_default().to_owned()]);
    }
    let (stem, extension) = (out.file_stem(), out.extension().unwrap_or_default());
    match (stem.and_then(|s| s.to_str()), extension.to_str()) {
        (Some(stem), Some(extension)) => {
            Ok((1..=count).map(|n| part_name(stem, n, count, extension).into()).collect())
        }
        _ => Err(Error::Usage {
            what: format!("the name {} is no Unicode, so its parts cannot be named", out.display()),
            help: "give the output another name".to_owned(),
        }),
    }
}

/// The ending of the name of an adapter beside a GGUF file.
pub const ADAPTER: &str = "lora.gguf";

/// `NAME.ENDING` beside the GGUF file `NAME.gguf`: its adapter, its Modelfile. Of other names nothing is cut off, so that
/// `RWKV-0.1B` and `RWKV-0.4B` share none.
pub fn beside(file: &Path, ending: &str) -> PathBuf {
    let is_gguf = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let name = if is_gguf { file.file_stem() } else { file.file_name() };
    let mut name = name.unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    file.with_file_name(name)
}

/// The files of a target.
#[derive(Debug)]
pub struct Files {
    /// Metadata of the files with tensors, as it is read back.
    pub metadata: Metadata,
    /// Files with tensors, one for each group.
    pub files: Vec<PlannedFile>,
    /// The others.
    pub small: Vec<SmallFile>,
}

impl Files {
    /// Files in safetensors, with an index if there are several. They say that they are torch's (`format`), as
    /// transformers wants.
    pub(super) fn safetensors(out: &Path, groups: &[&[Planned]], checksums: bool) -> Result<Files> {
        Files::in_safetensors(out, groups, groups, |m, t| layout(m, t, checksums, safetensors::place))
    }

    /// Safetensors files with matrices in nf4 as bitsandbytes serializes them, which are decoded to torch's `dtype`.
    pub(super) fn bitsandbytes(out: &Path, groups: &[&[Planned]], dtype: &str) -> Result<Files> {
        let stored: Vec<Vec<Planned>> = groups.iter().map(|g| bitsandbytes::stored(g, dtype)).collect();
        let stored: Vec<&[Planned]> = stored.iter().map(Vec::as_slice).collect();
        Files::in_safetensors(out, groups, &stored, |m, t| Ok(bitsandbytes::place(m, t, dtype)?.into()))
    }

    /// Files in safetensors of each of `groups`, which hold the tensors `stored`.
    fn in_safetensors(
        out: &Path,
        groups: &[&[Planned]],
        stored: &[&[Planned]],
        place: impl Fn(&Metadata, &[Planned]) -> formats::Result<Layout>,
    ) -> Result<Files> {
        let metadata: Metadata = vec![("format".to_owned(), Value::from("pt"))];
        let names = names(out, groups.len())?;
        let mut files = Vec::new();
        for (tensors, name) in groups.iter().zip(&names) {
            let layout = place(&metadata, tensors)?;
            files.push(PlannedFile { name: name.clone(), layout });
        }
        let mut small = Vec::new();
        if groups.len() > 1 {
            let mut name = out.file_name().unwrap_or_default().to_owned();
            name.push(INDEX_SUFFIX);
            // Names of several are Unicode.
            let places = names.iter().zip(stored).filter_map(|(name, group)| Some((name.to_str()?, *group)));
            small.push(SmallFile { name, bytes: index(places).into_bytes() });
        }
        Ok(Files { metadata, files, small })
    }

    /// Files of torch that hold nothing but tensors: whoever loads them expects nothing else.
    pub(super) fn torch(out: &Path, groups: &[&[Planned]]) -> Result<Files> {
        let metadata = Metadata::new();
        let mut files = Vec::new();
        for (tensors, name) in groups.iter().zip(names(out, groups.len())?) {
            files.push(PlannedFile { name, layout: pth::place(ROOT, &metadata, tensors)?.into() });
        }
        Ok(Files { metadata, files, small: Vec::new() })
    }
}

/// Lays out a file with `place`, with or without the checksums of its tensors.
pub(super) fn layout(
    metadata: &Metadata,
    tensors: &[Planned],
    checksums: bool,
    place: impl FnOnce(&Metadata, &[Planned]) -> formats::Result<Placement>,
) -> formats::Result<Layout> {
    match checksums {
        true => Ok(Checksummed::new(metadata, tensors, place)?.into()),
        false => Ok(place(metadata, tensors)?.into()),
    }
}

/// A file with tensors.
#[derive(Debug)]
pub struct PlannedFile {
    /// Its name, within the folder of the output or the output itself.
    pub name: OsString,
    /// Layout of the file.
    pub layout: Layout,
}

/// A small file that is known as a whole beforehand: configuration, tokenizer, index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallFile {
    /// Its name.
    pub name: OsString,
    /// Content of the file.
    pub bytes: Vec<u8>,
}

/// Cuts tensors into runs that take at most `max_bytes` each; a tensor that is larger stands alone. Only the data
/// counts, padded to 32 bytes, as llama.cpp counts.
pub fn groups(tensors: &[Planned], max_bytes: Option<u64>) -> Vec<&[Planned]> {
    const PADDING: u64 = 32;
    let max_bytes = max_bytes.unwrap_or(u64::MAX);
    let (mut groups, mut start, mut filled) = (Vec::new(), 0, 0u64);
    for (i, t) in tensors.iter().enumerate() {
        let bytes = t.bytes().unwrap_or(0).next_multiple_of(PADDING);
        if i > start && filled.saturating_add(bytes) > max_bytes {
            groups.push(&tensors[start..i]);
            (start, filled) = (i, 0);
        }
        filled = filled.saturating_add(bytes);
    }
    groups.push(&tensors[start..]);
    groups
}

#[cfg(test)]
mod tests {
    use quant::Encoding;

    use super::*;

    #[test]
    fn files_beside_two_files_have_two_names() {
        for (file, adapter) in [
            ("a/m.gguf", "a/m.lora.gguf"),
            ("m.GGUF", "m.lora.gguf"),
            ("RWKV-x070-0.1B", "RWKV-x070-0.1B.lora.gguf"),
            ("RWKV-x070-0.4B", "RWKV-x070-0.4B.lora.gguf"),
            ("RWKV-x070-0.4B.gguf", "RWKV-x070-0.4B.lora.gguf"),
            ("m.gguf.old", "m.gguf.old.lora.gguf"),
        ] {
            assert_eq!(beside(Path::new(file), ADAPTER), Path::new(adapter));
        }
    }

    #[test]
    fn groups_are_full_but_not_fuller() {
        let tensor =
            |bytes: usize| Planned { name: String::new(), encoding: Encoding::U8, shape: vec![bytes] };
        let tensors = [32, 60, 1, 500, 10, 10].map(tensor);
        let lens = |max_bytes| groups(&tensors, max_bytes).iter().map(|g| g.len()).collect::<Vec<_>>();
        assert_eq!(lens(None), [6]);
        assert_eq!(lens(Some(128)), [3, 1, 2]);
        assert_eq!(lens(Some(1)), [1; 6]);
        assert_eq!(groups(&[], Some(1)).len(), 1);
    }
}

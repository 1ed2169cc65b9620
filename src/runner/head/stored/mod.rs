//! Heads in files beside the model, compact or safetensors: what was computed from the full rows, which stay in the
//! model's file.
//!
//! The key `rwkv-quant.head` says which head it is: `clustered` or `certified`.

mod certified;
mod clusters;

use std::path::{Path, PathBuf};

use formats::compact::{Section, Storage, whole};
use formats::{Container, Limits, Metadata, Planned, Value};
use quant::{Encoding, codec};

use super::{Certified, Clustered, FullRows, Head};
use crate::error::{Error, Result};
use crate::model::HEAD;

/// A part of a head: its name, encoding, shape and bytes.
type Part = (&'static str, Encoding, Vec<usize>, Vec<u8>);

/// The head in a file, for a model with the head `full`.
///
/// # Errors
/// [`Error::Format`] if the file is damaged, [`Error::Model`] if it holds no head, or one of another model.
pub fn open(path: &Path, full: &FullRows<'_>) -> Result<Box<dyn Head>> {
    let file = HeadFile::open(path)?;
    let head = match file.text(HEAD) {
        Some(clusters::KIND) => Clustered::read(&file, full).map(|head| Box::new(head) as Box<dyn Head>),
        Some(certified::KIND) => Certified::read(&file, full).map(|head| Box::new(head) as Box<dyn Head>),
        _ => Err(file.unfit("holds no output layer that can be read in part".to_owned())),
    };
    file.container.check_unchanged()?;
    head
}

/// The file of a head, compact or safetensors as the extension of `path` says; the same head makes the same bytes.
fn file(path: &Path, kind: &str, keys: Vec<(&str, String)>, parts: Vec<Part>) -> Result<Vec<u8>> {
    let keys = [(HEAD, kind.to_owned())].into_iter().chain(keys);
    let keys: Metadata = keys.map(|(key, value)| (key.to_owned(), Value::String(value))).collect();
    let planned = |name: &str, encoding, shape| Planned { name: name.to_owned(), encoding, shape };
    let parts: Vec<(Planned, Vec<u8>)> = parts
        .into_iter()
        .map(|(name, encoding, shape, bytes)| (planned(name, encoding, shape), bytes))
        .collect();
    let file = if path.extension().is_some_and(|e| e == "rwkvz") {
        let section = |(planned, bytes)| (Section { planned, storage: Storage::Plain }, bytes);
        whole(&keys, &parts.into_iter().map(section).collect::<Vec<_>>())?
    } else {
        let (planned, bytes): (Vec<Planned>, Vec<Vec<u8>>) = parts.into_iter().unzip();
        let placement = formats::safetensors::place(&keys, &planned)?;
        let mut file = placement.head.clone();
        for (offset, bytes) in placement.offsets.iter().zip(&bytes) {
            file.resize(*offset as usize, 0);
            file.extend_from_slice(bytes);
        }
        file
    };
    Ok(file)
}

/// The bytes of values.
fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A file that holds a head, or should.
pub(super) struct HeadFile {
    path: PathBuf,
    container: Container,
}

impl HeadFile {
    pub(super) fn open(path: &Path) -> Result<HeadFile> {
        let container = formats::open(path, &Limits::default())?;
        container.format().verify_checksums(&container, &Limits::default())?;
        Ok(HeadFile { path: path.to_owned(), container })
    }

    fn unfit(&self, what: String) -> Error {
        Error::Model {
            path: self.path.clone(),
            what,
            help: "make it for this model: rwkv-quant cluster-head or certify-head MODEL -o FILE".to_owned(),
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.container.value(key).and_then(Value::as_str)
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T> {
        let value = self.text(key).and_then(|v| v.parse().ok());
        value.ok_or_else(|| self.unfit(format!("has no number under the key {key:?}")))
    }

    /// The bytes of a tensor that must be there, in this encoding and shape.
    fn part(&self, name: &str, encoding: Encoding, shape: &[usize]) -> Result<&[u8]> {
        let tensor = self.container.tensor(name).filter(|t| t.encoding == encoding && t.shape == shape);
        tensor.map(|t| self.container.bytes(t)).ok_or_else(|| {
            self.unfit(format!("has no {encoding} tensor {name:?} of {shape:?}, as this model's head needs"))
        })
    }

    /// The finite values of such a tensor.
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let bytes = self.part(name, Encoding::F32, shape)?;
        let mut values = vec![0.0; bytes.len() / 4];
        if let Some(codec) = codec(Encoding::F32) {
            codec.decode(bytes, &mut values);
        }
        let checked = quant::check_finite(&values);
        checked.map_err(|e| self.unfit(format!("is damaged: in {name:?}, {e}"))).map(|()| values)
    }
}

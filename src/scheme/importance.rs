//! Importance matrix: the importance of every matrix' input channels, for encoders that can use it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::{Imatrix, Limits, Metadata, Value};

use crate::equalize::Equalization;
use crate::error::{Error, Result};
use crate::model::{Model, ModelTensor, Role};

/// An importance matrix, fitted to the tensors of a file to be written.
#[derive(Clone, Debug)]
pub struct Importance {
    path: PathBuf,
    imatrix: Imatrix,
}

impl Importance {
    /// Reads one of llama.cpp's importance matrices: GGUF or .dat.
    ///
    /// # Errors
    /// If it cannot be read, or holds a value that is negative, NaN or infinite.
    pub fn load(path: &Path) -> Result<Importance> {
        let imatrix = Imatrix::read(path, &Limits::default())?;
        for (name, values) in &imatrix.entries {
            if let Some(column) = values.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
                return Err(Error::Tensor {
                    path: path.to_owned(),
                    tensor: name.clone(),
                    what: format!("has {} as the importance of column {column}", values[column]),
                    help: "the importance matrix is damaged: make it again".to_owned(),
                });
            }
        }
        Ok(Importance { path: path.to_owned(), imatrix })
    }

    /// The importance of the `cols` columns of the tensor of that name; `None` if there is none and need not be: llama-imatrix measures
    /// neither the embedding and the head nor the placeholders of block 0.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the entry is missing, or of another length than the rows.
    pub fn of(&self, name: &str, role: Role, cols: usize) -> Result<Option<Arc<[f32]>>> {
        let wrong = |what: String| Error::Tensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            what,
            help: "measure the importance with this very model".to_owned(),
        };
        match self.imatrix.entries.get(name) {
            Some(values) if values.len() == cols => Ok(Some(values.as_slice().into())),
            Some(values) => Err(wrong(format!("has {} importances for rows of {cols}", values.len()))),
            None if role != Role::Matrix => Ok(None),
            None => Err(wrong("has no entry in this importance matrix".to_owned())),
        }
    }

    /// The mean square of every input of a matrix, if it was measured.
    pub fn moments(&self, held: &ModelTensor) -> Option<Vec<f32>> {
        self.imatrix.entries.get(&gguf_name(held)?).cloned()
    }

    /// The importance of the same matrices once channels of `model` are rescaled: their inputs get larger or smaller.
    #[must_use]
    pub fn rescaled(mut self, model: &Model, rescaling: &Equalization) -> Importance {
        for held in &model.tensors {
            let entry = gguf_name(held).and_then(|name| self.imatrix.entries.get_mut(&name));
            if let (Some(entry), Some(exponents)) = (entry, rescaling.inputs_of(model, held)) {
                let factors = exponents.iter().map(|e| (2.0 * f64::from(*e)).exp2());
                entry.iter_mut().zip(factors).for_each(|(m, f)| *m = (f64::from(*m) * f) as f32);
            }
        }
        self
    }

    /// The keys by which llama.cpp's files tell what they were quantized with.
    pub fn keys(&self) -> Metadata {
        let number = |n: u64| Value::U32(n.try_into().unwrap_or(u32::MAX));
        let mut keys = Metadata::new();
        let file = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        keys.push(("quantize.imatrix.file".to_owned(), Value::String(file)));
        if let Some(dataset) = self.imatrix.datasets.first() {
            keys.push(("quantize.imatrix.dataset".to_owned(), Value::from(dataset.as_str())));
        }
        keys.push(("quantize.imatrix.entries_count".to_owned(), number(self.imatrix.entries.len() as u64)));
        if self.imatrix.chunks > 0 {
            keys.push(("quantize.imatrix.chunks_count".to_owned(), number(self.imatrix.chunks)));
        }
        keys
    }
}

/// The name of a tensor in llama.cpp's files, if it has one.
fn gguf_name(held: &ModelTensor) -> Option<String> {
    Some(held.spec.gguf?.replacen("{}", &held.layer.to_string(), 1))
}

//! Runs of rows: the grain of the work.

use std::ops::Range;

use quant::{EncodeError, Rows, check_finite, codec};

use super::Budget;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::plan::{Plan, Write};
use crate::recipe::Search;

/// A run of whole rows of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Number of the tensor in the plan.
    pub tensor: usize,
    /// Its rows.
    pub rows: Range<usize>,
}

/// Memory that a thread uses again for every chunk.
#[derive(Default)]
pub(super) struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

/// Cuts all tensors into chunks, in file order.
pub(super) fn grid(plan: &Plan, budget: &Budget) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (tensor, write) in plan.tensors.iter().enumerate() {
        let (rows, cols) = (write.values.rows(), write.values.cols());
        let step = (budget.chunk_values / cols.max(1)).max(1);
        let starts = (0..rows).step_by(step);
        chunks.extend(starts.map(|start| Chunk { tensor, rows: start..rows.min(start + step) }));
    }
    chunks
}

impl Chunk {
    /// Where its bytes go: number of the file, offset, and which of the encoded bytes; one for each part.
    pub fn places<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = (usize, u64, Range<usize>)> + 'a {
        let mut end = 0;
        plan.tensors[self.tensor].parts.iter().map(move |part| {
            let start = end;
            end += self.rows.len() * part.row_bytes;
            (part.file, part.offset + (self.rows.start * part.row_bytes) as u64, start..end)
        })
    }

    /// How many bytes it takes in the files.
    pub fn bytes(&self, plan: &Plan) -> u64 {
        (self.rows.len() * plan.tensors[self.tensor].row_bytes()) as u64
    }

    /// Its encoded bytes.
    pub fn encode<'a>(&self, plan: &Plan, model: &Model, buffers: &'a mut Buffers) -> Result<&'a [u8]> {
        let write = &plan.tensors[self.tensor];
        let (cols, container) = (write.values.cols(), &model.container);
        let Some(codec) = codec(write.encoding) else {
            return Err(self.cannot(write, model, EncodeError::ReadOnly(write.encoding)));
        };
        buffers.bytes.resize(self.bytes(plan) as usize, 0);
        buffers.values.resize(self.rows.len() * cols, 0.0);
        write.values.read(container, self.rows.clone(), &mut buffers.values);
        match write.values.stored(container, self.rows.clone()) {
            // The same encoding: the blocks are taken as they are, only looked through for what is not finite.
            Some(stored) if write.values.encoding() == Some(write.encoding) => {
                check_finite(&buffers.values).map_err(|e| self.cannot(write, model, e))?;
                buffers.bytes.copy_from_slice(stored);
            }
            _ => {
                let importance = write.importance.as_deref();
                let rows = Rows { importance, ..Rows::new(&buffers.values, cols) };
                let encoded = match plan.recipe.search {
                    Search::Standard => codec.encode(rows, &mut buffers.bytes),
                    Search::Best => codec.encode_best(rows, &mut buffers.bytes),
                };
                encoded.map_err(|e| self.cannot(write, model, e))?;
            }
        }
        write.values.release(container, self.rows.clone());
        Ok(&buffers.bytes)
    }

    /// The codec's complaint, with the index counted from the start of the tensor.
    fn cannot(&self, write: &Write, model: &Model, mut source: EncodeError) -> Error {
        if let EncodeError::NonFinite { index, .. } | EncodeError::Overflow { index, .. } = &mut source {
            *index += self.rows.start * write.values.cols();
        }
        let tensor = write.values.sources().next().map(|i| model.container.tensors()[i].name.clone());
        Error::Weight {
            path: model.container.path().to_owned(),
            tensor: tensor.unwrap_or_else(|| write.name.clone()),
            source,
        }
    }
}

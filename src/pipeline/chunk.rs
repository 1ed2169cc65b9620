//! Runs of rows: the grain of the work.

use std::ops::Range;

use quant::codebook::Codebook;
use quant::{EncodeError, Encoding, Rows, check_finite, codec, codec_of_levels};

use super::Budget;
use crate::error::{Error, Result};
use crate::model::{Model, TensorView, ZeroRule, Zeros};
use crate::plan::{Part, Plan, TensorPlan};
use crate::targets::{self, Target};
use crate::verify::DAMAGED;

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
    /// Rows of zeros in the chunk that was encoded last.
    pub zeros: Zeros,
}

impl Buffers {
    /// Splits blocks, where the file wants it, to the codes of all of them, then the scales of all.
    fn split_if_wanted(&mut self, write: &TensorPlan) {
        let encoding = write.encoding;
        if write.parts.iter().all(|part| part.split.is_none()) {
            return;
        }
        let blocks = || self.bytes.chunks(encoding.block_bytes());
        let codes = blocks().flat_map(|block| &block[..encoding.code_bytes()]);
        let scales = blocks().flat_map(|block| &block[encoding.code_bytes()..]);
        self.bytes = codes.chain(scales).copied().collect();
    }
}

/// Cuts all tensors into chunks, in file order.
pub(super) fn grid(plan: &Plan, budget: &Budget) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (tensor, write) in plan.tensors.iter().enumerate() {
        // Of what is coded already, bytes.
        let (rows, cols, whole) = match write.coded {
            Some(_) => (write.bytes() as usize, 1, 1),
            None => (write.values.rows(), write.values.cols(), write.rows_of_whole_blocks()),
        };
        let step = (budget.chunk_values / cols.max(1) / whole * whole).max(whole);
        let starts = (0..rows).step_by(step);
        chunks.extend(starts.map(|start| Chunk { tensor, rows: start..rows.min(start + step) }));
    }
    chunks
}

impl Chunk {
    /// Places of its bytes: number of the file, offset, and range of the encoded bytes; one for each part, or two for a
    /// split one.
    pub fn places<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = (usize, u64, Range<usize>)> + 'a {
        let write = &plan.tensors[self.tensor];
        let (size, codes) = (write.encoding.block_bytes(), write.encoding.code_bytes());
        let whole = move |part: &Part| match part.split {
            None => vec![(part.file, part.offset, part.row_bytes)],
            Some(split) => {
                let code_bytes = part.row_bytes / size * codes + part.row_bytes % size * codes / size;
                vec![
                    (part.file, part.offset, code_bytes),
                    (part.file, split.scales, part.row_bytes - code_bytes),
                ]
            }
        };
        let mut end = 0;
        write.parts.iter().flat_map(whole).map(move |(file, offset, row_bytes)| {
            let start = end;
            end += self.rows.len() * row_bytes;
            (file, offset + (self.rows.start * row_bytes) as u64, start..end)
        })
    }

    /// Number of bytes that it takes in the files.
    pub fn bytes(&self, plan: &Plan) -> u64 {
        (self.rows.len() * plan.tensors[self.tensor].row_bytes()) as u64
    }

    /// Its encoded bytes; 4-bit codes are those of `codebook`.
    pub fn encode<'a>(
        &self,
        plan: &Plan,
        model: &Model,
        codebook: Option<Codebook>,
        buffers: &'a mut Buffers,
    ) -> Result<&'a [u8]> {
        let write = &plan.tensors[self.tensor];
        let (cols, container) = (write.values.cols(), &model.container);
        let of_levels = codebook.and_then(|levels| codec_of_levels(write.encoding, levels));
        let Some(codec) = of_levels.as_deref().or_else(|| codec(write.encoding)) else {
            return Err(self.cannot(write, plan, model, EncodeError::ReadOnly(write.encoding)));
        };
        buffers.bytes.resize(self.bytes(plan) as usize, 0);
        buffers.zeros = Zeros::default();
        if write.coded.is_none() && ZeroRule::of(write.role) != ZeroRule::Exempt && write.encoded.is_some() {
            buffers.values.resize(self.rows.len() * cols, 0.0);
            write.values.read(container, self.rows.clone(), &mut buffers.values);
            buffers.zeros = Zeros::of(&buffers.values, cols, write.row_bytes() as u64);
            write.values.release(container, self.rows.clone());
        }
        if let Some(encoded) = &write.encoded {
            let row = write.row_bytes();
            let range = self.rows.start * row..self.rows.end * row;
            buffers.bytes.copy_from_slice(&encoded.bytes()[range.clone()]);
            encoded.file().release(range.start as u64..range.end as u64);
            buffers.split_if_wanted(write);
            return Ok(&buffers.bytes);
        }
        buffers.values.resize(self.rows.len() * cols, 0.0);
        write.values.read(container, self.rows.clone(), &mut buffers.values);
        buffers.zeros = Zeros::of(&buffers.values, cols, write.row_bytes() as u64);
        match write.values.stored(container, self.rows.clone()) {
            // The same encoding: the blocks are taken as they are, only looked through for what is not finite.
            Some(stored) if write.values.encoding() == Some(write.encoding) => {
                check_finite(&buffers.values).map_err(|e| self.cannot(write, plan, model, e))?;
                buffers.bytes.copy_from_slice(stored);
            }
            _ => {
                let importance = write.importance.as_deref();
                let rows = Rows { importance, ..Rows::new(&buffers.values, cols) };
                let encoded = plan.scheme.search.encode(codec, rows, &mut buffers.bytes);
                encoded.map_err(|e| self.cannot(write, plan, model, e))?;
            }
        }
        write.values.release(container, self.rows.clone());
        buffers.split_if_wanted(write);
        Ok(&buffers.bytes)
    }

    /// True if its values may be too large for their encoding: they become f16 and are something else.
    pub fn narrows(&self, plan: &Plan) -> bool {
        let write = &plan.tensors[self.tensor];
        let narrower = write.encoding == Encoding::F16 && write.values.encoding() != Some(Encoding::F16);
        narrower && write.coded.is_none()
    }

    /// The codec's complaint, with the index counted from the start of the tensor.
    fn cannot(&self, write: &TensorPlan, plan: &Plan, model: &Model, mut source: EncodeError) -> Error {
        if let EncodeError::NonFinite { index, .. } | EncodeError::Overflow { index, .. } = &mut source {
            *index += self.rows.start * write.values.cols();
        }
        unencodable(&write.values, &write.name, plan.target, model, source)
    }
}

/// Error for a weight of a tensor that cannot be encoded for a target: its place, the reason, and advice.
pub(crate) fn unencodable(
    values: &TensorView,
    name: &str,
    target: &dyn Target,
    model: &Model,
    source: EncodeError,
) -> Error {
    let help = match source {
        EncodeError::Overflow { encoding, .. } => targets::wider(encoding, target, model),
        _ => DAMAGED.to_owned(),
    };
    let (path, tensor) = match values.origin(&model.container) {
        Some((container, tensor)) => (container.path(), tensor.name.clone()),
        None => (model.container.path(), name.to_owned()),
    };
    Error::Weight { path: path.to_owned(), tensor, source, help }
}

//! Branches of low rank beside quantized matrices: `W ~ Q(W - up down) + up down` (SVDQuant, arXiv 2411.05007, without
//! its activations).
//!
//! The file holds the quantized rests; the branches stand beside it, as a LoRA adapter that llama.cpp and ollama load
//! with it: `OUT.lora.gguf` beside `OUT.gguf`, factors F16, alpha the rank, so that their scale is 1. Only both together
//! are the model: each says so in [`RANK_KEY`]. Compact files have them within ([`quant::cancellation`]).

use std::path::{Path, PathBuf};

use formats::{Checksummed, Container, Layout, Limits, Metadata, Planned, Sum, Value, gguf};
use quant::Encoding;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::model::Model;
use crate::model::adapter::{self, MODEL_KEY, RANK_KEY};
use crate::plan::{Plan, TensorPlan};
use crate::scheme::LowRankOptions;
use crate::storage::{Sealed, exists};
use crate::targets::{ADAPTER, beside, lora_metadata, lora_names};

/// Encoding of the factors.
pub const FACTORS: Encoding = Encoding::F16;

/// Memory that dividing a matrix takes, for each of its values: the matrix, its rest, decoded blocks, errors, f32 each,
/// and two rounds' blocks.
const BYTES_PER_VALUE: u64 = 6 * 4 + 2;

impl LowRankOptions {
    /// True if a tensor may get one in the adapter: a quantized matrix.
    pub fn takes(&self, write: &TensorPlan) -> bool {
        !write.encoding.is_plain() && self.wants(&write.name, write.role, &write.values)
    }

    /// Approximate memory that dividing the largest matrix takes.
    pub fn peak_bytes(&self, plan: &Plan) -> u64 {
        let taken = plan.tensors.iter().filter(|t| self.takes(t));
        taken.map(|t| t.values.elements() as u64 * BYTES_PER_VALUE).max().unwrap_or(0)
    }

    /// The size of the adapter if every matrix gets its branch.
    ///
    /// # Errors
    /// If GGUF cannot hold it.
    pub fn most_bytes(&self, plan: &Plan, model: &Model) -> Result<u64> {
        let all = plan.tensors.iter().filter(|t| self.takes(t)).flat_map(|t| self.planned(t));
        // As long as any other.
        let digest = "0".repeat(64);
        Ok(self.layout(plan, model, &all.collect::<Vec<_>>(), Some(&digest))?.total_bytes())
    }

    /// The adapter with these branches, as a file; `of` is the digest of the model that it completes.
    ///
    /// # Errors
    /// If GGUF cannot hold it, or the disk changed a factor.
    pub fn adapter(
        &self,
        plan: &Plan,
        model: &Model,
        branches: &[Branch],
        of: Option<&str>,
    ) -> Result<Vec<u8>> {
        branches.iter().try_for_each(|b| b.factors.check())?;
        let tensors = branches.iter().flat_map(|b| self.planned(&plan.tensors[b.tensor]));
        let layout = self.layout(plan, model, &tensors.collect::<Vec<_>>(), of)?;
        let mut file = vec![0; usize::try_from(layout.total_bytes()).unwrap_or(usize::MAX)];
        let factors = branches.iter().flat_map(|b| {
            let up = plan.tensors[b.tensor].values.rows() * self.rank * FACTORS.block_bytes();
            let (up, down) = b.factors.bytes().split_at(up);
            [down, up]
        });
        let factors: Vec<&[u8]> = factors.collect();
        let sum = |bytes: &&[u8]| Sum { sha256: Sha256::digest(bytes).into(), ..Sum::default() };
        let frame = layout.finish(&factors.iter().map(sum).collect::<Vec<_>>());
        let data = layout.offsets().iter().copied().zip(factors.into_iter().map(<[u8]>::to_vec));
        for (offset, bytes) in frame.into_iter().chain(data) {
            file[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        Ok(file)
    }

    /// Layout of the file, which holds checksums if that of the plan does.
    fn layout(&self, plan: &Plan, model: &Model, tensors: &[Planned], of: Option<&str>) -> Result<Layout> {
        let mut metadata = self.metadata(model)?;
        let is_checksummed = plan.files.iter().any(|file| file.layout.wants_sha256());
        let of = of.filter(|_| is_checksummed);
        metadata.extend(of.map(|digest| (MODEL_KEY.to_owned(), Value::from(digest))));
        Ok(match is_checksummed {
            true => Checksummed::new(&metadata, tensors, gguf::place)?.into(),
            false => gguf::place(&metadata, tensors)?.into(),
        })
    }

    fn metadata(&self, model: &Model) -> Result<Metadata> {
        let mut metadata = lora_metadata(model, self.rank as f32)?;
        metadata.push(self.key());
        Ok(metadata)
    }

    /// The two factors of a branch: `down` and `up`.
    fn planned(&self, write: &TensorPlan) -> [Planned; 2] {
        let [a, b] = lora_names(&write.name);
        let factor = |name, shape: [usize; 2]| Planned { name, encoding: FACTORS, shape: shape.to_vec() };
        let (rows, cols) = (write.values.rows(), write.values.cols());
        [factor(a, [self.rank, cols]), factor(b, [rows, self.rank])]
    }
}

/// The branch of a matrix.
#[derive(Debug)]
pub struct Branch {
    /// Number of its tensor in the plan.
    pub tensor: usize,
    /// `up` (`[rows, rank]`), then `down` (`[rank, cols]`), in [`FACTORS`].
    pub factors: Sealed,
}

/// The adapter with branches that was written beside an earlier file `out`, if there is one: it belongs to that file alone.
///
/// # Errors
/// [`Error::Format`](crate::Error::Format) if the system does not let it be read.
pub fn adapter_of(out: &Path) -> Result<Option<PathBuf>> {
    let path = path(out);
    if !exists(&path) {
        return Ok(None);
    }
    match formats::open(&path, &Limits::default()) {
        Ok(container) => Ok(container.value(RANK_KEY).is_some().then_some(path)),
        Err(error @ formats::Error::Io { .. }) => Err(error.into()),
        Err(_) => Ok(None), // it is none of ours
    }
}

/// Explanation that a model alone is not what was written, since its low-rank branches are in an adapter, and `given`
/// is none.
pub fn lacking(model: &Container, given: Option<&Path>) -> Option<String> {
    model.value(RANK_KEY)?;
    let has_it = |path: &Path| {
        formats::open(path, &Limits::default()).is_ok_and(|given| adapter::completes(&given, model))
    };
    if given.is_some_and(has_it) {
        return None;
    }
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let adapter = name(&path(model.path()));
    Some(format!(
        "{} is half of a model: the other is its adapter, {adapter} when they were written",
        name(model.path())
    ))
}

/// Path of the adapter of the file `out`: `NAME.lora.gguf` beside `NAME.gguf`.
pub fn path(out: &Path) -> PathBuf {
    beside(out, ADAPTER)
}

//! The levels of 4-bit codes: those of the file type, or the best for each matrix.

use quant::codebook::{Codebook, Fit, NF4, SF4};
use quant::{Encoding, check_finite};
use rayon::prelude::*;

use super::Stop;
use crate::error::Result;
use crate::model::Model;
use crate::plan::{Plan, TensorPlan};
use crate::recipe::{Levels, Search};
use crate::storage::Outputs;

/// Values read at a time.
const STEP: usize = 1 << 18;

/// The levels of every tensor whose codes need some. With a longer search they are fitted to the weights (and the
/// importance) of the matrix, which are read once more for that.
pub(crate) fn codebooks(plan: &Plan, model: &Model, stop: &Stop) -> Result<Vec<Option<Codebook>>> {
    let has_own =
        |write: &TensorPlan| write.parts.iter().any(|p| p.split.is_some_and(|s| s.codebook.is_some()));
    let codebook =
        |write: &TensorPlan| match (write.encoding, plan.scheme.search, plan.scheme.file_type.levels) {
            _ if !has_own(write) => Ok(None),
            (Encoding::Fp4, Search::Best, _) => fitted(write, model, stop).map(Some),
            (Encoding::Fp4, Search::Standard, Levels::Nf4) => Ok(Some(NF4)),
            (Encoding::Fp4, Search::Standard, Levels::Sf4) => Ok(Some(SF4)),
            // The kernels of bitsandbytes know no others.
            (Encoding::Nf4, ..) => Ok(Some(NF4)),
            _ => Ok(None),
        };
    plan.tensors.par_iter().map(codebook).collect()
}

fn fitted(write: &TensorPlan, model: &Model, stop: &Stop) -> Result<Codebook> {
    let (rows, cols) = (write.values.rows(), write.values.cols());
    let whole = write.rows_of_whole_blocks();
    let step = (STEP / cols.max(1) / whole * whole).max(whole);
    let mut fit = Fit::new();
    let (mut values, mut importance) = (Vec::new(), Vec::new());
    for start in (0..rows).step_by(step) {
        stop.check()?;
        let range = start..rows.min(start + step);
        values.resize(range.len() * cols, 0.0);
        write.values.read(&model.container, range.clone(), &mut values);
        write.values.release(&model.container, range.clone());
        if check_finite(&values).is_err() {
            break; // the encoder names the weight
        }
        if let Some(columns) = &write.importance {
            importance = columns.repeat(range.len());
        }
        let importance = write.importance.is_some().then_some(importance.as_slice());
        fit.add(&values, Encoding::Fp4.block_len(), importance);
    }
    Ok(fit.solve())
}

/// Writes the levels to their places in the files.
pub(super) fn write(plan: &Plan, codebooks: &[Option<Codebook>], outputs: &Outputs) -> Result<()> {
    for (write, codebook) in plan.tensors.iter().zip(codebooks) {
        let Some(codebook) = codebook else { continue };
        let bytes: Vec<u8> = codebook.iter().flat_map(|level| level.to_le_bytes()).collect();
        for part in &write.parts {
            if let Some(offset) = part.split.and_then(|split| split.codebook) {
                outputs.write_at(part.file, &bytes, offset)?;
            }
        }
    }
    Ok(())
}

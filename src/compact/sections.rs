//! Every section of a planned file that is coded, before the file is laid out.

use std::io::BufWriter;
use std::sync::Arc;

use formats::Mapped;
use rayon::prelude::*;

use super::Coded;
use super::encode::Matrix;
use crate::calibrate::Store;
use crate::error::Result;
use crate::model::Model;
use crate::pipeline::{self, Observer, Stop};
use crate::plan::{Plan, Write};

/// By how many bits a weight a tensor is coded in less than it should be, since rates are met to about as much.
const LEEWAY: f64 = 0.002;
/// Fewest bits a weight.
const LEAST_BITS: f64 = 0.1;

/// Codes what is to be coded and was not yet, and puts the sections into the plan.
///
/// The result depends on neither threads nor on how often the work was broken off.
///
/// # Errors
/// If a weight cannot be coded, the disk is full, or the work is stopped.
pub fn encode(
    plan: &mut Plan,
    model: &Model,
    store: &Store,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<()> {
    let left: Vec<usize> = (0..plan.tensors.len()).filter(|n| is_left(&plan.tensors[*n])).collect();
    let elements = |n: &usize| plan.tensors[*n].values.elements() as u64;
    let weights: u64 = left.iter().map(elements).sum();
    // So many at a time as there are threads: what is finished is in memory till then.
    for some in left.chunks(rayon::current_num_threads().max(1)) {
        some.par_iter().try_for_each(|n| {
            if store.section(*n)?.is_none() {
                section(*n, false, plan, model, store, stop)?;
            }
            observer.calibrated(elements(n), weights);
            Ok::<_, crate::error::Error>(())
        })?;
    }
    for n in left {
        plan.tensors[n].encoded = store.section(n)?.map(Arc::new);
    }
    Ok(())
}

/// Codes the largest tensor that was not fitted to a text once more, in `bytes` fewer; whether there is one that can
/// be.
///
/// # Errors
/// As [`encode`].
pub fn shrink(plan: &mut Plan, bytes: u64, model: &Model, store: &Store, stop: &Stop) -> Result<bool> {
    let free = |t: &Write| matches!(t.coded, Some(Coded::Codes { .. })) && !t.is_calibrated;
    let sizes = plan.tensors.iter().enumerate().filter(|(_, t)| free(t)).map(|(n, t)| (t.bytes(), n));
    let Some((_, n)) = sizes.max() else { return Ok(false) };
    let write = &mut plan.tensors[n];
    let Some(Coded::Codes { bits, rank }) = write.coded else { return Ok(false) };
    if bits <= LEAST_BITS {
        return Ok(false);
    }
    let fewer = 8.0 * bytes as f64 / write.values.elements().max(1) as f64;
    write.coded = Some(Coded::Codes { bits: (bits - fewer - LEEWAY).max(LEAST_BITS), rank });
    let section = section(n, true, plan, model, store, stop)?;
    plan.tensors[n].encoded = Some(Arc::new(section));
    Ok(true)
}

/// About the memory that [`encode`] takes.
pub fn peak_bytes(plan: &Plan, threads: usize) -> u64 {
    // Of each thread some tiles, or a sample, as values, codes, symbols and bytes.
    let longest = plan.tensors.iter().map(|t| t.values.cols()).max().unwrap_or(0).max(1 << 18) as u64;
    threads as u64 * threads as u64 * longest * 40
}

fn is_left(write: &Write) -> bool {
    write.coded.is_some() && write.encoded.is_none()
}

/// Codes a tensor, and keeps its section.
fn section(n: usize, second: bool, plan: &Plan, model: &Model, store: &Store, stop: &Stop) -> Result<Mapped> {
    let (write, container) = (&plan.tensors[n], &model.container);
    let matrix = Matrix {
        rows: write.values.rows(),
        cols: write.values.cols(),
        read: &|rows, out| {
            write.values.read(container, rows.clone(), out);
            write.values.release(container, rows);
        },
    };
    let coded = write.coded.unwrap_or(Coded::Zstd);
    store
        .keep_section(n, second, |file| matrix.section(coded, write.encoding, stop, BufWriter::new(file)))?
        .map_err(|e| pipeline::unencodable(&write.values, &write.name, plan.target, model, e))
}

//! Every section of a planned file that is coded, before the file is laid out.

use std::sync::Arc;

use rayon::prelude::*;

use super::encode::{Matrix, Unencodable};
use crate::calibrate::Store;
use crate::error::Result;
use crate::model::Model;
use crate::pipeline::{self, Observer, Stop};
use crate::plan::{Plan, Write};

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
                store.keep_section(*n, &section(&plan.tensors[*n], plan, model, stop)?)?;
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

/// About the memory that [`encode`] takes.
pub fn peak_bytes(plan: &Plan, threads: usize) -> u64 {
    let mut sizes: Vec<u64> =
        plan.tensors.iter().filter(|t| t.coded.is_some()).map(|t| 2 * t.bytes()).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let longest = plan.tensors.iter().map(|t| t.values.cols()).max().unwrap_or(0).max(1 << 18) as u64;
    // The sections at work, and a tile or sample of each thread as values, codes and symbols.
    sizes.iter().take(threads).sum::<u64>() + threads as u64 * longest * 40
}

fn is_left(write: &Write) -> bool {
    write.coded.is_some() && write.encoded.is_none()
}

/// The section of a tensor.
fn section(write: &Write, plan: &Plan, model: &Model, stop: &Stop) -> Result<Vec<u8>> {
    let Some(coded) = write.coded else { return Ok(Vec::new()) };
    let container = &model.container;
    let matrix = Matrix {
        rows: write.values.rows(),
        cols: write.values.cols(),
        read: &|rows, out| {
            write.values.read(container, rows.clone(), out);
            write.values.release(container, rows);
        },
    };
    matrix.section(coded, write.encoding, stop).map_err(|e| match e {
        Unencodable::Other(e) => e,
        Unencodable::Weight(e) => pipeline::unencodable(&write.values, &write.name, plan.target, model, e),
    })
}

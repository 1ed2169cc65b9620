//! Every section of a planned file that is coded, before the file is laid out.

use std::sync::Arc;

use quant::cancellation;
use quant::coding::tile_rows;
use rayon::prelude::*;

use super::encode::Matrix;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::Model;
use crate::pipeline::{self, Observer, Stop};
use crate::plan::{Plan, TensorPlan};
use crate::recipe::TensorType;
use crate::scheme::Coded;
use crate::storage::Sealed;

/// Bits per weight by which a tensor is coded in less than it should be, since rates are met to about as much.
const LEEWAY: f64 = 0.002;
/// Fewest bits per weight.
const LEAST_BITS: f64 = 0.5;
/// Most bits per weight that one tensor makes room for all.
const ALONE: f64 = 0.02;
/// Tiles of a thread that are in memory at a time.
pub const TILES: usize = 4;
/// Memory of a value of a tile or sample at work: as f32, with its code, its symbol and bytes, in two copies.
const CODED_BYTES: u64 = 40;
/// Memory of a value that is packed with zstd, with the tables of its window.
const PACKED_BYTES: u64 = 80;
/// Memory of packing, whatever the tensor.
const PACKING_BYTES: u64 = 256 << 10;

/// Codes what is to be coded and was not yet, and puts the sections into the plan.
///
/// The result depends on neither threads nor on how often the work was broken off.
///
/// # Errors
/// If a weight cannot be coded, the disk is full, or the work is stopped.
pub fn encode(
    plan: &mut Plan,
    model: &Model,
    store: &Checkpoint,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<()> {
    let left: Vec<usize> = (0..plan.tensors.len()).filter(|n| is_left(&plan.tensors[*n])).collect();
    let elements = |plan: &Plan, n: usize| plan.tensors[n].values.elements() as u64;
    let weights: u64 = left.iter().map(|n| elements(plan, *n)).sum();
    let abreast = Abreast::of(rayon::current_num_threads(), left.len());
    for some in left.chunks(abreast.tensors) {
        let made = some.par_iter().map(|n| {
            let section = match store.section(*n) {
                Some(section) => section,
                None => section(*n, false, abreast.tiles, plan, model, store, stop)?,
            };
            observer.calibrated(elements(plan, *n), weights);
            Ok(section)
        });
        let made = made.collect::<Result<Vec<_>>>()?;
        for (n, section) in some.iter().zip(made) {
            plan.tensors[*n].encoded = Some(Arc::new(section));
        }
    }
    Ok(())
}

/// Codes tensors that were not fitted to a text once more, in `bytes` fewer; whether that can be. The largest one alone
/// if it hardly matters to it, else all of them, each with as many bits per weight less.
///
/// # Errors
/// As [`encode`].
pub fn shrink(plan: &mut Plan, bytes: u64, model: &Model, store: &Checkpoint, stop: &Stop) -> Result<bool> {
    let elements = |plan: &Plan, n: usize| plan.tensors[n].values.elements() as u64;
    let bits_of = |plan: &Plan, n: usize| match plan.tensors[n].coded {
        Some(Coded::Codes { bits, rank }) if !plan.tensors[n].is_calibrated && bits > LEAST_BITS => {
            Some((bits, rank))
        }
        _ => None,
    };
    let free: Vec<usize> = (0..plan.tensors.len()).filter(|n| bits_of(plan, *n).is_some()).collect();
    let Some(largest) = free.iter().copied().max_by_key(|n| (elements(plan, *n), *n)) else {
        return Ok(false);
    };
    let fewer = |weights: u64| 8.0 * bytes as f64 / weights.max(1) as f64 + LEEWAY;
    let (chosen, fewer) = match fewer(elements(plan, largest)) {
        alone if alone <= ALONE => (vec![largest], alone),
        _ => (free.clone(), fewer(free.iter().map(|n| elements(plan, *n)).sum())),
    };
    for n in &chosen {
        if let Some((bits, rank)) = bits_of(plan, *n) {
            let bits = (bits - fewer).max(LEAST_BITS);
            let write = &mut plan.tensors[*n];
            write.coded = Some(Coded::Codes { bits, rank });
            plan.scheme.types.0.insert(write.name.clone(), TensorType::Bits(bits));
        }
    }
    let abreast = Abreast::of(rayon::current_num_threads(), chosen.len());
    for some in chosen.chunks(abreast.tensors) {
        let made = some
            .par_iter()
            .map(|n| section(*n, true, abreast.tiles, plan, model, store, stop))
            .collect::<Result<Vec<_>>>()?;
        for (n, section) in some.iter().zip(made) {
            plan.tensors[*n].encoded = Some(Arc::new(section));
        }
    }
    Ok(true)
}

/// Work that is in memory at a time. What is coded does not depend on it.
#[derive(Clone, Copy)]
struct Abreast {
    /// Tensors.
    tensors: usize,
    /// Tiles of each.
    tiles: usize,
}

impl Abreast {
    /// Number of tensors and tiles that keeps `threads` threads busy with `left` tensors: in all, some tiles a thread.
    fn of(threads: usize, left: usize) -> Abreast {
        let tensors = threads.min(left).max(1);
        Abreast { tensors, tiles: (TILES * threads.max(1)).div_ceil(tensors) }
    }
}

/// Approximate memory that [`encode`] takes with so many threads.
pub fn peak_bytes(plan: &Plan, threads: usize) -> u64 {
    let left: Vec<&TensorPlan> = plan.tensors.iter().filter(|t| is_left(t)).collect();
    let Abreast { tensors, tiles } = Abreast::of(threads, left.len());
    let mut bytes: Vec<u64> = left.iter().map(|t| working_bytes(t, tiles)).collect();
    bytes.sort_unstable_by(|a, b| b.cmp(a));
    bytes.iter().take(tensors).sum()
}

/// Approximate memory that coding a tensor takes with so many of its tiles at a time, or the sample that steps and
/// tables are fitted to.
pub fn working_bytes(write: &TensorPlan, tiles: usize) -> u64 {
    let (all, cols) = (write.values.elements(), write.values.cols());
    let values = match write.coded {
        Some(Coded::Zstd) => return PACKING_BYTES + all as u64 * PACKED_BYTES,
        _ => tiles
            .saturating_mul(tile_rows(cols) * cols)
            .max(cancellation::sample_rows(write.values.rows(), cols) * cols),
    };
    values.min(all) as u64 * CODED_BYTES
}

fn is_left(write: &TensorPlan) -> bool {
    write.coded.is_some() && write.encoded.is_none()
}

/// Codes a tensor, and keeps its section.
fn section(
    n: usize,
    second: bool,
    tiles: usize,
    plan: &Plan,
    model: &Model,
    store: &Checkpoint,
    stop: &Stop,
) -> Result<Sealed> {
    let (write, container) = (&plan.tensors[n], &model.container);
    let matrix = Matrix {
        rows: write.values.rows(),
        cols: write.values.cols(),
        read: &|rows, out| {
            write.values.read(container, rows.clone(), out);
            write.values.release(container, rows);
        },
        search: plan.scheme.search,
        tiles,
    };
    let coded = write.coded.unwrap_or(Coded::Zstd);
    store
        .keep_section(n, second, |out| matrix.section(coded, write.encoding, stop, out))?
        .map_err(|e| pipeline::unencodable(&write.values, &write.name, plan.target, model, e))
}

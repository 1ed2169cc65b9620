//! Writing of planned files: a grid of chunks, encoded in parallel, written in place, verified, renamed.
//!
//! A chunk is a run of whole rows of one tensor. Chunks are encoded in any order by any number of threads and
//! written at their offsets, so the bytes depend on the plan alone. The memory needed is that of the chunks at
//! work, whatever the size of the model.

mod budget;
mod chunk;
mod levels;
mod verify;

use std::sync::atomic::{AtomicBool, Ordering};

use formats::{Checksums, Limits, Sum, model_digest};
use rayon::prelude::*;

pub use budget::{Budget, CALIBRATION, default_threads, pool};
pub(crate) use chunk::unencodable;
pub(crate) use levels::codebooks;

use crate::error::{Error, Result};
use crate::model::{Model, ZeroRule, Zeros};
use crate::plan::{Plan, TensorPlan};
use crate::storage::{Outputs, Progress};

/// Observer of events while files are written; a progress bar, a log and a test listen alike.
pub trait Observer: Sync {
    /// The costs of so many units of tensors were measured, of so many.
    fn probed(&self, _units: u64, _of: u64) {}
    /// Notes that so many weights were calibrated, of so many.
    fn calibrated(&self, _weights: u64, _of: u64) {}
    /// Files of so many bytes are going to be written.
    fn begins(&self, _bytes: u64) {}
    /// A chunk of tensor `name` was written: so many bytes.
    fn written(&self, name: &str, bytes: u64);
    /// Everything is written and being read again; so many bytes of it were found right.
    fn verified(&self, bytes: u64);
}

/// Listens to nothing.
pub struct Silent;

impl Observer for Silent {
    fn written(&self, _: &str, _: u64) {}
    fn verified(&self, _: u64) {}
}

/// Set when the work is to stop: by Ctrl-C, or by whoever called.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Stop that nothing asked for yet.
    pub const fn new() -> Stop {
        Stop(AtomicBool::new(false))
    }

    /// Asks for a stop.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// [`Error::Interrupted`] if somebody asked.
    ///
    /// # Errors
    /// That one.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Looks through the weights that are to become f16, and are now something of a larger range, before anything is
/// written.
///
/// # Errors
/// [`Error::Weight`] with the first one that does not fit, and the targets that hold it; [`Error::Interrupted`].
pub fn check(plan: &Plan, model: &Model, budget: &Budget, stop: &Stop) -> Result<()> {
    let chunks: Vec<_> = chunk::grid(plan, budget).into_iter().filter(|c| c.narrows(plan)).collect();
    let first = pool(budget.threads)?.install(|| {
        let looked_through = chunks.par_iter().map_init(chunk::Buffers::default, |buffers, chunk| {
            stop.check()?;
            chunk.encode(plan, model, None, buffers).map(drop)
        });
        looked_through.find_first(Result::is_err)
    });
    first.unwrap_or(Ok(()))
}

/// Writes the planned files into `outputs`, reads every byte back and compares it with what was encoded; they get their
/// names when `outputs` is committed. Gives what is suspicious about the source.
///
/// # Errors
/// [`Error::Weight`] at the first weight that is not finite or does not fit its encoding; [`Error::Resources`] if the
/// disk is full; [`Error::Model`] if the disk changed a byte; [`Error::Interrupted`].
pub fn write(
    plan: &Plan,
    model: &Model,
    outputs: &mut Outputs,
    budget: &Budget,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<Vec<String>> {
    check(plan, model, budget, stop)?;
    plan.tensors.iter().filter_map(|t| t.encoded.as_ref()).try_for_each(|encoded| encoded.check())?;
    let sizes = plan.files.iter().map(|f| f.layout.total_bytes());
    let small = plan.small.iter().map(|f| f.bytes.len() as u64);
    outputs.create(&sizes.chain(small).collect::<Vec<_>>())?;
    let outputs = &*outputs;
    for (small, number) in plan.small.iter().zip(plan.files.len()..) {
        outputs.write_at(number, &small.bytes, 0)?;
    }
    observer.begins(plan.total_bytes());
    let pool = pool(budget.threads)?;
    let chunks = chunk::grid(plan, budget);
    // The checksums in the source are compared meanwhile: a flipped bit must not become a sound-looking file.
    let source_is_sound = || model.container.format().verify_checksums(&model.container, &Limits::default());
    let codebooks = pool.install(|| codebooks(plan, model, stop))?;
    let encode = || -> Result<(Vec<Sums>, Vec<Zeros>)> {
        chunks
            .par_iter()
            .map_init(chunk::Buffers::default, |buffers, chunk| {
                stop.check()?;
                let bytes = chunk.encode(plan, model, codebooks[chunk.tensor], buffers)?;
                let mut sums = Sums::new();
                for (file, offset, range) in chunk.places(plan) {
                    sums.push(outputs.write_at(file, &bytes[range], offset)?);
                }
                observer.written(&plan.tensors[chunk.tensor].name, bytes.len() as u64);
                Ok((sums, buffers.zeros))
            })
            .collect()
    };
    let (sums, sound) = pool.install(|| rayon::join(encode, source_is_sound));
    let sound = sound?;
    let (sums, zeros) = sums?;
    let suspicions = outdated(sound, model).into_iter().chain(zero_rows(plan, &chunks, &zeros)).collect();
    let mut crcs = tensor_crcs(plan, &chunks, &sums).into_iter();
    let progress = |bytes| {
        observer.verified(bytes);
        stop.check()
    };
    let mut of_files: Vec<Vec<Sum>> = Vec::new();
    for (number, file) in plan.files.iter().enumerate() {
        let of_file = crcs.by_ref().take(file.layout.offsets().len());
        let mut sums: Vec<Sum> = of_file.map(|crc32| Sum { crc32, ..Sum::default() }).collect();
        if file.layout.wants_sha256() {
            let hashes = pool.install(|| sha256s(plan, number, outputs, &progress))?;
            sums.iter_mut().zip(hashes).for_each(|(sum, sha256)| sum.sha256 = sha256);
        }
        of_files.push(sums);
    }
    let digest = model_digest(of_files.iter().flatten().map(|sum| &sum.sha256));
    for (number, (file, sums)) in plan.files.iter().zip(&of_files).enumerate() {
        for (offset, bytes) in file.layout.finish_part(sums, &digest) {
            outputs.write_at(number, &bytes, offset)?;
        }
    }
    levels::write(plan, &codebooks, outputs)?;
    pool.install(|| verify::written(plan, &codebooks, outputs, &progress))?;
    Ok(suspicions)
}

/// Warning that the checksums of the source tell nothing of it.
fn outdated(checksums: Checksums, model: &Model) -> Option<String> {
    let Checksums::Outdated(file) = checksums else { return None };
    let path = model.container.files()[file].path().display();
    Some(format!(
        "the header of {path} is not the one that its checksums were written with (another program changed it, or it \
         is damaged): they were not compared"
    ))
}

/// Suspicions about the zeros in the tensors of a plan.
fn zero_rows(plan: &Plan, chunks: &[chunk::Chunk], zeros: &[Zeros]) -> Vec<String> {
    let mut whole = vec![Zeros::default(); plan.tensors.len()];
    for (chunk, zeros) in chunks.iter().zip(zeros) {
        whole[chunk.tensor] = whole[chunk.tensor].then(*zeros);
    }
    let suspicion = |(t, zeros): (&TensorPlan, Zeros)| zeros.suspicion(&t.name, ZeroRule::of(t.role));
    plan.tensors.iter().zip(whole).filter_map(suspicion).collect()
}

/// The SHA-256 of every tensor of a file, as it was written.
fn sha256s(plan: &Plan, number: usize, outputs: &Outputs, progress: &Progress) -> Result<Vec<[u8; 32]>> {
    let tensors = plan.tensors.iter().flat_map(|t| t.parts.iter().map(move |p| (p, t.bytes())));
    let places: Vec<(u64, u64)> =
        tensors.filter(|(p, _)| p.file == number).map(|(p, bytes)| (p.offset, bytes)).collect();
    outputs.sha256s(number, &places, progress)
}

/// The CRC-32 of each part of a chunk.
type Sums = Vec<u32>;

/// The CRC-32 of every tensor of the files, in order, from those of its chunks.
fn tensor_crcs(plan: &Plan, chunks: &[chunk::Chunk], sums: &[Sums]) -> Vec<u32> {
    let mut crcs: Vec<Vec<crc32fast::Hasher>> =
        plan.tensors.iter().map(|t| vec![crc32fast::Hasher::new(); t.parts.len()]).collect();
    for (chunk, sums) in chunks.iter().zip(sums) {
        let parts = crcs[chunk.tensor].iter_mut().zip(sums).zip(chunk.places(plan));
        for ((crc, sum), (_, _, range)) in parts {
            crc.combine(&crc32fast::Hasher::new_with_initial_len(*sum, range.len() as u64));
        }
    }
    crcs.into_iter().flatten().map(crc32fast::Hasher::finalize).collect()
}

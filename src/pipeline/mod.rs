//! How a planned file is written: a grid of chunks, encoded in parallel, written in place, verified, renamed.
//!
//! A chunk is a run of whole rows of one tensor. Chunks are encoded in any order by any number of threads and
//! written at their offsets, so the bytes depend on the plan alone. The memory needed is that of the chunks at
//! work, whatever the size of the model.

mod budget;
mod chunk;
mod partial;
mod verify;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use formats::Limits;
use rayon::prelude::*;

pub use budget::Budget;
use partial::Partial;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::plan::Plan;

/// What happens while a file is written; a progress bar, a log and a test listen alike.
pub trait Observer: Sync {
    /// A chunk of tensor `name` was written: so many bytes of the file.
    fn written(&self, name: &str, bytes: u64);
    /// The file is complete and is being read again; so many bytes of it were found right.
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
    /// Nothing asked for a stop yet.
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

/// Writes the planned file to `out`: first as `out.partial`, which becomes `out` once every byte was read back
/// and found right. On any error nothing is left behind.
///
/// # Errors
/// [`Error::Exists`] if `out` is there and `force` is not set; [`Error::Weight`] at the first weight that is not
/// finite or does not fit its encoding; [`Error::Resources`] if the disk is full; [`Error::Interrupted`].
pub fn write(
    plan: &Plan,
    model: &Model,
    out: &Path,
    force: bool,
    budget: &Budget,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<()> {
    refuse_inputs(model, out)?;
    let partial = Partial::create(out, plan.total_bytes(), force)?;
    let pool = budget.pool()?;
    let chunks = chunk::grid(plan, budget);
    partial.write_at(&plan.placement.head, 0)?;
    for (offset, bytes) in &plan.placement.between {
        partial.write_at(bytes, *offset)?;
    }
    // The checksums in the source are compared meanwhile: a flipped bit must not become a sound-looking file.
    let source_is_sound = || model.container.format().verify_checksums(&model.container, &Limits::default());
    let encode = || -> Result<Vec<u32>> {
        chunks
            .par_iter()
            .map_init(chunk::Buffers::default, |buffers, chunk| {
                stop.check()?;
                let bytes = chunk.encode(plan, model, buffers)?;
                partial.write_at(bytes, chunk.offset(plan))?;
                observer.written(&plan.tensors[chunk.tensor].name, bytes.len() as u64);
                Ok(crc32fast::hash(bytes))
            })
            .collect()
    };
    let (sums, sound) = pool.install(|| rayon::join(encode, source_is_sound));
    sound?;
    let sums = sums?;
    pool.install(|| verify::written(plan, &chunks, &sums, partial.path(), observer, stop))?;
    partial.finish()
}

/// The output must not be one of the files that are read.
fn refuse_inputs(model: &Model, out: &Path) -> Result<()> {
    let Ok(real) = out.canonicalize() else { return Ok(()) };
    let is_input = |f: &formats::Mapped| f.path().canonicalize().is_ok_and(|p| p == real);
    if !model.files().any(is_input) {
        return Ok(());
    }
    Err(Error::Usage {
        what: format!("{} is the input, which is never changed", out.display()),
        help: "give the output another name".to_owned(),
    })
}

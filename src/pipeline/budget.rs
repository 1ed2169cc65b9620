//! Memory that the work may take, and the threads and chunks that follow from it.

use crate::error::{Error, Result};
use crate::isa;
use crate::plan::Plan;

/// Memory of the program besides chunks: itself, and the description of the tensors.
const BASE_BYTES: u64 = 48 << 20;
/// Memory for the work unless something else is asked for.
const DEFAULT_BYTES: u64 = 256 << 20;
/// Most values in a chunk: as f32 they fit the second-level cache.
const MOST_VALUES: usize = 1 << 18;
/// Memory that a value of a chunk at work takes at most: stored, as f32, and encoded.
const BYTES_PER_VALUE: u64 = 8 + 4 + 4;
/// Name of the work whose memory depends on the number of tokens.
pub const CALIBRATION: &str = "calibration";

/// Number of threads, and the size of the chunks that they work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Threads that encode.
    pub threads: usize,
    /// Values in a chunk, unless a single row is longer.
    pub chunk_values: usize,
    /// The most memory that the work takes: the process' resident set.
    pub peak_bytes: u64,
}

impl Budget {
    /// A budget for `plan` within `max_bytes` of memory (by default 256 MiB) with at most `threads` threads.
    ///
    /// # Errors
    /// [`Error::Resources`] if one thread on single rows needs more.
    pub fn new(plan: &Plan, threads: usize, max_bytes: Option<u64>) -> Result<Budget> {
        let longest_row = plan.tensors.iter().map(|t| t.values.cols()).max().unwrap_or(1);
        let largest = plan.tensors.iter().map(|t| t.values.elements()).max().unwrap_or(1);
        // The description of the files is held twice while the result is verified.
        let fixed = BASE_BYTES + 2 * plan.frame_bytes();
        // What adapters need to change a chunk.
        let scratch = plan.tensors.iter().map(|t| t.values.scratch_values()).max().unwrap_or(0) as u64 * 4;
        let need = |threads: usize, values: usize| {
            fixed + threads as u64 * (scratch + values as u64 * BYTES_PER_VALUE)
        };
        let max_bytes = max_bytes.unwrap_or_else(|| DEFAULT_BYTES.max(need(1, longest_row)));
        let least = need(1, longest_row);
        if max_bytes < least {
            return Err(Error::Resources {
                what: format!("this conversion needs {} of memory at least", mib(least)),
                help: format!("allow that much: --max-memory {}", mib(least)),
            });
        }
        let per_thread = |threads: usize| {
            let bytes = (max_bytes - fixed) / threads as u64;
            (bytes.saturating_sub(scratch) / BYTES_PER_VALUE) as usize
        };
        let threads = (1..=threads.max(1)).rev().find(|t| per_thread(*t) >= longest_row).unwrap_or(1);
        let chunk_values = per_thread(threads).min(MOST_VALUES).min(largest).max(longest_row);
        Ok(Budget { threads, chunk_values, peak_bytes: need(threads, chunk_values) })
    }

    /// Takes work into account that comes before anything is written, and needs `bytes` of memory with so many threads:
    /// there are fewer where it would need more than `max_bytes`. `what` needs it, for messages.
    ///
    /// # Errors
    /// [`Error::Resources`] if one thread needs more.
    pub fn preparing(
        &mut self,
        what: &str,
        max_bytes: Option<u64>,
        bytes: impl Fn(usize) -> u64,
    ) -> Result<()> {
        let need = |threads: usize| BASE_BYTES.saturating_add(bytes(threads));
        let fits = |threads: &usize| max_bytes.is_none_or(|max| need(*threads) <= max);
        match (1..=self.threads.max(1)).rev().find(fits) {
            Some(threads) => {
                self.threads = threads;
                self.peak_bytes = self.peak_bytes.max(need(threads));
                Ok(())
            }
            None => Err(too_little(what, need(1))),
        }
    }

    /// Refuses work before there is a plan, `what`, that needs `bytes` of memory.
    ///
    /// # Errors
    /// [`Error::Resources`] if that is more than `max_bytes`.
    pub fn admit(what: &str, bytes: u64, max_bytes: Option<u64>) -> Result<()> {
        let need = BASE_BYTES.saturating_add(bytes);
        match max_bytes {
            Some(max) if max < need => Err(too_little(what, need)),
            _ => Ok(()),
        }
    }
}

/// Error for work that needs more memory than it may take; `what` names the work.
fn too_little(what: &str, need: u64) -> Error {
    let fewer = if what == CALIBRATION { ", or calibrate on fewer tokens" } else { "" };
    Error::Resources {
        what: format!("{what} needs {} of memory", mib(need)),
        help: format!("allow that much: --max-memory {}{fewer}", mib(need)),
    }
}

/// Most threads unless more are asked for: memory grows with them, and disks are slower than so many.
const MOST_DEFAULT_THREADS: usize = 64;

/// The number of threads unless it is asked for: as many as the machine runs at once, up to 64.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into).min(MOST_DEFAULT_THREADS)
}

/// Most threads of a pool for each that runs at once: more only wait for each other.
const MAX_THREADS_PER_CPU: usize = 8;

/// A pool of so many threads, or of as many as are of use, as [portable](isa::with_portable) as this one.
///
/// # Errors
/// [`Error::Resources`] if the system has none left.
pub fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    let portable = isa::is_portable();
    let threads = threads.min(MAX_THREADS_PER_CPU * default_threads());
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    builder.start_handler(move |_| isa::inherit(portable)).build().map_err(|e| Error::Resources {
        what: format!("cannot start {threads} threads: {e}"),
        help: "ask for fewer: --threads 1".to_owned(),
    })
}

fn mib(bytes: u64) -> String {
    format!("{}MiB", bytes.div_ceil(1 << 20))
}

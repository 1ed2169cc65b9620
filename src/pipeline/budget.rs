//! How much memory the work may take, and what follows for threads and chunks.

use crate::error::{Error, Result};
use crate::plan::Plan;

/// What the program needs besides chunks: itself, and the description of the tensors.
const BASE_BYTES: u64 = 48 << 20;
/// Memory for the work unless something else is asked for.
const DEFAULT_BYTES: u64 = 256 << 20;
/// Most values in a chunk: as f32 they fit the second-level cache.
const MOST_VALUES: usize = 1 << 18;
/// Memory that a value of a chunk at work takes at most: stored, as f32, and encoded.
const BYTES_PER_VALUE: u64 = 8 + 4 + 4;

/// How many threads work on chunks of which size.
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
        let chunk_values = per_thread(threads).min(MOST_VALUES).max(longest_row);
        Ok(Budget { threads, chunk_values, peak_bytes: need(threads, chunk_values) })
    }

    /// Takes `bytes` of memory into account that calibration needs before anything is written.
    ///
    /// # Errors
    /// [`Error::Resources`] if that is more than `max_bytes`.
    pub fn calibrating(&mut self, bytes: u64, max_bytes: Option<u64>) -> Result<()> {
        let need = BASE_BYTES + bytes;
        if max_bytes.is_some_and(|max| max < need) {
            return Err(Error::Resources {
                what: format!("calibration needs {} of memory", mib(need)),
                help: format!("allow that much (--max-memory {}), or calibrate on fewer tokens", mib(need)),
            });
        }
        self.peak_bytes = self.peak_bytes.max(need);
        Ok(())
    }
}

/// A pool of so many threads.
///
/// # Errors
/// [`Error::Resources`] if the system has none left.
pub fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| Error::Resources {
        what: format!("cannot start {threads} threads: {e}"),
        help: "ask for fewer: --threads 1".to_owned(),
    })
}

fn mib(bytes: u64) -> String {
    format!("{}MiB", bytes.div_ceil(1 << 20))
}

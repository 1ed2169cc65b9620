//! Many cells at once: as many as there are cores, as far as the memory goes; one that panics takes none with it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use sysinfo::System;

use crate::error::Result;
use crate::pipeline::Stop;

/// Interval at which a worker that waits for memory checks for a stop.
const PAUSE: Duration = Duration::from_millis(100);

/// Does `work` for all places below `count`, `at_once` of them at a time, and tells what came of each. `work` is told
/// how many of `cores` threads are its own.
pub(super) fn all<T: Send>(
    count: usize,
    at_once: usize,
    cores: usize,
    work: impl Fn(usize, usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(count));
    let worker = || {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if place >= count {
                return;
            }
            // The last ones have fewer neighbours.
            let threads = cores.div_ceil(at_once.min(count - place).max(1));
            let outcome = work(place, threads);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((place, outcome));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(count) {
            scope.spawn(worker);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Result of `work`, or the message of its panic.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(panic.as_ref()))
}

/// Message of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "for no stated reason".to_owned())
}

/// Memory that the cells at work share.
#[derive(Debug)]
pub(super) struct Memory {
    total_bytes: u64,
    free_bytes: Mutex<u64>,
    given_back: Condvar,
}

/// Share of the memory, reserved until it is dropped.
pub(super) struct Reservation<'a> {
    memory: &'a Memory,
    /// Amount in bytes.
    pub bytes: u64,
}

impl Memory {
    /// Memory of so many bytes, by default half of what the machine, or the container, has.
    pub fn new(total_bytes: Option<u64>) -> Memory {
        let total_bytes = total_bytes.unwrap_or_else(|| {
            let mut system = System::new();
            system.refresh_memory();
            system.cgroup_limits().map_or(system.total_memory(), |l| l.total_memory) / 2
        });
        Memory { total_bytes, free_bytes: Mutex::new(total_bytes), given_back: Condvar::new() }
    }

    /// Waits for `bytes`, or for all there are if they are fewer.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn take(&self, bytes: u64, stop: &Stop) -> Result<Reservation<'_>> {
        let bytes = bytes.min(self.total_bytes);
        let mut free = self.free_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < bytes {
            stop.check()?;
            let waited = self.given_back.wait_timeout(free, PAUSE);
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= bytes;
        Ok(Reservation { memory: self, bytes })
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        *self.memory.free_bytes.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.memory.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn all_are_done_and_panics_are_caught() {
        assert_eq!(all(7, 3, 4, |place, _| place * 10), [0, 10, 20, 30, 40, 50, 60]);
        assert!(all(0, 3, 4, |place, _| place).is_empty());
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| panic!("cell {}", 2)), Err::<(), _>("cell 2".to_owned()));
    }

    #[test]
    fn threads_are_shared_and_the_last_cells_have_more() {
        assert_eq!(all(5, 4, 8, |_, threads| threads), [2, 2, 3, 4, 8]);
    }

    #[test]
    fn memory_is_waited_for_and_given_back() {
        let (memory, stop, used) = (Memory::new(Some(100)), Stop::new(), AtomicUsize::new(0));
        let most = Mutex::new(0);
        all(20, 8, 8, |_, _| {
            let held = memory.take(40, &stop).unwrap();
            let now = used.fetch_add(1, Ordering::SeqCst) + 1;
            let mut most = most.lock().unwrap();
            *most = now.max(*most);
            drop(most);
            std::thread::sleep(Duration::from_millis(2));
            used.fetch_sub(1, Ordering::SeqCst);
            drop(held);
        });
        assert_eq!(*most.lock().unwrap(), 2);
        assert_eq!(memory.take(1000, &stop).unwrap().bytes, 100, "one that needs more has all of it");
        let _all = memory.take(100, &stop).unwrap();
        stop.ask();
        assert!(matches!(memory.take(1, &stop), Err(Error::Interrupted)));
        assert!(Memory::new(None).total_bytes > 1 << 20);
    }
}

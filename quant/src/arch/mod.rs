//! Instruction sets: which one this processor has, and how a kernel is compiled for each.
//!
//! A kernel is written once, in plain Rust, and compiled once for every [`Level`]. The levels differ in speed
//! only: Rust never contracts or reorders floating point operations, so the bytes are the same at each.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod sse2;
mod twice;

pub(crate) use lanes::{Lanes, nearest_int};
pub(crate) use twice::Twice;

/// A set of instructions that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// Plain Rust.
    Scalar,
    /// Instructions that every processor of the architecture has: SSE2 on x86-64, NEON on AArch64, else plain Rust.
    Baseline,
    /// AVX2, F16C, POPCNT.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
}

impl Level {
    /// The levels that this processor can run, slowest first.
    pub fn available() -> impl Iterator<Item = Level> {
        [Level::Scalar, Level::Baseline, Level::Avx2, Level::Avx512].into_iter().filter(|l| l.is_available())
    }

    /// The level of this name: `portable`, `sse2` (or `neon`: the baseline), `avx2`, `avx512`.
    pub fn named(name: &str) -> Option<Level> {
        LEVEL_NAMES.iter().find(|(known, _)| *known == name).map(|(_, level)| *level)
    }

    fn is_available(self) -> bool {
        match self {
            Level::Scalar | Level::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Level::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// Levels by the names that people know.
pub const LEVEL_NAMES: [(&str, Level); 5] = [
    ("portable", Level::Scalar),
    ("sse2", Level::Baseline),
    ("neon", Level::Baseline),
    ("avx2", Level::Avx2),
    ("avx512", Level::Avx512),
];

/// The level that the codecs of all threads are held to, as a number.
static PROCESS_LIMIT: AtomicU8 = AtomicU8::new(Level::Avx512 as u8);

/// Holds the codecs of all threads to `level` or below.
pub fn limit_process(level: Level) {
    PROCESS_LIMIT.store(level as u8, Ordering::Relaxed);
}

/// True if [`limit_process`] allows `level`.
pub fn is_allowed(level: Level) -> bool {
    level as u8 <= PROCESS_LIMIT.load(Ordering::Relaxed)
}

thread_local! {
    static LIMIT: Cell<Level> = const { Cell::new(Level::Avx512) };
}

/// Runs `f` with the codecs of this thread held to `level` or below (to compare levels in tests and benches).
pub fn with_limit<R>(level: Level, f: impl FnOnce() -> R) -> R {
    struct Restore(Level);
    impl Drop for Restore {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }
    let _restore = Restore(LIMIT.replace(level));
    f()
}

/// Work that is compiled for every level.
pub(crate) trait Kernel {
    type Output;

    /// Does the work. Implementations are `#[inline(always)]`, and so is what they call in inner loops, so that
    /// the code is compiled with the instructions of the caller.
    fn run<S: Lanes>(self, lanes: S) -> Self::Output;
}

/// Runs `kernel` at the best level that this processor has.
#[allow(unsafe_code)]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    let limit = LIMIT.get();
    let allows = |level: Level| limit >= level && is_allowed(level);
    #[cfg(target_arch = "x86_64")]
    {
        if allows(Level::Avx512) && Level::Avx512.is_available() {
            // SAFETY: the features that `avx512` needs were found on this processor.
            return unsafe { avx512(kernel) };
        }
        if allows(Level::Avx2) && Level::Avx2.is_available() {
            // SAFETY: the features that `avx2` needs were found on this processor.
            return unsafe { avx2(kernel) };
        }
    }
    if allows(Level::Baseline) {
        #[cfg(target_arch = "x86_64")]
        return kernel.run(sse2::Sse2::new());
        #[cfg(target_arch = "aarch64")]
        return kernel.run(neon::Neon);
    }
    kernel.run(scalar::Scalar)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c,popcnt")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(avx2::Avx2::new())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(avx512::Avx512::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_restored() {
        let before = LIMIT.get();
        with_limit(Level::Baseline, || assert_eq!(LIMIT.get(), Level::Baseline));
        assert_eq!(LIMIT.get(), before);
        assert_eq!(Level::available().next(), Some(Level::Scalar));
    }
}

//! Instruction sets that kernels are held to: by the environment variable `RWKV_QUANT_ISA`, and by `--portable`.
//!
//! Encoders give the same bytes at every instruction set. Forward passes do not: processors with fused multiply-add round
//! once where others round twice, so what is calibrated or measured differs in its last bits between the two. Portable
//! work rounds twice everywhere. (`docs/determinism.md` lists what depends on what.)

use std::cell::Cell;

use quant::arch::{self, LEVEL_NAMES};

use crate::error::{Error, Result};

/// Environment variable that names the best instruction set that may be used.
pub const VARIABLE: &str = "RWKV_QUANT_ISA";

thread_local! {
    static PORTABLE: Cell<bool> = const { Cell::new(false) };
}

/// Holds all threads to the instruction set that [`VARIABLE`] names, if it is set. To be called before any work.
///
/// # Errors
/// [`Error::Usage`] if it names none.
pub fn limit_by_environment() -> Result<()> {
    let Some(name) = std::env::var_os(VARIABLE) else { return Ok(()) };
    match name.to_str().and_then(arch::Level::named) {
        Some(level) => {
            arch::limit_process(level);
            Ok(())
        }
        None => {
            let names: Vec<&str> = LEVEL_NAMES.iter().map(|(name, _)| *name).collect();
            Err(Error::Usage {
                what: format!(
                    "the environment variable {VARIABLE} names no instruction set: {}",
                    name.display()
                ),
                help: format!("set it to one of {}, or unset it", names.join(", ")),
            })
        }
    }
}

/// Runs `work` with the forward passes of this thread, and of pools of threads that it makes, without fused multiply-add
/// if `portable`.
pub fn with_portable<R>(portable: bool, work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            PORTABLE.set(self.0);
        }
    }
    let _restore = Restore(PORTABLE.replace(portable || PORTABLE.get()));
    work()
}

/// True if this thread computes without fused multiply-add.
pub fn is_portable() -> bool {
    PORTABLE.get()
}

/// Makes this thread as portable as the one that started it.
pub(crate) fn inherit(portable: bool) {
    PORTABLE.set(portable);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portability_is_inherited_by_pools_and_restored() {
        with_portable(true, || {
            let pool = crate::pipeline::pool(2).unwrap();
            assert!(is_portable() && pool.install(is_portable));
            with_portable(false, || assert!(is_portable()));
        });
        assert!(!is_portable() && !crate::pipeline::pool(1).unwrap().install(is_portable));
    }
}

//! Memory promises, kept in a child process.

use std::path::Path;

use crate::run::{program, run};

/// Peak resident memory of a run of the program, in bytes.
fn peak_rss(args: &[&str]) -> u64 {
    let mut child = program().args(args).spawn().unwrap();
    let id = child.id() as i32;
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    // SAFETY: the pointers are to live locals of the right types, and the process is our child.
    let waited = unsafe { libc::wait4(id, &mut status, 0, &mut usage) };
    assert_eq!(waited, id);
    let _ = child.try_wait();
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{args:?}");
    usage.ru_maxrss as u64 * 1024
}

/// Writes a synthetic checkpoint with the committed tool.
fn synthetic(path: &Path, layers: &str, embd: &str) {
    rwkv_quant::testing::synthetic_rwkv7(path, layers.parse().unwrap(), embd.parse().unwrap(), 4096).unwrap();
}

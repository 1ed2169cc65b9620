//! Settings of the process that only the C library has.

#![allow(unsafe_code)] // functions of the C library

/// Lets every buffer of a megabyte or more go back to the system when it is freed.
///
/// glibc does so at first, but raises the size to that of what it sees freed, 32 MB at most; what is smaller stays with the
/// program, in pieces: a third more memory in a calibration of a large model (`benches/calibration_cost.py`).
pub fn return_large_buffers() {
    // SAFETY: sets a number of the allocator, before there is another thread.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20) };
}

/// Lets a write beyond the limit on the size of files (`ulimit -f`) fail, as on a full disk, instead of ending the
/// program.
pub fn report_large_files() {
    // SAFETY: ignores a signal, before there is another thread.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

//! The product in plain Rust, which is the definition of what the others compute: tiles of 4 x 16 results, which
//! fill 16 of NEON's 32 registers.

#![allow(unsafe_code)] // results are written through pointers that tiles share

use super::{Arithmetic, Shape};

/// Results of a tile.
pub(super) const SHAPE: Shape = Shape { rows: ROWS, cols: COLS };

const ROWS: usize = 4;
const COLS: usize = 16;

/// See [`super::Level::tile`].
///
/// # Safety
/// There are [`ROWS`] rows of [`COLS`] values at `out`, `stride` apart.
pub(super) unsafe fn tile<A: Arithmetic>(x: &[f32], w: &[f32], out: *mut f32, stride: usize, add: bool) {
    let mut sums = [[0.0; COLS]; ROWS];
    for (x, w) in x.as_chunks::<ROWS>().0.iter().zip(w.as_chunks::<COLS>().0) {
        for (x, sums) in x.iter().zip(&mut sums) {
            for (w, sum) in w.iter().zip(sums) {
                *sum = A::fma(*x, *w, *sum);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: the caller says that these values are there.
        let out = unsafe { std::slice::from_raw_parts_mut(out.add(i * stride), COLS) };
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if add { *out + sum } else { *sum };
        }
    }
}

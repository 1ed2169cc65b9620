//! The product with AVX2 and FMA: tiles of 6 x 16 results, which fill 12 of the 16 registers.

#![allow(unsafe_code)] // instructions of one set

use std::arch::x86_64::*;

use super::{Fused, Kernel, Shape};

/// Results of a tile.
pub(super) const SHAPE: Shape = Shape { rows: ROWS, cols: 2 * LANES };

const ROWS: usize = 6;
/// Values of a register.
const LANES: usize = 8;

/// Runs a kernel with AVX2 and FMA.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<K: Kernel>(kernel: K) {
    kernel.run::<Fused>();
}

/// See [`super::Level::tile`].
///
/// # Safety
/// There are [`ROWS`] rows of two registers of values at `out`, `stride` apart.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile(x: &[f32], w: &[f32], out: *mut f32, stride: usize, add: bool) {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for (x, w) in x.as_chunks::<ROWS>().0.iter().zip(w.as_chunks::<{ 2 * LANES }>().0) {
        // SAFETY: there are two registers of values.
        let w = unsafe { [_mm256_loadu_ps(w.as_ptr()), _mm256_loadu_ps(w[LANES..].as_ptr())] };
        for (x, sums) in x.iter().zip(&mut sums) {
            let x = _mm256_set1_ps(*x);
            sums[0] = _mm256_fmadd_ps(x, w[0], sums[0]);
            sums[1] = _mm256_fmadd_ps(x, w[1], sums[1]);
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (n, sum) in sums.iter().enumerate() {
            // SAFETY: the caller says that these values are there.
            unsafe {
                let out = out.add(i * stride + n * LANES);
                let sum = if add { _mm256_add_ps(_mm256_loadu_ps(out), *sum) } else { *sum };
                _mm256_storeu_ps(out, sum);
            }
        }
    }
}

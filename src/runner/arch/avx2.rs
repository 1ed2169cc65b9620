//! The product with AVX2 and FMA: tiles of 3 x 2 dot products, whose partial sums fill 12 of the 16 registers.

use std::arch::x86_64::*;

use super::{BLOCK, Columns, Fused, Kernel, LANES, Operand};

/// Rows of a tile.
const ROWS: usize = 3;
/// Columns of a tile.
const COLS: usize = 2;
/// Values of a register.
const HALF: usize = LANES / 2;

/// Runs a kernel with AVX2 and FMA.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<K: Kernel>(kernel: K) {
    kernel.run::<Fused>();
}

/// See [`super::product`].
///
/// # Safety
/// All rows of both operands lie within their slices.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn product(x: Operand<'_>, w: Operand<'_>, len: usize, out: &mut Columns<'_>) {
    let mut start = 0;
    loop {
        let block = BLOCK.min(len - start);
        for i in (0..x.rows).step_by(ROWS) {
            for j in (0..w.rows).step_by(COLS) {
                let xp = x.data[i * x.stride + start..].as_ptr();
                let wp = w.data[j * w.stride + start..].as_ptr();
                let size = (ROWS.min(x.rows - i), COLS.min(w.rows - j));
                // SAFETY: the caller found that these rows have `len` elements.
                unsafe {
                    match size {
                        (3, 2) => tile::<3, 2>((xp, x.stride), (wp, w.stride), block, (i, j), start > 0, out),
                        (2, 2) => tile::<2, 2>((xp, x.stride), (wp, w.stride), block, (i, j), start > 0, out),
                        (1, 2) => tile::<1, 2>((xp, x.stride), (wp, w.stride), block, (i, j), start > 0, out),
                        (3, 1) => tile::<3, 1>((xp, x.stride), (wp, w.stride), block, (i, j), start > 0, out),
                        (2, 1) => tile::<2, 1>((xp, x.stride), (wp, w.stride), block, (i, j), start > 0, out),
                        _ => tile::<1, 1>((xp, x.stride), (wp, w.stride), block, (i, j), start > 0, out),
                    }
                }
            }
        }
        start += block;
        if start >= len {
            return;
        }
    }
}

/// `M` rows and `N` columns from `at` on; adds to what is there if `add`.
///
/// # Safety
/// The rows have `len` elements, a multiple of [`LANES`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const M: usize, const N: usize>(
    (x, xs): (*const f32, usize),
    (w, ws): (*const f32, usize),
    len: usize,
    at: (usize, usize),
    add: bool,
    out: &mut Columns<'_>,
) {
    let mut sums = [[[_mm256_setzero_ps(); 2]; N]; M];
    for k in (0..len).step_by(LANES) {
        for half in 0..2 {
            let k = k + half * HALF;
            let mut ws_at = [_mm256_setzero_ps(); N];
            for (n, v) in ws_at.iter_mut().enumerate() {
                // SAFETY: `k + HALF <= len`.
                *v = unsafe { _mm256_loadu_ps(w.add(n * ws + k)) };
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = unsafe { _mm256_loadu_ps(x.add(m * xs + k)) };
                for n in 0..N {
                    sums[n][half] = _mm256_fmadd_ps(x, ws_at[n], sums[n][half]);
                }
            }
        }
    }
    for (m, sums) in sums.iter().enumerate() {
        for (n, s) in sums.iter().enumerate() {
            let out = &mut out.row(at.0 + m, at.1 + n, 1)[0];
            let value = join(s);
            *out = if add { *out + value } else { value };
        }
    }
}

/// [`super::join`] of the partial sums 0 to 7 and 8 to 15.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn join(s: &[__m256; 2]) -> f32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: `lanes` has room for both halves.
    unsafe {
        _mm256_storeu_ps(lanes.as_mut_ptr(), s[0]);
        _mm256_storeu_ps(lanes.as_mut_ptr().add(HALF), s[1]);
    }
    super::join(&lanes)
}

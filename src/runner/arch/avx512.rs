//! The product with AVX-512: tiles of 6 x 4 dot products, whose partial sums fill 24 of the 32 registers.

use std::arch::x86_64::*;

use super::{BLOCK, Columns, Fused, Kernel, LANES, Operand};

/// Rows of a tile.
const ROWS: usize = 6;
/// Columns of a tile.
const COLS: usize = 4;

/// Runs a kernel with AVX-512 F.
#[target_feature(enable = "avx2,fma,f16c,avx512f")]
pub(super) fn run<K: Kernel>(kernel: K) {
    kernel.run::<Fused>();
}

/// See [`super::product`].
///
/// # Safety
/// All rows of both operands lie within their slices.
#[target_feature(enable = "avx2,fma,avx512f")]
pub(super) unsafe fn product(x: Operand<'_>, w: Operand<'_>, len: usize, out: &mut Columns<'_>) {
    let mut start = 0;
    loop {
        let block = BLOCK.min(len - start);
        let mut i = 0;
        while i < x.rows {
            let rows = ROWS.min(x.rows - i);
            for j in (0..w.rows).step_by(COLS) {
                let cols = COLS.min(w.rows - j);
                let tile = Tile {
                    x: x.data[i * x.stride + start..].as_ptr(),
                    xs: x.stride,
                    w: w.data[j * w.stride + start..].as_ptr(),
                    ws: w.stride,
                    len: block,
                };
                // SAFETY: the caller found that these rows have `len` elements.
                unsafe {
                    match (rows, cols) {
                        (6, 4) => tile.whole::<6>(i, j, start > 0, out),
                        (5, 4) => tile.whole::<5>(i, j, start > 0, out),
                        (4, 4) => tile.whole::<4>(i, j, start > 0, out),
                        (3, 4) => tile.whole::<3>(i, j, start > 0, out),
                        (2, 4) => tile.whole::<2>(i, j, start > 0, out),
                        (1, 4) => tile.whole::<1>(i, j, start > 0, out),
                        _ => tile.rest(rows, cols, i, j, start > 0, out),
                    }
                }
            }
            i += rows;
        }
        start += block;
        if start >= len {
            return;
        }
    }
}

/// Where the rows of one tile start.
#[derive(Clone, Copy)]
struct Tile {
    x: *const f32,
    xs: usize,
    w: *const f32,
    ws: usize,
    len: usize,
}

impl Tile {
    /// `M` rows and [`COLS`] columns; adds to what is there if `add`.
    ///
    /// # Safety
    /// The rows have `len` elements, a multiple of [`LANES`].
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f")]
    unsafe fn whole<const M: usize>(self, i: usize, j: usize, add: bool, out: &mut Columns<'_>) {
        let mut sums = [[_mm512_setzero_ps(); COLS]; M];
        let mut at = 0;
        while at < self.len {
            let mut w = [_mm512_setzero_ps(); COLS];
            for (n, w) in w.iter_mut().enumerate() {
                // SAFETY: `at + LANES <= len`.
                *w = unsafe { _mm512_loadu_ps(self.w.add(n * self.ws + at)) };
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = unsafe { _mm512_loadu_ps(self.x.add(m * self.xs + at)) };
                for n in 0..COLS {
                    sums[n] = _mm512_fmadd_ps(x, w[n], sums[n]);
                }
            }
            at += LANES;
        }
        for (m, sums) in sums.iter().enumerate() {
            let mut four = join_four(sums);
            let out = out.row(i + m, j, COLS);
            // SAFETY: `out` has four elements.
            unsafe {
                if add {
                    four = _mm_add_ps(_mm_loadu_ps(out.as_ptr()), four);
                }
                _mm_storeu_ps(out.as_mut_ptr(), four);
            }
        }
    }

    /// Any number of rows and columns, one by one.
    ///
    /// # Safety
    /// The rows have `len` elements, a multiple of [`LANES`].
    #[target_feature(enable = "avx2,fma,avx512f")]
    unsafe fn rest(self, rows: usize, cols: usize, i: usize, j: usize, add: bool, out: &mut Columns<'_>) {
        for m in 0..rows {
            for n in 0..cols {
                let mut sum = _mm512_setzero_ps();
                for at in (0..self.len).step_by(LANES) {
                    // SAFETY: `at + LANES <= len`.
                    unsafe {
                        let x = _mm512_loadu_ps(self.x.add(m * self.xs + at));
                        let w = _mm512_loadu_ps(self.w.add(n * self.ws + at));
                        sum = _mm512_fmadd_ps(x, w, sum);
                    }
                }
                let zero = _mm512_setzero_ps();
                let value = _mm_cvtss_f32(join_four(&[sum, zero, zero, zero]));
                let out = &mut out.row(i + m, j + n, 1)[0];
                *out = if add { *out + value } else { value };
            }
        }
    }
}

/// [`super::join`] of four vectors of partial sums at once.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f")]
fn join_four(s: &[__m512; COLS]) -> __m128 {
    // Within each quarter: [a0 + a2, b0 + b2, a1 + a3, b1 + b3], then [a, b, c, d].
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(s[0], s[1]), _mm512_unpackhi_ps(s[0], s[1]));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(s[2], s[3]), _mm512_unpackhi_ps(s[2], s[3]));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let quads = _mm512_add_ps(
        _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)),
    );
    // Quarters 0 + 2 and 1 + 3, then both.
    let high = _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0b1110>(quads, quads));
    let halves = _mm256_add_ps(_mm512_castps512_ps256(quads), high);
    _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves))
}

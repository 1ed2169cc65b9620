//! The product with AVX-512: tiles of 12 x 32 results, which fill 24 of the 32 registers.

#![allow(unsafe_code)] // instructions of one set

use std::arch::x86_64::*;

use super::{Fused, Kernel, Shape};

/// Results of a tile.
pub(super) const SHAPE: Shape = Shape { rows: ROWS, cols: 2 * LANES };

const ROWS: usize = 12;
/// Steps of the loop after which a line of weights arrives that is asked for now: a block of a strip is larger than
/// the first-level cache.
const AHEAD: usize = 16;
/// Values of a register.
const LANES: usize = 16;

/// Runs a kernel with AVX-512 F.
#[target_feature(enable = "avx2,fma,f16c,avx512f")]
pub(super) fn run<K: Kernel>(kernel: K) {
    kernel.run::<Fused>();
}

/// See [`super::Level::tile`].
///
/// # Safety
/// There are [`ROWS`] rows of two registers of values at `out`, `stride` apart.
#[allow(clippy::needless_range_loop)] // calls of iterators remain in builds without optimization across units
#[target_feature(enable = "avx2,fma,avx512f")]
pub(super) unsafe fn tile(x: &[f32], w: &[f32], out: *mut f32, stride: usize, add: bool) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    // The results are wanted once the loop is through.
    for i in 0..ROWS {
        for n in 0..2 {
            _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(i * stride + n * LANES).cast());
        }
    }
    let (x, w) = (x.as_chunks::<ROWS>().0, w.as_chunks::<{ 2 * LANES }>().0);
    for k in 0..x.len().min(w.len()) {
        let (x, w) = (&x[k], &w[k]);
        for line in [0, LANES] {
            _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(AHEAD * w.len() + line).cast());
        }
        // SAFETY: there are two registers of values.
        let w = unsafe { [_mm512_loadu_ps(w.as_ptr()), _mm512_loadu_ps(w[LANES..].as_ptr())] };
        for i in 0..ROWS {
            let x = _mm512_set1_ps(x[i]);
            sums[i][0] = _mm512_fmadd_ps(x, w[0], sums[i][0]);
            sums[i][1] = _mm512_fmadd_ps(x, w[1], sums[i][1]);
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (n, sum) in sums.iter().enumerate() {
            // SAFETY: the caller says that these values are there.
            unsafe {
                let out = out.add(i * stride + n * LANES);
                let sum = if add { _mm512_add_ps(_mm512_loadu_ps(out), *sum) } else { *sum };
                _mm512_storeu_ps(out, sum);
            }
        }
    }
}

/// Interleaves 16 values of each of up to 16 rows: `out[k * width + i] = rows[i][k]`.
///
/// # Safety
/// All `rows` point to 16 values; at `out` there is room for 15 times `width` values and 16 more.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn interleave(rows: &[*const f32; LANES], out: *mut f32, width: usize) {
    // SAFETY: the caller says that the values are there.
    let r = rows.map(|row| unsafe { _mm512_loadu_ps(row) });
    let pairs = |r: &[__m512; LANES]| {
        let mut t = *r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        t
    };
    let t = pairs(&r);
    let mut r = t;
    for i in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|n| _mm512_castps_pd(t[4 * i + n]));
        r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    // r[4 i + j] has in quarter q the value 4 q + j of the rows 4 i to 4 i + 3.
    for j in 0..4 {
        let (a, b, c, d) = (r[j], r[4 + j], r[8 + j], r[12 + j]);
        let (ab02, cd02) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
        let (ab13, cd13) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
        r[j] = _mm512_shuffle_f32x4::<0x88>(ab02, cd02);
        r[4 + j] = _mm512_shuffle_f32x4::<0x88>(ab13, cd13);
        r[8 + j] = _mm512_shuffle_f32x4::<0xdd>(ab02, cd02);
        r[12 + j] = _mm512_shuffle_f32x4::<0xdd>(ab13, cd13);
    }
    // In order: where `width` is less than 16, what one store writes too much the next ones replace.
    for (k, values) in r.iter().enumerate() {
        // SAFETY: the caller says that there is room.
        unsafe { _mm512_storeu_ps(out.add(k * width), *values) };
    }
}

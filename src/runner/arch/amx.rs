//! Products on Intel's matrix unit (AMX), which multiplies bf16 and adds in f32: for `--fast`.
//!
//! A value of f32 is written as the sum of two of bf16 (16 bits of its 24), and of the four products of two such
//! sums the largest three are computed; weights that are bf16 already have one part, and two products are exact but
//! for the 8 bits that the activations lose. One instruction multiplies 16 x 32 by 32 x 16 values, 16 times as many
//! as two of AVX-512's multiply-adds.
//!
//! The instructions have no stable intrinsics, so they are written as assembly. The operating system must allow a
//! process the unit's registers first.

use std::arch::asm;
use std::sync::OnceLock;

use super::Columns;

/// Rows and columns of the block of results that one loop computes: 2 x 2 tiles of 16 x 16.
pub(in crate::runner) const SIDE: usize = 32;
/// Values of a row of a tile.
pub(in crate::runner) const DEPTH: usize = 32;
/// Values of the two tiles of weights that belong together.
const STEP: usize = SIDE * DEPTH;

/// Whether this processor has the unit and this process may use it.
pub(in crate::runner) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_unit() && permitted())
}

/// Whether the processor has AMX with bf16.
fn has_unit() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let needed = AMX_BF16 | AMX_TILE;
    is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
        && __cpuid(0).eax >= 7
        && __cpuid_count(7, 0).edx & needed == needed
}

/// Asks Linux for the registers of the unit (arch_prctl, ARCH_REQ_XCOMP_PERM).
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: this system call takes two numbers and touches no memory; the kernel changes rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Rows of bf16 pairs: `high + low` is the value. They lie in tiles, one after the other as products take them.
#[derive(Debug, Default)]
pub(in crate::runner) struct Pairs {
    high: Vec<u16>,
    low: Vec<u16>,
    /// Values of a row, a multiple of [`DEPTH`].
    len: usize,
    rows: usize,
}

/// Where the weights of a panel come from.
#[derive(Clone, Copy)]
pub(in crate::runner) enum Rows<'a> {
    /// Rows of f32.
    Wide(&'a [f32]),
    /// Rows of little-endian bf16 without gaps, which one part holds exactly.
    Half(&'a [u8]),
}

impl Pairs {
    /// Rows of `cols` values, in tiles of 16 rows by [`DEPTH`] columns, filled with zeros.
    pub fn activations(&mut self, data: &[f32], cols: usize) {
        use rayon::prelude::*;
        self.rows = data.len().checked_div(cols).unwrap_or(0);
        self.len = cols.next_multiple_of(DEPTH);
        let size = self.rows.next_multiple_of(SIDE) * self.len;
        self.high.resize(size, 0);
        self.low.resize(size, 0);
        let block = 16 * self.len;
        (self.high.par_chunks_mut(block)).zip(self.low.par_chunks_mut(block)).enumerate().for_each(
            |(n, (high, low))| {
                for i in 0..16 {
                    let at = (n * 16 + i) * cols;
                    let x = data.get(at..at + cols).unwrap_or_default();
                    // SAFETY: the unit is only used where AVX-512 and its bf16 are (`available`).
                    unsafe { split_row(x, i, high, low) };
                }
            },
        );
    }

    /// Weights, `rows` rows of `cols` values, in the order in which tiles take them: for every [`SIDE`] rows and
    /// [`DEPTH`] columns two tiles of 16 rows, in which two neighbours of one row lie together and the pairs of 16
    /// rows side by side.
    pub fn weights(&mut self, source: Rows<'_>, rows: usize, cols: usize) {
        self.len = cols.next_multiple_of(DEPTH);
        self.rows = rows;
        let size = rows.next_multiple_of(SIDE) * self.len;
        self.high.resize(size, 0);
        self.low.resize(if matches!(source, Rows::Half(_)) { 0 } else { size }, 0);
        for tile in 0..size / 16 / self.len {
            for step in 0..self.len / DEPTH {
                let at = tile / 2 * SIDE * self.len + tile % 2 * 512 + step * STEP;
                let (mut high, mut low) = ([[0u16; DEPTH]; 16], [[0u16; DEPTH]; 16]);
                for n in 0..16.min(rows.saturating_sub(tile * 16)) {
                    let row = tile * 16 + n;
                    let (from, to) = (step * DEPTH, cols.min((step + 1) * DEPTH));
                    match source {
                        Rows::Half(bytes) => {
                            let bytes = &bytes[(row * cols + from) * 2..(row * cols + to) * 2];
                            for (value, two) in high[n].iter_mut().zip(bytes.as_chunks::<2>().0) {
                                *value = u16::from_le_bytes(*two);
                            }
                        }
                        Rows::Wide(data) => {
                            let mut values = [0.0; DEPTH];
                            let row = &data[row * cols + from..row * cols + to];
                            values[..row.len()].copy_from_slice(row);
                            // SAFETY: as in `activations`.
                            unsafe { split(&values, &mut high[n], &mut low[n]) };
                        }
                    }
                }
                // SAFETY: as in `activations`.
                unsafe {
                    transpose(&high, &mut self.high[at..at + 512]);
                    if !self.low.is_empty() {
                        transpose(&low, &mut self.low[at..at + 512]);
                    }
                }
            }
        }
    }
}

/// Splits row `i` of a block of tiles into its high and low parts, and fills up with zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn split_row(x: &[f32], i: usize, high: &mut [u16], low: &mut [u16]) {
    let tiles = high.chunks_exact_mut(16 * DEPTH).zip(low.chunks_exact_mut(16 * DEPTH));
    let mut rest = x;
    for (high, low) in tiles {
        let mut values = [0.0; DEPTH];
        let n = rest.len().min(DEPTH);
        values[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        split(&values, &mut high[i * DEPTH..(i + 1) * DEPTH], &mut low[i * DEPTH..(i + 1) * DEPTH]);
    }
}

/// The nearest bf16 of 32 values, and the nearest bf16 of what they lack.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn split(values: &[f32; DEPTH], high: &mut [u16], low: &mut [u16]) {
    use std::arch::x86_64::*;
    assert!(high.len() == DEPTH && low.len() == DEPTH);
    // SAFETY: there are 32 values each.
    unsafe {
        let (a, b) = (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values[16..].as_ptr()));
        let near: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(b, a));
        _mm512_storeu_si512(high.as_mut_ptr().cast(), near);
        let widen = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
        let rest_a = _mm512_sub_ps(a, widen(_mm512_castsi512_si256(near)));
        let rest_b = _mm512_sub_ps(b, widen(_mm512_extracti64x4_epi64::<1>(near)));
        let rest: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(rest_b, rest_a));
        _mm512_storeu_si512(low.as_mut_ptr().cast(), rest);
    }
}

/// `out[pair][row] = rows[row][pair]`, where a pair is two neighbouring values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn transpose(rows: &[[u16; DEPTH]; 16], out: &mut [u16]) {
    use std::arch::x86_64::*;
    assert!(out.len() == 512);
    let mut r = [_mm512_setzero_si512(); 16];
    for (r, row) in r.iter_mut().zip(rows) {
        // SAFETY: a row has 32 values.
        *r = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
    }
    // Words, then pairs of words, within quarters; then the quarters.
    let mut t = r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // r[4 i + j] has in quarter q the column 4 q + j of the rows 4 i to 4 i + 3.
    for j in 0..4 {
        let (a, b, c, d) = (r[j], r[4 + j], r[8 + j], r[12 + j]);
        let (ab02, cd02) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
        let (ab13, cd13) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
        let columns = [
            _mm512_shuffle_i32x4::<0x88>(ab02, cd02),
            _mm512_shuffle_i32x4::<0x88>(ab13, cd13),
            _mm512_shuffle_i32x4::<0xdd>(ab02, cd02),
            _mm512_shuffle_i32x4::<0xdd>(ab13, cd13),
        ];
        for (q, column) in columns.into_iter().enumerate() {
            // SAFETY: column 4 q + j starts 32 values apart for each, the last at 480 of 512.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().add((4 * q + j) * 32).cast(), column) };
        }
    }
}

/// What `ldtilecfg` takes: every register 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut i = 0;
    while i < 8 {
        row_bytes[i] = 64;
        rows[i] = 16;
        i += 1;
    }
    Config { palette: 1, start: 0, reserved: [0; 14], row_bytes, rows }
};

/// A block of results.
#[repr(C, align(64))]
struct Block([f32; SIDE * SIDE]);

/// `out[i][j] = x_i . w_j`.
///
/// # Panics
/// If the unit is not [`available`], or sizes do not fit.
pub(in crate::runner) fn product(x: &Pairs, w: &Pairs, out: &mut Columns<'_>) {
    assert!(available() && x.len == w.len && out.rows() == x.rows && out.cols() == w.rows);
    assert!(x.high.len() >= x.rows.next_multiple_of(SIDE) * x.len && x.low.len() == x.high.len());
    assert!(w.high.len() >= w.rows.next_multiple_of(SIDE) * w.len);
    assert!(w.low.is_empty() || w.low.len() == w.high.len());
    // SAFETY: the unit is available. No compiled code uses its registers, so they keep their values between the
    // pieces of assembly up to `tilerelease`.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
    for i in (0..x.rows).step_by(SIDE) {
        for j in (0..w.rows).step_by(SIDE) {
            let mut block = Block([0.0; SIDE * SIDE]);
            let (a, b) = (i * x.len, j * w.len);
            // SAFETY: rows `i..i + SIDE` of x and both tiles of rows `j..j + SIDE` of w were found to be there
            // (`next_multiple_of`), each of `len` values, a multiple of DEPTH.
            unsafe {
                two(&x.high[a..], &x.low[a..], &w.high[b..], x.len, &mut block);
                if !w.low.is_empty() {
                    one(&x.high[a..], &w.low[b..], x.len, &mut block);
                }
            }
            let cols = SIDE.min(w.rows - j);
            for (n, row) in block.0.chunks(SIDE).take(x.rows - i).enumerate() {
                out.row(i + n, j, cols).copy_from_slice(&row[..cols]);
            }
        }
    }
    // SAFETY: ends the use of the registers.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}

/// `block = (high + low) w`.
///
/// # Safety
/// The tile registers are configured; all slices hold [`SIDE`] rows of `len` values.
unsafe fn two(high: &[u16], low: &[u16], w: &[u16], len: usize, block: &mut Block) {
    let half = 16 * len;
    // SAFETY: every tile loaded lies within the slices, as the caller says; the block has 32 rows of 128 bytes.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{w} + {tile}]",
            "tileloadd tmm7, [{w} + {tile} + 1024]",
            "tileloadd tmm4, [{h0} + {tile}]",
            "tileloadd tmm5, [{h1} + {tile}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{l0} + {tile}]",
            "tileloadd tmm5, [{l1} + {tile}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {w}, 2048",
            "add {h0}, 1024",
            "add {h1}, 1024",
            "add {l0}, 1024",
            "add {l1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {row}], tmm0",
            "tilestored [{out} + {row} + 64], tmm1",
            "tilestored [{out} + {row} + 2048], tmm2",
            "tilestored [{out} + {row} + 2112], tmm3",
            w = inout(reg) w.as_ptr() => _,
            h0 = inout(reg) high.as_ptr() => _,
            h1 = inout(reg) high[half..].as_ptr() => _,
            l0 = inout(reg) low.as_ptr() => _,
            l1 = inout(reg) low[half..].as_ptr() => _,
            steps = inout(reg) len / DEPTH => _,
            tile = in(reg) 64usize,
            row = in(reg) 4 * SIDE,
            out = in(reg) block.0.as_mut_ptr(),
            options(nostack),
        );
    }
}

/// `block += high w`.
///
/// # Safety
/// As [`two`].
unsafe fn one(high: &[u16], w: &[u16], len: usize, block: &mut Block) {
    // SAFETY: as in `two`.
    unsafe {
        asm!(
            "tileloadd tmm0, [{out} + {row}]",
            "tileloadd tmm1, [{out} + {row} + 64]",
            "tileloadd tmm2, [{out} + {row} + 2048]",
            "tileloadd tmm3, [{out} + {row} + 2112]",
            "2:",
            "tileloadd tmm6, [{w} + {tile}]",
            "tileloadd tmm7, [{w} + {tile} + 1024]",
            "tileloadd tmm4, [{h0} + {tile}]",
            "tileloadd tmm5, [{h1} + {tile}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {w}, 2048",
            "add {h0}, 1024",
            "add {h1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {row}], tmm0",
            "tilestored [{out} + {row} + 64], tmm1",
            "tilestored [{out} + {row} + 2048], tmm2",
            "tilestored [{out} + {row} + 2112], tmm3",
            w = inout(reg) w.as_ptr() => _,
            h0 = inout(reg) high.as_ptr() => _,
            h1 = inout(reg) high[16 * len..].as_ptr() => _,
            steps = inout(reg) len / DEPTH => _,
            tile = in(reg) 64usize,
            row = in(reg) 4 * SIDE,
            out = in(reg) block.0.as_mut_ptr(),
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::split_columns;
    use super::*;

    #[test]
    fn products_are_near_the_exact_ones() {
        if !available() {
            eprintln!("skipped: this processor has no AMX");
            return;
        }
        let value = |i: usize, f: f32| (i as f32 * f).sin();
        for (rows, outs, len) in [(1, 5, 32), (45, 70, 1024), (33, 32, 80), (3, 17, 31)] {
            let x: Vec<f32> = (0..rows * len).map(|i| value(i, 0.37)).collect();
            for exact in [false, true] {
                let cut = |v: f32| if exact { f32::from_bits(v.to_bits() & 0xffff_0000) } else { v };
                let w: Vec<f32> = (0..outs * len).map(|i| cut(value(i, 0.73))).collect();
                let half: Vec<u8> =
                    w.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
                let (mut left, mut right) = (Pairs::default(), Pairs::default());
                left.activations(&x, len);
                right.weights(if exact { Rows::Half(&half) } else { Rows::Wide(&w) }, outs, len);
                let mut out = vec![0.0; rows * outs];
                for mut columns in split_columns(&mut out, outs, outs) {
                    product(&left, &right, &mut columns);
                }
                for i in 0..rows {
                    for j in 0..outs {
                        let (x, w) = (&x[i * len..][..len], &w[j * len..][..len]);
                        let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                        let found = f64::from(out[i * outs + j]);
                        assert!((found - sum).abs() < 1e-5 * (len as f64).sqrt(), "{i} {j}: {found} {sum}");
                    }
                }
            }
        }
    }
}

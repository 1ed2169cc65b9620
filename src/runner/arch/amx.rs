//! Products on Intel's matrix unit (AMX), which multiplies bf16 and adds in f32: for `--fast`.
//!
//! Activations are written as the sum of two values of bf16 (16 bits of their 24), weights as the nearest one: weights of
//! bf16 are exact, those of block types lose less than they already did. One instruction multiplies 16 x 32 by 32 x 16
//! values, 16 times as many as two of AVX-512's multiply-adds.
//!
//! AVX-512's dot products of bf16 (`vdpbf16ps`) are no second way: on the processor that they were tried on they reached
//! half the speed of the exact products in f32.
//!
//! The instructions have no stable intrinsics, so they are written as assembly. The operating system must allow a
//! process the unit's registers first.

#![allow(unsafe_code)] // instructions of one set

use std::arch::asm;
use std::sync::OnceLock;

use aligned_vec::{AVec, ConstAlign};

use super::Columns;

/// Values of bf16, aligned like the rows of tiles: one that lies across two lines of the cache takes twice as long.
type Buffer = AVec<u16, ConstAlign<64>>;

/// Rows and columns of the block of results that one loop computes: 2 x 2 tiles of 16 x 16.
pub(in crate::runner) const SIDE: usize = 32;
/// Values of a row of a tile.
pub(in crate::runner) const DEPTH: usize = 32;
/// Values of the two tiles of weights that belong together.
const STEP: usize = SIDE * DEPTH;

/// True if this processor has the unit and this process may use it.
pub(in crate::runner) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_unit() && permitted())
}

/// True if the processor has AMX with bf16.
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

/// Activations, as pairs of bf16: `high + low` is the value. They lie in tiles, one after the other as products take them.
#[derive(Debug)]
pub(in crate::runner) struct Pairs {
    high: Buffer,
    low: Buffer,
    /// Values of a row, a multiple of [`DEPTH`].
    len: usize,
    rows: usize,
}

impl Default for Pairs {
    fn default() -> Pairs {
        Pairs { high: AVec::new(64), low: AVec::new(64), len: 0, rows: 0 }
    }
}

impl Pairs {
    /// Takes rows of `cols` values, in tiles of 16 rows by [`DEPTH`] columns, filled with zeros.
    pub fn take(&mut self, data: &[f32], cols: usize) {
        use rayon::prelude::*;
        self.rows = data.len().checked_div(cols).unwrap_or(0);
        self.len = cols.next_multiple_of(DEPTH);
        let size = self.rows.next_multiple_of(SIDE) * self.len;
        let (high, low) = (room(&mut self.high, size), room(&mut self.low, size));
        let block = 16 * self.len;
        high.par_chunks_mut(block).zip(low.par_chunks_mut(block)).enumerate().for_each(|(n, (high, low))| {
            for i in 0..16 {
                let at = (n * 16 + i) * cols;
                let x = data.get(at..at + cols).unwrap_or_default();
                // SAFETY: the unit is only used where AVX-512 and its bf16 are (`available`).
                unsafe { split_row(x, i, high, low) };
            }
        });
    }
}

/// The first `size` values of a buffer, which never shrinks: no time goes into zeros that are written over.
fn room(buffer: &mut Buffer, size: usize) -> &mut [u16] {
    if buffer.len() < size {
        buffer.resize(size, 0);
    }
    &mut buffer[..size]
}

/// Source of the weights of a panel.
#[derive(Clone, Copy)]
pub(in crate::runner) enum Rows<'a> {
    /// Rows of f32.
    Wide(&'a [f32]),
    /// Rows of little-endian bf16 without gaps.
    Half(&'a [u8]),
}

/// Weights, as bf16 in the order in which tiles take them: for every [`SIDE`] rows and [`DEPTH`] columns two tiles of 16
/// rows, in which two neighbours of one row lie together and the pairs of 16 rows side by side.
#[derive(Debug)]
pub(in crate::runner) struct Tiles {
    values: Buffer,
    /// Values of a row, a multiple of [`DEPTH`].
    len: usize,
    rows: usize,
}

impl Default for Tiles {
    fn default() -> Tiles {
        Tiles { values: AVec::new(64), len: 0, rows: 0 }
    }
}

impl Tiles {
    /// Takes `rows` rows of `cols` values, filled with zeros.
    pub fn take(&mut self, source: Rows<'_>, rows: usize, cols: usize) {
        self.len = cols.next_multiple_of(DEPTH);
        self.rows = rows;
        let size = rows.next_multiple_of(SIDE) * self.len;
        let values = room(&mut self.values, size);
        for tile in 0..size / 16 / self.len {
            for step in 0..self.len / DEPTH {
                let at = tile / 2 * SIDE * self.len + tile % 2 * 512 + step * STEP;
                let (from, to) = (step * DEPTH, cols.min((step + 1) * DEPTH));
                let mut block = [[0u16; DEPTH]; 16];
                for (n, block) in block.iter_mut().take(rows.saturating_sub(tile * 16)).enumerate() {
                    let (from, to) = ((tile * 16 + n) * cols + from, (tile * 16 + n) * cols + to);
                    match source {
                        Rows::Half(bytes) => {
                            let pairs = bytes[from * 2..to * 2].as_chunks::<2>().0;
                            for (value, two) in block.iter_mut().zip(pairs) {
                                *value = u16::from_le_bytes(*two);
                            }
                        }
                        // SAFETY: as in `Pairs::take`.
                        Rows::Wide(data) => unsafe { narrow(&data[from..to], block) },
                    }
                }
                // SAFETY: as in `Pairs::take`.
                unsafe { transpose(&block, &mut values[at..at + 512]) };
            }
        }
    }
}

/// The nearest bf16 of up to 32 values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn narrow(values: &[f32], out: &mut [u16; DEPTH]) {
    use std::arch::x86_64::*;
    assert!(values.len() <= DEPTH);
    let lanes = u32::MAX.checked_shr((DEPTH - values.len()) as u32).unwrap_or(0);
    // SAFETY: the mask has as many bits as there are values, of which none beyond them is read.
    unsafe {
        let a = _mm512_maskz_loadu_ps(lanes as u16, values.as_ptr());
        let b = _mm512_maskz_loadu_ps((lanes >> 16) as u16, values.as_ptr().wrapping_add(16));
        let near: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(b, a));
        _mm512_storeu_si512(out.as_mut_ptr().cast(), near);
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

/// Operand of `ldtilecfg`: every register 16 rows of 64 bytes.
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

/// Values of a row after which products turn to the next weights: those of [`SIDE`] rows of activations, 32 KiB of
/// pairs, stay in the first-level cache meanwhile.
const NEAR: usize = 256;

/// Sums of a panel: blocks of [`SIDE`] x [`SIDE`], one for every [`SIDE`] rows of weights.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Block([f32; SIDE * SIDE]);

/// Most rows of weights that a product takes.
const PANEL: usize = 8 * SIDE;

/// Number of rows of weights, of `cols` values, that a product should take: 512 KiB, which stay in the second-level
/// cache while all activations pass by.
pub(in crate::runner) fn panel(cols: usize) -> usize {
    ((256 << 10) / cols.max(1) / SIDE * SIDE).clamp(SIDE, PANEL)
}

/// `out[i][j] = x_i . w_j`.
///
/// # Panics
/// If the unit is not [`available`], or sizes do not fit.
pub(in crate::runner) fn product(x: &Pairs, w: &Tiles, out: &mut Columns<'_>) {
    assert!(available() && x.len == w.len && out.rows() == x.rows && out.cols() == w.rows);
    assert!(x.high.len() >= x.rows.next_multiple_of(SIDE) * x.len && x.low.len() == x.high.len());
    assert!(w.values.len() >= w.rows.next_multiple_of(SIDE) * w.len && w.rows <= PANEL);
    let mut blocks = [const { Block([0.0; SIDE * SIDE]) }; PANEL / SIDE];
    // SAFETY: the unit is available. No compiled code uses its registers, so they keep their values between the
    // pieces of assembly up to `tilerelease`.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
    for i in (0..x.rows).step_by(SIDE) {
        for k in (0..x.len).step_by(NEAR) {
            let steps = NEAR.min(x.len - k) / DEPTH;
            let a = i * x.len + k * 16;
            for (j, block) in blocks.iter_mut().take(w.rows.div_ceil(SIDE)).enumerate() {
                let w = &w.values[j * SIDE * w.len + k * SIDE..];
                // SAFETY: rows `i..i + SIDE` of x and both tiles of rows `j..j + SIDE` of w were found to be there
                // (`next_multiple_of`), each of `len` values, a multiple of DEPTH, of which `steps` lie behind `k`.
                unsafe { multiply(&x.high[a..], &x.low[a..], w, x.len, steps, k > 0, block) };
            }
        }
        for n in 0..SIDE.min(x.rows - i) {
            let row = out.row(i + n, 0, w.rows);
            for (out, block) in row.chunks_mut(SIDE).zip(&blocks) {
                out.copy_from_slice(&block.0[n * SIDE..][..out.len()]);
            }
        }
    }
    // SAFETY: ends the use of the registers.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}

/// `block = (high + low) w`, or what it adds to the values that are there.
///
/// # Safety
/// The tile registers are configured; `high` and `low` hold two blocks of 16 rows, `len` values a row, of which
/// `steps` times [`DEPTH`] are multiplied, and `w` as many tiles of [`SIDE`] rows.
unsafe fn multiply(
    high: &[u16],
    low: &[u16],
    w: &[u16],
    len: usize,
    steps: usize,
    add: bool,
    block: &mut Block,
) {
    let half = 16 * len;
    // SAFETY: every tile loaded lies within the slices, as the caller says; the block has 32 rows of 128 bytes.
    unsafe {
        asm!(
            "test {add}, {add}",
            "jnz 3f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 2f",
            "3:",
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
            steps = inout(reg) steps => _,
            add = in(reg) usize::from(add),
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
            for stored in [false, true] {
                // What the unit takes for the weights: the nearest bf16.
                let w: Vec<f32> =
                    (0..outs * len).map(|i| half::bf16::from_f32(value(i, 0.73)).to_f32()).collect();
                let bytes: Vec<u8> = w.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
                let wide: Vec<f32> = (0..outs * len).map(|i| value(i, 0.73)).collect();
                let (mut left, mut right) = (Pairs::default(), Tiles::default());
                left.take(&x, len);
                right.take(if stored { Rows::Half(&bytes) } else { Rows::Wide(&wide) }, outs, len);
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

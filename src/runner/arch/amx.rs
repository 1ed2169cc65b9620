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
    is_x86_feature_detected!("avx512f") && __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & needed == needed
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

/// Rows of bf16 pairs: `high + low` is the value.
#[derive(Debug, Default)]
pub(in crate::runner) struct Pairs {
    high: Vec<u16>,
    low: Vec<u16>,
    /// Values of a row, a multiple of [`DEPTH`].
    len: usize,
    rows: usize,
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
fn round(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if v.is_nan() { 0x7fc0 } else { rounded }
}

#[inline(always)]
fn widen(v: u16) -> f32 {
    f32::from_bits(u32::from(v) << 16)
}

impl Pairs {
    /// Rows of `cols` values, filled with zero rows up to whole tiles.
    pub fn activations(data: &[f32], cols: usize) -> Pairs {
        use rayon::prelude::*;
        let rows = data.len().checked_div(cols).unwrap_or(0);
        let len = cols.next_multiple_of(DEPTH);
        let size = rows.next_multiple_of(SIDE) * len;
        let (mut high, mut low) = (vec![0; size], vec![0; size]);
        (high.par_chunks_mut(len)).zip(low.par_chunks_mut(len)).zip(data.par_chunks(cols.max(1))).for_each(
            |((high, low), x)| {
                for ((high, low), x) in high.iter_mut().zip(low).zip(x) {
                    *high = round(*x);
                    *low = round(x - widen(*high));
                }
            },
        );
        Pairs { high, low, len, rows }
    }

    /// Weights, rows of `len` values with `stride` between them, in the order in which tiles take them: for every
    /// [`SIDE`] rows and [`DEPTH`] columns two tiles of 16 rows, in which two neighbours of one row lie together and
    /// the pairs of 16 rows side by side.
    pub fn weights(&mut self, data: &[f32], stride: usize, rows: usize, len: usize, exact: bool) {
        self.len = len.next_multiple_of(DEPTH);
        self.rows = rows;
        let size = rows.next_multiple_of(SIDE) * self.len;
        self.high.clear();
        self.high.resize(size, 0);
        self.low.clear();
        self.low.resize(if exact { 0 } else { size }, 0);
        for (n, row) in data.chunks(stride).take(rows).enumerate() {
            let tile = n / SIDE * SIDE * self.len + n % SIDE / 16 * 512 + n % 16 * 2;
            for (step, values) in row[..len].chunks(DEPTH).enumerate() {
                for (pair, two) in values.chunks(2).enumerate() {
                    let at = tile + step * STEP + pair * 32;
                    for (i, v) in two.iter().enumerate() {
                        let high = round(*v);
                        self.high[at + i] = high;
                        if !exact {
                            self.low[at + i] = round(v - widen(high));
                        }
                    }
                }
            }
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
            "tileloadd tmm4, [{h0} + {stride}]",
            "tileloadd tmm5, [{h1} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{l0} + {stride}]",
            "tileloadd tmm5, [{l1} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {w}, 2048",
            "add {h0}, 64",
            "add {h1}, 64",
            "add {l0}, 64",
            "add {l1}, 64",
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
            stride = in(reg) 2 * len,
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
            "tileloadd tmm4, [{h0} + {stride}]",
            "tileloadd tmm5, [{h1} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {w}, 2048",
            "add {h0}, 64",
            "add {h1}, 64",
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
            stride = in(reg) 2 * len,
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
        for (rows, outs, len) in [(1, 5, 32), (45, 70, 1024), (33, 32, 80)] {
            let x: Vec<f32> = (0..rows * len).map(|i| value(i, 0.37)).collect();
            for exact in [false, true] {
                let weight = |i| if exact { widen(round(value(i, 0.73))) } else { value(i, 0.73) };
                let w: Vec<f32> = (0..outs * len).map(weight).collect();
                let mut packed = Pairs::default();
                packed.weights(&w, len, outs, len, exact);
                let mut out = vec![0.0; rows * outs];
                for mut columns in split_columns(&mut out, outs, outs) {
                    product(&Pairs::activations(&x, len), &packed, &mut columns);
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

//! Kernels of the runner: matrix products and recurrences, compiled for each instruction set.
//!
//! **Every sum has one order**, whatever the instruction set, the number of threads and the number of tokens that
//! are computed together: a dot product keeps [`LANES`] partial sums (element `i` goes to partial sum `i % LANES`),
//! multiplies and adds in one rounding, and joins the partial sums by [`join`]. So an evaluation gives the same bits
//! on every processor with fused multiply-add (x86-64 since 2013, all AArch64), for 1 and N threads, and token by
//! token as well as in long runs. Processors without it round twice, and only there the last bits differ.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod columns;
mod portable;

use std::sync::OnceLock;

pub(super) use columns::{Columns, split_columns};

/// Partial sums of a dot product.
pub(super) const LANES: usize = 16;

/// Longest run of one dot product; longer ones are summed block by block.
pub(super) const BLOCK: usize = 1024;

/// Joins the partial sums of a dot product.
#[inline(always)]
pub(super) fn join(s: &[f32; LANES]) -> f32 {
    let quad = |q: usize| (s[4 * q] + s[4 * q + 2]) + (s[4 * q + 1] + s[4 * q + 3]);
    (quad(0) + quad(2)) + (quad(1) + quad(3))
}

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Plain Rust: NEON on AArch64, SSE2 on x86-64.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The levels that this processor can run, slowest first.
    pub fn available() -> impl Iterator<Item = Level> {
        let mut levels = vec![Level::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 {
                levels.push(Level::Avx2);
            }
            if avx2 && is_x86_feature_detected!("avx512f") {
                levels.push(Level::Avx512);
            }
        }
        levels.into_iter()
    }

    /// The best of them.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Level::available().last().unwrap_or(Level::Portable))
    }
}

/// Rows of `f32` that a product reads: row `i` starts at `i * stride`, and all are [`LANES`] wide blocks long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand<'a> {
    /// The rows.
    pub data: &'a [f32],
    /// Distance from row to row.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
}

/// `out[i][j] = x_i . w_j` over `len` elements (a multiple of [`LANES`]; what is beyond a row's end must be zero).
///
/// # Panics
/// If the operands are shorter than they say, or `out` has another size.
pub(super) fn product(level: Level, x: Operand<'_>, w: Operand<'_>, len: usize, out: &mut Columns<'_>) {
    assert!(len.is_multiple_of(LANES), "{len} is no whole number of blocks");
    for operand in [&x, &w] {
        assert!(operand.rows == 0 || (operand.rows - 1) * operand.stride + len <= operand.data.len());
    }
    assert!(out.rows() == x.rows && out.cols() == w.rows);
    match level {
        Level::Portable => portable::product(x, w, len, out),
        // SAFETY: the level is available on this processor (`Level::available`), and all rows were found to lie
        // within their slices.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::product(x, w, len, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::product(x, w, len, out) },
    }
}

/// Multiply and add: fused where the instruction set has it.
pub(super) trait Arithmetic {
    /// `a * b + c`.
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// One rounding.
pub(super) struct Fused;
/// Two roundings.
pub(super) struct Plain;

impl Arithmetic for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl Arithmetic for Plain {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Whether plain Rust has a fused multiply-add instruction on this target.
#[cfg(any(target_arch = "aarch64", target_feature = "fma"))]
type Native = Fused;
#[cfg(not(any(target_arch = "aarch64", target_feature = "fma")))]
type Native = Plain;

/// Element-wise work that is compiled for every level; implementations are `#[inline(always)]`.
pub(super) trait Kernel {
    /// Does the work.
    fn run<A: Arithmetic>(self);
}

/// Runs `kernel` at the best level that this processor has.
pub(super) fn dispatch<K: Kernel>(kernel: K) {
    match Level::best() {
        Level::Portable => kernel.run::<Native>(),
        // SAFETY: the level is available on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::run(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::run(kernel) },
    }
}

/// Defines a function whose body is compiled for every level: `kernel! { pub fn name(x: &'w [f32]) as A { .. } }`, where
/// `A` is the [`Arithmetic`] and `'w` the lifetime of all borrowed arguments.
macro_rules! kernel {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),+ $(,)?) as $a:ident $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)] // the operands of an inner loop
        $vis fn $name<'w>($($arg: $type),+) {
            struct Work<'w> { $($arg: $type),+ }
            impl<'w> crate::runner::arch::Kernel for Work<'w> {
                #[inline(always)]
                fn run<$a: crate::runner::arch::Arithmetic>(self) {
                    let Work { $($arg),+ } = self;
                    $body
                }
            }
            crate::runner::arch::dispatch(Work { $($arg),+ })
        }
    };
}
pub(super) use kernel;

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed;
        let mut next = || {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn run(level: Level, x: &[f32], w: &[f32], rows: usize, outs: usize, len: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows * outs];
        let x = Operand { data: x, stride: len, rows };
        let w = Operand { data: w, stride: len, rows: outs };
        for mut columns in split_columns(&mut out, outs, outs) {
            product(level, x, w, len, &mut columns);
        }
        out
    }

    #[test]
    fn every_level_and_every_tiling_gives_the_same_bits() {
        let (rows, outs) = (13, 11);
        for len in [16, 48, 1024, 1024 + 32, 2 * 1024 + 16] {
            let (x, w) = (noise(rows * len, 1), noise(outs * len, 2));
            let whole = run(Level::best(), &x, &w, rows, outs, len);
            for (i, x) in x.chunks(len).enumerate() {
                let one = run(Level::best(), x, &w, 1, outs, len);
                assert_eq!(one, whole[i * outs..(i + 1) * outs], "row {i} alone, {len}");
            }
            let exact: Vec<f64> = x
                .chunks(len)
                .flat_map(|x| w.chunks(len).map(move |w| (x, w)))
                .map(|(x, w)| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum())
                .collect();
            for level in Level::available() {
                let out = run(level, &x, &w, rows, outs, len);
                let fused = level != Level::Portable || std::any::type_name::<Native>().ends_with("Fused");
                if fused {
                    assert_eq!(out, whole, "{level:?}, {len}");
                }
                for (a, b) in out.iter().zip(&exact) {
                    assert!((f64::from(*a) - b).abs() < 2e-5, "{level:?}: {a} and not {b}");
                }
            }
        }
    }
}

//! Kernels of the runner: matrix products and recurrences, compiled for each instruction set.
//!
//! **Every sum has one order**, whatever the instruction set, the number of threads and the number of tokens that
//! are computed together: a dot product is cut into runs of [`BLOCK`] values; each is summed up from front to back,
//! multiplying and adding in one rounding, and the sums of the runs are added in order. So an evaluation gives the
//! same bits on every processor with fused multiply-add (x86-64 since 2013, all AArch64), for 1 and N threads, and
//! token by token as well as in long runs. Processors without it round twice, and only there the last bits differ.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod columns;
mod portable;
mod strips;

use std::sync::OnceLock;

use crate::isa;

pub(super) use columns::{Columns, split_columns};
pub(super) use strips::{interleave, strips_len};

/// Values of a dot product that are summed up before their sum is added to the others'.
pub(super) const BLOCK: usize = 256;

/// Strips of tokens that one block of a product keeps in a processor's second-level cache: 240 KiB at most.
const NEAR: usize = 20;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Plain Rust without fused multiply-add: the same bits on every processor.
    Portable,
    /// Plain Rust where every processor of the target has fused multiply-add: NEON on AArch64.
    #[cfg(any(target_arch = "aarch64", target_feature = "fma"))]
    Fused,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The levels that this processor can run, slowest first.
    pub fn available() -> impl Iterator<Item = Level> {
        let mut levels = vec![Level::Portable];
        #[cfg(any(target_arch = "aarch64", target_feature = "fma"))]
        levels.push(Level::Fused);
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

    /// The least limit of [`isa`] that allows it.
    fn limit(self) -> quant::arch::Level {
        match self {
            Level::Portable => quant::arch::Level::Scalar,
            #[cfg(any(target_arch = "aarch64", target_feature = "fma"))]
            Level::Fused => quant::arch::Level::Baseline,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => quant::arch::Level::Avx2,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => quant::arch::Level::Avx512,
        }
    }

    /// The best of them that is allowed.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        if isa::is_portable() {
            return Level::Portable;
        }
        let allowed = |level: &Level| quant::arch::is_allowed(level.limit());
        *BEST.get_or_init(|| Level::available().filter(allowed).last().unwrap_or(Level::Portable))
    }
}

/// Shape of the tile of results that a level computes at once, in registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Rows of the left operand in a strip.
    pub rows: usize,
    /// Rows of the right operand in a strip: columns of the result.
    pub cols: usize,
}

/// Room for the results of a tile that reaches beyond the matrix.
#[repr(C, align(64))]
struct Scratch([f32; 12 * 32]);

impl Level {
    /// The size of its tiles, and so the width of the strips of both operands.
    pub fn shape(self) -> Shape {
        match self {
            Level::Portable => portable::SHAPE,
            #[cfg(any(target_arch = "aarch64", target_feature = "fma"))]
            Level::Fused => portable::SHAPE,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::SHAPE,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::SHAPE,
        }
    }

    /// The product of a strip of each operand, or what it adds to the values that are there.
    ///
    /// # Safety
    /// At `out` there are as many rows of as many values as the level's [`Shape`] says, `stride` apart.
    #[allow(unsafe_code)]
    unsafe fn tile(self, x: &[f32], w: &[f32], out: *mut f32, stride: usize, add: bool) {
        // SAFETY: the level is available on this processor (`Level::available`); the caller says the rest.
        unsafe {
            match self {
                Level::Portable => portable::tile::<Plain>(x, w, out, stride, add),
                #[cfg(any(target_arch = "aarch64", target_feature = "fma"))]
                Level::Fused => portable::tile::<Fused>(x, w, out, stride, add),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => avx2::tile(x, w, out, stride, add),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => avx512::tile(x, w, out, stride, add),
            }
        }
    }
}

/// `out[i][j] = x_i . w_j` of rows of `depth` values, [`interleave`]d in strips of the level's [`Shape`].
///
/// # Panics
/// If the operands do not hold the strips of as many rows as `out` has rows and columns.
#[allow(unsafe_code)]
pub(super) fn product(level: Level, x: &[f32], w: &[f32], depth: usize, out: &mut Columns<'_>) {
    let Shape { rows, cols } = level.shape();
    assert_eq!(x.len(), strips_len(out.rows(), depth, rows));
    assert_eq!(w.len(), strips_len(out.cols(), depth, cols));
    let mut scratch = Scratch([0.0; 12 * 32]);
    for (n, near) in x.chunks(NEAR * rows * depth).enumerate() {
        for k in (0..depth).step_by(BLOCK) {
            let (block, add) = (BLOCK.min(depth - k), k > 0);
            for (j, w) in w.chunks_exact(cols * depth).enumerate() {
                let (j, w) = (j * cols, &w[k * cols..][..block * cols]);
                let width = cols.min(out.cols() - j);
                for (i, x) in near.chunks_exact(rows * depth).enumerate() {
                    let (i, x) = ((n * NEAR + i) * rows, &x[k * rows..][..block * rows]);
                    let height = rows.min(out.rows() - i);
                    if (height, width) == (rows, cols) {
                        let (out, stride) = out.tile(i, rows, j, cols);
                        // SAFETY: `Columns::tile` found that these values are there, and they are only ours.
                        unsafe { level.tile(x, w, out, stride, add) };
                        continue;
                    }
                    // SAFETY: there is room for the largest tile.
                    unsafe { level.tile(x, w, scratch.0.as_mut_ptr(), cols, false) };
                    for (m, sums) in scratch.0.chunks_exact(cols).take(height).enumerate() {
                        for (out, sum) in out.row(i + m, j, width).iter_mut().zip(sums) {
                            *out = if add { *out + sum } else { *sum };
                        }
                    }
                }
            }
        }
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

/// Most rows for which [`product_of_few`] is the faster one: the strips of the weights would not pay.
pub(super) const FEW: usize = 3;

/// Rows of weights that are multiplied side by side with one row.
const ABREAST: usize = 8;

kernel! {
    /// `out[i][j] = x_i . w_j` of rows of `depth` values as they are.
    pub(super) fn product_of_few(x: &'w [f32], w: &'w [f32], depth: usize, out: Columns<'w>) as A {
        let mut out = out;
        for (i, x) in x.chunks_exact(depth).enumerate() {
            for j in (0..out.cols()).step_by(ABREAST) {
                let width = ABREAST.min(out.cols() - j);
                // What is beyond the last row is computed from the last row, and dropped.
                let rows: [&[f32]; ABREAST] =
                    std::array::from_fn(|n| &w[(j + n.min(width - 1)) * depth..][..depth]);
                let mut totals = [0.0; ABREAST];
                for k in (0..depth).step_by(BLOCK) {
                    let end = depth.min(k + BLOCK);
                    let (x, rows) = (&x[k..end], rows.map(|row| &row[k..end]));
                    let mut sums = [0.0; ABREAST];
                    for (k, x) in x.iter().enumerate() {
                        for n in 0..ABREAST {
                            sums[n] = A::fma(*x, rows[n][k], sums[n]);
                        }
                    }
                    for n in 0..ABREAST {
                        totals[n] = if k == 0 { sums[n] } else { totals[n] + sums[n] };
                    }
                }
                out.row(i, j, width).copy_from_slice(&totals[..width]);
            }
        }
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

/// Element-wise work that is compiled for every level; implementations are `#[inline(always)]`.
pub(super) trait Kernel {
    /// Does the work.
    fn run<A: Arithmetic>(self);
}

/// Runs `kernel` at the best level that this processor has.
#[allow(unsafe_code)]
pub(super) fn dispatch<K: Kernel>(kernel: K) {
    match Level::best() {
        Level::Portable => kernel.run::<Plain>(),
        #[cfg(any(target_arch = "aarch64", target_feature = "fma"))]
        Level::Fused => kernel.run::<Fused>(),
        // SAFETY: the level is available on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::run(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::run(kernel) },
    }
}

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

    fn run(level: Level, x: &[f32], w: &[f32], rows: usize, outs: usize, depth: usize) -> Vec<f32> {
        let shape = level.shape();
        let strips = |values: &[f32], rows, width| {
            let mut strips = vec![f32::NAN; strips_len(rows, depth, width)];
            interleave(level, values, depth, width, &mut strips);
            strips
        };
        let (x, w) = (strips(x, rows, shape.rows), strips(w, outs, shape.cols));
        let mut out = vec![f32::NAN; rows * outs];
        for mut columns in split_columns(&mut out, outs, outs) {
            product(level, &x, &w, depth, &mut columns);
        }
        out
    }

    #[test]
    fn every_level_and_every_tiling_gives_the_same_bits() {
        for (rows, outs) in [(13, 11), (1, 70), (31, 33)] {
            for depth in [1, 16, 50, 256, 256 + 3, 1024 + 32] {
                let (x, w) = (noise(rows * depth, 1), noise(outs * depth, 2));
                let whole = run(Level::best(), &x, &w, rows, outs, depth);
                for (i, x) in x.chunks(depth).enumerate() {
                    let one = run(Level::best(), x, &w, 1, outs, depth);
                    assert_eq!(one, whole[i * outs..(i + 1) * outs], "row {i} alone, {depth}");
                }
                let mut few = vec![f32::NAN; rows * outs];
                for columns in split_columns(&mut few, outs, outs) {
                    product_of_few(&x, &w, depth, columns);
                }
                assert_eq!(few, whole, "{depth}");
                let exact: Vec<f64> = x
                    .chunks(depth)
                    .flat_map(|x| w.chunks(depth).map(move |w| (x, w)))
                    .map(|(x, w)| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum())
                    .collect();
                for level in Level::available() {
                    let out = run(level, &x, &w, rows, outs, depth);
                    if level != Level::Portable {
                        assert_eq!(out, whole, "{level:?}, {depth}");
                    }
                    for (a, b) in out.iter().zip(&exact) {
                        assert!((f64::from(*a) - b).abs() < 2e-5, "{level:?}: {a} and not {b}");
                    }
                }
            }
        }
    }
}

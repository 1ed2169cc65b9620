//! Matrices of weights, decoded panel by panel while they multiply.

use std::cell::RefCell;
#[cfg(target_arch = "x86_64")]
use std::sync::{Mutex, PoisonError};

use formats::Container;
#[cfg(target_arch = "x86_64")]
use quant::Encoding;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::arch::amx;
use super::arch::{LANES, Level, Operand, product, split_columns};
use super::matrix::Matrix;
use crate::model::Lazy;

/// Most rows of a stored matrix that are decoded together: with rows of 1024 values a panel is 256 KiB, which
/// stays in a processor's second-level cache while all tokens pass.
const PANEL: usize = 64;
/// Tokens that one thread multiplies with a decoded matrix.
const TOKENS: usize = 48;

/// A matrix [out, in].
#[derive(Clone, Copy)]
pub(super) struct Weight<'a> {
    /// Where its values are.
    pub values: Values<'a>,
    /// Multiply on the processor's matrix unit.
    pub fast: bool,
}

/// Where the values of a matrix are.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    /// As the file stores them; decoded on the way.
    Stored {
        container: &'a Container,
        values: &'a Lazy,
        /// Let go of the pages of a panel once it is decoded.
        stream: bool,
    },
    /// Decoded.
    Dense(&'a Dense),
}

/// A decoded matrix [out, in].
#[derive(Clone, Debug)]
pub(super) struct Dense {
    /// The rows, each padded with zeros to `stride`.
    data: Vec<f32>,
    stride: usize,
    rows: usize,
    cols: usize,
}

/// `n` rounded up to whole blocks of a dot product.
fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

impl Dense {
    /// A matrix from its values, row-major.
    ///
    /// # Panics
    /// If there are more or fewer.
    pub fn new(rows: usize, cols: usize, values: &[f32]) -> Dense {
        assert_eq!(values.len(), rows * cols);
        let stride = padded(cols);
        let mut data = vec![0.0; rows * stride];
        for (to, from) in data.chunks_mut(stride.max(1)).zip(values.chunks(cols.max(1))) {
            to[..cols].copy_from_slice(from);
        }
        Dense { data, stride, rows, cols }
    }

    /// A low-rank matrix, which BlinkDL keeps as [in, out] and most formats as [out, in]; or one slice of a stack of
    /// them. Whichever way it lies, it is read in order.
    pub fn low_rank(container: &Container, values: &Lazy) -> Dense {
        let (ins, outs) = (values.rows(), values.cols());
        if let Some(turned) = values.transposed()
            && turned.stored(container, 0..turned.rows()).is_some()
        {
            let mut data = vec![0.0; ins * outs];
            turned.read(container, 0..outs, &mut data);
            return Dense::new(outs, ins, &data);
        }
        let mut data = vec![0.0; ins * outs];
        values.read(container, 0..ins, &mut data);
        Dense::turned(ins, outs, &data)
    }

    /// A matrix from the values of its transpose [in, out].
    pub fn turned(ins: usize, outs: usize, values: &[f32]) -> Dense {
        const TILE: usize = 16;
        let stride = padded(ins);
        let mut data = vec![0.0; outs * stride];
        for i0 in (0..ins).step_by(TILE) {
            for o in 0..outs {
                let row = &mut data[o * stride..];
                for i in i0..ins.min(i0 + TILE) {
                    row[i] = values[i * outs + o];
                }
            }
        }
        Dense { data, stride, rows: outs, cols: ins }
    }
}

thread_local! {
    /// The panel that this thread decodes into.
    static BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[cfg(target_arch = "x86_64")]
thread_local! {
    /// The panel that this thread prepares for the matrix unit.
    static PAIRS: RefCell<amx::Pairs> = RefCell::default();
}

/// Activations prepared for the matrix unit, for use again.
#[cfg(target_arch = "x86_64")]
static SPARE: Mutex<Vec<amx::Pairs>> = Mutex::new(Vec::new());

/// Whether this processor has a matrix unit that [`Weight::fast`] can use.
pub(super) fn fast_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return amx::available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl Weight<'_> {
    /// Number of rows: values of a product.
    pub fn rows(&self) -> usize {
        match self.values {
            Values::Stored { values, .. } => values.rows(),
            Values::Dense(dense) => dense.rows,
        }
    }

    /// Number of columns: values that a product takes.
    pub fn cols(&self) -> usize {
        match self.values {
            Values::Stored { values, .. } => values.cols(),
            Values::Dense(dense) => dense.cols,
        }
    }

    /// `x W^T`: every row of `x` multiplied with every row of the matrix.
    ///
    /// # Panics
    /// If `x` has another number of columns.
    pub fn multiply(&self, x: &Matrix) -> Matrix {
        assert_eq!(x.cols, self.cols());
        let mut out = x.pool().matrix(x.rows, self.rows());
        if out.data.is_empty() {
            return out;
        }
        #[cfg(target_arch = "x86_64")]
        if self.fast && amx::available() {
            self.multiply_fast(x, &mut out);
            return out;
        }
        let len = padded(x.cols);
        if len == x.cols {
            self.multiply_exact(&x.data, len, &mut out);
        } else {
            let mut copy = x.pool().matrix(x.rows, len);
            for (to, from) in copy.data.chunks_mut(len).zip(x.data.chunks(x.cols)) {
                to[..x.cols].copy_from_slice(from);
                to[x.cols..].fill(0.0);
            }
            self.multiply_exact(&copy.data, len, &mut out);
        }
        out
    }

    /// The product with rows of `len` values.
    fn multiply_exact(&self, data: &[f32], len: usize, out: &mut Matrix) {
        let outs = out.cols;
        if let Values::Dense(dense) = self.values {
            let w = Operand { data: &dense.data, stride: dense.stride, rows: outs };
            out.data.par_chunks_mut(TOKENS * outs).zip(data.par_chunks(TOKENS * len)).for_each(|(out, x)| {
                let x = Operand { data: x, stride: len, rows: x.len() / len };
                for mut columns in split_columns(out, outs, outs) {
                    product(Level::best(), x, w, len, &mut columns);
                }
            });
            return;
        }
        let x = Operand { data, stride: len, rows: out.rows };
        let panel = panel(outs);
        split_columns(&mut out.data, outs, panel).into_par_iter().enumerate().for_each(|(n, mut columns)| {
            BUFFER.with_borrow_mut(|buffer| {
                self.decode(n * panel..n * panel + columns.cols(), len, buffer);
                let w = Operand { data: buffer, stride: len, rows: columns.cols() };
                product(Level::best(), x, w, len, &mut columns);
            });
        });
    }

    /// The product on the processor's matrix unit.
    #[cfg(target_arch = "x86_64")]
    fn multiply_fast(&self, x: &Matrix, out: &mut Matrix) {
        let (outs, cols) = (out.cols, x.cols);
        let mut activations = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        activations.activations(&x.data, cols);
        let panel = panel(outs).next_multiple_of(amx::SIDE);
        split_columns(&mut out.data, outs, panel).into_par_iter().enumerate().for_each(|(n, mut columns)| {
            let rows = n * panel..n * panel + columns.cols();
            PAIRS.with_borrow_mut(|pairs| {
                if let Some(bytes) = self.halves(rows.clone()) {
                    pairs.weights(amx::Rows::Half(bytes), rows.len(), cols);
                } else if let Values::Dense(dense) = self.values {
                    let data = &dense.data[rows.start * dense.stride..];
                    pairs.weights(amx::Rows::Wide(data, dense.stride), rows.len(), cols);
                } else {
                    BUFFER.with_borrow_mut(|buffer| {
                        self.decode(rows.clone(), cols, buffer);
                        pairs.weights(amx::Rows::Wide(buffer, cols), rows.len(), cols);
                    });
                }
                if let Values::Stored { container, values, stream: true, .. } = self.values {
                    values.release(container, rows);
                }
                amx::product(&activations, pairs, &mut columns);
            });
        });
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(activations);
    }

    /// The stored bytes of some rows, if they are bf16 and nothing changes them: one part holds them exactly.
    #[cfg(target_arch = "x86_64")]
    fn halves(&self, rows: std::ops::Range<usize>) -> Option<&[u8]> {
        match self.values {
            Values::Stored { container, values, .. } if values.encoding() == Some(Encoding::BF16) => {
                values.stored(container, rows)
            }
            _ => None,
        }
    }

    /// Decodes some rows, each padded to `stride`.
    fn decode(&self, rows: std::ops::Range<usize>, stride: usize, out: &mut Vec<f32>) {
        let Values::Stored { container, values, stream } = self.values else { return };
        let cols = values.cols();
        out.resize(rows.len() * stride, 0.0);
        if stride == cols {
            values.read(container, rows.clone(), out);
        } else {
            for (row, out) in rows.clone().zip(out.chunks_mut(stride)) {
                values.read(container, row..row + 1, &mut out[..cols]);
                out[cols..].fill(0.0);
            }
        }
        if stream {
            values.release(container, rows.clone());
        }
    }
}

/// Rows of a panel: fewer where there would be too few panels for the threads. (Every product is computed by
/// itself, so this changes no value.)
fn panel(outs: usize) -> usize {
    (outs / (2 * rayon::current_num_threads())).next_multiple_of(4).clamp(16, PANEL)
}

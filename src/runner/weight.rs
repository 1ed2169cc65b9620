//! Matrices of weights, decoded panel by panel while they multiply.

use std::cell::RefCell;
#[cfg(target_arch = "x86_64")]
use std::sync::{Mutex, PoisonError};

use formats::Container;
use quant::Codec;
#[cfg(target_arch = "x86_64")]
use quant::Encoding;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::arch::amx;
use super::arch::{FEW, Level, interleave, product, product_of_few, split_columns, strips_len};
use super::device::Products;
use super::matrix::{Aligned, Matrix, aligned};
use crate::model::TensorView;

/// Values of a matrix that are multiplied together: so many that all tokens, which come from farther away, pass few
/// times, and so few that a block of them (`arch::BLOCK`) stays in a processor's second-level cache meanwhile.
const PANEL: usize = 2 << 20;
/// Most rows of a panel.
const PANEL_ROWS: usize = 512;
/// A matrix [out, in].
#[derive(Clone, Copy)]
pub(super) struct Weight<'a> {
    /// Values of the matrix.
    pub values: Values<'a>,
    /// Way to compute products.
    pub by: By<'a>,
    /// Tensor spec and block of a matrix of the model; none of a slice or a decoded matrix.
    pub key: Option<Key>,
    /// Hook that records the activations of the matrix.
    pub hook: Option<Hooked<'a>>,
}

/// Tensor spec and block of a matrix.
pub type Key = (&'static str, usize);

/// A matrix whose inputs are listened to.
#[derive(Clone, Copy)]
pub(super) struct Hooked<'a> {
    /// Tensor spec and block of the matrix.
    pub key: Key,
    /// Hook that records the activations.
    pub hook: &'a dyn ActivationHook,
    /// Part of the text that the activations are of.
    pub part: usize,
}

/// Listens to what meets the matrices of a model.
pub trait ActivationHook: Send + Sync {
    /// `inputs`, a row a token of a part of the text, are about to be multiplied with the matrix of a spec in a block.
    /// Called in the order of the computation, one at a time.
    fn hear(&self, key: Key, part: usize, inputs: &Inputs<'_>);

    /// True if anything hangs on the product with this matrix; if not, it is not computed, and 0 stands in.
    fn needs_product(&self, key: Key) -> bool;
}

impl std::fmt::Debug for dyn ActivationHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ActivationHook")
    }
}

/// Activations of a matrix.
pub struct Inputs<'a>(pub(super) &'a Matrix);

impl Inputs<'_> {
    /// Number of channels: columns of the matrix.
    pub fn channels(&self) -> usize {
        self.0.cols
    }
}

/// Way to compute products.
#[derive(Clone, Copy)]
pub(super) enum By<'a> {
    /// Vector units of the processor, in a fixed order of sums.
    Exact,
    /// Matrix unit of the processor, if it has one.
    Fast,
    /// Products by candle, on whatever device.
    Device(&'a Products),
}

/// Storage of the values of a matrix.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    /// Values as the file stores them; decoded on the way.
    Stored {
        container: &'a Container,
        values: &'a TensorView,
        /// Lets go of the pages of a panel once it is decoded.
        stream: bool,
    },
    /// Decoded.
    Dense(&'a Dense),
    /// The first rows of a decoded matrix, so many.
    First(&'a Dense, usize),
    /// Encoded here; decoded on the way.
    Encoded(&'a Encoded),
}

/// A matrix [out, in] of encoded rows.
pub(super) struct Encoded {
    /// Codec of the rows.
    pub codec: &'static dyn Codec,
    /// The rows, one after the other.
    pub bytes: Vec<u8>,
    /// Number of rows.
    pub rows: usize,
    /// Length of a row, a whole number of blocks.
    pub cols: usize,
}

impl std::fmt::Debug for Encoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {}] {}", self.rows, self.cols, self.codec.encoding())
    }
}

/// A decoded matrix [out, in], row-major.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl Dense {
    /// A matrix from its values.
    ///
    /// # Panics
    /// If they are no whole rows.
    pub fn new(data: Vec<f32>, cols: usize) -> Dense {
        assert!(data.len().is_multiple_of(cols));
        Dense { rows: data.len() / cols.max(1), cols, data }
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Some rows.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> &[f32] {
        &self.data[rows.start * self.cols..rows.end * self.cols]
    }

    /// A low-rank matrix, which BlinkDL keeps as [in, out] and most formats as [out, in]; or one slice of a stack of
    /// them. Whichever way it lies, it is read in order.
    pub fn low_rank(container: &Container, values: &TensorView) -> Dense {
        let (ins, outs) = (values.rows(), values.cols());
        let mut data = vec![0.0; ins * outs];
        if let Some(turned) = values.transposed()
            && turned.stored(container, 0..turned.rows()).is_some()
        {
            turned.read(container, 0..outs, &mut data);
            return Dense { data, rows: outs, cols: ins };
        }
        values.read(container, 0..ins, &mut data);
        Dense::turned(ins, outs, &data)
    }

    /// Number of values.
    pub fn values(&self) -> usize {
        self.data.len()
    }

    /// A matrix from the values of its transpose [in, out].
    pub fn turned(ins: usize, outs: usize, values: &[f32]) -> Dense {
        const TILE: usize = 16;
        let mut data = vec![0.0; outs * ins];
        for i0 in (0..ins).step_by(TILE) {
            for o in 0..outs {
                let row = &mut data[o * ins..];
                for i in i0..ins.min(i0 + TILE) {
                    row[i] = values[i * outs + o];
                }
            }
        }
        Dense { data, rows: outs, cols: ins }
    }
}

thread_local! {
    /// The rows that this thread decodes into.
    static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// The panel that this thread multiplies.
    static PANEL_BUFFER: RefCell<Aligned> = RefCell::new(aligned());
}

#[cfg(target_arch = "x86_64")]
thread_local! {
    /// The panel that this thread prepares for the matrix unit.
    static TILES: RefCell<amx::Tiles> = RefCell::default();
}

/// Activations prepared for the matrix unit, for use again.
#[cfg(target_arch = "x86_64")]
static SPARE: Mutex<Vec<amx::Pairs>> = Mutex::new(Vec::new());

/// True if this processor has a matrix unit that [`By::Fast`] uses.
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
            Values::First(_, rows) => rows,
            Values::Encoded(encoded) => encoded.rows,
        }
    }

    /// Number of columns: values that a product takes.
    pub fn cols(&self) -> usize {
        match self.values {
            Values::Stored { values, .. } => values.cols(),
            Values::Dense(dense) | Values::First(dense, _) => dense.cols,
            Values::Encoded(encoded) => encoded.cols,
        }
    }

    /// `x W^T`: every row of `x` multiplied with every row of the matrix.
    ///
    /// # Panics
    /// If `x` has another number of columns.
    pub fn multiply(&self, x: &Matrix) -> Matrix {
        assert_eq!(x.cols, self.cols());
        let mut out = x.pool().matrix(x.rows, self.rows());
        if let Some(Hooked { key, hook, part }) = self.hook {
            hook.hear(key, part, &Inputs(x));
            if !hook.needs_product(key) {
                out.data.fill(0.0);
                return out;
            }
        }
        if out.data.is_empty() {
            return out;
        }
        match self.by {
            By::Device(products) => products.multiply(self, x, &mut out),
            #[cfg(target_arch = "x86_64")]
            By::Fast if amx::available() => self.multiply_fast(x, &mut out),
            _ if x.rows <= FEW => self.multiply_few(x, &mut out),
            _ => self.multiply_many(x, &mut out),
        }
        out
    }

    /// The product with few rows: the weights are read once, as they are.
    fn multiply_few(&self, x: &Matrix, out: &mut Matrix) {
        let (outs, cols) = (out.cols, x.cols);
        let panel = panel(outs, cols, 1);
        split_columns(&mut out.data, outs, panel).into_par_iter().enumerate().for_each(|(n, columns)| {
            let rows = n * panel..n * panel + columns.cols();
            self.with_rows(rows, |w| product_of_few(&x.data, w, cols, columns));
        });
    }

    /// The product with many rows: both operands are interleaved in strips, the left one once, the weights panel
    /// by panel.
    fn multiply_many(&self, x: &Matrix, out: &mut Matrix) {
        let (outs, cols) = (out.cols, x.cols);
        let level = Level::best();
        let shape = level.shape();
        let mut strips = x.pool().matrix(strips_len(x.rows, cols, shape.rows), 1);
        let one = shape.rows * cols;
        strips.data.par_chunks_mut(one).zip(x.data.par_chunks(one)).for_each(|(strip, rows)| {
            interleave(level, rows, cols, shape.rows, strip);
        });
        let panel = panel(outs, cols, shape.cols);
        split_columns(&mut out.data, outs, panel).into_par_iter().enumerate().for_each(|(n, mut columns)| {
            PANEL_BUFFER.with_borrow_mut(|buffer| {
                let first = n * panel;
                buffer.resize(strips_len(columns.cols(), cols, shape.cols), 0.0);
                for (i, strip) in buffer.chunks_exact_mut(shape.cols * cols).enumerate() {
                    let from = first + i * shape.cols;
                    let rows = from..(from + shape.cols).min(first + columns.cols());
                    self.with_rows(rows, |rows| interleave(level, rows, cols, shape.cols, strip));
                }
                product(level, &strips.data, buffer, cols, &mut columns);
            });
        });
    }

    /// The product on the processor's matrix unit.
    #[cfg(target_arch = "x86_64")]
    fn multiply_fast(&self, x: &Matrix, out: &mut Matrix) {
        let (outs, cols) = (out.cols, x.cols);
        let mut activations = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        activations.take(&x.data, cols);
        let panel = panel(outs, cols, amx::SIDE).min(amx::panel(cols));
        split_columns(&mut out.data, outs, panel).into_par_iter().enumerate().for_each(|(n, mut columns)| {
            let rows = n * panel..n * panel + columns.cols();
            TILES.with_borrow_mut(|tiles| {
                if let Some(bytes) = self.halves(rows.clone()) {
                    tiles.take(amx::Rows::Half(bytes), rows.len(), cols);
                    if let Values::Stored { container, values, stream: true, .. } = self.values {
                        values.release(container, rows);
                    }
                } else {
                    self.with_rows(rows.clone(), |w| tiles.take(amx::Rows::Wide(w), rows.len(), cols));
                }
                amx::product(&activations, tiles, &mut columns);
            });
        });
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(activations);
    }

    /// The stored bytes of some rows, if they are bf16 and nothing changes them.
    #[cfg(target_arch = "x86_64")]
    fn halves(&self, rows: std::ops::Range<usize>) -> Option<&[u8]> {
        match self.values {
            Values::Stored { container, values, .. } if values.encoding() == Some(Encoding::BF16) => {
                values.stored(container, rows)
            }
            _ => None,
        }
    }

    /// Gives some rows, decoded, to `work`.
    pub fn with_rows<R>(&self, rows: std::ops::Range<usize>, work: impl FnOnce(&[f32]) -> R) -> R {
        let cols = self.cols();
        match self.values {
            Values::Dense(dense) | Values::First(dense, _) => work(dense.rows(rows)),
            Values::Stored { container, values, stream } => ROWS.with_borrow_mut(|out| {
                out.resize(rows.len() * cols, 0.0);
                values.read(container, rows.clone(), out);
                if stream {
                    values.release(container, rows);
                }
                work(out)
            }),
            Values::Encoded(encoded) => ROWS.with_borrow_mut(|out| {
                out.resize(rows.len() * cols, 0.0);
                let row_bytes = encoded.bytes.len() / encoded.rows.max(1);
                encoded.codec.decode(&encoded.bytes[rows.start * row_bytes..rows.end * row_bytes], out);
                work(out)
            }),
        }
    }
}

/// Rows of a panel of a matrix [outs, cols], a multiple of `width`: fewer where there would be too few panels for
/// the threads. (Every product is computed by itself, so this changes no value.)
fn panel(outs: usize, cols: usize, width: usize) -> usize {
    let fit = (PANEL / cols.max(1)).min(PANEL_ROWS).min(outs / (2 * rayon::current_num_threads()));
    (fit / width * width).max(width.max(ABREAST))
}

/// Fewest rows of a panel.
const ABREAST: usize = 8;

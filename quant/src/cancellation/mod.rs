//! Weights at any number of bits: uniform quantization with successive cancellation (WaterSIC, arXiv 2603.04956), its
//! codes entropy-coded.
//!
//! A uniform step, as fine as the rate allows, and codes in as few bits as they are probable are within 0.26 bits of
//! what is possible at all; block formats of fixed length are 0.7 to 1.3 away. So there are no blocks: one step for a
//! matrix, or one for each column.
//!
//! With second moments of the inputs (see [`feedback`](crate::feedback), whose `U` is used here) columns are rounded one
//! after the other, and what one is off by is made good by those after it. What an error of column `j` then costs is
//! `1 / U[j][j]^2`, so its step is `c U[j][j]`: every column costs the same, and important ones get more bits.
//! Rounded values are shrunk a little, by the factor that leaves the least error: a code is what is left of a value
//! when noise is taken off.
//!
//! [`Design::fit`] chooses steps and tables from a [`sample`] of the rows; then rows are encoded in tiles, in any
//! order, by any number of threads; the bytes of a tile depend on its rows and the design alone.
//!
//! ```text
//! head:  1       flags: 1 columns have steps, 2 rows have scales, 4 there is a branch of low rank
//!        4       scale, f32
//!        [2 n]   if columns have steps: f16 each
//!        2       if there is a branch: its rank r, u16
//!        [2 r n] its directions, f16 each
//!        ...     entropy::Model
//! tile:  [2 r m] if there is a branch: of each row how much it has of each direction, f16
//!        [2 m]   if rows have scales: f16 each
//!        ...     entropy::tile
//! ```
//!
//! A weight is `code * (row scale * (scale * step))`, in f32; what is not there is 1. To it the products of the branch are
//! added, one direction after the other.

mod branch;
mod fit;
mod sweep;

use branch::{Branch, Projection};
use half::f16;

use crate::codec::{EncodeError, Rows, check_finite};
use crate::coding::tile_rows;
use crate::entropy::{Codes, EntropyError, Fields, Model, tile};
use crate::feedback::Feedback;

/// Weights of a sample, if the matrix has as many.
const SAMPLE: usize = 1 << 18;

/// Fewest bits a weight that a branch of low rank leaves for codes.
const LEAST_LEFT: f64 = 0.1;

/// The greatest code.
const LIMIT: f32 = (1 << 21) as f32;

const STEPS: u8 = 1;
const SCALES: u8 = 2;
const BRANCH: u8 = 4;

/// The rows that a [`Design`] is made from: all, or enough of them at equal distances.
pub fn sample(rows: usize, cols: usize) -> impl Iterator<Item = usize> {
    let n = sample_rows(rows, cols);
    (0..n).map(move |i| i * rows / n)
}

/// The number of rows of a [`sample`].
pub fn sample_rows(rows: usize, cols: usize) -> usize {
    SAMPLE.div_ceil(cols.max(1)).clamp(1, rows.max(1)).min(rows)
}

/// Bytes that the tiles of a matrix of `rows` rows take beside their codes.
fn tile_bytes(rows: usize, cols: usize) -> usize {
    rows.div_ceil(tile_rows(cols)) * tile::FIXED_BYTES
}

/// Entropy-coded scalar quantization of a matrix: rows become codes, and codes bytes.
#[derive(Clone, Debug)]
pub struct Design {
    /// Reciprocal of the step that rows are divided by, for each column.
    inverse: Vec<f32>,
    /// Step that codes are multiplied by when decoded, for each column.
    steps: Vec<f32>,
    head: Vec<u8>,
    scales: bool,
    writer: tile::Writer,
    branch: Option<(Branch, Projection)>,
    bits: f64,
}

impl Design {
    /// Chooses steps such that a matrix of `rows` rows takes `bits` bits a weight, all told.
    ///
    /// `sample` are the rows at [`sample`]; its importance is not used. With `feedback` the outputs are to be near, else the
    /// weights. A rate so low that what is stored beside the codes takes it all is met as nearly as can be.
    ///
    /// # Errors
    /// [`EncodeError::NonFinite`].
    ///
    /// # Panics
    /// If the lengths do not fit together or `bits` is no positive number.
    pub fn fit(
        sample: Rows<'_>,
        rows: usize,
        feedback: Option<&Feedback>,
        bits: f64,
    ) -> Result<Design, EncodeError> {
        assert!(bits > 0.0 && sample.values.len().is_multiple_of(sample.cols.max(1)));
        assert!(feedback.is_none_or(|f| f.n() == sample.cols));
        check_finite(sample.values)?;
        Ok(fit::fit(sample, rows, feedback, bits))
    }

    /// Chooses steps as [`fit`](Design::fit) does, beside a low-rank branch whose bytes count; `None` if the rate
    /// leaves nothing beside the branch.
    ///
    /// # Errors
    /// [`EncodeError::NonFinite`].
    ///
    /// # Panics
    /// As [`fit`](Design::fit).
    pub fn with_branch(
        sample: Rows<'_>,
        rows: usize,
        feedback: Option<&Feedback>,
        bits: f64,
        rank: usize,
    ) -> Result<Option<Design>, EncodeError> {
        check_finite(sample.values)?;
        let Some((branch, projection)) = Branch::of(sample, rank) else { return Ok(None) };
        let left = bits - branch.bits(rows);
        if left < LEAST_LEFT {
            return Ok(None);
        }
        let rest = branch.divide(&projection, sample.values, &mut Vec::new());
        let mut design = Design::fit(Rows::new(&rest, sample.cols), rows, feedback, left)?;
        design.head[0] |= BRANCH;
        let mut stored = Vec::new();
        branch.write(&mut stored);
        let at = 5 + if design.head[0] & STEPS != 0 { 2 * sample.cols } else { 0 };
        design.head.splice(at..at, stored);
        design.bits += branch.bits(rows);
        design.branch = Some((branch, projection));
        Ok(Some(design))
    }

    /// True if there is a branch of low rank.
    pub fn has_branch(&self) -> bool {
        self.branch.is_some()
    }

    /// The bits a weight that the sample takes, and the whole matrix with it if they are alike.
    pub fn bits_per_weight(&self) -> f64 {
        self.bits
    }

    /// Head of the matrix, which is stored once.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Appends a tile of whole rows.
    ///
    /// # Errors
    /// [`EncodeError::NonFinite`].
    ///
    /// # Panics
    /// If `values` are no whole rows, or `feedback` is not that of the [`fit`](Design::fit).
    pub fn encode(
        &self,
        values: &[f32],
        feedback: Option<&Feedback>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        check_finite(values)?;
        let cols = self.steps.len();
        assert!(values.len().is_multiple_of(cols.max(1)));
        let rest = self.branch.as_ref().map(|(branch, projection)| branch.divide(projection, values, out));
        let values = rest.as_deref().unwrap_or(values);
        let mut codes = vec![0; values.len()];
        match feedback {
            None => sweep::round(values, &self.inverse, &mut codes),
            Some(feedback) => {
                let mut work = values.to_vec();
                sweep::cancel(feedback, &mut work, &self.inverse, &mut self.steps.clone(), None, &mut codes);
            }
        }
        if self.scales {
            for (row, codes) in values.chunks_exact(cols.max(1)).zip(codes.chunks_exact(cols.max(1))) {
                out.extend(fit::row_scale(row, codes, &self.steps).to_le_bytes());
            }
        }
        self.writer.encode(Codes { values: &codes, cols }, out);
        Ok(())
    }
}

/// Decodes the tiles of a matrix.
#[derive(Clone, Debug)]
pub struct Reader {
    steps: Vec<f32>,
    scales: bool,
    branch: Option<Branch>,
    tiles: tile::Reader,
}

impl Reader {
    /// Reads the [head](Design::head) of a matrix of `cols` columns.
    ///
    /// # Errors
    /// [`EntropyError`] if it is none.
    pub fn new(head: &[u8], cols: usize) -> Result<Reader, EntropyError> {
        let mut fields = Fields(head);
        let flags = fields.u8("the head of a matrix")?;
        if flags > STEPS | SCALES | BRANCH {
            return Err(EntropyError::Field { what: "the flags of a matrix", value: flags.into() });
        }
        let scale = f32::from_le_bytes(fields.array("the scale of a matrix")?);
        let mut steps = vec![scale; cols];
        if flags & STEPS != 0 {
            for step in &mut steps {
                *step *= f16::from_le_bytes(fields.array("the steps of columns")?).to_f32();
            }
        }
        if let Some(column) = steps.iter().position(|s| !s.is_finite()) {
            return Err(EntropyError::Field {
                what: "a column whose step is not finite",
                value: column as u64,
            });
        }
        let branch = match flags & BRANCH {
            0 => None,
            _ => Some(Branch::read(&mut fields, cols)?),
        };
        let tiles = tile::Reader::new(Model::read(fields.0, cols)?);
        Ok(Reader { steps, scales: flags & SCALES != 0, branch, tiles })
    }

    /// Fills `out`, whole rows, from all of a tile.
    ///
    /// # Errors
    /// [`EntropyError`] unless `bytes` are a tile of as many rows; `out` is then unspecified.
    ///
    /// # Panics
    /// If `out` is no whole number of rows.
    pub fn decode(&self, bytes: &[u8], out: &mut [f32]) -> Result<(), EntropyError> {
        let cols = self.steps.len();
        let mut fields = Fields(bytes);
        let up = match &self.branch {
            Some(branch) => branch.up(&mut fields, out.len() / cols.max(1))?,
            None => Vec::new(),
        };
        let scales = if self.scales { 2 * (out.len() / cols.max(1)) } else { 0 };
        let (scales, _) = fields.bytes(scales, "the scales of rows")?.as_chunks::<2>();
        let scales: Vec<f32> = scales.iter().map(|s| f16::from_le_bytes(*s).to_f32()).collect();
        if let Some(row) = scales.iter().position(|s| !s.is_finite()) {
            return Err(EntropyError::Field { what: "a row whose scale is not finite", value: row as u64 });
        }
        self.tiles.decode(fields.0, out, |n, row| {
            let scale = scales.get(n).copied().unwrap_or(1.0);
            for (v, step) in row.iter_mut().zip(&self.steps) {
                *v *= scale * step;
            }
        })?;
        if let Some(branch) = &self.branch {
            branch.add(&up, out);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hessian::Hessian;
    use crate::random::Random;

    fn normal(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..n).map(|_| random.normal() as f32).collect()
    }

    /// Decoded weights, and the bits per weight.
    fn round_trip(values: &[f32], cols: usize, feedback: Option<&Feedback>, bits: f64) -> (Vec<f32>, f64) {
        let rows = values.len() / cols;
        let picked: Vec<f32> =
            sample(rows, cols).flat_map(|r| values[r * cols..(r + 1) * cols].iter().copied()).collect();
        let design = Design::fit(Rows::new(&picked, cols), rows, feedback, bits).unwrap();
        let reader = Reader::new(design.head(), cols).unwrap();
        let mut out = vec![f32::NAN; values.len()];
        let mut bytes = design.head().len();
        for (values, out) in values.chunks(tile_rows(cols) * cols).zip(out.chunks_mut(tile_rows(cols) * cols))
        {
            let mut tile = Vec::new();
            design.encode(values, feedback, &mut tile).unwrap();
            reader.decode(&tile, out).unwrap();
            bytes += tile.len();
        }
        (out, 8.0 * bytes as f64 / values.len() as f64)
    }

    /// Squared error over squared weights.
    fn error(x: &[f32], y: &[f32]) -> f64 {
        let square = |v: f32| f64::from(v).powi(2);
        x.iter().zip(y).map(|(x, y)| square(x - y)).sum::<f64>() / x.iter().map(|x| square(*x)).sum::<f64>()
    }

    #[test]
    fn normal_weights_are_a_quarter_bit_from_the_bound() {
        let (cols, values) = (256, normal(512 * 256, 1));
        for bits in [2.0, 3.0, 4.5, 6.25, 9.0] {
            let (decoded, found) = round_trip(&values, cols, None, bits);
            assert!((found - bits).abs() < 0.02, "{bits}: {found}");
            let error = error(&values, &decoded);
            let above = bits + 0.5 * error.log2();
            assert!(above < 0.29, "{bits}: {error:.3e}, {above} bits above the bound");
        }
    }

    /// A few directions hold nearly all: kept apart, they cost less than as codes.
    #[test]
    fn a_branch_of_low_rank_pays_where_there_is_one() {
        let (rows, cols, bits) = (512, 256, 4.0);
        let (up, down, mut values) = (normal(rows * 2, 3), normal(2 * cols, 4), normal(rows * cols, 5));
        for (i, v) in values.iter_mut().enumerate() {
            let product: f32 = (0..2).map(|k| up[i / cols * 2 + k] * down[k * cols + i % cols]).sum();
            *v = 0.1 * *v + 4.0 * product;
        }
        let sample = Rows::new(&values, cols);
        let plain = Design::fit(sample, rows, None, bits).unwrap();
        let branched = Design::with_branch(sample, rows, None, bits, 2).unwrap().unwrap();
        assert!(branched.has_branch() && !plain.has_branch());
        let [plain, branched] = [plain, branched].map(|design| {
            let (mut tile, mut decoded) = (Vec::new(), vec![0.0; values.len()]);
            design.encode(&values, None, &mut tile).unwrap();
            let found = 8.0 * (design.head().len() + tile.len()) as f64 / values.len() as f64;
            assert!((found - bits).abs() < 0.03 && (design.bits_per_weight() - bits).abs() < 0.02, "{found}");
            let reader = Reader::new(design.head(), cols).unwrap();
            reader.decode(&tile, &mut decoded).unwrap();
            assert!(reader.decode(&tile[..100], &mut decoded.clone()).is_err());
            error(&values, &decoded)
        });
        assert!(branched < 0.02 * plain, "{branched} {plain}");
        assert!(Design::with_branch(sample, rows, None, 0.2, 16).unwrap().is_none());
    }

    #[test]
    fn cancellation_makes_outputs_near() {
        let (n, rows) = (192, 300);
        let x = normal(n * n, 5);
        // Correlated inputs of very different size, one of them always 0.
        let entry = |i: usize, k: usize| {
            let size = |i: usize| if i == 9 { 0.0 } else { 1.0 + (i % 7) as f64 };
            let sum: f64 =
                (0..n).map(|t| f64::from(x[i * n + t]) * f64::from(x[k * n + t]) / (1 + t) as f64).sum();
            (sum * size(i) * size(k)) as f32
        };
        let hessian = Hessian::new(n, (0..n * n).map(|i| entry(i / n, i % n)).collect()).unwrap();
        let feedback = Feedback::new(&hessian, 0.01).unwrap();
        let values = normal(n * rows, 6);
        let (plain, _) = round_trip(&values, n, None, 4.0);
        let (near, found) = round_trip(&values, n, Some(&feedback), 4.0);
        assert!((found - 4.0).abs() < 0.03, "{found}");
        let (plain, near) = (hessian.output_error(&values, &plain), hessian.output_error(&values, &near));
        assert!(near < 0.3 * plain, "{near} {plain}");
    }

    /// Case imatrix-zero: inputs that are always 0 in the text (neurons that never fire in it) say nothing about their
    /// weights, which get steps of the usual size.
    #[test]
    fn inputs_that_are_always_0_keep_their_weights() {
        let (n, rows) = (192, 300);
        let moment = |i: usize, k: usize| match (i, k) {
            (64..128, _) | (_, 64..128) if i == k => f32::from_bits(i as u32 % 3),
            (64..128, _) | (_, 64..128) => 0.0,
            _ => 0.8f32.powi(i.abs_diff(k) as i32),
        };
        let hessian = Hessian::new(n, (0..n * n).map(|i| moment(i / n, i % n)).collect()).unwrap();
        let feedback = Feedback::new(&hessian, 0.01).unwrap();
        let values = normal(n * rows, 6);
        let (plain, _) = round_trip(&values, n, None, 4.0);
        let (near, found) = round_trip(&values, n, Some(&feedback), 4.0);
        assert!((found - 4.0).abs() < 0.03, "{found}");
        let of_dead = |values: &[f32]| -> Vec<f32> {
            values.chunks(n).flat_map(|row| row[64..128].iter().copied()).collect()
        };
        let values = of_dead(&values);
        let (plain, near) = (error(&values, &of_dead(&plain)), error(&values, &of_dead(&near)));
        assert!(near < 2.0 * plain, "{near} {plain}");
    }

    #[test]
    fn what_is_not_usual_is_no_trouble() {
        for values in [vec![0.0; 4096], vec![1e30; 4096], vec![1e-30; 4096], vec![], {
            let mut spike = vec![0.0; 4096];
            spike[77] = 5.0;
            spike
        }] {
            let (decoded, _) = round_trip(&values, 64, None, 3.0);
            assert!(decoded.iter().all(|v| v.is_finite()));
            assert!(
                values.iter().all(|v| *v == 0.0) || error(&values, &decoded) < 0.05,
                "{:?}",
                &decoded[..80]
            );
        }
        let bad = [1.0, f32::NAN];
        let error = Design::fit(Rows::new(&bad, 2), 1, None, 3.0).err();
        assert!(matches!(error, Some(EncodeError::NonFinite { index: 1, .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn damage_is_an_error_or_other_weights(at in any::<proptest::sample::Index>(), flip in 1..=255u8, seed in any::<u64>()) {
            let (cols, values) = (40, normal(40 * 30, seed));
            let design = Design::fit(Rows::new(&values, cols), 30, None, 3.0).unwrap();
            let mut tile = Vec::new();
            design.encode(&values, None, &mut tile).unwrap();
            let mut out = vec![0.0; values.len()];
            let mut head = design.head().to_vec();
            let i = at.index(head.len());
            head[i] ^= flip;
            if let Ok(reader) = Reader::new(&head, cols) {
                let _ = reader.decode(&tile, &mut out);
            }
            prop_assert!(Reader::new(&head[..i], cols).is_err());
            let i = at.index(tile.len());
            tile[i] ^= flip;
            let reader = Reader::new(design.head(), cols).unwrap();
            let _ = reader.decode(&tile, &mut out);
            prop_assert!(reader.decode(&tile[..i], &mut out).is_err());
        }
    }
}

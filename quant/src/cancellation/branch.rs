//! A branch of low rank within a coded matrix: what some directions of its inputs do is kept in f16, and the codes are
//! of what is left.
//!
//! The directions (`down`, `[rank, cols]`) are stored once. What a row has of them (`up`, `[rows, rank]`) follows from the
//! row alone, so that tiles are encoded on their own: the factors that leave the least of it.

use half::f16;
use nalgebra::DMatrix;

use crate::Rows;
use crate::entropy::{EntropyError, Fields};
use crate::low_rank::{LowRank, Metric, factor, product};

/// Seed of the random vectors that the search for the directions starts from.
const SEED: u64 = 0;

/// The directions.
#[derive(Clone, Debug)]
pub(super) struct Branch {
    rank: usize,
    /// `[rank, cols]`, as f16 holds them.
    down: Vec<f32>,
}

/// Projection of a row onto the directions: `[rank, cols]`, [`Branch::down`]'s pseudoinverse transposed.
#[derive(Clone, Debug)]
pub(super) struct Projection(Vec<f64>);

impl Branch {
    /// The leading directions of the rows of a sample, at most `rank`; `None` if f16 cannot hold any.
    pub fn of(sample: Rows<'_>, rank: usize) -> Option<(Branch, Projection)> {
        let cols = sample.cols;
        let rows = sample.values.len() / cols.max(1);
        let LowRank { rank, down, .. } = factor(rows, cols, sample.values, Metric::Plain, rank, SEED);
        let wide = DMatrix::from_row_iterator(rank, cols, down.iter().map(|v| f64::from(*v)));
        // The same space, by directions of length 1.
        let basis = wide.transpose().qr().q();
        let rounded = basis.map(|v| f16::from_f64(v).to_f64());
        let inverse = product(&rounded.transpose(), &rounded).try_inverse()?;
        let projection = product(&rounded, &inverse);
        let down: Vec<f32> = rounded.as_slice().iter().map(|v| *v as f32).collect();
        (rank > 0).then(|| (Branch { rank, down }, Projection(projection.as_slice().to_vec())))
    }

    /// Bits that it takes for each weight of a matrix of so many rows.
    pub fn bits(&self, rows: usize) -> f64 {
        let cols = self.down.len() / self.rank;
        16.0 * self.rank as f64 * (1.0 / rows.max(1) as f64 + 1.0 / cols.max(1) as f64)
    }

    /// Appends it to a head.
    pub fn write(&self, head: &mut Vec<u8>) {
        head.extend((self.rank as u16).to_le_bytes());
        head.extend(self.down.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
    }

    /// Reads it from a head of a matrix of `cols` columns.
    ///
    /// # Errors
    /// [`EntropyError`] if there is none.
    pub fn read(fields: &mut Fields<'_>, cols: usize) -> Result<Branch, EntropyError> {
        let rank = usize::from(u16::from_le_bytes(fields.array("the rank of a branch")?));
        if rank == 0 || rank > cols {
            return Err(EntropyError::Field { what: "the rank of a branch", value: rank as u64 });
        }
        let down = finite(fields.bytes(2 * rank * cols, "the directions of a branch")?, "a direction")?;
        Ok(Branch { rank, down })
    }

    /// Appends the coefficients `up` of whole rows in the directions to a tile; returns the residual of the rows.
    pub fn divide(&self, projection: &Projection, values: &[f32], tile: &mut Vec<u8>) -> Vec<f32> {
        let cols = self.down.len() / self.rank;
        let mut up = Vec::with_capacity(values.len() / cols * self.rank);
        for row in values.chunks_exact(cols) {
            for direction in projection.0.chunks_exact(cols) {
                let dot: f64 = row.iter().zip(direction).map(|(v, d)| f64::from(*v) * d).sum();
                up.push(f16::from_f64(dot.clamp(-65504.0, 65504.0)));
            }
        }
        tile.extend(up.iter().flat_map(|v| v.to_le_bytes()));
        let up: Vec<f32> = up.iter().map(|v| -v.to_f32()).collect();
        let mut rest = values.to_vec();
        self.add(&up, &mut rest);
        rest
    }

    /// Coefficients of so many rows in the directions, taken off the start of a tile.
    ///
    /// # Errors
    /// [`EntropyError`] if the tile is too short.
    pub fn up(&self, fields: &mut Fields<'_>, rows: usize) -> Result<Vec<f32>, EntropyError> {
        finite(fields.bytes(2 * rows * self.rank, "the branch of rows")?, "a branch")
    }

    /// Adds the product of `up` and the directions to whole rows, one direction after the other.
    pub fn add(&self, up: &[f32], values: &mut [f32]) {
        let cols = self.down.len() / self.rank;
        for (row, up) in values.chunks_exact_mut(cols).zip(up.chunks_exact(self.rank)) {
            for (up, direction) in up.iter().zip(self.down.chunks_exact(cols)) {
                row.iter_mut().zip(direction).for_each(|(v, d)| *v += up * d);
            }
        }
    }
}

/// Finite numbers of f16.
fn finite(bytes: &[u8], what: &'static str) -> Result<Vec<f32>, EntropyError> {
    let values: Vec<f32> = bytes.as_chunks::<2>().0.iter().map(|v| f16::from_le_bytes(*v).to_f32()).collect();
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(values),
        Some(n) => Err(EntropyError::Field { what, value: n as u64 }),
    }
}

//! From values to sections.

use std::ops::Range;

use formats::compact;
use quant::cancellation::{self, Design};
use quant::coding::tile_rows;
use quant::feedback::Feedback;
use quant::{EncodeError, Encoding, Rows, check_finite, codec, lossless};
use rayon::prelude::*;

use super::Coded;
use crate::error::Error;
use crate::pipeline::Stop;

/// How hard small tensors are packed.
const LEVEL: i32 = 19;

/// A matrix to be coded.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Rows and columns.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Reads some rows.
    pub read: &'a (dyn Fn(Range<usize>, &mut [f32]) + Sync),
}

/// Why a matrix could not be coded.
#[derive(Debug)]
pub enum Unencodable {
    /// A weight cannot be; the index counts from the start of the matrix.
    Weight(EncodeError),
    /// Something else.
    Other(Error),
}

impl From<EncodeError> for Unencodable {
    fn from(e: EncodeError) -> Self {
        Unencodable::Weight(e)
    }
}

impl From<Error> for Unencodable {
    fn from(e: Error) -> Self {
        Unencodable::Other(e)
    }
}

impl Matrix<'_> {
    /// Its section; the values of `encoding` stand in the file, or are decoded from it. The bytes do not depend on
    /// threads.
    ///
    /// # Errors
    /// The first weight that is not finite or does not fit; if the work was stopped.
    pub fn section(
        &self,
        coded: Coded,
        encoding: Encoding,
        stop: &Stop,
    ) -> std::result::Result<Vec<u8>, Unencodable> {
        match coded {
            Coded::Codes(bits) => {
                let design = self.design(&self.sample(), bits, None)?;
                self.codes(&design, None, stop)
            }
            Coded::Lossless => {
                let tiles = self.tiles(stop, |values| {
                    let mut tile = Vec::new();
                    lossless::encode(&encoded(values, self.cols, Encoding::BF16)?, &mut tile);
                    Ok(tile)
                })?;
                Ok(compact::section(&[], &tiles).map_err(Error::from)?)
            }
            Coded::Zstd => {
                let mut values = vec![0.0; self.rows * self.cols];
                (self.read)(0..self.rows, &mut values);
                let bytes = encoded(&values, self.cols, encoding)?;
                let packed = zstd::bulk::compress(&bytes, LEVEL);
                Ok(packed.map_err(|e| Error::Resources {
                    what: format!("zstd cannot pack {} bytes: {e}", bytes.len()),
                    help: "free some memory".to_owned(),
                })?)
            }
        }
    }

    /// The rows that steps and tables are fitted to.
    pub fn sample(&self) -> Vec<f32> {
        let picked: Vec<usize> = cancellation::sample(self.rows, self.cols).collect();
        let mut values = vec![0.0; picked.len() * self.cols];
        for (row, out) in picked.into_iter().zip(values.chunks_exact_mut(self.cols.max(1))) {
            (self.read)(row..row + 1, out);
        }
        values
    }

    /// The design for a rate.
    ///
    /// # Errors
    /// The first weight of the matrix that is not finite.
    pub fn design(
        &self,
        sample: &[f32],
        bits: f64,
        feedback: Option<&Feedback>,
    ) -> std::result::Result<Design, Unencodable> {
        Design::fit(Rows::new(sample, self.cols), self.rows, feedback, bits).map_err(|in_sample| {
            // Which weight of the matrix it is, the tiles tell.
            let found = self.tiles(&Stop::new(), |values| check_finite(values).map(|()| Vec::new()));
            found.err().unwrap_or(Unencodable::Weight(in_sample))
        })
    }

    /// The section of a design.
    ///
    /// # Errors
    /// As [`section`](Matrix::section).
    pub fn codes(
        &self,
        design: &Design,
        feedback: Option<&Feedback>,
        stop: &Stop,
    ) -> std::result::Result<Vec<u8>, Unencodable> {
        let tiles = self.tiles(stop, |values| {
            let mut tile = Vec::new();
            design.encode(values, feedback, &mut tile)?;
            Ok(tile)
        })?;
        Ok(compact::section(design.head(), &tiles).map_err(Error::from)?)
    }

    /// What `encode` makes of every tile, on all threads.
    fn tiles(
        &self,
        stop: &Stop,
        encode: impl Fn(&[f32]) -> std::result::Result<Vec<u8>, EncodeError> + Sync,
    ) -> std::result::Result<Vec<Vec<u8>>, Unencodable> {
        let step = tile_rows(self.cols);
        let tile = |n: usize| {
            stop.check()?;
            let rows = n * step..self.rows.min((n + 1) * step);
            let mut values = vec![0.0; rows.len() * self.cols];
            (self.read)(rows.clone(), &mut values);
            encode(&values).map_err(|mut e| {
                if let EncodeError::NonFinite { index, .. } | EncodeError::Overflow { index, .. } = &mut e {
                    *index += rows.start * self.cols;
                }
                Unencodable::Weight(e)
            })
        };
        let all: Vec<_> = (0..self.rows.div_ceil(step)).into_par_iter().map(tile).collect();
        all.into_iter().collect() // of several errors the first one
    }
}

/// Plain values as bytes.
fn encoded(values: &[f32], cols: usize, encoding: Encoding) -> std::result::Result<Vec<u8>, EncodeError> {
    let codec = codec(encoding).ok_or(EncodeError::ReadOnly(encoding))?;
    let mut bytes = vec![0; values.len() * encoding.block_bytes()];
    codec.encode(Rows::new(values, cols), &mut bytes)?;
    Ok(bytes)
}

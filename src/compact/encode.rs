//! Encoding of values to sections.

use std::io::{Cursor, Seek, Write};
use std::ops::Range;

use formats::compact::SectionWriter;
use quant::cancellation::{self, Design, Reader};
use quant::coding::tile_rows;
use quant::feedback::Feedback;
use quant::nf4::{self, nested};
use quant::{EncodeError, Encoding, Rows, check_finite, codec, lossless};
use rayon::prelude::*;

use crate::checkpoint::Unencodable;
use crate::pipeline::Stop;
use crate::recipe::Search;
use crate::scheme::Coded;

/// Compression level of zstd for small tensors.
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
    /// Effort of the search for codes of blocks.
    pub search: Search,
    /// Tiles that are in memory at a time.
    pub tiles: usize,
}

impl Matrix<'_> {
    /// Writes its section at the start of `out`; the values of `encoding` stand in the file, or are decoded from it. The
    /// bytes do not depend on threads.
    ///
    /// # Errors
    /// The first weight that is not finite or does not fit; if the work was stopped; those of `out`.
    pub fn section(
        &self,
        coded: Coded,
        encoding: Encoding,
        stop: &Stop,
        mut out: impl Write + Seek,
    ) -> Result<(), Unencodable> {
        match coded {
            Coded::Codes { bits, rank } => {
                let sample = self.sample();
                let error = |design: &Design| squared_error(design, &sample, self.cols);
                let mut design = self.design(&sample, bits, None)?;
                if let Some(branched) = self.branched(&sample, bits, rank, None)?
                    && error(&branched)? < error(&design)?
                {
                    design = branched;
                }
                self.codes(&design, None, stop, out)
            }
            Coded::Lossless => self.tiles(&[], stop, out, |values| {
                let mut tile = Vec::new();
                lossless::encode(&encoded(values, self.cols, Encoding::BF16)?, &mut tile);
                Ok(tile)
            }),
            Coded::Nf4Dq => self.tiles(&[], stop, out, |values| {
                let mut blocks = vec![0; values.len() / nf4::BLOCK * Encoding::Nf4.block_bytes()];
                self.search.encode(&nf4::NF4, Rows::new(values, self.cols), &mut blocks)?;
                Ok(nested::encode(&blocks))
            }),
            Coded::Zstd => {
                let mut values = vec![0.0; self.rows * self.cols];
                (self.read)(0..self.rows, &mut values);
                let bytes = encoded(&values, self.cols, encoding)?;
                out.write_all(&zstd::bulk::compress(&bytes, LEVEL)?)?;
                Ok(out.flush()?)
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
    ) -> Result<Design, Unencodable> {
        Design::fit(Rows::new(sample, self.cols), self.rows, feedback, bits).map_err(|in_sample| {
            // Which weight of the matrix it is, the tiles tell.
            let check = |values: &[f32]| check_finite(values).map(|()| Vec::new());
            let found = self.tiles(&[], &Stop::new(), Cursor::new(Vec::new()), check);
            found.err().unwrap_or(Unencodable::Weight(in_sample))
        })
    }

    /// The design for a rate with a branch of low rank; `None` if it can have none.
    ///
    /// # Errors
    /// Those of the sample.
    pub fn branched(
        &self,
        sample: &[f32],
        bits: f64,
        rank: usize,
        feedback: Option<&Feedback>,
    ) -> Result<Option<Design>, Unencodable> {
        match rank {
            0 => Ok(None),
            _ => Ok(Design::with_branch(Rows::new(sample, self.cols), self.rows, feedback, bits, rank)?),
        }
    }

    /// Writes the section of a design.
    ///
    /// # Errors
    /// As [`section`](Matrix::section).
    pub fn codes(
        &self,
        design: &Design,
        feedback: Option<&Feedback>,
        stop: &Stop,
        out: impl Write + Seek,
    ) -> Result<(), Unencodable> {
        self.tiles(design.head(), stop, out, |values| {
            let mut tile = Vec::new();
            design.encode(values, feedback, &mut tile)?;
            Ok(tile)
        })
    }

    /// Writes a section of what `encode` makes of every tile, on all threads; some tiles are in memory at a time.
    fn tiles(
        &self,
        head: &[u8],
        stop: &Stop,
        out: impl Write + Seek,
        encode: impl Fn(&[f32]) -> Result<Vec<u8>, EncodeError> + Sync,
    ) -> Result<(), Unencodable> {
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
        let count = self.rows.div_ceil(step);
        let mut writer = SectionWriter::new(out, head, count)?;
        let together = self.tiles.max(1);
        for start in (0..count).step_by(together) {
            let some: Vec<_> =
                (start..count.min(start.saturating_add(together))).into_par_iter().map(tile).collect();
            // Of several errors the first one.
            for tile in some {
                writer.tile(&tile?)?;
            }
        }
        writer.finish()?;
        Ok(())
    }
}

/// Errors of the rows of a sample as a design stores them.
///
/// # Errors
/// Those of the sample.
pub fn off_by(
    design: &Design,
    feedback: Option<&Feedback>,
    sample: &[f32],
    cols: usize,
) -> Result<Vec<f32>, EncodeError> {
    let mut tile = Vec::new();
    design.encode(sample, feedback, &mut tile)?;
    let mut off = vec![0.0; sample.len()];
    // What was just encoded is decoded.
    let decoded = Reader::new(design.head(), cols).and_then(|r| r.decode(&tile, &mut off));
    debug_assert!(decoded.is_ok());
    off.iter_mut().zip(sample).for_each(|(d, v)| *d -= v);
    Ok(off)
}

fn squared_error(design: &Design, sample: &[f32], cols: usize) -> Result<f64, EncodeError> {
    let off = off_by(design, None, sample, cols)?;
    Ok(off.iter().map(|v| f64::from(*v).powi(2)).sum())
}

/// Plain values as bytes.
fn encoded(values: &[f32], cols: usize, encoding: Encoding) -> Result<Vec<u8>, EncodeError> {
    let codec = codec(encoding).ok_or(EncodeError::ReadOnly(encoding))?;
    let mut bytes = vec![0; values.len() * encoding.block_bytes()];
    codec.encode(Rows::new(values, cols), &mut bytes)?;
    Ok(bytes)
}

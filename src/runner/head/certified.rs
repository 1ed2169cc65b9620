//! A head that is read twice, and exact by proof.
//!
//! First the logits of a copy of 6 bits (Q6_K) of every row; then, with the full rows, those of the tokens that can
//! still be among the likeliest ([`quant::certified`] has the proof). The others keep the logits of the copy, which are
//! certainly below those of the likeliest ones: their upper bounds are. So the likeliest tokens, their order and their
//! logits are those of the full head to the last bit; all further logits, and with them the probabilities of sampling
//! from all tokens, are those of 6 bits.

use quant::certified::Bounds;
use quant::{Codec, Rows as Weights, ggml};
use rayon::prelude::*;

use super::{FullRows, Head, Reading, Rows, each_input};
use crate::runner::Logits;
use crate::runner::weight::{By, Encoded, Inputs, Values, Weight};

/// Encoding of the copy.
pub(super) static COPY: &ggml::Q6K = &ggml::Q6K;

/// A copy of 6 bits, and how far each of its rows can be from the full one.
#[derive(Debug)]
pub struct Certified {
    pub(super) best: usize,
    pub(super) copy: Encoded,
    pub(super) bounds: Bounds,
}

impl Certified {
    /// The certified head whose `best` likeliest tokens are exact.
    ///
    /// # Errors
    /// What is wrong with the matrix: rows that are no whole number of blocks, or weights that are not finite.
    pub fn new(full: &FullRows<'_>, best: usize) -> Result<Certified, String> {
        let (cols, e) = (full.cols(), COPY.encoding());
        let Some(row_bytes) = e.row_bytes(cols as u64).filter(|_| cols.is_multiple_of(e.block_len())) else {
            return Err(format!("rows of {cols} weights are no whole number of {e} blocks"));
        };
        let mut bytes = Vec::with_capacity(full.rows() * row_bytes as usize);
        let mut bounds = Vec::with_capacity(full.rows());
        full.each_chunk(|values| {
            let encoded: Vec<(Vec<u8>, Bounds)> = values
                .par_chunks(cols)
                .map(|row| {
                    let mut bytes = vec![0; row_bytes as usize];
                    COPY.encode_best(Weights::new(row, cols), &mut bytes).map_err(|e| e.to_string())?;
                    let bounds = Bounds::new(COPY, row, cols, &bytes);
                    Ok((bytes, bounds))
                })
                .collect::<Result<_, String>>()?;
            for (row, bound) in encoded {
                bytes.extend(row);
                bounds.extend_from_slice(bound.rows());
            }
            Ok::<(), String>(())
        })?;
        let copy = Encoded { codec: COPY, bytes, rows: full.rows(), cols };
        Ok(Certified { best, copy, bounds: Bounds::from_rows(bounds) })
    }

    /// Bytes that are read for every token, before any full row.
    pub fn always_bytes(&self) -> u64 {
        (self.copy.bytes.len() + size_of_val(self.bounds.rows())) as u64
    }
}

impl Head for Certified {
    fn name(&self) -> String {
        format!("certified:{}", self.best)
    }

    fn exact(&self) -> usize {
        self.best
    }

    fn logits(&self, full: &FullRows<'_>, inputs: &Inputs<'_>) -> (Logits, Vec<Reading>) {
        let x = inputs.0;
        let copy = Weight { values: Values::Encoded(&self.copy), by: By::Exact, key: None, hook: None };
        let always = self.always_bytes();
        each_input(copy.multiply(x), |i, logits| {
            let rows = self.bounds.survivors(logits, x.row(i), self.best);
            full.fill(x.row(i), &rows, logits);
            let bytes = always + rows.len() as u64 * full.row_bytes();
            Reading { rows: Rows::Some(rows), bytes }
        })
    }
}

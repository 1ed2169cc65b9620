//! A certified head in a compact file (safetensors has no such blocks), with
//!
//! ```text
//! head.certified.copy    Q6_K [tokens, channels]  every row in 6 bits
//! head.certified.bounds  F32  [tokens]            how far its logit can be from the full row's, for inputs of length 1
//! ```
//! and the keys `best` (how many tokens are exact) and `full` (SHA-256 of the full rows' values as little-endian f32:
//! the proof holds for these rows and no others).

use std::path::Path;

use quant::Codec;
use quant::certified::Bounds;
use sha2::{Digest, Sha256};

use super::{HeadFile, file, floats};
use crate::digest::hex;
use crate::error::{Error, Result};
use crate::runner::head::FullRows;
use crate::runner::head::certified::{COPY, Certified};
use crate::runner::weight::Encoded;

pub(super) const KIND: &str = "certified";

const BITS: &str = "head.certified.copy";
const BOUNDS: &str = "head.certified.bounds";

impl Certified {
    /// The file at `path` that holds it; `full` are the rows that it was made of.
    ///
    /// # Errors
    /// If it cannot be placed.
    pub fn file(&self, full: &FullRows<'_>, path: &Path) -> Result<Vec<u8>> {
        let copy = &self.copy;
        let keys = vec![("best", self.best.to_string()), ("full", fingerprint(full)?)];
        let bounds = floats(self.bounds.rows());
        let parts = vec![
            (BITS, COPY.encoding(), vec![copy.rows, copy.cols], copy.bytes.clone()),
            (BOUNDS, quant::Encoding::F32, vec![copy.rows], bounds),
        ];
        file(path, KIND, keys, parts)
    }

    /// The head in a file, for a model with the head `full`.
    pub(in crate::runner::head) fn read(file: &HeadFile, full: &FullRows<'_>) -> Result<Certified> {
        let (rows, cols) = (full.rows(), full.cols());
        let best = file.number("best")?;
        let bytes = file.part(BITS, COPY.encoding(), &[rows, cols])?.to_vec();
        let bounds = file.floats(BOUNDS, &[rows])?;
        if file.text("full") != Some(&fingerprint(full)?) {
            return Err(
                file.unfit("is certified for another head, of which it proves nothing here".to_owned())
            );
        }
        let copy = Encoded { codec: COPY, bytes, rows, cols };
        Ok(Certified { best, copy, bounds: Bounds::from_rows(bounds) })
    }
}

fn fingerprint(full: &FullRows<'_>) -> Result<String> {
    let mut hash = Sha256::new();
    full.each_chunk(|rows| {
        hash.update(floats(rows));
        Ok::<_, Error>(())
    })?;
    Ok(hex(&hash.finalize()))
}

//! One matrix of a compact file: codes of any rate, errors fed back; or blocks in tiles.
//!
//! Of codes, by how much the moments are shrunk toward their diagonal is tried on the rows that steps are fitted to
//! anyway, each time at the rate asked for, judged by moments of tokens that were held out. The codes without feedback
//! are always a candidate.

use std::io::{self, Cursor};

use formats::compact::{Tiled, Tiles, section};
use quant::Encoding;
use quant::cancellation::Design;
use quant::coding::{Coding, Decoder, tile_rows};
use quant::feedback::Feedback;
use quant::hessian::Hessian;
use quant::importance;
use quant::nf4::{self, nested};
use rayon::prelude::*;

use super::matrix::SHRINKAGES;
use crate::checkpoint::{Encoded, Gain, Outcome, Rounding, Unencodable};
use crate::compact::{Matrix, off_by};
use crate::pipeline::Stop;
use crate::runner::{ErrorMeter, Moments};

/// A design, and its error on tokens that were held out.
struct Near {
    error: f64,
    /// Error without a low-rank branch.
    without: f64,
    design: Design,
}

/// The section of `matrix` at so many bits per weight, perhaps with a branch of that rank, fitted to some tokens and
/// judged by others.
///
/// # Errors
/// As [`Matrix::section`].
pub(super) fn encode(
    matrix: &Matrix<'_>,
    (bits, rank): (f64, usize),
    fit: &Moments,
    held_out: &Moments,
    stop: &Stop,
) -> std::result::Result<Encoded, Unencodable> {
    let sample = matrix.sample();
    let judge = ErrorMeter::new(held_out);
    let error = |design: &Design, feedback: Option<&Feedback>| -> std::result::Result<f64, Unencodable> {
        Ok(judge.power(&off_by(design, feedback, &sample, matrix.cols)?))
    };
    let nearest = |feedback: Option<&Feedback>| -> std::result::Result<Near, Unencodable> {
        let design = matrix.design(&sample, bits, feedback)?;
        let without = error(&design, feedback)?;
        if let Some(design) = matrix.branched(&sample, bits, rank, feedback)? {
            let error = error(&design, feedback)?;
            if error < without {
                return Ok(Near { error, without, design });
            }
        }
        Ok(Near { error: without, without, design })
    };
    let plain = nearest(None)?;
    let hessian = fit.matrix().map(|moments| Hessian::new(matrix.cols, moments));
    let tried: Vec<std::result::Result<(Near, f32, Feedback), Tried>> = match &hessian {
        Some(Ok(hessian)) => SHRINKAGES
            .par_iter()
            .map(|shrinkage| {
                stop.check().map_err(Unencodable::from)?;
                let feedback = Feedback::new(hessian, *shrinkage).map_err(|e| Tried::Not(e.to_string()))?;
                Ok((nearest(Some(&feedback))?, *shrinkage, feedback))
            })
            .collect(),
        Some(Err(e)) => vec![Err(Tried::Not(e.to_string()))],
        None => vec![Err(Tried::Not("there are no moments".to_owned()))],
    };
    let mut best: Option<(Near, f32, Feedback)> = None;
    let mut choice = Rounding::Default;
    for found in tried {
        match found {
            Ok(found) if best.as_ref().is_none_or(|b| found.0.error < b.0.error) => best = Some(found),
            Ok(_) => {}
            Err(Tried::Not(why)) => choice = Rounding::Forced { why },
            Err(Tried::Failed(e)) => return Err(e),
        }
    }
    let default_error = plain.error;
    let (near, feedback) = match best.filter(|b| b.0.error < default_error) {
        Some((near, shrinkage, feedback)) => {
            choice = Rounding::Feedback { shrinkage, polished: false };
            (near, Some(feedback))
        }
        None => {
            if !matches!(choice, Rounding::Forced { .. }) {
                choice = Rounding::Default;
            }
            (plain, None)
        }
    };
    let mut bytes = Cursor::new(Vec::new());
    matrix.codes(&near.design, feedback.as_ref(), stop, &mut bytes)?;
    let power = judge.power(&sample);
    let relative = |error: f64| if power > 0.0 { error / power } else { 0.0 };
    let outcome = Outcome {
        name: String::new(),
        encoding: format!("{bits:.2} bits"),
        choice,
        default_error: relative(default_error),
        error: relative(near.error),
        branch: near.design.has_branch().then(|| Gain {
            rank,
            rounds: 1,
            error_without: relative(near.without),
        }),
        unmeasured: importance::unmeasured(&fit.mean_squares(), 1),
    };
    Ok(Encoded { bytes: bytes.into_inner(), factors: None, outcome })
}

/// Reason that a shrinkage is no candidate.
enum Tried {
    /// Shrinkage that does not work, with the reason.
    Not(String),
    /// Weight that no shrinkage can encode.
    Failed(Unencodable),
}

impl From<Unencodable> for Tried {
    fn from(e: Unencodable) -> Self {
        Tried::Failed(e)
    }
}

/// The section of blocks of nf4, their scales quantized in turn.
///
/// # Errors
/// If a tile has 4 GiB or more.
pub(super) fn nf4_dq(blocks: &[u8], cols: usize) -> io::Result<Vec<u8>> {
    let of_tile = tile_rows(cols) * cols / nf4::BLOCK * Encoding::Nf4.block_bytes();
    let tiles: Vec<Vec<u8>> = blocks.par_chunks(of_tile.max(1)).map(nested::encode).collect();
    section(&[], &tiles)
}

/// The values of a section of that coding; `None` if it is none.
pub(super) fn decoded(section: &[u8], coding: Coding, rows: usize, cols: usize) -> Option<Vec<f32>> {
    let tiles = Tiles { coding, rows: tile_rows(cols) };
    let tiled = Tiled::new(section, tiles, rows)?;
    let decoder = Decoder::new(coding, tiled.head, cols).ok()?;
    let mut values = vec![0.0; rows * cols];
    let all: Vec<&[u8]> = tiled.from(0).collect();
    let parts = values.par_chunks_mut((tiles.rows * cols).max(1)).zip(all);
    parts.map(|(out, tile)| decoder.decode(tile, out).ok()).collect::<Option<()>>()?;
    Some(values)
}

//! One matrix: how it is best rounded, given the second moments of its inputs.
//!
//! The error is that of the outputs, `tr(E H E^T)` with E = W' - W and H = E[x x^T]. Rounding errors are fed back
//! (`quant::feedback`) with moments shrunk toward their diagonal, since they are taken from few tokens: by how much is
//! tried on some rows, judged by moments of tokens that were held out. The default encoder with the diagonal alone is
//! always a candidate, so that feedback never makes a matrix worse on those tokens.

use quant::feedback::Feedback;
use quant::hessian::Hessian;
use quant::low_rank::{Metric, Parts};
use quant::{Codec, EncodeError, Rows, importance};
use rayon::prelude::*;

use super::branch::{divide, with_branch};
use crate::checkpoint::{Encoded, Outcome, Rounding};
use crate::error::Result;
use crate::pipeline::Stop;
use crate::runner::{ErrorMeter, Moments};

/// Candidates for the shrinkage of the moments toward their diagonal (specification, 8.3).
pub(super) const SHRINKAGES: [f32; 5] = [0.003, 0.01, 0.03, 0.1, 0.3];
/// Number of these that are factored side by side: each takes as much memory as the moments, and one thread.
pub(super) const ABREAST: usize = 2;
/// Rows on which that is tried.
const TRIED_ROWS: usize = 128;
/// Values of rows that are encoded together.
const TOGETHER: usize = 1 << 22;

/// A matrix to be encoded.
pub(super) struct Job<'a> {
    pub codec: &'a dyn Codec,
    /// Rows and columns.
    pub rows: usize,
    pub cols: usize,
    /// Reads some rows.
    pub read: &'a (dyn Fn(std::ops::Range<usize>, &mut [f32]) + Sync),
    /// Moments of the tokens that it is fitted to, and of those that judge.
    pub fit: &'a Moments,
    pub held_out: &'a Moments,
    /// The dimensions of its branch, if it may get one.
    pub rank: Option<usize>,
}

impl Job<'_> {
    /// The bytes of all rows, perhaps a branch, and what was chosen.
    ///
    /// # Errors
    /// [`EncodeError`] in the outer result's place for a weight that cannot be encoded; if the work was stopped.
    pub fn encode(&self, stop: &Stop) -> Result<std::result::Result<Encoded, EncodeError>> {
        let diagonal = self.fit.mean_squares();
        let judge = ErrorMeter::new(self.held_out);
        let moments = self.fit.matrix().map(|m| Hessian::new(self.cols, m));
        let found = match &moments {
            Some(Ok(hessian)) => self.best_method(hessian, &judge, stop)?,
            Some(Err(e)) => Err(e.to_string()),
            None => Err("only the diagonal of its moments is known".to_owned()),
        };
        let (method, mut choice) = match found {
            Ok(method) => {
                let (shrinkage, polished) = (method.shrinkage, method.polish.is_some());
                (Some(method), Rounding::Feedback { shrinkage, polished })
            }
            Err(why) => (None, Rounding::Forced { why }),
        };
        let bytes_per_row = self.bytes_of(1);
        let mut default = vec![0; bytes_per_row * self.rows];
        let mut fed = vec![0; if method.is_some() { default.len() } else { 0 }];
        let (mut default_error, mut fed_error, mut power) = (0.0, 0.0, 0.0);
        let step = (TOGETHER / self.cols).max(1);
        let mut values = Vec::new();
        for start in (0..self.rows).step_by(step) {
            stop.check()?;
            let range = start..self.rows.min(start + step);
            values.resize(range.len() * self.cols, 0.0);
            (self.read)(range.clone(), &mut values);
            let bytes = range.start * bytes_per_row..range.end * bytes_per_row;
            let done = encode_rows(
                self.codec,
                self.cols,
                &values,
                &mut default[bytes.clone()],
                |codec, rows, out| codec.encode_best(Rows { importance: Some(&diagonal), ..rows }, out),
            );
            if let Err(e) = done {
                return Ok(Err(at(e, range.start * self.cols)));
            }
            default_error += self.error(&judge, &values, &default[bytes.clone()]);
            power += judge.power(&values);
            if let Some(method) = &method {
                let out = &mut fed[bytes.clone()];
                if let Err(e) = encode_rows(self.codec, self.cols, &values, out, method.encoder()) {
                    return Ok(Err(at(e, range.start * self.cols)));
                }
                fed_error += self.error(&judge, &values, out);
            }
        }
        let better = method.is_some() && fed_error < default_error;
        if method.is_some() && !better {
            choice = Rounding::Default;
        }
        let relative = |error: f64| if power > 0.0 { error / power } else { 0.0 };
        let outcome = Outcome {
            name: String::new(),
            encoding: self.codec.encoding().name().to_owned(),
            choice,
            default_error: relative(default_error),
            error: relative(if better { fed_error } else { default_error }),
            branch: None,
            unmeasured: importance::unmeasured(&diagonal, self.codec.importance_group().unwrap_or(1)),
        };
        if let (Some(rank), Some(Ok(hessian))) = (self.rank, moments) {
            stop.check()?;
            let method = method.as_ref().filter(|_| better);
            let error = outcome.error * power;
            match self.branched(rank, hessian, method, &judge, error) {
                Ok(Some(parts)) => return Ok(with_branch(outcome, parts, relative)),
                Ok(None) => {}
                Err(e) => return Ok(Err(e)),
            }
        }
        Ok(Ok(Encoded { bytes: if better { fed } else { default }, factors: None, outcome }))
    }

    /// The matrix in two parts, with their error on held-out tokens; `None` if it is no less than `error`.
    fn branched(
        &self,
        rank: usize,
        hessian: Hessian,
        method: Option<&Method>,
        judge: &ErrorMeter,
        error: f64,
    ) -> std::result::Result<Option<Parts>, EncodeError> {
        let mut values = vec![0.0; self.rows * self.cols];
        (self.read)(0..self.rows, &mut values);
        let diagonal = hessian.diagonal();
        let encode = |codec: &dyn Codec, rows: Rows<'_>, out: &mut [u8]| match method {
            Some(method) => method.encoder()(codec, rows, out),
            None => codec.encode_best(Rows { importance: Some(&diagonal), ..rows }, out),
        };
        let mut parts = divide(self.codec, &values, self.cols, rank, Metric::Full(&hessian), encode)?;
        parts.low_rank.subtract_from(&mut values);
        parts.error = self.error(judge, &values, &parts.bytes);
        Ok((parts.error < error).then_some(parts))
    }

    /// Best method on some rows, judged by held-out tokens; the reason if there is none.
    fn best_method(
        &self,
        hessian: &Hessian,
        judge: &ErrorMeter,
        stop: &Stop,
    ) -> Result<std::result::Result<Method, String>> {
        let tried = TRIED_ROWS.min(self.rows);
        let mut values = vec![0.0; tried * self.cols];
        for (i, row) in values.chunks_exact_mut(self.cols).enumerate() {
            let at = i * self.rows / tried;
            (self.read)(at..at + 1, row);
        }
        let mut bytes = vec![0; self.bytes_of(tried)];
        let mut error_of =
            |method: &Method| match encode_rows(self.codec, self.cols, &values, &mut bytes, method.encoder())
            {
                Ok(()) => self.error(judge, &values, &bytes),
                Err(_) => f64::INFINITY, // the whole matrix tells which weight
            };
        let mut best: Option<(f64, Method)> = None;
        let mut why = String::new();
        for shrinkages in SHRINKAGES.chunks(ABREAST) {
            stop.check()?;
            let factored: Vec<_> = shrinkages.par_iter().map(|s| (*s, Feedback::new(hessian, *s))).collect();
            for (shrinkage, feedback) in factored {
                let feedback = match feedback {
                    Ok(feedback) => feedback,
                    Err(e) => {
                        why = e.to_string();
                        continue;
                    }
                };
                let method = Method { feedback, shrinkage, polish: None };
                let error = error_of(&method);
                if best.as_ref().is_none_or(|b| error < b.0) {
                    best = Some((error, method));
                }
            }
        }
        let Some((error, mut method)) = best else { return Ok(Err(why)) };
        stop.check()?;
        method.polish = hessian.clone().shrunk(method.shrinkage).ok();
        if error_of(&method) >= error {
            method.polish = None;
        }
        Ok(Ok(method))
    }

    fn bytes_of(&self, rows: usize) -> usize {
        bytes_of(self.codec, self.cols, rows)
    }

    fn error(&self, judge: &ErrorMeter, values: &[f32], bytes: &[u8]) -> f64 {
        let mut decoded = vec![0.0; values.len()];
        let few = self.bytes_of(16);
        decoded
            .par_chunks_mut(16 * self.cols)
            .zip(bytes.par_chunks(few))
            .for_each(|(out, bytes)| self.codec.decode(bytes, out));
        decoded.iter_mut().zip(values).for_each(|(d, v)| *d -= v);
        judge.power(&decoded)
    }
}

/// A way to encode rows.
struct Method {
    feedback: Feedback,
    /// Shrinkage of its moments.
    shrinkage: f32,
    /// Hessian for coordinate descent of codes and scales, if that follows.
    polish: Option<Hessian>,
}

impl Method {
    /// Encodes rows.
    fn encoder(
        &self,
    ) -> impl Fn(&dyn Codec, Rows<'_>, &mut [u8]) -> std::result::Result<(), EncodeError> + Sync + '_ {
        move |codec, rows, out| {
            codec.encode_feedback(rows, &self.feedback, out)?;
            if let Some(hessian) = &self.polish {
                codec.polish(rows, hessian, out);
            }
            Ok(())
        }
    }
}

/// Encodes rows of `cols` on all threads; each by itself, so the bytes do not depend on how they are dealt out.
pub(super) fn encode_rows(
    codec: &dyn Codec,
    cols: usize,
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&dyn Codec, Rows<'_>, &mut [u8]) -> std::result::Result<(), EncodeError> + Sync,
) -> std::result::Result<(), EncodeError> {
    let rows = values.len() / cols;
    let few = rows.div_ceil(4 * rayon::current_num_threads()).max(16);
    let parts = values.par_chunks(few * cols).zip(out.par_chunks_mut(bytes_of(codec, cols, few)));
    parts.enumerate().try_for_each(|(n, (values, out))| {
        encode(codec, Rows::new(values, cols), out).map_err(|e| at(e, n * few * cols))
    })
}

fn bytes_of(codec: &dyn Codec, cols: usize, rows: usize) -> usize {
    codec.encoding().row_bytes(cols as u64).unwrap_or(0) as usize * rows
}

/// Error with its index counted from `earlier` values before.
pub(super) fn at(mut error: EncodeError, earlier: usize) -> EncodeError {
    if let EncodeError::NonFinite { index, .. } | EncodeError::Overflow { index, .. } = &mut error {
        *index += earlier;
    }
    error
}

//! Search for the factors that make the error of quantization smallest.

use std::ops::RangeInclusive;

use quant::{Codec, Encoding, Rows, codec};
use rayon::prelude::*;

use super::{ChannelPair, Equalization, MOST, pairs, power_of_two};
use crate::error::{Error, Result};
use crate::model::{Model, ModelTensor, Role};

/// Candidates for the share of the activations' inequality that is moved into the weights: none, to more than half.
const SHARES: &[f64] = &[0.0, 0.15, 0.3, 0.45, 0.6];

/// Rows of a matrix that are encoded to find out.
const SAMPLE: usize = 64;

/// Values read at a time.
const CHUNK: usize = 1 << 18;

/// Exponents of the smallest and largest magnitude that a channel may get by being rescaled: such that the f16 scales of
/// blocks, down to a 472nd of the largest value (q4_K), keep 8 bits, and such that everything fits f16.
const REACH: RangeInclusive<i32> = -7..=12;

/// The mean square of every input of a matrix, if it is known.
pub type Moments<'a> = &'a (dyn Fn(&ModelTensor) -> Option<Vec<f32>> + Sync);

/// Encoding that a matrix will get, if it will be written.
pub type Encodings<'a> = &'a (dyn Fn(&ModelTensor) -> Option<Encoding> + Sync);

impl Equalization {
    /// The rescaling under which the matrices of `model`, encoded as `encoding` says, err least: of every pair in every
    /// block by itself, `2^round(log2 of s)` with `s_j = (E x_j^2)^(share / 2)` over the geometric mean of all, for the share
    /// among 0 to 0.6 that gives the smallest mean square error of the outputs, `sum_j E x_j^2 (w_ij - q_ij)^2`, over all
    /// matrices of the pair and a sample of their rows.
    ///
    /// Matrices without `moments` are taken to have the mean of those of their pair; pairs without any stay as they are.
    /// (What a matrix that gives the activations loses by its own encoding does not depend on the factors: whole rows of it
    /// are multiplied, and the scales of its blocks with them.)
    ///
    /// # Errors
    /// [`Error::Tensor`] if the moments of a matrix are not as many as its inputs.
    pub fn search(model: &Model, moments: Moments<'_>, encoding: Encodings<'_>) -> Result<Equalization> {
        let layers = |pair: &'static ChannelPair| {
            let count = if pair.in_blocks() { model.dims.layers } else { 1 };
            (0..count).map(move |layer| (pair, layer))
        };
        let places: Vec<_> = ChannelPair::of(model.version).iter().flat_map(layers).collect();
        let find = |(pair, layer): &(&'static ChannelPair, usize)| {
            Place::of(model, pair, *layer, moments, encoding).map(|place| place.map(|p| p.best()))
        };
        let found: Vec<Option<Vec<i8>>> = places.par_iter().map(find).collect::<Result<_>>()?;
        let all = places.into_iter().zip(found).filter_map(|(place, found)| Some((place, found?)));
        Ok(all.fold(Equalization::default(), |all, ((pair, layer), found)| all.with(pair, layer, found)))
    }
}

/// A pair in a block, with all that is needed to compare factors.
struct Place {
    power: i32,
    /// Mean squares of the activation, over all that takes it.
    moments: Vec<f32>,
    /// Bounds of the exponent of each channel's factor.
    bounds: Vec<(i32, i32)>,
    samples: Vec<Sample>,
}

/// Some rows of a matrix that takes the activation.
struct Sample {
    rows: Vec<f32>,
    cols: usize,
    /// Number of rows of the matrix that each of them stands for.
    weight: f64,
    moments: Vec<f32>,
    codec: &'static dyn Codec,
}

impl Place {
    /// `None` if the model lacks the pair, nothing of it is quantized, or nothing is known about the activation.
    fn of(
        model: &Model,
        pair: &ChannelPair,
        layer: usize,
        moments: Moments<'_>,
        encoding: Encodings<'_>,
    ) -> Result<Option<Place>> {
        let named = |names: &[&str]| -> Vec<&ModelTensor> {
            let all = model.tensors.iter().filter(|h| h.layer == layer && !h.is_unread());
            all.filter(|h| names.contains(&h.spec.short_name())).collect()
        };
        let (gives, takes) = (named(pair.gives), named(pair.takes));
        let quantized = |h: &ModelTensor| encoding(h).filter(|e| !e.is_plain()).and_then(codec);
        if gives.is_empty() || !takes.iter().any(|h| quantized(h).is_some()) {
            return Ok(None);
        }
        let mut known = Vec::new();
        for held in &takes {
            let inputs = held.values.shape()[pairs::inputs(held.spec)];
            let found = moments(held);
            if let Some(found) = found.as_ref().filter(|m| m.len() != inputs) {
                return Err(Error::Tensor {
                    path: model.container.path().to_owned(),
                    tensor: held.name(),
                    what: format!("has {inputs} inputs, and what is known of them is for {}", found.len()),
                    help: "measure the importance with this very model".to_owned(),
                });
            }
            known.push(found);
        }
        let Some(mean) = mean(known.iter().flatten()) else { return Ok(None) };
        let mut samples = Vec::new();
        for (held, known) in takes.iter().zip(known) {
            let moments = known.unwrap_or_else(|| mean.clone());
            samples.extend(quantized(held).and_then(|codec| Sample::of(model, held, moments, codec)));
        }
        let mut bounds = vec![(i32::MIN, i32::MAX); mean.len()];
        for held in gives {
            let least = held.spec.role != Role::Vector;
            narrow(&mut bounds, &largest(model, held, pairs::outputs(held.spec)), 1, least);
        }
        for held in takes {
            narrow(&mut bounds, &largest(model, held, pairs::inputs(held.spec)), -pair.power, false);
        }
        Ok(Some(Place { power: pair.power, moments: mean, bounds, samples }))
    }

    /// The best exponents that were tried; all 0 if none is better than to leave everything as it is.
    fn best(&self) -> Vec<i8> {
        let (mut best, mut least) = (vec![0; self.moments.len()], f64::INFINITY);
        for share in SHARES {
            let exponents = self.exponents(*share);
            let error: f64 = self.samples.iter().map(|s| s.error(&exponents, self.power)).sum();
            if error < least {
                (best, least) = (exponents, error);
            }
        }
        best
    }

    /// The exponents that move this share of the inequality.
    fn exponents(&self, share: f64) -> Vec<i8> {
        let logs: Vec<Option<f64>> =
            self.moments.iter().map(|m| (*m > 0.0).then(|| share / 2.0 * f64::from(*m).log2())).collect();
        let live = logs.iter().flatten().count().max(1);
        let middle = logs.iter().flatten().sum::<f64>() / live as f64;
        let one = |(log, (low, high)): (&Option<f64>, &(i32, i32))| {
            let wanted = log.map_or(0.0, |log| ((middle - log) / f64::from(self.power)).round());
            let most = i32::from(MOST);
            (wanted as i32).clamp((*low).max(-most), (*high).min(most)) as i8
        };
        logs.iter().zip(&self.bounds).map(one).collect()
    }
}

impl Sample {
    /// `None` if the matrix cannot be read [out, in].
    fn of(model: &Model, held: &ModelTensor, moments: Vec<f32>, codec: &'static dyn Codec) -> Option<Sample> {
        let values = match held.spec.role {
            Role::LowRank => held.values.transposed()?,
            _ => held.values.clone(),
        };
        let (all, cols) = (values.rows(), values.cols());
        let count = all.min(SAMPLE);
        let mut rows = vec![0.0; count * cols];
        for (i, row) in rows.chunks_exact_mut(cols).enumerate() {
            let at = i * all / count;
            values.read(&model.container, at..at + 1, row);
        }
        Some(Sample { rows, cols, weight: all as f64 / count as f64, moments, codec })
    }

    /// Sum of the mean squares of the outputs' errors; infinite if the rows cannot be encoded.
    fn error(&self, exponents: &[i8], power: i32) -> f64 {
        let factors: Vec<f32> = exponents.iter().map(|e| power_of_two(-power * i32::from(*e))).collect();
        let moments: Vec<f32> = self.moments.iter().zip(&factors).map(|(m, f)| m / (f * f)).collect();
        let mut scaled = self.rows.clone();
        for row in scaled.chunks_exact_mut(self.cols) {
            row.iter_mut().zip(&factors).for_each(|(w, f)| *w *= f);
        }
        let rows = Rows { importance: Some(&moments), ..Rows::new(&scaled, self.cols) };
        let encoding = self.codec.encoding();
        let mut bytes = vec![0; scaled.len().div_ceil(encoding.block_len()) * encoding.block_bytes()];
        if !scaled.len().is_multiple_of(encoding.block_len()) || self.codec.encode(rows, &mut bytes).is_err()
        {
            return f64::INFINITY;
        }
        let mut decoded = vec![0.0; scaled.len()];
        self.codec.decode(&bytes, &mut decoded);
        let rows = scaled.chunks_exact(self.cols).zip(decoded.chunks_exact(self.cols));
        let row = |(wanted, found): (&[f32], &[f32])| -> f64 {
            let one = |((w, q), m): ((&f32, &f32), &f32)| f64::from(*m) * f64::from(w - q).powi(2);
            wanted.iter().zip(found).zip(&moments).map(one).sum()
        };
        self.weight * rows.map(row).sum::<f64>()
    }
}

/// The mean of vectors of one length; `None` of none.
fn mean<'a>(all: impl Iterator<Item = &'a Vec<f32>> + Clone) -> Option<Vec<f32>> {
    let count = all.clone().count() as f32;
    let mut sum = vec![0.0; all.clone().next()?.len()];
    all.for_each(|one| sum.iter_mut().zip(one).for_each(|(sum, v)| *sum += v / count));
    Some(sum)
}

/// The largest magnitude of every channel along dimension `dim` of a tensor.
fn largest(model: &Model, held: &ModelTensor, dim: usize) -> Vec<f32> {
    let (values, shape) = (&held.values, held.values.shape());
    let (channels, step) = (shape[dim], shape[dim + 1..].iter().product::<usize>());
    let mut largest = vec![0.0_f32; channels];
    let (rows, cols) = (values.rows(), values.cols());
    let count = (CHUNK / cols).clamp(1, rows);
    let mut buffer = vec![0.0; count * cols];
    for first in (0..rows).step_by(count) {
        let chunk = first..rows.min(first + count);
        let buffer = &mut buffer[..chunk.len() * cols];
        values.read(&model.container, chunk.clone(), buffer);
        for (i, v) in buffer.iter().enumerate() {
            let channel = &mut largest[(first * cols + i) / step % channels];
            *channel = channel.max(v.abs());
        }
        values.release(&model.container, chunk);
    }
    largest
}

/// Narrows the bounds of the exponents so that magnitudes that are multiplied by `2^(power * exponent)` stay in
/// [`REACH`], or get no farther away from it: at its upper end, and if `least` at its lower one.
fn narrow(bounds: &mut [(i32, i32)], magnitudes: &[f32], power: i32, least: bool) {
    for ((low, high), magnitude) in bounds.iter_mut().zip(magnitudes) {
        if *magnitude == 0.0 {
            continue;
        }
        let log = magnitude.log2().ceil() as i32;
        let up = (REACH.end() - log).max(0);
        let down = if least { (REACH.start() - log + 1).min(0) } else { i32::from(i16::MIN) };
        // Both ends in exponents, towards 0.
        let (from, to) = if power > 0 { (down / power, up / power) } else { (up / power, down / power) };
        (*low, *high) = ((*low).max(from), (*high).min(to));
    }
}

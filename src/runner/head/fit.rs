//! Making the clusters of a model's head, and fitting their masses to a text.

use quant::clusters::k_means;
use rayon::prelude::*;

use super::clustered::Clustered;
use super::{CHUNK, FullRows};
use crate::error::{Error, Result};
use crate::runner::math::log_sum_exp;
use crate::runner::moments::Moments;
use crate::runner::weight::Inputs;
use crate::runner::{Hidden, Runner};

/// Rounds of k-means.
const MOVES: usize = 12;
/// Rounds in which the offsets are fitted.
const ROUNDS: usize = 40;
/// Largest offset: what a text does not show is not impossible.
const MOST: f64 = 12.0;
/// Seed of the first centers.
const SEED: u64 = 0;

/// Settings for making clusters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Number of clusters.
    pub clusters: usize,
    /// The share of the probability up to which clusters are read.
    pub share: f32,
}

impl Fit {
    /// The usual number of clusters of so many rows: their centers are few beside the rows, and the rows of one too.
    pub fn usual(rows: usize) -> usize {
        (rows as f64).sqrt().round() as usize
    }

    /// Clusters of the rows of the head whose logits are alike: for inputs whose channels have these mean squares, or
    /// all the same.
    ///
    /// # Errors
    /// [`Error::Usage`] if the head has fewer rows than there are to be clusters; [`Error::Model`] if its weights are
    /// not finite.
    pub fn cluster(&self, runner: &Runner, squares: Option<&[f32]>) -> Result<Clustered> {
        let full = runner.full_rows();
        let (rows, cols) = (full.rows(), full.cols());
        if !(1..=rows).contains(&self.clusters) {
            return Err(Error::Usage {
                what: format!("the {rows} rows of the head cannot be put into {} clusters", self.clusters),
                help: format!("ask for 1 to {rows} clusters; {} are usual", Fit::usual(rows)),
            });
        }
        let mut values = Vec::with_capacity(rows * cols);
        let scales: Vec<f32> =
            squares.map_or_else(|| vec![1.0; cols], |s| s.iter().map(|v| v.sqrt()).collect());
        full.each_chunk(|chunk| {
            for row in chunk.chunks_exact(cols) {
                values.extend(row.iter().zip(&scales).map(|(v, scale)| v * scale));
            }
            quant::check_finite(chunk)
        })
        .map_err(|e| runner.unfit_head(e.to_string()))?;
        let found = k_means(&values, cols, None, self.clusters, MOVES, SEED);
        Ok(Clustered::new(&full, found.of_row, self.clusters, self.share))
    }
}

/// The mean squares of the channels of what meets the head.
pub fn mean_squares(hidden: &[Hidden]) -> Vec<f32> {
    let mut moments = Moments::new(hidden.first().map_or(0, |h| h.0.cols), false);
    hidden.iter().for_each(|h| moments.add(&Inputs(&h.0)));
    moments.mean_squares()
}

/// Mass and share by token and cluster: the logarithm of the mass by the clusters' means, and the true share of the
/// probability.
struct Seen {
    clusters: usize,
    masses: Vec<f32>,
    shares: Vec<f32>,
}

impl Seen {
    /// Masses and shares of the tokens in `hidden`.
    fn new(clustered: &Clustered, full: &FullRows<'_>, hidden: &[Hidden]) -> Seen {
        let clusters = clustered.clusters();
        let mut seen = Seen { clusters, masses: Vec::new(), shares: Vec::new() };
        for hidden in hidden {
            for from in (0..hidden.rows()).step_by(CHUNK) {
                let rows: Vec<usize> = (from..hidden.rows().min(from + CHUNK)).collect();
                let x = hidden.take(&rows);
                let logits = full.weight.multiply(&x);
                seen.masses.extend_from_slice(&clustered.masses(&x).data);
                let shares = logits.data.par_chunks(full.rows()).flat_map_iter(|logits| {
                    let (total, _) = log_sum_exp(logits);
                    let mut shares = vec![0.0f64; clusters];
                    for (logit, cluster) in logits.iter().zip(&clustered.of_row) {
                        shares[*cluster as usize] += (f64::from(*logit) - total).exp();
                    }
                    shares.into_iter().map(|v| v as f32)
                });
                seen.shares.extend(shares.collect::<Vec<f32>>());
            }
        }
        seen
    }

    /// The masses and the true shares of each token.
    fn tokens(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.masses.chunks_exact(self.clusters).zip(self.shares.chunks_exact(self.clusters))
    }
}

impl Clustered {
    /// Fits the masses to what meets the head on a text (`source`: SHA-256 of its tokens), so that on average over its
    /// tokens every cluster has the probability that it truly has, and so have all clusters that are not read.
    ///
    /// The offsets are those of greatest likelihood: scaling every cluster by its true share over its expected one,
    /// again and again, leads there.
    pub fn fit(&mut self, runner: &Runner, hidden: &[Hidden], source: String) {
        let seen = Seen::new(self, &runner.full_rows(), hidden);
        let tokens = seen.tokens().count().max(1) as f64;
        let mut truth = vec![0.0f64; self.clusters()];
        for (_, shares) in seen.tokens() {
            truth.iter_mut().zip(shares).for_each(|(sum, share)| *sum += f64::from(*share));
        }
        for _ in 0..ROUNDS {
            let mut expected = vec![0.0f64; self.clusters()];
            for (masses, _) in seen.tokens() {
                let masses = self.corrected(masses);
                let (total, _) = log_sum_exp(&masses);
                for (sum, mass) in expected.iter_mut().zip(masses) {
                    *sum += (f64::from(mass) - total).exp();
                }
            }
            for ((offset, truth), expected) in self.offsets.iter_mut().zip(&truth).zip(expected) {
                // A token's worth of a trace, so that clusters without any mass have an offset too.
                let trace = 1e-6 * tokens;
                let change = ((truth + trace) / (expected + trace)).ln();
                *offset = (f64::from(*offset) + change).clamp(-MOST, MOST) as f32;
            }
        }
        self.outside = self.fit_outside(&seen) as f32;
        self.fitted = Some(source);
    }

    /// Offset to add to the masses that are not read, so that they are right on average.
    fn fit_outside(&self, seen: &Seen) -> f64 {
        let mut odds = Vec::new();
        let mut truth = 0.0;
        for (masses, shares) in seen.tokens() {
            let masses = self.corrected(masses);
            let scan = self.scan(&masses);
            let inside = (scan.mass - log_sum_exp(&masses).0).exp();
            odds.push((1.0 - inside).max(0.0) / inside);
            truth += 1.0 - scan.clusters.iter().map(|k| f64::from(shares[*k])).sum::<f64>();
        }
        let expected =
            |offset: f64| -> f64 { odds.iter().map(|o| o * offset.exp()).map(|o| o / (1.0 + o)).sum() };
        let (mut low, mut high) = (-MOST, MOST);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if expected(middle) < truth { low = middle } else { high = middle }
        }
        // Nothing is outside: nothing to correct.
        if odds.iter().all(|o| *o == 0.0) { 0.0 } else { (low + high) / 2.0 }
    }
}

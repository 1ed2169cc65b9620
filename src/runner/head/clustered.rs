//! A head whose rows are in clusters, of which only the likeliest are read. An approximation.
//!
//! Of every cluster the mean `c` of its `n` rows is kept, and the variance `v` of their values in each channel. For an
//! input `h`, the logits of the cluster are taken as `n` draws from a normal distribution of mean `c h` and variance
//! `s = sum v h^2`, so that the logarithm of the sum of their exponentials is about
//!
//! ```text
//! c h + ln n + s / 2             if s <= 2 ln n
//! c h + sqrt(2 s ln n)           else: the largest of so few draws is not larger
//! ```
//! (B. Derrida's random energy model, 1981), plus an offset for each cluster that a text was fitted to. Clusters are
//! read, likeliest first, until those read have the wanted share of the probability by these masses. The tokens of the
//! others share the mass of their cluster equally, measured by the true mass of what was read; none gets more than the
//! best token that was read. (Clusters and pseudo-logits: RWKV-Lite, arXiv 2412.10856, whose masses are trained.)

use super::{FullRows, Head, Reading, Rows, each_input};
use crate::runner::Logits;
use crate::runner::math::log_sum_exp;
use crate::runner::matrix::Matrix;
use crate::runner::weight::{By, Dense, Inputs, Values, Weight};

/// Rows in clusters, and how the mass of a cluster is told without reading them.
#[derive(Clone, Debug)]
pub struct Clustered {
    /// [clusters, channels]: the mean row of each cluster.
    pub(super) centers: Dense,
    /// [clusters, channels]: the variance of its rows.
    pub(super) spread: Dense,
    /// The cluster of each row.
    pub(super) of_row: Vec<u32>,
    /// The rows of each cluster, ascending.
    pub(super) members: Vec<Vec<u32>>,
    /// Offsets added to the logarithm of each cluster's mass.
    pub(super) offsets: Vec<f32>,
    /// Offset added to the logarithm of the mass of clusters that are not read.
    pub(super) outside: f32,
    /// The share of the probability up to which clusters are read.
    pub(super) share: f32,
    /// SHA-256 of the tokens that the offsets were fitted to.
    pub(super) fitted: Option<String>,
}

/// Clusters that are read for one input, by the masses alone.
pub(super) struct Scan {
    /// The clusters that are read, likeliest first.
    pub clusters: Vec<usize>,
    /// The logarithm of their mass.
    pub mass: f64,
}

impl Clustered {
    /// Clusters of the rows of `full`, not fitted to any text yet.
    ///
    /// # Panics
    /// If `of_row` has not one cluster below `count` for each row.
    pub(super) fn new(full: &FullRows<'_>, of_row: Vec<u32>, count: usize, share: f32) -> Clustered {
        assert_eq!(of_row.len(), full.rows());
        let cols = full.cols();
        let mut members = vec![Vec::new(); count];
        for (row, cluster) in of_row.iter().enumerate() {
            members[*cluster as usize].push(row as u32);
        }
        // Of each value its sum over the rows, and that of its squares.
        let mut sums = vec![[0.0f64; 2]; count * cols];
        let mut clusters = of_row.iter();
        let added = full.each_chunk(|values| {
            for (row, cluster) in values.chunks_exact(cols).zip(&mut clusters) {
                for (sums, v) in sums[*cluster as usize * cols..][..cols].iter_mut().zip(row) {
                    let v = f64::from(*v);
                    *sums = [sums[0] + v, sums[1] + v * v];
                }
            }
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(()) = added;
        let of = |figure: &dyn Fn([f64; 2], f64) -> f64| {
            let values = sums.iter().enumerate().map(|(i, sums)| {
                let n = members[i / cols].len().max(1) as f64;
                figure(*sums, n) as f32
            });
            Dense::new(values.collect(), cols)
        };
        let centers = of(&|[sum, _], n| sum / n);
        let spread = of(&|[sum, squares], n| (squares / n - (sum / n).powi(2)).max(0.0));
        let offsets = vec![0.0; count];
        Clustered { centers, spread, of_row, members, offsets, outside: 0.0, share, fitted: None }
    }

    /// The share of the probability up to which clusters are read.
    pub fn share(&self) -> f32 {
        self.share
    }

    /// Number of clusters.
    pub fn clusters(&self) -> usize {
        self.members.len()
    }

    /// Number of rows of the largest cluster.
    pub fn largest(&self) -> usize {
        self.members.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The logarithm of the mass of every cluster [inputs, clusters], by mean and variance alone and without offsets;
    /// minus infinity for clusters without rows.
    pub(super) fn masses(&self, x: &Matrix) -> Matrix {
        let by = |dense| Weight { values: Values::Dense(dense), by: By::Exact, key: None, hook: None };
        let mut squares = x.clone();
        squares.data.iter_mut().for_each(|v| *v *= *v);
        let spread = by(&self.spread).multiply(&squares);
        let mut masses = by(&self.centers).multiply(x);
        for i in 0..masses.rows {
            let row = masses.row_mut(i).iter_mut().zip(spread.row(i));
            for ((mass, s), rows) in row.zip(&self.members) {
                let most = (rows.len() as f32).ln();
                *mass += if *s <= 2.0 * most { most + s / 2.0 } else { (2.0 * s * most).sqrt() };
                if rows.is_empty() {
                    *mass = f32::NEG_INFINITY;
                }
            }
        }
        masses
    }

    /// The logarithms of the masses of one input with the offsets.
    pub(super) fn corrected(&self, masses: &[f32]) -> Vec<f32> {
        masses.iter().zip(&self.offsets).map(|(m, o)| m + o).collect()
    }

    /// The clusters to read for one input, from its corrected masses.
    pub(super) fn scan(&self, masses: &[f32]) -> Scan {
        let (total, _) = log_sum_exp(masses);
        let mut order: Vec<usize> = (0..masses.len()).filter(|k| !self.members[*k].is_empty()).collect();
        order.sort_by(|a, b| masses[*b].total_cmp(&masses[*a]).then(a.cmp(b)));
        let mut found = 0.0;
        let enough = order.iter().position(|k| {
            found += (f64::from(masses[*k]) - total).exp();
            found >= f64::from(self.share)
        });
        // The sum of all may be rounded to less than 1.
        if let Some(last) = enough.filter(|_| self.share < 1.0) {
            order.truncate(last + 1);
        }
        let known: Vec<f32> = order.iter().map(|k| masses[*k]).collect();
        Scan { clusters: order, mass: log_sum_exp(&known).0 }
    }

    /// Bytes that are read for every token before any row is.
    pub fn always_bytes(&self) -> u64 {
        4 * (self.centers.values() + self.spread.values() + self.offsets.len()) as u64
    }
}

impl Head for Clustered {
    fn name(&self) -> String {
        let fitted = if self.fitted.is_some() { " (fitted)" } else { "" };
        format!("clustered:{},{}{fitted}", self.clusters(), self.share)
    }

    fn exact(&self) -> usize {
        0
    }

    fn logits(&self, full: &FullRows<'_>, inputs: &Inputs<'_>) -> (Logits, Vec<Reading>) {
        let x = inputs.0;
        let all = self.masses(x);
        each_input(x.pool().matrix(x.rows, full.rows()), |i, logits| {
            let masses = self.corrected(all.row(i));
            let scan = self.scan(&masses);
            let mut rows: Vec<u32> =
                scan.clusters.iter().flat_map(|k| self.members[*k].iter().copied()).collect();
            rows.sort_unstable();
            full.fill(x.row(i), &rows, logits);
            let known: Vec<f32> = rows.iter().map(|row| logits[*row as usize]).collect();
            let (true_mass, best) = log_sum_exp(&known);
            let most = known.get(best).map_or(0.0, |v| v.next_down());
            // Logarithms of true masses, from those of expected ones.
            let scale = true_mass - scan.mass + f64::from(self.outside);
            let mut read = vec![false; self.clusters()];
            scan.clusters.iter().for_each(|k| read[*k] = true);
            for (k, rows) in self.members.iter().enumerate().filter(|(k, _)| !read[*k]) {
                let pseudo = f64::from(masses[k]) + scale - (rows.len() as f64).ln();
                let pseudo = (pseudo as f32).min(most);
                rows.iter().for_each(|row| logits[*row as usize] = pseudo);
            }
            let bytes = self.always_bytes() + rows.len() as u64 * full.row_bytes();
            Reading { rows: Rows::Some(rows), bytes }
        })
    }
}

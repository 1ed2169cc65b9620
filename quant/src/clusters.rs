//! Groups of rows that are alike: k-means, for output layers that are scanned cluster by cluster.

use crate::matrix::{Right, View, subtract_product};
use crate::random::Random;

/// Rows whose distances are computed together.
const ROWS: usize = 128;

/// Rows in clusters.
#[derive(Clone, Debug, PartialEq)]
pub struct Clusters {
    /// `[clusters, cols]`: the weighted mean of each cluster's rows.
    pub centers: Vec<f32>,
    /// The cluster of each row.
    pub of_row: Vec<u32>,
}

/// Groups the rows of `values` (`[rows, cols]`) into `count` clusters of least weighted squared distance to their
/// centers, as far as `iterations` rounds get from centers that k-means++ draws.
///
/// `weights` has one weight a row (0 or more; all alike without). Fewer rows than `count` make as many clusters. The
/// result is the same for a seed everywhere. A cluster that loses all its rows keeps its center.
///
/// # Panics
/// If `values` is no whole number of rows, or `weights` not one a row.
pub fn k_means(
    values: &[f32],
    cols: usize,
    weights: Option<&[f32]>,
    count: usize,
    iterations: usize,
    seed: u64,
) -> Clusters {
    assert!(cols > 0 && values.len().is_multiple_of(cols));
    let rows = values.len() / cols;
    let ones = if weights.is_none() { vec![1.0; rows] } else { Vec::new() };
    let weights = weights.unwrap_or(&ones);
    assert_eq!(weights.len(), rows);
    let count = count.min(rows).min(u32::MAX as usize);
    let mut centers = draw(values, cols, weights, count, seed);
    let mut of_row = assign(values, cols, &centers);
    for _ in 0..iterations {
        move_centers(values, cols, weights, &of_row, &mut centers);
        let next = assign(values, cols, &centers);
        if next == of_row {
            break;
        }
        of_row = next;
    }
    Clusters { centers, of_row }
}

/// Rows drawn one after the other, each with a probability that is its weight times its squared distance to the
/// nearest one drawn before.
fn draw(values: &[f32], cols: usize, weights: &[f32], count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut distance = vec![1.0f64; weights.len()];
    let mut centers = Vec::with_capacity(count * cols);
    for n in 0..count {
        let total: f64 = distance.iter().zip(weights).map(|(d, w)| d * f64::from(*w)).sum();
        let mut left = random.uniform() * total;
        let at = distance.iter().zip(weights).position(|(d, w)| {
            left -= d * f64::from(*w);
            left < 0.0
        });
        // All the weight is drawn already, or lost in rounding: any row serves.
        let at = at.unwrap_or(n);
        let center = &values[at * cols..][..cols];
        for (distance, row) in distance.iter_mut().zip(values.chunks_exact(cols)) {
            let found = square_distance(row, center);
            *distance = if n == 0 { found } else { distance.min(found) };
        }
        centers.extend_from_slice(center);
    }
    centers
}

/// Sixteen sums run side by side.
fn square_distance(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f32; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += (a - b) * (a - b);
        }
    }
    sums.iter().map(|v| f64::from(*v)).sum()
}

/// The cluster of the nearest center for each row, of several equally near the first.
fn assign(values: &[f32], cols: usize, centers: &[f32]) -> Vec<u32> {
    let count = centers.len() / cols;
    let halves: Vec<f32> = centers
        .chunks_exact(cols)
        .map(|c| (c.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 2.0) as f32)
        .collect();
    let mut of_row = Vec::with_capacity(values.len() / cols);
    let mut scores = vec![0.0; ROWS * count];
    for values in values.chunks(ROWS * cols) {
        // (|x - c|^2 - |x|^2) / 2
        let rows = values.len() / cols;
        for scores in scores.chunks_exact_mut(count.max(1)) {
            scores.copy_from_slice(&halves);
        }
        let right = Right::Transposed(View::new(centers, cols));
        subtract_product(&mut scores, count, View::new(values, cols), right, (rows, cols, count));
        for scores in scores.chunks_exact(count.max(1)).take(rows) {
            let mut least = 0;
            for (k, score) in scores.iter().enumerate() {
                if *score < scores[least] {
                    least = k;
                }
            }
            of_row.push(least as u32);
        }
    }
    of_row
}

/// Moves each center to the weighted mean of its rows.
fn move_centers(values: &[f32], cols: usize, weights: &[f32], of_row: &[u32], centers: &mut [f32]) {
    let mut sums = vec![0.0f64; centers.len()];
    let mut total = vec![0.0f64; centers.len() / cols];
    for ((row, weight), cluster) in values.chunks_exact(cols).zip(weights).zip(of_row) {
        let (cluster, weight) = (*cluster as usize, f64::from(*weight));
        total[cluster] += weight;
        for (sum, v) in sums[cluster * cols..][..cols].iter_mut().zip(row) {
            *sum += weight * f64::from(*v);
        }
    }
    for ((center, sums), total) in centers.chunks_exact_mut(cols).zip(sums.chunks_exact(cols)).zip(total) {
        if total > 0.0 {
            for (v, sum) in center.iter_mut().zip(sums) {
                *v = (sum / total) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows around corners that are far apart, in turn.
    fn corners(rows: usize, cols: usize) -> Vec<f32> {
        let mut random = Random::new(4);
        (0..rows * cols)
            .map(|i| if i % cols == (i / cols) % 5 { 10.0 } else { 0.0 } + random.normal() as f32 * 0.1)
            .collect()
    }

    fn spread(values: &[f32], cols: usize, clusters: &Clusters) -> f64 {
        let center = |k: u32| &clusters.centers[k as usize * cols..][..cols];
        values.chunks(cols).zip(&clusters.of_row).map(|(row, k)| square_distance(row, center(*k))).sum()
    }

    #[test]
    fn rows_around_corners_are_found() {
        let (rows, cols) = (300, 20);
        let values = corners(rows, cols);
        let clusters = k_means(&values, cols, None, 5, 20, 1);
        for (i, k) in clusters.of_row.iter().enumerate() {
            assert_eq!(*k, clusters.of_row[i % 5]);
        }
        assert_eq!(clusters, k_means(&values, cols, None, 5, 20, 1));
        assert!(spread(&values, cols, &clusters) < 0.011 * (rows * cols) as f64);
    }

    #[test]
    fn rounds_make_the_distances_smaller() {
        let mut random = Random::new(8);
        let values: Vec<f32> = (0..500 * 8).map(|_| random.normal() as f32).collect();
        let spread = |rounds| spread(&values, 8, &k_means(&values, 8, None, 16, rounds, 2));
        assert!(spread(1) < spread(0) && spread(20) < spread(1));
    }

    #[test]
    fn weights_pull_the_centers() {
        let values = [0.0, 1.0, 10.0, 11.0];
        let clusters = k_means(&values, 1, Some(&[3.0, 1.0, 0.0, 1.0]), 2, 10, 1);
        let mut centers = clusters.centers.clone();
        centers.sort_by(f32::total_cmp);
        assert_eq!(centers, [0.25, 11.0]);
    }

    #[test]
    fn more_clusters_than_rows_and_equal_rows_are_no_trouble() {
        let clusters = k_means(&[1.0, 1.0, 1.0], 1, None, 7, 5, 1);
        assert_eq!((clusters.centers.len(), clusters.of_row), (3, vec![0, 0, 0]));
        assert!(k_means(&[], 4, None, 3, 5, 1).of_row.is_empty());
    }
}

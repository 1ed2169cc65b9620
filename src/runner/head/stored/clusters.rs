//! Clusters in a file, with
//!
//! ```text
//! head.clusters.of_row    I32 [tokens]              the cluster of each row
//! head.clusters.centers   F32 [clusters, channels]  the mean of its rows
//! head.clusters.spread    F32 [clusters, channels]  their variance
//! head.clusters.offsets   F32 [clusters]            what is added to the logarithm of its mass
//! ```
//! and the keys `share`, `outside`, and `fitted` (SHA-256 of the tokens that the offsets were fitted to, if they were).

use std::path::Path;

use quant::Encoding;

use super::{HeadFile, file, floats};
use crate::error::{Error, Result};
use crate::runner::head::{Clustered, FullRows};
use crate::runner::weight::Dense;

pub(super) const KIND: &str = "clustered";

const OF_ROW: &str = "head.clusters.of_row";
const CENTERS: &str = "head.clusters.centers";
const SPREAD: &str = "head.clusters.spread";
const OFFSETS: &str = "head.clusters.offsets";

impl Clustered {
    /// The file at `path` that holds them; the same clusters make the same bytes.
    ///
    /// # Errors
    /// If it cannot be placed.
    pub fn file(&self, path: &Path) -> Result<Vec<u8>> {
        let (clusters, cols) = (self.clusters(), self.centers.cols());
        let of_row = self.of_row.iter().flat_map(|k| k.to_le_bytes()).collect();
        let parts = vec![
            (OF_ROW, Encoding::I32, vec![self.of_row.len()], of_row),
            (CENTERS, Encoding::F32, vec![clusters, cols], floats(self.centers.rows(0..clusters))),
            (SPREAD, Encoding::F32, vec![clusters, cols], floats(self.spread.rows(0..clusters))),
            (OFFSETS, Encoding::F32, vec![clusters], floats(&self.offsets)),
        ];
        let mut keys = vec![("share", self.share.to_string()), ("outside", self.outside.to_string())];
        keys.extend(self.fitted.iter().map(|sha256| ("fitted", sha256.clone())));
        file(path, KIND, keys, parts)
    }

    /// The clusters in a file, for a model with the head `full`.
    pub(in crate::runner::head) fn read(file: &HeadFile, full: &FullRows<'_>) -> Result<Clustered> {
        let finite = |key| {
            let value: f32 = file.number(key)?;
            let checked = Some(value).filter(|v| v.is_finite());
            checked.ok_or_else(|| file.unfit(format!("has no finite number under the key {key:?}")))
        };
        let (share, outside) = (finite("share")?, finite("outside")?);
        let (rows, cols) = (full.rows(), full.cols());
        let clusters = file.container.tensor(OFFSETS).and_then(|t| t.shape.first()).copied().unwrap_or(0);
        let (of_row, _) = file.part(OF_ROW, Encoding::I32, &[rows])?.as_chunks::<4>();
        let of_row: Vec<u32> = of_row.iter().map(|b| u32::from_le_bytes(*b)).collect();
        if let Some(k) = of_row.iter().find(|k| **k as usize >= clusters) {
            return Err(file.unfit(format!("puts a row into cluster {k} of {clusters}")));
        }
        let mut members = vec![Vec::new(); clusters];
        for (row, cluster) in of_row.iter().enumerate() {
            members[*cluster as usize].push(row as u32);
        }
        if !(share > 0.0 && share <= 1.0) {
            return Err(file.unfit(format!("asks for a share of {share} of the probability")));
        }
        let centers = file.floats(CENTERS, &[clusters, cols])?;
        if !are_means(&centers, &of_row, &members, full)? {
            return Err(file.unfit("holds the clusters of another head".to_owned()));
        }
        Ok(Clustered {
            centers: Dense::new(centers, cols),
            spread: Dense::new(file.floats(SPREAD, &[clusters, cols])?, cols),
            offsets: file.floats(OFFSETS, &[clusters])?,
            fitted: file.text("fitted").map(str::to_owned),
            of_row,
            members,
            outside,
            share,
        })
    }
}

/// Maximum distance of the means of a head's rows from the centers: as far as rounding a model moves them.
const NEAR: f64 = 0.05;

/// True if each center is about the mean of the rows of its cluster.
fn are_means(centers: &[f32], of_row: &[u32], members: &[Vec<u32>], full: &FullRows<'_>) -> Result<bool> {
    let cols = full.cols();
    let (mut sums, mut row) = (vec![0.0; centers.len()], 0);
    full.each_chunk(|rows| {
        for values in rows.chunks_exact(cols) {
            let start = of_row[row] as usize * cols;
            sums[start..start + cols].iter_mut().zip(values).for_each(|(sum, v)| *sum += f64::from(*v));
            row += 1;
        }
        Ok::<_, Error>(())
    })?;
    let (mut off, mut power) = (0.0, 0.0);
    for ((sums, centers), members) in sums.chunks_exact(cols).zip(centers.chunks_exact(cols)).zip(members) {
        let count = members.len() as f64;
        for (sum, center) in sums.iter().zip(centers) {
            off += (sum - count * f64::from(*center)).powi(2) / count.max(1.0);
            power += count * f64::from(*center).powi(2);
        }
    }
    Ok(off <= NEAR * power)
}

//! Clusters in a file, compact or safetensors, with
//!
//! ```text
//! head.clusters.of_row    I32 [tokens]              the cluster of each row
//! head.clusters.centers   F32 [clusters, channels]  the mean of its rows
//! head.clusters.spread    F32 [clusters, channels]  their variance
//! head.clusters.offsets   F32 [clusters]            what is added to the logarithm of its mass
//! ```
//! and the keys `rwkv-quant.head` (`clustered`), `share`, `outside`, and `fitted` (SHA-256 of the tokens that the
//! offsets were fitted to, if they were). The rows stay in the model's file.

use std::path::Path;

use formats::compact::{Section, Storage, whole};
use formats::{Container, Limits, Metadata, Planned, Value};
use quant::{Encoding, codec};

use super::FullRows;
use super::clustered::Clustered;
use crate::error::{Error, Result};
use crate::files::replace;
use crate::model::CLUSTERED_HEAD;
use crate::runner::weight::Dense;

const OF_ROW: &str = "head.clusters.of_row";
const CENTERS: &str = "head.clusters.centers";
const SPREAD: &str = "head.clusters.spread";
const OFFSETS: &str = "head.clusters.offsets";

impl Clustered {
    /// Writes it to a file, whole or not at all; the same clusters make the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let (clusters, cols) = (self.clusters(), self.centers.cols());
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let of_row = self.of_row.iter().flat_map(|k| k.to_le_bytes()).collect();
        let parts = [
            (OF_ROW, Encoding::I32, vec![self.of_row.len()], of_row),
            (CENTERS, Encoding::F32, vec![clusters, cols], floats(self.centers.rows(0..clusters))),
            (SPREAD, Encoding::F32, vec![clusters, cols], floats(self.spread.rows(0..clusters))),
            (OFFSETS, Encoding::F32, vec![clusters], floats(&self.offsets)),
        ];
        let parts = parts.map(|(name, encoding, shape, bytes)| {
            (Planned { name: name.to_owned(), encoding, shape }, bytes)
        });
        let key = |name: &str, value: String| (name.to_owned(), Value::String(value));
        let mut keys: Metadata = vec![
            key(CLUSTERED_HEAD, "clustered".to_owned()),
            key("share", self.share.to_string()),
            key("outside", self.outside.to_string()),
        ];
        keys.extend(self.fitted.iter().map(|sha256| key("fitted", sha256.clone())));
        let file = if path.extension().is_some_and(|e| e == "rwkvz") {
            let section = |(planned, bytes)| (Section { planned, storage: Storage::Plain }, bytes);
            whole(&keys, &parts.map(section))?
        } else {
            let planned: Vec<Planned> = parts.iter().map(|(planned, _)| planned.clone()).collect();
            let placement = formats::safetensors::place(&keys, &planned)?;
            let mut file = placement.head.clone();
            for (offset, (_, bytes)) in placement.offsets.iter().zip(&parts) {
                file.resize(*offset as usize, 0);
                file.extend_from_slice(bytes);
            }
            file
        };
        replace(path, &file)
    }

    /// The clusters in a file, for a model with the head `full`.
    ///
    /// # Errors
    /// [`Error::Format`] if the file is damaged, [`Error::Model`] if it holds no clusters, or those of another head.
    pub fn open(path: &Path, full: &FullRows<'_>) -> Result<Clustered> {
        let unfit = |what: String| Error::Model {
            path: path.to_owned(),
            what,
            help: "make it for this model: rwkv-quant cluster-head MODEL -o FILE".to_owned(),
        };
        let container = formats::open(path, &Limits::default())?;
        container.format().verify_checksums(&container, &Limits::default())?;
        let text = |key: &str| container.value(key).and_then(Value::as_str);
        if text(CLUSTERED_HEAD) != Some("clustered") {
            return Err(unfit("holds no clustered output layer".to_owned()));
        }
        let number = |key: &str| {
            let value = text(key).and_then(|v| v.parse::<f32>().ok()).filter(|v| v.is_finite());
            value.ok_or_else(|| unfit(format!("has no number under the key {key:?}")))
        };
        let (share, outside) = (number("share")?, number("outside")?);
        let (rows, cols) = (full.rows(), full.cols());
        let clusters = container.tensor(OFFSETS).and_then(|t| t.shape.first()).copied().unwrap_or(0);
        let part = |name: &'static str, encoding: Encoding, shape: &[usize]| {
            let tensor = container.tensor(name).filter(|t| t.encoding == encoding && t.shape == shape);
            tensor.map(|t| (name, container.bytes(t))).ok_or_else(|| {
                unfit(format!("has no {encoding} tensor {name:?} of {shape:?}, as this model's head needs"))
            })
        };
        let of_row = part(OF_ROW, Encoding::I32, &[rows])?.1;
        let (of_row, _) = of_row.as_chunks::<4>();
        let of_row: Vec<u32> = of_row.iter().map(|b| u32::from_le_bytes(*b)).collect();
        if let Some(k) = of_row.iter().find(|k| **k as usize >= clusters) {
            return Err(unfit(format!("puts a row into cluster {k} of {clusters}")));
        }
        let floats = |(name, bytes): (&str, &[u8])| {
            let mut values = vec![0.0; bytes.len() / 4];
            if let Some(codec) = codec(Encoding::F32) {
                codec.decode(bytes, &mut values);
            }
            let checked = quant::check_finite(&values);
            checked.map_err(|e| unfit(format!("is damaged: in {name:?}, {e}"))).map(|()| values)
        };
        let mut members = vec![Vec::new(); clusters];
        for (row, cluster) in of_row.iter().enumerate() {
            members[*cluster as usize].push(row as u32);
        }
        if !(share > 0.0 && share <= 1.0) {
            return Err(unfit(format!("asks for a share of {share} of the probability")));
        }
        let centers = floats(part(CENTERS, Encoding::F32, &[clusters, cols])?)?;
        if !are_means(&centers, &of_row, &members, full)? {
            return Err(unfit("holds the clusters of another head".to_owned()));
        }
        Ok(Clustered {
            centers: Dense::new(centers, cols),
            spread: Dense::new(floats(part(SPREAD, Encoding::F32, &[clusters, cols])?)?, cols),
            offsets: floats(part(OFFSETS, Encoding::F32, &[clusters])?)?,
            fitted: fitted(&container),
            of_row,
            members,
            outside,
            share,
        })
    }
}

/// How far the means of a head's rows may be from the centers: as far as rounding a model moves them.
const NEAR: f64 = 0.05;

/// Whether each center is about the mean of the rows of its cluster.
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

fn fitted(container: &Container) -> Option<String> {
    container.value("fitted").and_then(Value::as_str).map(str::to_owned)
}

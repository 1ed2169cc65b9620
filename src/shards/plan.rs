//! Plan of a shard, made from the plan of its conversion.

use std::collections::BTreeMap;

use formats::safetensors::Bundle;
use formats::{Limits, Planned, Sum, Value};
use quant::Encoding;
use serde::Deserialize;

use super::merge::ShardFile;
use super::{Conversion, File, Head, Place, Read, compact, frame_name, head_of, is_of_older, path, said_by};
use crate::calibrate;
use crate::convert::{Prepared, Request};
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::identity::{Identity, unseal};
use crate::pipeline::{Budget, CALIBRATION, Observer, Stop};
use crate::plan::rules::{self, Asked};
use crate::plan::{Part, Plan, TensorPlan};
use crate::shard::{KEY, Shard};
use crate::storage::{self, Output};
use crate::targets::{self, PlannedFile};

impl Request {
    /// Opens the source and plans one shard of the conversion, the file [`path`]; nothing is written.
    ///
    /// # Errors
    /// As [`Request::prepare`], and [`Error::Usage`] if the target's files cannot be put together.
    pub fn prepare_shard(&self, shard: Shard, observer: &dyn Observer, stop: &Stop) -> Result<Prepared> {
        let target = targets::choose(&self.output, self.recipe.target.as_deref())?;
        let file_type = self.file_type(target)?;
        rules::sharded(&Asked { recipe: &self.recipe, target, file_type })?;
        let mut prepared = self.prepare(observer, stop)?;
        let identity = prepared.identity()?;
        if target.codes() {
            return self.budgeted(compact::shard(prepared, shard, identity)?);
        }
        let plan = prepared.plan;
        rules::shardable(&plan)?;
        let frames = frames(&plan);
        let conversion = Conversion {
            identity,
            output: plan.output,
            files: files(&plan, &frames),
            tensors: places(&plan),
        };
        (prepared.judge, prepared.cross_check) = (None, None); // a shard is no model
        prepared.output = path(&prepared.output, shard);
        prepared.plan = shard_plan(plan, Head { shard, conversion }, frames, &prepared.output)?;
        self.budgeted(prepared)
    }

    /// Adds the memory that its own tensors take.
    fn budgeted(&self, mut prepared: Prepared) -> Result<Prepared> {
        prepared.budget = Budget::new(&prepared.plan, self.thread_count(), self.options.max_memory)?;
        if let Some(calibration) = &prepared.calibration {
            let bytes = |threads| calibrate::peak_bytes(&prepared.plan, calibration, threads);
            prepared.budget.preparing(CALIBRATION, self.options.max_memory, bytes)?;
        }
        if prepared.plan.target.codes() {
            let bytes = |threads| crate::compact::peak_bytes(&prepared.plan, threads);
            prepared.budget.preparing("this conversion", self.options.max_memory, bytes)?;
        }
        Ok(prepared)
    }
}

impl Prepared {
    /// True if the shard that is planned is there already, whole; what a killed run left of it is recovered first.
    ///
    /// # Errors
    /// As [`storage::recover`]; [`Error::Model`] if a shard that was made with other options, or by another version, is there instead.
    pub fn is_done(&self) -> Result<bool> {
        storage::recover(&self.output)?;
        if !self.output.is_file() {
            return Ok(false);
        }
        if !told_as_planned(self)? {
            return Ok(false);
        }
        Ok(match self.plan.target.codes() {
            true => compact::is_sound(&self.output),
            false => Read::open(&self.output).is_ok_and(|read| read.is_sound()),
        })
    }
}

/// True if the shard at the place of the planned one says the same of itself. What says nothing is in the way, and
/// whoever writes refuses it.
fn told_as_planned(prepared: &Prepared) -> Result<bool> {
    #[derive(Deserialize)]
    struct Told {
        identity: Identity,
    }
    let (path, plan) = (&prepared.output, &prepared.plan);
    let planned = plan.metadata.iter().find(|(key, _)| key == KEY).and_then(|(_, said)| said.as_str());
    let there = formats::open(path, &Limits::default()).ok();
    let there = there.as_ref().and_then(|there| there.value(KEY)).and_then(Value::as_str);
    let (Some(planned), Some(there)) = (planned, there) else { return Ok(false) };
    if unseal(there).is_none() && !is_of_older(there) {
        return Ok(false);
    }
    let (planned, found): (Told, Told) = (head_of(path, planned)?, head_of(path, there)?);
    let differences = found.identity.differences(&planned.identity);
    if differences.is_empty() {
        return Ok(true);
    }
    Err(Error::Model {
        path: path.clone(),
        what: format!("is a shard of another conversion; they differ in {}", differences.join(", ")),
        help: "--force makes it anew; or give the output another name".to_owned(),
    })
}

/// The bytes of every file that are no data of tensors, small files as a whole: pieces by their offsets.
fn frames(plan: &Plan) -> Vec<Vec<(u64, Vec<u8>)>> {
    let with_tensors =
        plan.files.iter().map(|f| f.layout.finish(&vec![Sum::default(); f.layout.offsets().len()]));
    with_tensors.chain(plan.small.iter().map(|f| vec![(0, f.bytes.clone())])).collect()
}

fn files(plan: &Plan, frames: &[Vec<(u64, Vec<u8>)>]) -> Vec<File> {
    let sizes = plan.files.iter().map(|f| (&f.name, f.layout.total_bytes(), f.layout.digests_at()));
    let all = sizes.chain(plan.small.iter().map(|f| (&f.name, f.bytes.len() as u64, None)));
    all.zip(frames)
        .map(|((name, bytes, digests_at), frame)| File {
            name: name.to_string_lossy().into_owned(),
            bytes,
            digests_at,
            frame: frame.iter().map(|(offset, bytes)| (*offset, bytes.len())).collect(),
            frame_sha256: sha256(frame.iter().map(|(_, bytes)| bytes.as_slice())),
        })
        .collect()
}

fn places(plan: &Plan) -> BTreeMap<String, Place> {
    let place = |t: &TensorPlan, p: &Part| Place { file: p.file, offset: p.offset, bytes: t.bytes() };
    plan.tensors.iter().flat_map(|t| t.parts.iter().map(move |p| (t.name.clone(), place(t, p)))).collect()
}

/// The plan of a file that holds the tensors of one shard, and the frames of all files.
fn shard_plan(
    plan: Plan,
    head: Head,
    frames: Vec<Vec<(u64, Vec<u8>)>>,
    out: &std::path::Path,
) -> Result<Plan> {
    let bytes: Vec<u64> = plan.tensors.iter().map(TensorPlan::bytes).collect();
    let range = head.shard.range(&bytes);
    let metadata = vec![(KEY.to_owned(), Value::String(said_by(&head)))];
    let mut tensors: Vec<TensorPlan> = plan.tensors.into_iter().skip(range.start).take(range.len()).collect();
    let pieces: Vec<(String, usize)> = tensors.iter().map(|t| (t.name.clone(), t.bytes() as usize)).collect();
    let joined = |pieces: Vec<(u64, Vec<u8>)>| pieces.into_iter().flat_map(|(_, bytes)| bytes).collect();
    let known: Vec<(String, Vec<u8>)> =
        frames.into_iter().enumerate().map(|(n, pieces)| (frame_name(n), joined(pieces))).collect();
    let layout = formats::Layout::from(Bundle::new(&metadata, &pieces, &known)?);
    for ((tensor, (name, bytes)), offset) in tensors.iter_mut().zip(pieces).zip(layout.offsets()) {
        let planned = Planned { name, encoding: Encoding::U8, shape: vec![bytes] };
        let row_bytes = tensor.row_bytes();
        tensor.parts = vec![Part { planned, file: 0, offset: *offset, split: None, row_bytes }];
    }
    let file = PlannedFile { name: out.file_name().unwrap_or_default().to_owned(), layout };
    Ok(Plan { output: Output::File, metadata, files: vec![file], small: Vec::new(), tensors, ..plan })
}

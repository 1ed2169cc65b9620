//! From the plan of a conversion to that of one of its shards.

use std::collections::BTreeMap;

use formats::safetensors::Bundle;
use formats::{Planned, Sum, Value};
use quant::Encoding;
use serde::Serialize;

use super::merge::ShardFile;
use super::{Conversion, File, Head, KEY, Place, Read, compact, frame_name, path};
use crate::calibrate;
use crate::convert::{Prepared, Request};
use crate::error::{Error, Result};
use crate::eval::sha256;
use crate::pipeline::{Budget, CALIBRATION, GENERATION, Observer, Stop};
use crate::plan::{Part, Plan, Write};
use crate::shard::Shard;
use crate::storage::Output;
use crate::targets::{self, PlannedFile};
use crate::verify;

impl Request {
    /// Opens the source and plans one shard of the conversion, the file [`path`]; nothing is written.
    ///
    /// # Errors
    /// As [`Request::prepare`], and [`Error::Usage`] if the target's files cannot be put together.
    pub fn prepare_shard(&self, shard: Shard, observer: &dyn Observer, stop: &Stop) -> Result<Prepared> {
        if self.calibration.is_wanted() && !self.is_independent() {
            return Err(Error::Usage {
                what: "a shard cannot know what the matrices of the others are rounded to".to_owned(),
                help: "give --calib-independent to all shards".to_owned(),
            });
        }
        if self.branches.wanted().is_some() {
            return Err(Error::Usage {
                what:
                    "the branches of low rank of all matrices go into one adapter, which no shard can write"
                        .to_owned(),
                help: "leave --shard out, or --low-rank".to_owned(),
            });
        }
        let codes = targets::choose(&self.output, self.to.as_deref())?.codes();
        if codes && self.goals.is_wanted() {
            return Err(Error::Usage {
                what: "a shard cannot know how small the others become".to_owned(),
                help:
                    "choose the bits once, --bpw 4 --save-recipe FILE, and give --recipe FILE to all shards"
                        .to_owned(),
            });
        }
        let mut prepared = self.prepare(observer, stop)?;
        let sources: Vec<String> = prepared.model.files().map(verify::sha256).collect();
        if codes {
            let id = self.id(&prepared.plan, &sources);
            return self.budgeted(compact::shard(prepared, shard, id)?);
        }
        let plan = prepared.plan;
        check(&plan)?;
        let frames = frames(&plan);
        let conversion = Conversion {
            id: self.id(&plan, &sources),
            output: plan.output,
            files: files(&plan, &frames),
            tensors: places(&plan),
        };
        prepared.judge = None; // a shard is no model
        prepared.output = path(&prepared.output, shard);
        prepared.plan = shard_plan(plan, Head { shard, conversion }, frames, &prepared.output)?;
        self.budgeted(prepared)
    }

    /// The same with the memory that its own tensors take.
    fn budgeted(&self, mut prepared: Prepared) -> Result<Prepared> {
        prepared.budget = Budget::new(&prepared.plan, self.thread_count(), self.max_memory)?;
        if let Some(calibration) = &prepared.calibration {
            let bytes = |threads| calibrate::peak_bytes(&prepared.plan, calibration, threads);
            prepared.budget.preparing(CALIBRATION, self.max_memory, bytes)?;
        }
        if prepared.plan.target.codes() {
            let bytes = |threads| crate::compact::peak_bytes(&prepared.plan, threads);
            prepared.budget.preparing("this conversion", self.max_memory, bytes)?;
        }
        Ok(prepared)
    }

    /// A SHA-256 of all that the bytes of a planned conversion depend on.
    fn id(&self, plan: &Plan, sources: &[String]) -> String {
        #[derive(Serialize)]
        struct Tensor<'a> {
            name: &'a str,
            encoding: &'a str,
            importance: Option<String>,
        }
        let importance = |t: &Write| {
            let columns = t.importance.as_ref()?;
            Some(sha256(columns.iter().map(|c| c.to_le_bytes()).collect::<Vec<_>>().iter().map(|b| &b[..])))
        };
        let tensors: Vec<Tensor> = plan
            .tensors
            .iter()
            .map(|t| Tensor { name: &t.name, encoding: t.encoding.name(), importance: importance(t) })
            .collect();
        let recipe = &plan.recipe;
        let ingredients = serde_json::json!({
            "generation": GENERATION,
            "sources": sources,
            "target": plan.target.id(),
            "type": recipe.file_type.name,
            "search": format!("{:?}", recipe.search),
            // (Files of some formats do not hold what they were calibrated on.)
            "calibration": recipe.calibration.as_ref().map(|trace| format!("{trace:?}")),
            "portable": self.portable,
            "order": format!("{:?}", self.calib_order),
            "lora_alpha": self.adapters.lora_alpha,
            "state_layout": format!("{:?}", self.adapters.state_layout),
            "tensors": tensors,
            "frame": plan.frame_sha256(),
        });
        sha256([ingredients.to_string().as_bytes()])
    }
}

impl Prepared {
    /// Whether the shard that is planned is there already, whole.
    pub fn is_done(&self) -> bool {
        if self.plan.target.codes() {
            return compact::is_done(self);
        }
        let there = self.output.is_file().then(|| Read::open(&self.output).ok()).flatten();
        there.is_some_and(|read| *read.container.metadata() == self.plan.metadata && read.is_sound())
    }
}

/// Refuses files whose bytes are not known but for whole tensors.
fn check(plan: &Plan) -> Result<()> {
    let whole = |t: &Write| matches!(t.parts.as_slice(), [part] if part.split.is_none());
    if plan.files.iter().all(|f| f.layout.is_known()) && plan.tensors.iter().all(whole) {
        return Ok(());
    }
    Err(Error::Usage {
        what: format!("{} files cannot be made in shards", plan.target.name()),
        help: "leave --shard out, or write a .gguf".to_owned(),
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
        })
        .collect()
}

fn places(plan: &Plan) -> BTreeMap<String, Place> {
    let place = |t: &Write, p: &Part| Place { file: p.file, offset: p.offset, bytes: t.bytes() };
    plan.tensors.iter().flat_map(|t| t.parts.iter().map(move |p| (t.name.clone(), place(t, p)))).collect()
}

/// The plan of a file that holds the tensors of one shard, and the frames of all files.
fn shard_plan(
    plan: Plan,
    head: Head,
    frames: Vec<Vec<(u64, Vec<u8>)>>,
    out: &std::path::Path,
) -> Result<Plan> {
    let bytes: Vec<u64> = plan.tensors.iter().map(Write::bytes).collect();
    let range = head.shard.range(&bytes);
    let json = serde_json::json!(head).to_string();
    let metadata = vec![(KEY.to_owned(), Value::String(json))];
    let mut tensors: Vec<Write> = plan.tensors.into_iter().skip(range.start).take(range.len()).collect();
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

//! The way through a model: every matrix is encoded for what really meets it, the outputs of those encoded before.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use quant::{Codec, codec, codec_of_levels, nf4};

use super::activations::activation_stages;
use super::branch::{divide_weights, stored};
use super::matrix::{Job, SHRINKAGES};
use super::stage::{Stage, Target, stages};
use super::{Source, Text, coded};
use crate::checkpoint::Kept;
use crate::checkpoint::{Checkpoint, Encoded, Outcome, Unencodable};
use crate::compact::{self, Matrix};
use crate::error::{Error, Result};
use crate::low_rank::Branch;
use crate::model::{Model, Role};
use crate::pipeline::{self, Observer, Stop};
use crate::plan::{Plan, TensorPlan};
use crate::runner::Moments;
use crate::scheme::Coded;

/// Tokens that are computed together.
pub(super) const TOGETHER: usize = 2048;

/// A calibration before it begins.
#[derive(Debug)]
pub struct Calibration {
    /// The text.
    pub text: Text,
    /// The source of the plan, opened once more.
    pub model: Model,
    /// Source of the activations of the model's matrices.
    pub source: Source,
}

/// Results of encoding the matrices of a plan.
#[derive(Debug, Default)]
pub struct Done {
    /// Outcome of each encoded matrix.
    pub outcomes: Vec<Outcome>,
    /// The branches of low rank beside them.
    pub branches: Vec<Branch>,
    /// Reasons that the text is unfit, as far as the model tells.
    pub warnings: Vec<String>,
}

impl Done {
    /// Puts a finished matrix into the plan.
    fn take(&mut self, plan: &mut Plan, write: usize, kept: Kept) {
        plan.tensors[write].encoded = Some(Arc::new(kept.bytes));
        self.branches.extend(kept.factors.map(|factors| Branch { tensor: write, factors }));
        self.outcomes.push(kept.outcome);
    }
}

/// Encodes every matrix of `plan` that a text can tell something about, and puts the bytes into the plan, and tells what
/// became of each.
///
/// The result depends on neither threads nor on how often the work was broken off: finished matrices are kept in
/// `store`.
///
/// # Errors
/// If the model cannot be run, a weight cannot be encoded, the disk is full, or the work is stopped.
pub fn encode(
    plan: &mut Plan,
    calibration: Calibration,
    store: &Checkpoint,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<Done> {
    let Calibration { mut text, model, source } = calibration;
    let known = text.warnings.len();
    let stages = stages(plan, &model);
    let codebooks = pipeline::codebooks(plan, &model, stop)?;
    let mut activation_stages = activation_stages(source, model, &text)?;
    let targets = stages.iter().flat_map(|s| &s.targets);
    let weights: u64 = targets.map(|t| plan.tensors[t.write].values.elements() as u64).sum();
    let mut done = Done::default();
    for stage in &stages {
        let open = missing(stage, store);
        activation_stages.enter(stage, &open, stop)?;
        for target in &stage.targets {
            let write = &plan.tensors[target.write];
            let of_levels =
                codebooks[target.write].and_then(|levels| codec_of_levels(write.encoding, levels));
            let Some(form) = Form::of(write, of_levels.as_deref()) else { continue };
            let kept = match open.contains(target) {
                true => {
                    let Some(moments) = activation_stages.moments(target.key)? else { continue };
                    let encoded = form.encode(activation_stages.model(), plan, *target, &moments, stop)?;
                    Some(store.keep(target.write, encoded)?)
                }
                false => store.get(target.write),
            };
            let Some(kept) = kept else { continue };
            if activation_stages.follows(stage)
                && let Some(values) = form.decode(&kept, write)
            {
                activation_stages.replace(target.key, values, write.values.cols());
            }
            observer.calibrated(write.values.elements() as u64, weights);
            done.take(plan, target.write, kept);
            plan.tensors[target.write].is_calibrated = true;
        }
    }
    activation_stages.judge(&mut text, stop)?;
    done.warnings = text.warnings.split_off(known);
    Ok(done)
}

/// Divides every matrix of `plan`, made of `model`, that is to get a branch of low rank, for its weights alone, and
/// puts the bytes of the rests into the plan.
///
/// The result depends on neither threads nor on how often the work was broken off.
///
/// # Errors
/// If a weight cannot be encoded, the disk is full, or the work is stopped.
pub fn divide(
    plan: &mut Plan,
    model: &Model,
    store: &Checkpoint,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<Done> {
    let Some(branches) = plan.scheme.branches.clone() else { return Ok(Done::default()) };
    let taken: Vec<usize> = (0..plan.tensors.len()).filter(|n| branches.takes(&plan.tensors[*n])).collect();
    let weights: u64 = taken.iter().map(|n| plan.tensors[*n].values.elements() as u64).sum();
    let mut done = Done::default();
    for number in taken {
        stop.check()?;
        let write = &plan.tensors[number];
        let Some(codec) = codec(write.encoding) else { continue };
        let kept = if let Some(kept) = store.get(number) {
            kept
        } else {
            let mut values = vec![0.0; write.values.elements()];
            write.values.read(&model.container, 0..write.values.rows(), &mut values);
            write.values.release(&model.container, 0..write.values.rows());
            let encoded = divide_weights(codec, write, &values, branches.rank, plan.scheme.search);
            let encoded = encoded
                .map_err(|e| pipeline::unencodable(&write.values, &write.name, plan.target, model, e))?;
            store.keep(number, encoded)?
        };
        observer.calibrated(write.values.elements() as u64, weights);
        done.take(plan, number, kept);
    }
    Ok(done)
}

/// Approximate memory that [`encode`] takes with so many threads.
pub fn peak_bytes(plan: &Plan, calibration: &Calibration, threads: usize) -> u64 {
    let Calibration { text, model, source } = calibration;
    let cols = |t: &Target| plan.tensors[t.write].values.cols();
    let runs = !matches!(source, Source::Stats(..));
    let stage = |s: &Stage| -> u64 {
        let moments = s.targets.iter().map(|t| 2 * Moments::bytes(cols(t)));
        let recorded: u64 = if runs { moments.sum() } else { moments.max().unwrap_or(0) };
        let widest = s.targets.iter().map(cols).max().unwrap_or(0) as u64;
        // Of codes a design for each shrinkage, side by side.
        let coding = |t: &Target| match plan.tensors[t.write].coded {
            Some(Coded::Codes { .. }) => {
                let write = &plan.tensors[t.write];
                let designs = SHRINKAGES.len().min(threads) as u64 * compact::working_bytes(write, 1);
                designs.max(compact::working_bytes(write, compact::TILES * threads))
            }
            _ => 0,
        };
        recorded + 5 * 4 * widest * widest + s.targets.iter().map(coding).max().unwrap_or(0)
    };
    let stages = stages(plan, model).iter().map(stage).max().unwrap_or(0);
    let divided = plan.scheme.branches.as_ref().map_or(0, |b| b.peak_bytes(plan));
    stages + divided + if runs { running_bytes(model, text.tokens()) } else { 0 }
}

/// Approximate memory of a model during a forward pass over a text, besides the recorded activations.
pub fn running_bytes(model: &Model, tokens: usize) -> u64 {
    let dims = &model.dims;
    let kept = if model.version.major() == 7 { 2 } else { 1 };
    let activations = 4 * (tokens * dims.embd * kept) as u64;
    let pass = 4 * (TOGETHER * (14 * dims.embd + 3 * dims.ffn + dims.att)) as u64;
    let block: usize = model.tensors.iter().filter(|h| h.layer == 0).map(|h| h.values.elements()).sum();
    let embeddings: usize = [Role::Embedding, Role::Head]
        .iter()
        .flat_map(|role| model.tensors.iter().filter(move |h| h.spec.role == *role))
        .map(|h| h.values.elements())
        .sum();
    activations + pass + 4 * block.saturating_sub(embeddings) as u64
}

/// The matrices that are still to be encoded.
fn missing(stage: &Stage, store: &Checkpoint) -> Vec<Target> {
    stage.targets.iter().filter(|target| store.get(target.write).is_none()).copied().collect()
}

pub(super) fn slices(sequences: &[Vec<u32>]) -> Vec<&[u32]> {
    sequences.iter().map(Vec::as_slice).collect()
}

/// Form that a matrix is encoded to.
enum Form<'a> {
    /// Blocks of a type.
    Blocks(&'a dyn Codec),
    /// Codes, at so many bits per weight, and perhaps a branch of that rank.
    Codes(f64, usize),
    /// Blocks of nf4 with double quantization.
    Nf4Dq,
}

impl<'a> Form<'a> {
    /// Form of a planned tensor, with levels chosen already if it has its own; `None` if there is nothing to choose.
    fn of(write: &TensorPlan, of_levels: Option<&'a dyn Codec>) -> Option<Form<'a>> {
        match write.coded {
            Some(Coded::Codes { bits, rank }) => Some(Form::Codes(bits, rank)),
            Some(Coded::Nf4Dq) => Some(Form::Nf4Dq),
            _ => of_levels.or_else(|| codec(write.encoding)).map(Form::Blocks),
        }
    }

    /// Encodes one matrix of `model`, given the moments of the tokens to fit to, and of those that judge.
    fn encode(
        &self,
        model: &Model,
        plan: &Plan,
        target: Target,
        [fit, held_out]: &[Moments; 2],
        stop: &Stop,
    ) -> Result<Encoded> {
        let write = &plan.tensors[target.write];
        let read = |rows: Range<usize>, out: &mut [f32]| {
            write.values.read(&model.container, rows.clone(), out);
            write.values.release(&model.container, rows);
        };
        let (rows, cols) = (write.values.rows(), write.values.cols());
        let blocks = |codec: &dyn Codec, rank| {
            let job = Job { codec, rows, cols, read: &read, fit, held_out, rank };
            job.encode(stop).map(|encoded| encoded.map_err(Unencodable::Weight))
        };
        let encoded = match *self {
            Form::Blocks(codec) => {
                let rank = plan.scheme.branches.as_ref().filter(|b| b.takes(write)).map(|b| b.rank);
                blocks(codec, rank)?
            }
            Form::Codes(bits, rank) => {
                let tiles = compact::TILES * rayon::current_num_threads();
                let matrix = Matrix { rows, cols, read: &read, search: plan.scheme.search, tiles };
                coded::encode(&matrix, (bits, rank), fit, held_out, stop)
            }
            // The errors that are told leave out that of the scales, some thousandths of them.
            Form::Nf4Dq => blocks(&nf4::NF4, None)?.and_then(|encoded| {
                let bytes = coded::nf4_dq(&encoded.bytes, cols)?;
                Ok(Encoded { bytes, ..encoded })
            }),
        };
        match encoded {
            Ok(encoded) => {
                let outcome = Outcome { name: write.name.clone(), ..encoded.outcome };
                Ok(Encoded { outcome, ..encoded })
            }
            Err(Unencodable::Other(e)) => Err(e),
            Err(Unencodable::Io(e)) => Err(Error::io("write", Path::new(&write.name))(e)),
            Err(Unencodable::Weight(e)) => {
                Err(pipeline::unencodable(&write.values, &write.name, plan.target, model, e))
            }
        }
    }

    /// The values of what was kept of a matrix; `None` if it is not whole.
    fn decode(&self, kept: &Kept, write: &TensorPlan) -> Option<Vec<f32>> {
        let (rows, cols) = (write.values.rows(), write.values.cols());
        if let Some(coding) = write.coded.and_then(Coded::coding) {
            return coded::decoded(kept.bytes.bytes(), coding, rows, cols);
        }
        let Form::Blocks(codec) = self else { return None };
        let mut values = vec![0.0; rows * cols];
        codec.decode(kept.bytes.bytes(), &mut values);
        if let (Some(factors), Some(gain)) = (&kept.factors, &kept.outcome.branch) {
            stored(factors.bytes(), gain.rank, rows).add_to(&mut values);
        }
        Some(values)
    }
}

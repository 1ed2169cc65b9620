//! Sensitivity of each tensor: measured with that tensor alone rounded.

use std::collections::BTreeMap;

use quant::{Encoding, Rows, codec};
use rayon::prelude::*;

use super::Text;
use super::allocate::{Candidate, Unit};
use super::encode::{TOGETHER, running_bytes, slices};
use super::measure::ActivationRecorder;
use crate::error::Result;
use crate::model::{Model, ModelTensor, Role};
use crate::pipeline::{Stop, unencodable};
use crate::recipe::fitting;
use crate::runner::math::{divergence, log_sum_exp};
use crate::runner::{BlockHalf, ForwardPass, Key, Logits, Options, Runner};
use crate::targets::{Item, Target};

/// Tokens that the model is run over for every tensor.
const TOKENS: usize = 2048;
/// Predictions that are compared.
const PREDICTIONS: usize = 512;
/// Rows of a tensor whose errors are taken for every type.
const ROWS: usize = 128;
/// The type that tensors are rounded to while the divergence is measured.
const PROBE: Encoding = Encoding::Q4K;
/// Least divergence that counts as measured, nats a token.
const LEAST: f64 = 1e-9;

/// The units that the free tensors of a file make up, each with what its candidates cost, and which items are in them.
#[derive(Clone, Debug)]
pub struct Sensitivities {
    /// The units.
    pub units: Vec<Unit>,
    /// Numbers of the items of each unit.
    pub members: Vec<Vec<usize>>,
}

/// Tensors that get the same type, before they are measured.
struct Group<'a> {
    place: Place,
    /// True if the runtime wants them and never reads them.
    unread: bool,
    members: Vec<Member<'a>>,
}

/// Place of a unit in the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Entry,
    Block(usize, u8),
    Exit,
}

#[derive(Clone, Copy)]
struct Member<'a> {
    item: usize,
    held: &'a ModelTensor,
}

/// Measures what rounding costs, for every type that `target` can have and a tensor's rows allow.
///
/// # Errors
/// If the model cannot be run, or the work is stopped.
pub fn probe(
    model: Model,
    again: Model,
    items: &[Item],
    target: &dyn Target,
    text: &Text,
    stop: &Stop,
    progress: &dyn Fn(u64, u64),
) -> Result<Sensitivities> {
    let groups = groups(&again, items);
    let of = groups.len() as u64;
    let sequences = chosen(text);
    let options = || Options { stream: true, ..Options::default() };
    let reference = Reference::new(model, &sequences, options(), stop)?;
    let mut walk = ForwardPass::new(reference.runner, &[&sequences], TOGETHER)?;
    let reference = reference.predictions;
    let mut probed = Sensitivities { units: Vec::new(), members: Vec::new() };
    let mut squares: BTreeMap<Key, Vec<f32>> = BTreeMap::new();
    for group in &groups {
        stop.check()?;
        while let Some((index, half)) = walk.next() {
            if group.place <= Place::Block(index, u8::from(half == BlockHalf::Channel)) {
                break;
            }
            walk.step(None, || stop.check())?;
            squares.clear();
        }
        if squares.is_empty() {
            let recorder = ActivationRecorder::diagonal();
            walk.observe(recorder.clone(), || stop.check())?;
            squares = recorder.take().into_iter().map(|(key, [m, _])| (key, m.mean_squares())).collect();
        }
        let unit = measured(&mut walk, group, items, target, &squares, &reference, stop)?;
        probed.units.push(unit);
        probed.members.push(group.members.iter().map(|m| m.item).collect());
        progress(1, of);
    }
    Ok(probed)
}

/// Approximate memory that [`probe`] takes.
pub fn probing_bytes(model: &Model, text: &Text) -> u64 {
    let tokens: usize = chosen(text).iter().map(|s| s.len()).sum();
    let logits = 2 * 4 * (PREDICTIONS * model.dims.vocab) as u64;
    // A matrix as it is, and rounded.
    let largest = model.tensors.iter().map(|h| h.values.elements()).max().unwrap_or(0);
    running_bytes(model, tokens) + logits + 8 * largest as u64
}

/// Sequences of about [`TOKENS`] tokens, held-out ones first.
fn chosen(text: &Text) -> Vec<&[u32]> {
    let all = slices(&text.held_out).into_iter().chain(slices(&text.fit));
    let mut tokens = 0;
    all.take_while(|s| {
        let enough = tokens >= TOKENS;
        tokens += s.len();
        !enough
    })
    .collect()
}

/// The predictions of the model as it is.
struct Reference {
    runner: Runner,
    predictions: Vec<Prediction>,
}

/// Predictions for one group of tokens, for comparison.
struct Prediction {
    rows: Vec<usize>,
    logits: Logits,
    sums: Vec<f64>,
}

impl Reference {
    fn new(model: Model, sequences: &[&[u32]], options: Options, stop: &Stop) -> Result<Reference> {
        let mut walk = ForwardPass::new(Runner::new(model, options)?, &[sequences], TOGETHER)?;
        walk.finish(|| stop.check())?;
        let tokens: usize = sequences.iter().map(|s| s.len()).sum();
        let every = tokens.div_ceil(PREDICTIONS);
        let mut predictions = Vec::new();
        for group in 0..walk.groups() {
            let rows: Vec<usize> = (every - 1..walk.tokens(group)).step_by(every).collect();
            let logits = walk.logits(group, &rows)?;
            let sums = (0..rows.len()).into_par_iter().map(|i| log_sum_exp(logits.row(i)).0).collect();
            predictions.push(Prediction { rows, logits, sums });
        }
        Ok(Reference { runner: walk.into_runner(), predictions })
    }
}

/// Mean divergence of what the model says, from where it is to the end.
fn to_the_end(walk: &mut ForwardPass, reference: &[Prediction], stop: &Stop) -> Result<f64> {
    walk.finish(|| stop.check())?;
    let (mut sum, mut count) = (0.0, 0);
    for (group, first) in reference.iter().enumerate() {
        let logits = walk.logits(group, &first.rows)?;
        let kl = |i: usize| {
            let row = logits.row(i);
            divergence(first.logits.row(i), first.sums[i], row, log_sum_exp(row).0)
        };
        let kls: Vec<f64> = (0..first.rows.len()).into_par_iter().map(kl).collect();
        sum += kls.iter().sum::<f64>();
        count += kls.len();
    }
    Ok(sum / f64::from(u32::try_from(count.max(1)).unwrap_or(u32::MAX)))
}

/// The groups of items whose types are free, in the order of the computation.
fn groups<'a>(model: &'a Model, items: &[Item]) -> Vec<Group<'a>> {
    let mut groups: BTreeMap<(Place, &str, usize), Group<'a>> = BTreeMap::new();
    for (number, item) in items.iter().enumerate().filter(|(_, i)| i.fixed.is_none()) {
        let same = |h: &&ModelTensor| {
            item.values.is_same_view(&h.values)
                || (h.spec.role == Role::LowRank
                    && h.values.transposed().is_some_and(|turned| item.values.is_same_view(&turned)))
        };
        let Some(held) = model.tensors.iter().find(same) else { continue };
        let short = held.spec.short_name();
        let place = match (held.spec.role, BlockHalf::of(short)) {
            (Role::Vector, _) => continue,
            (Role::Embedding, None) => Place::Entry,
            (Role::Head, _) => Place::Exit,
            (_, Some(half)) => Place::Block(held.layer, u8::from(half == BlockHalf::Channel)),
            _ => continue,
        };
        // The low-rank matrices of a half block get one type, but for those that nobody reads.
        let name = match (item.unread, held.spec.role) {
            (true, _) => "unread",
            (false, Role::LowRank) => "low rank",
            (false, _) => short,
        };
        let none = Group { place, unread: item.unread, members: Vec::new() };
        let group = groups.entry((place, name, held.layer)).or_insert(none);
        group.members.push(Member { item: number, held });
    }
    groups.into_values().collect()
}

/// Measures one unit.
fn measured(
    walk: &mut ForwardPass,
    group: &Group<'_>,
    items: &[Item],
    target: &dyn Target,
    squares: &BTreeMap<Key, Vec<f32>>,
    reference: &[Prediction],
    stop: &Stop,
) -> Result<Unit> {
    let key = |m: &Member<'_>| -> Key { (m.held.spec.name, m.held.layer) };
    if group.unread {
        return Ok(unread(group, items, target.candidates()));
    }
    let mut probes = Vec::new();
    for member in &group.members {
        let values = &items[member.item].values;
        let cols = values.cols();
        let importance = squares.get(&key(member)).filter(|q| q.len() == cols);
        let encoding = fitting(PROBE, values.rows(), cols);
        let container = &walk.runner().model().container;
        let mut all = vec![0.0; values.elements()];
        values.read(container, 0..values.rows(), &mut all);
        values.release(container, 0..values.rows());
        let step = values.rows() * cols / values.rows().div_ceil(4096).max(1);
        let step = (step / cols).max(1) * cols;
        all.par_chunks_mut(step).enumerate().try_for_each(|(n, rows)| {
            round(encoding, rows, cols, importance.map(Vec::as_slice)).map_err(|e| {
                let (model, name) = (walk.runner().model(), &items[member.item].name);
                unencodable(values, name, target, model, super::matrix::at(e, n * step))
            })
        })?;
        probes.push((key(member), all, cols));
    }
    let divergence = if group.place == Place::Entry {
        let (_, rows, cols) = probes.swap_remove(0);
        walk.branch(|walk| {
            walk.enter_again(&rows, cols);
            to_the_end(walk, reference, stop)
        })?
    } else {
        let keys: Vec<Key> = probes.iter().map(|p| p.0).collect();
        for (key, rows, cols) in probes {
            walk.replace(key, rows, cols);
        }
        let found = walk.branch(|walk| to_the_end(walk, reference, stop));
        keys.into_iter().for_each(|key| walk.restore(key));
        found?
    };
    let divergence = divergence.max(LEAST);

    let container = &walk.runner().model().container;
    let errors = |wanted: Encoding| -> Vec<(Encoding, u64, f64)> {
        let of = |member: &Member<'_>| {
            let values = &items[member.item].values;
            let encoding = fitting(wanted, values.rows(), values.cols());
            let bytes = encoding.matrix_bytes(values.rows() as u64, values.cols() as u64).unwrap_or(u64::MAX);
            let importance = squares.get(&key(member)).filter(|q| q.len() == values.cols());
            (encoding, bytes, sampled_error(values, container, encoding, importance.map(Vec::as_slice)))
        };
        group.members.par_iter().map(of).collect()
    };
    let probe: Vec<f64> = errors(PROBE).into_iter().map(|e| e.2).collect();
    let candidates = target.candidates().iter().map(|encoding| {
        let found = errors(*encoding);
        // The mean of the members' ratios: each is as likely as the others to make the difference.
        let ratios = found.iter().zip(&probe).map(|(e, p)| if *p > 0.0 { e.2 / p } else { 1.0 });
        let ratio = ratios.sum::<f64>() / found.len().max(1) as f64;
        Candidate {
            encodings: found.iter().map(|e| e.0).collect(),
            bytes: found.iter().map(|e| e.1.next_multiple_of(ALIGNMENT)).sum(),
            divergence: divergence * ratio,
        }
    });
    let mut candidates: Vec<Candidate> = candidates.collect();
    candidates.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.divergence.total_cmp(&b.divergence)));
    candidates.dedup_by(|b, a| b.encodings == a.encodings);
    let first = group.members.first().map_or("", |m| m.held.spec.short_name());
    let name = match group.place {
        Place::Block(layer, _) => format!("block {layer} {first}"),
        _ => first.to_owned(),
    };
    Ok(Unit { name, candidates })
}

/// The unit of tensors that nobody reads: as small as can be.
fn unread(group: &Group<'_>, items: &[Item], candidates: &[Encoding]) -> Unit {
    let smallest = |member: &Member<'_>| {
        let (rows, cols) = (items[member.item].values.rows(), items[member.item].values.cols());
        let fit = candidates.iter().map(|e| fitting(*e, rows, cols));
        let sized = fit.filter_map(|e| Some((e.matrix_bytes(rows as u64, cols as u64)?, e)));
        sized.min_by_key(|s| s.0).unwrap_or((u64::MAX, Encoding::F16))
    };
    let found: Vec<(u64, Encoding)> = group.members.iter().map(smallest).collect();
    let candidate = Candidate {
        encodings: found.iter().map(|f| f.1).collect(),
        bytes: found.iter().map(|f| f.0.next_multiple_of(ALIGNMENT)).sum(),
        divergence: 0.0,
    };
    Unit { name: "what is never read".to_owned(), candidates: vec![candidate] }
}

/// Bytes that tensors' data is padded to in GGUF.
pub(super) const ALIGNMENT: u64 = 32;

/// Encodes rows and decodes them again.
fn round(
    encoding: Encoding,
    rows: &mut [f32],
    cols: usize,
    importance: Option<&[f32]>,
) -> std::result::Result<(), quant::EncodeError> {
    let Some(codec) = codec(encoding) else { return Ok(()) };
    let count = (rows.len() / cols.max(1)) as u64;
    let mut bytes = vec![0; encoding.matrix_bytes(count, cols as u64).unwrap_or(0) as usize];
    codec.encode(Rows { importance, ..Rows::new(rows, cols) }, &mut bytes)?;
    codec.decode(&bytes, rows);
    Ok(())
}

/// The weighted squared error of some rows.
fn sampled_error(
    values: &crate::model::TensorView,
    container: &formats::Container,
    encoding: Encoding,
    importance: Option<&[f32]>,
) -> f64 {
    let cols = values.cols();
    let count = ROWS.min(values.rows());
    let mut sample = vec![0.0; count * cols];
    for (i, row) in sample.chunks_exact_mut(cols).enumerate() {
        let at = i * values.rows() / count;
        values.read(container, at..at + 1, row);
    }
    let mut rounded = sample.clone();
    // What cannot be encoded is refused when the file is written.
    if round(encoding, &mut rounded, cols, importance).is_err() {
        return f64::INFINITY;
    }
    let weight = |i: usize| importance.map_or(1.0, |q| f64::from(q[i % cols]));
    let errors = rounded.iter().zip(&sample).enumerate();
    errors.map(|(i, (a, b))| weight(i) * f64::from(a - b).powi(2)).sum()
}

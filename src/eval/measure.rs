//! Running models over a text, side by side, and keeping what each says about every scored token.

use std::cmp::Reverse;

use rayon::prelude::*;

use super::window::Sequence;
use crate::error::{Error, Result};
use crate::runner::math::{divergence, log_sum_exp};
use crate::runner::{Head, Hidden, Runner, State};

/// Score of one token by the first model, and the token's place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The token's place in the text.
    pub place: usize,
    /// Its window.
    pub window: usize,
    /// Number of tokens of its sequence that come before.
    pub position: usize,
    /// -ln of the probability that the model gave it.
    pub nll: f64,
}

/// Score of the same token by another model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// -ln of the probability that it gave the token.
    pub nll: f64,
    /// Divergence of its prediction from the first model's.
    pub kl: f64,
    /// True if both would have chosen the same token.
    pub same_top: bool,
}

/// Rows and bytes that another head of the first model read to predict the token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scan {
    /// Rows of the full head.
    pub rows: usize,
    /// Bytes, of these rows and of whatever else.
    pub bytes: u64,
    /// True if the row of the full head's first choice is not among them.
    pub missed: bool,
    /// True if the tokens that the head says are exact are the full head's, in its order and with its logits.
    pub kept: bool,
}

/// Scores by all models and heads: one score a token, one comparison a token and further model or head.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The first model's scores.
    pub scores: Vec<Score>,
    /// Comparisons of each further model, then of each head, in the order of the scores.
    pub comparisons: Vec<Vec<Comparison>>,
    /// Rows and bytes that each head read.
    pub scans: Vec<Vec<Scan>>,
}

/// Amount of work that is computed together.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Tokens of a pass.
    pub tokens: usize,
    /// Tokens whose logits are computed together.
    pub logits: usize,
    /// Sequences side by side, each with a state.
    pub sequences: usize,
}

/// Most memory for the states of sequences side by side, unless less was asked for.
const STATE_BYTES: u64 = 256 << 20;
/// Tokens of a pass: enough that decoding the weights is a small part of the work.
const PASS_TOKENS: usize = 2048;
/// Tokens whose logits are computed together.
const LOGIT_ROWS: usize = 256;
/// Fewest tokens of a pass, so that the work comes to an end.
const FEWEST_TOKENS: u64 = 16;
/// Memory of the program besides activations: itself, a vocabulary, panels.
const FIXED_BYTES: u64 = 60 << 20;

/// Amount of work of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Tokens of the text, all of which are held.
    pub text: usize,
    /// Tokens that are scored.
    pub scored: usize,
}

/// Memory that models take while they run side by side, in bytes. They run one after the other, in the same buffers.
struct Needs {
    /// All the time: decoded vectors, and what is measured.
    kept: u64,
    /// The activations of a token, of the largest model, and what every model says of it in the end.
    token: u64,
    /// The logits of a token.
    row: u64,
    /// The states of a sequence.
    state: u64,
}

impl Needs {
    /// Needs of `models` that score so many tokens of a text of `text` tokens.
    fn of(models: &[&Runner], Work { text, scored }: Work) -> Needs {
        let dims = || models.iter().map(|m| m.model().dims);
        // About 14 matrices as wide as the residual stream are alive at once, or 4 and a hidden layer with its copy
        // in strips.
        let pass = dims().map(|d| 14 * d.embd + 2 * d.ffn + d.att).max().unwrap_or(0);
        let hidden: usize = dims().map(|d| d.embd).sum();
        let measured = size_of::<Score>() + models.len().saturating_sub(1) * size_of::<Comparison>();
        Needs {
            // What is measured is held twice while it is joined.
            kept: models.iter().map(|m| m.kept_bytes()).sum::<u64>()
                + (2 * measured * scored + size_of::<u32>() * text) as u64,
            token: 4 * (pass + hidden).max(1) as u64,
            row: 4 * dims().map(|d| d.vocab).sum::<usize>().max(1) as u64,
            state: models.iter().map(|m| m.start().bytes()).sum::<u64>().max(1),
        }
    }

    /// Bytes needed with so much computed together: half of what is spare for activations, a quarter for logits and
    /// states each.
    fn bytes(&self, tokens: u64, rows: u64, sequences: u64) -> u64 {
        let spare = (2 * self.token * tokens).max(4 * self.row * rows).max(4 * self.state * sequences);
        FIXED_BYTES + self.kept + spare
    }
}

impl Load {
    /// Load that fits into `max_memory` when `models` do such `work` side by side.
    ///
    /// # Errors
    /// [`Error::Resources`] with the least that they need.
    pub fn within(models: &[&Runner], work: Work, max_memory: Option<u64>) -> Result<Load> {
        let needs = Needs::of(models, work);
        let states = (STATE_BYTES / needs.state).clamp(1, PASS_TOKENS as u64) as usize;
        let full = Load { tokens: PASS_TOKENS, logits: LOGIT_ROWS, sequences: states };
        let Some(max) = max_memory else { return Ok(full) };
        let least = needs.bytes(FEWEST_TOKENS, 1, 1);
        if max < least {
            let megabytes = least.div_ceil(1_000_000);
            return Err(Error::Resources {
                what: format!(
                    "{} are too little to run {}",
                    crate::units::bytes(max),
                    if models.len() == 1 {
                        "this model".to_owned()
                    } else {
                        format!("{} models", models.len())
                    }
                ),
                help: format!("the least is --max-memory {megabytes}MB"),
            });
        }
        let spare = max - FIXED_BYTES - needs.kept;
        let fit = |bytes: u64, most: usize| (spare / bytes).min(most as u64) as usize;
        Ok(Load {
            tokens: fit(2 * needs.token, full.tokens),
            logits: fit(4 * needs.row, full.logits),
            sequences: fit(4 * needs.state, full.sequences),
        })
    }

    /// The memory with which [`Load::within`] computes as much together as it pays.
    pub fn full_bytes(models: &[&Runner], work: Work) -> u64 {
        Needs::of(models, work).bytes(PASS_TOKENS as u64, LOGIT_ROWS as u64, 1)
    }
}

/// Runs all models over `sequences` of `tokens`, and has the first one's predictions made by `heads` too; `progress` hears
/// of the tokens done and may stop the work.
///
/// The result depends on neither the load nor the threads.
///
/// # Errors
/// As [`Runner::run`]; [`Error::Model`] if a model's logits are not finite; whatever `progress` says.
pub fn measure(
    models: &[&Runner],
    heads: &[&dyn Head],
    tokens: &[u32],
    sequences: &[Sequence],
    load: Load,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<Measured> {
    let compared = models.len().saturating_sub(1) + heads.len();
    let mut measured = Measured {
        scores: Vec::new(),
        comparisons: vec![Vec::new(); compared],
        scans: vec![Vec::new(); heads.len()],
    };
    // Sequences of one length together: none waits for another.
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|n| Reverse(sequences[*n].tokens.len()));
    let mut parts: Vec<Part> = sequences.iter().map(|_| Part::default()).collect();
    let mut left = order.as_slice();
    while let Some(first) = left.first() {
        // As many sequences as a pass has room for; one that is longer takes several passes.
        let longest = sequences[*first].tokens.len().min(load.tokens).max(1);
        let side_by_side = (load.tokens / longest).clamp(1, load.sequences.max(1));
        let (now, later) = left.split_at(side_by_side.min(left.len()));
        let group: Vec<Sequence> = now.iter().map(|n| sequences[*n].clone()).collect();
        left = later;
        let mut states: Vec<Vec<State>> =
            models.iter().map(|m| group.iter().map(|_| m.start()).collect()).collect();
        let step = (load.tokens / group.len()).max(1);
        let mut scored: Vec<Part> = group.iter().map(|_| Part::default()).collect();
        let length = group.iter().map(|s| s.tokens.len()).max().unwrap_or(0);
        for from in (0..length).step_by(step) {
            let runs: Vec<&[u32]> = group
                .iter()
                .map(|s| {
                    let run = &tokens[s.tokens.clone()];
                    &run[from.min(run.len())..(from + step).min(run.len())]
                })
                .collect();
            let hidden: Vec<Hidden> = models
                .iter()
                .zip(&mut states)
                .map(|(model, states)| model.run(&runs, states))
                .collect::<Result<_>>()?;
            score(models, heads, tokens, &group, from, &runs, &hidden, load, &mut scored)?;
            progress(runs.iter().map(|r| r.len()).sum())?;
        }
        for (n, part) in now.iter().zip(scored) {
            parts[*n] = part;
        }
    }
    // In the order of the text, however the sequences were put together.
    for part in parts {
        measured.scores.extend(part.scores);
        for (all, part) in measured.comparisons.iter_mut().zip(part.comparisons) {
            all.extend(part);
        }
        for (all, part) in measured.scans.iter_mut().zip(part.scans) {
            all.extend(part);
        }
    }
    Ok(measured)
}

/// Measurements of one sequence so far.
#[derive(Default)]
struct Part {
    scores: Vec<Score>,
    comparisons: Vec<Vec<Comparison>>,
    scans: Vec<Vec<Scan>>,
}

/// Scores one pass.
#[allow(clippy::too_many_arguments)] // one call, taken out of a long function
fn score(
    models: &[&Runner],
    heads: &[&dyn Head],
    tokens: &[u32],
    group: &[Sequence],
    from: usize,
    runs: &[&[u32]],
    hidden: &[Hidden],
    load: Load,
    parts: &mut [Part],
) -> Result<()> {
    // The row of each scored prediction, the place of the token it predicts, and the sequence.
    let mut wanted = Vec::new();
    let mut row = 0;
    for (n, (sequence, run)) in group.iter().zip(runs).enumerate() {
        for i in 0..run.len() {
            let predicted = sequence.tokens.start + from + i + 1;
            if sequence.scored.contains(&predicted) {
                wanted.push((row + i, predicted, n));
            }
        }
        row += run.len();
    }
    for wanted in wanted.chunks(load.logits.max(1)) {
        let rows: Vec<usize> = wanted.iter().map(|w| w.0).collect();
        let mut logits: Vec<_> =
            models.iter().zip(hidden).map(|(m, h)| m.logits(h, &rows)).collect::<Result<_>>()?;
        let mut readings = Vec::new();
        for head in heads {
            let (found, read) = models[0].logits_by(*head, &hidden[0], &rows)?;
            logits.push(found);
            readings.push(read);
        }
        let by = models.iter().chain(heads.iter().map(|_| &models[0]));
        let one = |i: usize| -> Result<(Score, Vec<Comparison>, Vec<Scan>)> {
            let (_, place, n) = wanted[i];
            let token = tokens[place] as usize;
            let mut sums = by.clone().zip(&logits).map(|(model, logits)| {
                let row = logits.row(i);
                let (sum, top) = log_sum_exp(row);
                // The sum alone does not show a logit of minus infinity.
                match sum.is_finite() && quant::check_finite(row).is_ok() {
                    true => Ok((row, sum, top)),
                    false => Err(model.unsound_logits(Some(place))),
                }
            });
            let Some(first) = sums.next().transpose()? else { unreachable!("there is a model") };
            let nll = |(row, sum, _): (&[f32], f64, usize)| sum - f64::from(row[token]);
            let comparisons = sums
                .map(|other| {
                    let other = other?;
                    let kl = divergence(first.0, first.1, other.0, other.1);
                    Ok(Comparison { nll: nll(other), kl, same_top: first.2 == other.2 })
                })
                .collect::<Result<_>>()?;
            let sequence = &group[n];
            let position = place - sequence.tokens.start;
            let score = Score { place, window: sequence.window_of(place), position, nll: nll(first) };
            let scans =
                heads.iter().zip(&readings).zip(&logits[models.len()..]).map(|((head, read), logits)| Scan {
                    rows: read[i].rows.count(),
                    bytes: read[i].bytes,
                    missed: !read[i].rows.contains(first.2 as u32),
                    kept: same_best(first.0, logits.row(i), head.exact()),
                });
            Ok((score, comparisons, scans.collect()))
        };
        // Each with its own outcome, so that of several errors the first of the text is told, whichever thread was faster.
        let rows: Vec<Result<_>> = (0..wanted.len()).into_par_iter().map(one).collect();
        for (row, (_, _, n)) in rows.into_iter().zip(wanted) {
            let (score, comparisons, scans) = row?;
            let part = &mut parts[*n];
            part.scores.push(score);
            part.scans.resize(scans.len(), Vec::new());
            for (all, one) in part.scans.iter_mut().zip(scans) {
                all.push(one);
            }
            part.comparisons.resize(comparisons.len(), Vec::new());
            for (all, one) in part.comparisons.iter_mut().zip(comparisons) {
                all.push(one);
            }
        }
    }
    Ok(())
}

/// True if the `k` greatest of both are the same: their places, their order (of equal ones the first is the greater) and
/// their values.
fn same_best(a: &[f32], b: &[f32], k: usize) -> bool {
    if k >= a.len() {
        return a == b;
    }
    let best = |logits: &[f32]| {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let by = |x: &usize, y: &usize| logits[*y].total_cmp(&logits[*x]).then(x.cmp(y));
        if k > 0 {
            order.select_nth_unstable_by(k - 1, by);
        }
        order.truncate(k);
        order.sort_by(by);
        order
    };
    let (first, second) = (best(a), best(b));
    first == second && first.iter().all(|i| a[*i] == b[*i])
}

//! A model run half a block at a time: all tokens of a text pass one half before any passes the next.
//!
//! So a block's weights are read once, whatever is done with them meanwhile: listened to, changed, tried again. Between
//! two halves only the residual stream of all tokens is kept (and the first block's values, which version 7 mixes in).

use std::sync::Arc;

use super::layer::Layer;
use super::matrix::Matrix;
use super::pass::{self, Pass, each_row};
use super::state::State;
use super::weight::{ActivationHook, Dense, Inputs, Key};
use super::{Hidden, Logits, Runner};
use crate::error::Result;

/// The halves of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockHalf {
    /// The time mix.
    Time,
    /// The channel mix.
    Channel,
}

impl BlockHalf {
    /// Both, in their order.
    pub const BOTH: [BlockHalf; 2] = [BlockHalf::Time, BlockHalf::Channel];

    /// The half that a tensor of a block belongs to, by its short name.
    pub fn of(short_name: &str) -> Option<BlockHalf> {
        match short_name.split_once('.')?.0 {
            "att" => Some(BlockHalf::Time),
            "ffn" => Some(BlockHalf::Channel),
            _ => None,
        }
    }
}

/// A model on its way through a text.
#[derive(Debug)]
pub struct ForwardPass {
    runner: Runner,
    groups: Vec<Group>,
    /// Halves behind all tokens.
    passed: usize,
}

/// Sequences that are computed together.
#[derive(Clone, Debug)]
struct Group {
    /// The part of the text that they are of.
    part: usize,
    sequences: Vec<Vec<u32>>,
    x: Matrix,
    first_values: Option<Matrix>,
    entry: Option<Matrix>,
}

impl Group {
    /// Group before the first block.
    fn enter(runner: &Runner, part: usize, sequences: &[&[u32]]) -> Result<Group> {
        let all: Vec<u32> = sequences.concat();
        runner.check_tokens(all.iter())?;
        let x = runner.enter(&all);
        let entry = runner.entry(&x);
        let sequences = sequences.iter().map(|s| s.to_vec()).collect();
        Ok(Group { part, sequences, x, first_values: None, entry })
    }

    /// Change that the next half adds to the residual stream.
    fn change(&mut self, runner: &Runner, half: BlockHalf, index: usize) -> Matrix {
        let runs: Vec<&[u32]> = self.sequences.iter().map(Vec::as_slice).collect();
        let mut states: Vec<State> = runs.iter().map(|_| runner.start()).collect();
        let mut pass = Pass::new(&runs, &mut states, runner.pool.clone());
        pass.first_values = self.first_values.take();
        pass.entry = self.entry.take();
        let change = runner.change(half, Layer { runner, index }, &mut pass, &self.x);
        self.first_values = pass.first_values;
        self.entry = pass.entry;
        change
    }
}

impl ForwardPass {
    /// Forward pass before the first block, with every sequence of every part of a text at its beginning; about
    /// `together` tokens, of one part, are computed together.
    ///
    /// # Errors
    /// As [`Runner::run`] for tokens that the model has no row for.
    pub fn new(runner: Runner, parts: &[&[&[u32]]], together: usize) -> Result<ForwardPass> {
        let mut walk = ForwardPass { runner, groups: Vec::new(), passed: 0 };
        for (part, sequences) in parts.iter().enumerate() {
            let mut rest = *sequences;
            while !rest.is_empty() {
                let mut tokens = 0;
                let fit = rest.iter().take_while(|s| {
                    tokens += s.len();
                    tokens <= together
                });
                let (now, later) = rest.split_at(fit.count().max(1));
                rest = later;
                walk.groups.push(Group::enter(&walk.runner, part, now)?);
            }
        }
        Ok(walk)
    }

    /// The model.
    pub fn runner(&self) -> &Runner {
        &self.runner
    }

    /// Number of groups of tokens that are computed one after the other.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The block and the half of it that come next; `None` behind the last block.
    pub fn next(&self) -> Option<(usize, BlockHalf)> {
        let block = self.passed / 2;
        (block < self.runner.model.dims.layers).then(|| (block, BlockHalf::BOTH[self.passed % 2]))
    }

    /// Replaces the matrix of `key` from now on by `values` ([out, in], rows of `cols`), whatever the file holds.
    pub fn replace(&mut self, key: Key, values: Vec<f32>, cols: usize) {
        self.runner.decoded.insert(key, Dense::new(values, cols));
    }

    /// Restores the matrix of `key` to the file's from now on.
    pub fn restore(&mut self, key: Key) {
        self.runner.decoded.remove(&key);
    }

    /// Lets `hook` hear what meets the matrices of the next half (behind the last block: the head), without going on.
    ///
    /// # Errors
    /// What `progress`, called after every group, says.
    pub fn observe(
        &mut self,
        hook: Arc<dyn ActivationHook>,
        mut progress: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Some((index, half)) = self.next() else {
            let Some(key) = self.runner.places.keys().find(|k| k.0 == "head.weight").copied() else {
                return Ok(());
            };
            for group in &self.groups {
                let hidden = self.runner.outer_norm("ln_out").rows(&group.x);
                hook.hear(key, group.part, &Inputs(&hidden));
                progress()?;
            }
            return Ok(());
        };
        let mut heard = Ok(());
        for group in &mut self.groups {
            self.runner.hook = Some((hook.clone(), group.part));
            let first = group.first_values.is_none();
            group.change(&self.runner, half, index);
            if first {
                group.first_values = None;
            }
            heard = progress();
            if heard.is_err() {
                break;
            }
        }
        self.runner.hook = None;
        heard
    }

    /// Takes all tokens through the next half; `hook` hears what meets its matrices.
    ///
    /// # Errors
    /// As [`Runner::run`]; what `progress`, called after every group, says.
    pub fn step(
        &mut self,
        hook: Option<Arc<dyn ActivationHook>>,
        mut progress: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Some((index, half)) = self.next() else { return Ok(()) };
        for group in &mut self.groups {
            self.runner.hook = hook.clone().map(|hook| (hook, group.part));
            let change = group.change(&self.runner, half, index);
            self.runner.hook = None;
            each_row(&mut group.x, |i, row| pass::add(row, change.row(i)));
            self.runner.check(Some(index), &group.x)?;
            progress()?;
        }
        self.passed += 1;
        if half == BlockHalf::Channel {
            self.runner.decoded.retain(|key, _| key.1 != index);
            let runner = &self.runner;
            runner.model.tensors.iter().filter(|h| h.layer == index).for_each(|h| runner.forget(h));
        }
        Ok(())
    }

    /// Takes all tokens behind the last block.
    ///
    /// # Errors
    /// As [`ForwardPass::step`].
    pub fn finish(&mut self, mut progress: impl FnMut() -> Result<()>) -> Result<()> {
        while self.next().is_some() {
            self.step(None, &mut progress)?;
        }
        Ok(())
    }

    /// The logits of rows `rows` of the tokens of a group, behind the last block.
    ///
    /// # Errors
    /// As [`Runner::logits`].
    pub fn logits(&self, group: usize, rows: &[usize]) -> Result<Logits> {
        let hidden = Hidden(self.runner.outer_norm("ln_out").rows(&self.groups[group].x));
        self.runner.logits(&hidden, rows)
    }

    /// The groups of a part of the text, by their numbers, with their sequences.
    pub fn sequences(&self, part: usize) -> impl Iterator<Item = (usize, &[Vec<u32>])> {
        let groups = self.groups.iter().enumerate().filter(move |(_, g)| g.part == part);
        groups.map(|(n, g)| (n, g.sequences.as_slice()))
    }

    /// Number of tokens of a group.
    pub fn tokens(&self, group: usize) -> usize {
        self.groups[group].x.rows
    }

    /// Does something with the model on its way, and puts it back to where it is.
    pub fn branch<R>(&mut self, work: impl FnOnce(&mut ForwardPass) -> R) -> R {
        let (groups, passed) = (self.groups.clone(), self.passed);
        let result = work(self);
        (self.groups, self.passed) = (groups, passed);
        result
    }

    /// Begins again, with other embeddings: `rows` of `cols` values, one for each token of the vocabulary.
    pub fn enter_again(&mut self, rows: &[f32], cols: usize) {
        self.passed = 0;
        for group in &mut self.groups {
            let tokens: Vec<u32> = group.sequences.concat();
            group.x = self.runner.enter_from(&tokens, |token, row| {
                row.copy_from_slice(&rows[token as usize * cols..][..cols]);
            });
            group.entry = self.runner.entry(&group.x);
            group.first_values = None;
        }
    }

    /// The model, for something else.
    pub fn into_runner(self) -> Runner {
        self.runner
    }
}

//! A text that a model wrote.

use std::io::{self, Write};

use serde::Serialize;

use super::Report;
use super::conversion::adapters;
use crate::model::Model;
use crate::runner::{Reading, Runner};
use crate::units::bytes;

/// A prompt, its continuation, and how they were made.
#[derive(Debug, Serialize)]
pub struct Generation {
    model: String,
    /// Adapters merged into the model.
    adapters: Vec<String>,
    prompt: String,
    prompt_tokens: Vec<u32>,
    /// The continuation; bytes that are no UTF-8 are replaced.
    text: String,
    tokens: Vec<u32>,
    /// True if the model itself came to an end.
    ended: bool,
    #[serde(flatten)]
    choice: Sampling,
    head: HeadUse,
    prompt_seconds: f64,
    seconds: f64,
    prompt_tokens_per_second: f64,
    tokens_per_second: f64,
}

/// Settings by which tokens were chosen.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)] // the names speak
pub struct Sampling {
    pub temperature: f32,
    pub top_p: f32,
    pub top_k: Option<u32>,
    pub seed: u64,
}

/// Tokens, the bytes that they stand for, and the time that they took.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the names speak
pub struct Passage {
    pub tokens: Vec<u32>,
    pub bytes: Vec<u8>,
    pub seconds: f64,
}

/// Use of an LM head: rows and bytes read.
#[derive(Clone, Debug, Serialize)]
pub struct HeadUse {
    name: String,
    /// Times that logits were computed.
    times: u64,
    /// Rows of the full matrix read, all times together.
    rows: u64,
    /// Bytes read.
    bytes: u64,
    /// Rows of the full matrix.
    full_rows: u64,
    /// Bytes of the full matrix in 16 bits.
    full_16_bits: u64,
}

impl HeadUse {
    /// Use of nothing yet, by the head of this name of the model.
    pub fn new(name: String, runner: &Runner) -> HeadUse {
        let full = runner.full_rows();
        let full_16_bits = 2 * (full.rows() * full.cols()) as u64;
        HeadUse { name, times: 0, rows: 0, bytes: 0, full_rows: full.rows() as u64, full_16_bits }
    }

    /// Adds a reading.
    pub fn add(&mut self, reading: &Reading) {
        self.times += 1;
        self.rows += reading.rows.count() as u64;
        self.bytes += reading.bytes;
    }

    /// True if less than all rows were read.
    fn is_partial(&self) -> bool {
        self.rows < self.times * self.full_rows
    }

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let times = self.times.max(1) as f64;
        writeln!(
            out,
            "head {}: {:.1} of {} rows and {} read a token ({:.3} of 16 bits)",
            self.name,
            self.rows as f64 / times,
            self.full_rows,
            bytes((self.bytes as f64 / times) as u64),
            self.bytes as f64 / times / self.full_16_bits as f64
        )
    }
}

impl Generation {
    /// Report on the text that `model` wrote after `prompt`, with a mark if it came to an end.
    pub fn new(
        model: &Model,
        prompt: Passage,
        text: Passage,
        ended: bool,
        choice: Sampling,
        head: HeadUse,
    ) -> Generation {
        let speed = |p: &Passage| if p.tokens.is_empty() { 0.0 } else { p.tokens.len() as f64 / p.seconds };
        Generation {
            model: model.container.path().display().to_string(),
            adapters: adapters(model),
            prompt_tokens_per_second: speed(&prompt),
            tokens_per_second: speed(&text),
            prompt: String::from_utf8_lossy(&prompt.bytes).into_owned(),
            prompt_tokens: prompt.tokens,
            text: String::from_utf8_lossy(&text.bytes).into_owned(),
            tokens: text.tokens,
            ended,
            choice,
            head,
            prompt_seconds: prompt.seconds,
            seconds: text.seconds,
        }
    }
}

impl Report for Generation {
    /// The speeds: people saw the text as it came.
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "prompt: {} tokens, {:.1} tokens/s; text: {} tokens, {:.1} tokens/s",
            self.prompt_tokens.len(),
            self.prompt_tokens_per_second,
            self.tokens.len(),
            self.tokens_per_second
        )?;
        if self.head.is_partial() { self.head.human(out) } else { Ok(()) }
    }
}

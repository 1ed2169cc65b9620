//! A text that a model wrote.

use std::io::{self, Write};

use serde::Serialize;

use super::Report;
use super::conversion::adapters;
use crate::model::Model;

/// A prompt, its continuation, and how they were made.
#[derive(Debug, Serialize)]
pub struct Generation {
    model: String,
    /// What was merged into the model.
    adapters: Vec<String>,
    prompt: String,
    prompt_tokens: Vec<u32>,
    /// The continuation; bytes that are no UTF-8 are replaced.
    text: String,
    tokens: Vec<u32>,
    /// Whether the model itself came to an end.
    ended: bool,
    #[serde(flatten)]
    choice: Choice,
    prompt_seconds: f64,
    seconds: f64,
    prompt_tokens_per_second: f64,
    tokens_per_second: f64,
}

/// How tokens were chosen.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)] // the names speak
pub struct Choice {
    pub temperature: f32,
    pub top_p: f32,
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

impl Generation {
    /// What `model` wrote after `prompt`, and whether it came to an end.
    pub fn new(model: &Model, prompt: Passage, text: Passage, ended: bool, choice: Choice) -> Generation {
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
        )
    }
}

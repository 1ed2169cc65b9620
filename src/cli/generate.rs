//! `rwkv-quant generate`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::runnable::RunArgs;
use super::{STOP, stop_on_ctrl_c};
use crate::error::{Error, Result};
use crate::report::Style;
use crate::runner::{Runner, Sampler, State};

/// Continues a text.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: any file, sharded set or folder that can be converted, quantized or not
    model: PathBuf,
    /// The text to continue
    #[arg(long, short = 'p', value_name = "TEXT")]
    prompt: String,
    /// Most tokens to add
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    tokens: usize,
    /// How freely to choose: 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f32,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 0.8)]
    top_p: f32,
    /// Always take the likeliest token
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "seed"])]
    greedy: bool,
    /// Seed of the choices: the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Do not print the prompt before its continuation
    #[arg(long)]
    no_echo: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// Tokens of the prompt that are run together.
const PROMPT_TOKENS: usize = 512;

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    stop_on_ctrl_c();
    args.run.with_threads(|| generate(args, style))
}

fn generate(args: &Args, style: Style) -> Result<()> {
    let runner = args.run.runner(&args.model, true, true, args.run.arithmetic())?;
    let coder = args.run.coder(runner.model())?;
    let temperature = if args.greedy { 0.0 } else { args.temperature };
    let mut sampler = Sampler::new(temperature, args.top_p, args.seed)?;
    let mut prompt = coder.encode(args.prompt.as_bytes()).map_err(|e| Error::Usage {
        what: format!("the prompt cannot be turned into tokens: {e}"),
        help: "give the vocabulary that the model was trained with: --vocab FILE".to_owned(),
    })?;
    if prompt.is_empty() {
        prompt.extend(coder.end());
    }
    if prompt.is_empty() {
        return Err(Error::Usage {
            what: "the prompt is empty, and the vocabulary has no token to start a text with".to_owned(),
            help: "give some text: --prompt TEXT".to_owned(),
        });
    }
    let mut out = Output::default();
    if !args.no_echo {
        out.write(args.prompt.as_bytes())?;
    }
    let mut state = runner.start();
    let start = Instant::now();
    let mut logits = Vec::new();
    for run in prompt.chunks(PROMPT_TOKENS) {
        logits = after(&runner, run, &mut state)?;
    }
    let prompt_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut made = 0;
    for _ in 0..args.tokens {
        STOP.check()?;
        let token = sampler.choose(&logits);
        if coder.end() == Some(token) {
            break;
        }
        made += 1;
        out.write(coder.bytes(token))?;
        logits = after(&runner, &[token], &mut state)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    out.write(b"\n")?;
    if style != Style::Quiet {
        eprintln!(
            "prompt: {} tokens, {:.1} tokens/s; text: {made} tokens, {:.1} tokens/s",
            prompt.len(),
            prompt.len() as f64 / prompt_seconds,
            made as f64 / seconds
        );
    }
    Ok(())
}

/// The logits after a run of tokens.
fn after(runner: &Runner, run: &[u32], state: &mut State) -> Result<Vec<f32>> {
    let hidden = runner.run(&[run], std::slice::from_mut(state))?;
    Ok(runner.logits(&hidden, &[run.len() - 1])?.row(0).to_vec())
}

/// Standard output, as the text comes; a reader that went away ends it quietly.
#[derive(Default)]
struct Output {
    gone: bool,
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.gone {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                self.gone = true;
                STOP.ask();
                Ok(())
            }
            result => result.map_err(Error::io("write to", Path::new("standard output"))),
        }
    }
}

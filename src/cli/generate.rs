//! `rwkv-quant generate`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::runnable::RunArgs;
use super::{STOP, show, stop_on_ctrl_c};
use crate::error::{Error, Result};
use crate::eval::{Load, Work};
use crate::report::{Generation, HeadUse, Passage, Report, Sampling, Style};
use crate::runner::{Head, HeadChoice, Options, Runner, Sampler, State};

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
    /// Choose among the K likeliest tokens only
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// Read less of the output layer: full, certified[:K] (exact: for --greedy, or --top-k up to K), or approximately
    /// clustered:K,P or a file of cluster-head
    #[arg(
        long,
        value_name = "HEAD",
        default_value = "full",
        hide_default_value = true,
        conflicts_with = "max_memory"
    )]
    head: HeadChoice,
    /// Always take the likeliest token
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "top_k", "seed"])]
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
    // Low-rank matrices are worth their memory where tokens come one by one, if there is enough.
    let options = Options { keep_low_rank: args.run.max_memory.is_none(), ..args.run.options() };
    let runner = args.run.runner(&args.model, true, options)?;
    let result = continued(args, style, &runner);
    runner.model().unless_changed(result)
}

fn continued(args: &Args, style: Style, runner: &Runner) -> Result<()> {
    let at_once =
        Load::within(&[runner], Work { text: 0, scored: 1 }, args.run.max_memory)?.tokens.min(PROMPT_TOKENS);
    let coder = args.run.coder(runner.model())?;
    let temperature = if args.greedy { 0.0 } else { args.temperature };
    let choice = Sampling { temperature, top_p: args.top_p, top_k: args.top_k, seed: args.seed };
    let top_k = choice.top_k.map(|k| k as usize);
    let mut sampler = Sampler::new(choice.temperature, choice.top_p, choice.seed)?.among(top_k);
    let head = args.head.make(runner)?;
    if (1..runner.model().dims.vocab).contains(&head.exact()) {
        proven(head.exact(), sampler.depends_on())?;
    }
    let mut uses = HeadUse::new(head.name(), runner);
    let mut after = |run: &[u32], state: &mut State| after(runner, head.as_ref(), run, state, &mut uses);
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
    let mut out = Output { streams: style != Style::Json, gone: false };
    if !args.no_echo {
        out.write(args.prompt.as_bytes())?;
    }
    let mut state = runner.start();
    let start = Instant::now();
    let mut logits = Vec::new();
    for run in prompt.chunks(at_once) {
        STOP.check()?;
        logits = after(run, &mut state)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let prompt = Passage { tokens: prompt, bytes: args.prompt.clone().into_bytes(), seconds };
    let start = Instant::now();
    let (mut text, mut ended, mut interrupted) = (Passage::default(), false, Ok(()));
    while text.tokens.len() < args.tokens && !out.gone {
        interrupted = STOP.check();
        if interrupted.is_err() {
            break;
        }
        let token = sampler.choose(&logits);
        if coder.end() == Some(token) {
            ended = true;
            break;
        }
        text.tokens.push(token);
        text.bytes.extend_from_slice(coder.bytes(token));
        out.write(coder.bytes(token))?;
        logits = after(&[token], &mut state)?;
    }
    text.seconds = start.elapsed().as_secs_f64();
    out.write(b"\n")?;
    if out.gone {
        return Ok(());
    }
    let generation = Generation::new(runner.model(), prompt, text, ended, choice, uses);
    match style {
        Style::Human => generation.human(&mut std::io::stderr()).or(Ok(())),
        Style::Json | Style::Quiet => show(&generation, style),
    }?;
    interrupted
}

/// Refuses choices that depend on more tokens than the `best` that a certified head proves.
fn proven(best: usize, needed: Option<usize>) -> Result<()> {
    match needed {
        Some(needed) if needed <= best => Ok(()),
        Some(needed) => Err(Error::Usage {
            what: format!("a choice among {needed} tokens depends on more than the {best} that certified:{best} proves"),
            help: format!("give --head certified:{needed}"),
        }),
        None => Err(Error::Usage {
            what: "a choice among all tokens depends on all logits, and a certified head proves those of the best only"
                .to_owned(),
            help: "give --greedy, or --top-k K and --head certified:K".to_owned(),
        }),
    }
}

/// The logits after a run of tokens.
fn after(
    runner: &Runner,
    head: &dyn Head,
    run: &[u32],
    state: &mut State,
    uses: &mut HeadUse,
) -> Result<Vec<f32>> {
    let hidden = runner.run(&[run], std::slice::from_mut(state))?;
    let (logits, readings) = runner.logits_by(head, &hidden, &[run.len() - 1])?;
    readings.iter().for_each(|reading| uses.add(reading));
    let logits = logits.row(0).to_vec();
    // (Of rows that a head did not read there is nothing but minus infinity.)
    let is_sound = |v: &f32| v.is_finite() || (*v == f32::NEG_INFINITY && head.name() != "full");
    match logits.iter().all(is_sound) && logits.iter().any(|v| v.is_finite()) {
        true => Ok(logits),
        false => Err(runner.unsound_logits(None)),
    }
}

/// Standard output, as the text comes; a reader that went away ends it quietly.
struct Output {
    /// True if the text is written as it comes.
    streams: bool,
    /// True if the reader went away.
    gone: bool,
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.gone || !self.streams {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            result => result.map_err(Error::io("write to", Path::new("standard output"))),
        }
    }
}

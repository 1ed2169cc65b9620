//! `rwkv-quant eval-ppl`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::runnable::RunArgs;
use super::{STOP, show, stop_on_ctrl_c};
use crate::error::{Error, Result};
use crate::eval::{Corpus, Load, Protocol, Sequence, cut, measure, summarise, vocabulary_sha256};
use crate::model::Model;
use crate::report::{EvaluationReport, Setting, Steps, Style};
use crate::runner::{Arithmetic, Runner};
use crate::targets::gguf;
use crate::vocab::Vocab;

/// Tokens of a pass: enough that decoding the weights is a small part of the work.
const PASS_TOKENS: usize = 2048;
/// Tokens whose logits are computed together.
const LOGIT_ROWS: usize = 256;

/// Measures how well models predict a text, and how far they are from a reference.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: any file, sharded set or folder that can be converted, quantized or not
    model: PathBuf,
    /// The texts: text of any kind, .jsonl (a document a line), .npy or .ids (tokens)
    #[arg(required = true)]
    texts: Vec<PathBuf>,
    /// The reference: also measure how far the model's predictions are from this one's
    #[arg(long, value_name = "MODEL")]
    against: Option<PathBuf>,
    /// Further models to compare with the reference
    #[arg(long, value_name = "MODEL", num_args = 1.., requires = "against")]
    candidate: Vec<PathBuf>,
    /// Tokens of a window
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    ctx: usize,
    /// Tokens from window to window [default: a whole window, so that none overlap]
    #[arg(long, value_name = "TOKENS")]
    stride: Option<usize>,
    /// Score at most so many windows (or documents)
    #[arg(long, value_name = "N")]
    windows: Option<usize>,
    /// Which tokens are scored
    #[arg(long, value_enum, default_value = "windows", conflicts_with = "stride")]
    protocol: ProtocolArg,
    /// Score whole documents with the state carried along (the same as --protocol document)
    #[arg(long, conflicts_with_all = ["protocol", "stride"])]
    document: bool,
    /// Also write the results to a file: .json, .md or .csv; may be given several times
    #[arg(long, value_name = "FILE")]
    save: Vec<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ProtocolArg {
    /// Windows from an empty state; all tokens but the first
    Windows,
    /// What llama-perplexity scores: the second half of every window
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// Documents from their first to their last token
    Document,
}

/// What fails the command with exit code 3.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Checks (exit code 3 if one fails)")]
struct Limits {
    /// Largest perplexity, as a multiple of the reference's
    #[arg(long, value_name = "RATIO", requires = "against")]
    max_ppl_ratio: Option<f64>,
    /// Largest mean divergence from the reference, in nats
    #[arg(long, value_name = "NATS", requires = "against")]
    max_kl: Option<f64>,
    /// Least share of tokens with the same first choice as the reference
    #[arg(long, value_name = "SHARE", requires = "against")]
    min_top1: Option<f64>,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    for path in &args.save {
        EvaluationReport::format_of(path)?;
    }
    stop_on_ctrl_c();
    let report = args.run.with_threads(|| evaluate(args, style))?;
    for path in &args.save {
        report.save(path)?;
    }
    show(&report, style)?;
    check(&args.limits, &report)
}

fn evaluate(args: &Args, style: Style) -> Result<EvaluationReport> {
    let start = Instant::now();
    // The reference comes first: the others are compared with it. It is run as it is, without LoRA and state.
    let mut paths: Vec<(&Path, bool)> = args.against.iter().map(|p| (p.as_path(), false)).collect();
    paths.push((&args.model, true));
    paths.extend(args.candidate.iter().map(|p| (p.as_path(), true)));
    let runners: Vec<Runner> = paths
        .iter()
        .map(|(p, adapted)| args.run.runner(p, *adapted, false, args.run.arithmetic()))
        .collect::<Result<_>>()?;
    let coder = args.run.coder(runners[0].model())?;
    for other in &runners[1..] {
        same_vocabulary(runners[0].model(), other.model(), coder.vocab(), args.run.vocab.is_some())?;
    }
    let corpus = Corpus::read(&args.texts, &coder)?;
    let protocol = match (args.protocol, args.document) {
        (_, true) | (ProtocolArg::Document, _) => Protocol::Document { ctx: args.ctx },
        (ProtocolArg::LlamaCpp, _) => Protocol::LlamaCpp { ctx: args.ctx },
        (ProtocolArg::Windows, _) => {
            Protocol::Windows { ctx: args.ctx, stride: args.stride.unwrap_or(args.ctx) }
        }
    };
    let sequences = cut(&corpus.documents, protocol, args.windows)?;
    let tokens: usize = sequences.iter().map(|s| s.tokens.len()).sum();
    let windows: usize = sequences.iter().map(Sequence::windows).sum();
    let models: Vec<&Runner> = runners.iter().collect();
    let load = load(&models, args.run.max_memory)?;
    let arithmetic = args.run.arithmetic();
    let arithmetic_kl = match arithmetic.is_exact() {
        true => None,
        false => Some(arithmetic_error(args, &runners, &corpus, &sequences, load)?),
    };
    let steps = Steps::new(tokens as u64, "tokens", style);
    let measured = measure(&models, &corpus.tokens, &sequences, load, |done| {
        steps.add(done as u64);
        STOP.check()
    });
    steps.clear();
    let evaluation = summarise(&measured?, windows, tokens, |place| coder.bytes(corpus.tokens[place]).len());
    let setting = Setting {
        texts: args.texts.iter().map(|p| p.display().to_string()).collect(),
        text_bytes: corpus.file_bytes,
        text_sha256: corpus.sha256,
        text_tokens: corpus.tokens.len(),
        documents: corpus.documents.len(),
        vocabulary: coder.vocab().name.clone(),
        vocabulary_sha256: vocabulary_sha256(coder.vocab()),
        protocol: match protocol {
            Protocol::Windows { .. } => "windows",
            Protocol::LlamaCpp { .. } => "llama.cpp",
            Protocol::Document { .. } => "document",
        },
        arithmetic: arithmetic.to_string(),
        arithmetic_kl,
        ctx: args.ctx,
        stride: match protocol {
            Protocol::Windows { stride, .. } => stride,
            _ => args.ctx,
        },
    };
    let models: Vec<&Model> = runners.iter().map(Runner::model).collect();
    Ok(EvaluationReport::new(
        &models,
        args.against.is_some(),
        setting,
        evaluation,
        start.elapsed().as_secs_f64(),
    ))
}

/// How far the predictions of `--fast` or of a device are from the exact ones: the worst model's mean divergence
/// over the first tokens.
fn arithmetic_error(
    args: &Args,
    runners: &[Runner],
    corpus: &Corpus,
    sequences: &[Sequence],
    load: Load,
) -> Result<f64> {
    let first: Vec<Sequence> = sequences.iter().take(1).cloned().collect();
    let first: Vec<Sequence> = first
        .into_iter()
        .map(|s| {
            let end = s.tokens.end.min(s.tokens.start + COMPARED_TOKENS);
            Sequence { tokens: s.tokens.start..end, scored: s.tokens.start + 1..end, ..s }
        })
        .collect();
    let mut worst = 0.0;
    for other in runners {
        let path = other.model().container.path();
        let exact = args.run.runner(path, args.against.as_deref() != Some(path), false, Arithmetic::Exact)?;
        let measured = measure(&[&exact, other], &corpus.tokens, &first, load, |_| STOP.check())?;
        let kls = measured.comparisons.iter().flatten().map(|c| c.kl);
        let mean = kls.clone().sum::<f64>() / kls.count().max(1) as f64;
        worst = if mean > worst || mean.is_nan() { mean } else { worst };
    }
    Ok(worst)
}

/// Tokens on which other arithmetic is compared with the exact one.
const COMPARED_TOKENS: usize = 256;

/// What fits into the memory, half of it for the activations of a pass and a quarter for logits.
fn load(models: &[&Runner], max_memory: Option<u64>) -> Result<Load> {
    let Some(max) = max_memory else { return Ok(Load { tokens: PASS_TOKENS, logits: LOGIT_ROWS }) };
    // About 14 matrices as wide as the residual stream are alive at once, or 4 and a hidden layer with its copy in strips.
    let token = models.iter().map(|m| m.model().dims).map(|d| 4 * (14 * d.embd + 2 * d.ffn + d.att)).max();
    let row: usize = models.iter().map(|m| 4 * m.model().dims.vocab).sum();
    let kept: u64 = models.iter().map(|m| m.start().bytes()).sum();
    let spare = max.saturating_sub(FIXED_BYTES + kept);
    let tokens = (spare / 2 / token.unwrap_or(1).max(1) as u64).min(PASS_TOKENS as u64) as usize;
    let logits = (spare / 4 / row.max(1) as u64).min(LOGIT_ROWS as u64) as usize;
    if tokens < 16 || logits < 1 {
        return Err(Error::Resources {
            what: format!("{} are too little to run this model", crate::report::bytes(max)),
            help: "give more: --max-memory 500MB is enough for most models".to_owned(),
        });
    }
    Ok(Load { tokens, logits })
}

/// What the program takes besides activations: itself, a vocabulary, small vectors, panels.
const FIXED_BYTES: u64 = 60 << 20;

/// Both models must mean the same by every token.
fn same_vocabulary(a: &Model, b: &Model, vocab: &Vocab, given: bool) -> Result<()> {
    let name = |m: &Model| m.container.path().display().to_string();
    let differ = |what: String| {
        Err(Error::Usage {
            what,
            help:
                "compare models with the same vocabulary; if only its listing differs, give it: --vocab FILE"
                    .to_owned(),
        })
    };
    if a.dims.vocab != b.dims.vocab {
        return differ(format!(
            "{} predicts {} tokens and {} predicts {}, so their predictions cannot be compared",
            name(a),
            a.dims.vocab,
            name(b),
            b.dims.vocab
        ));
    }
    match gguf::vocab_of(&b.container).and_then(|v| v.padded(a.dims.vocab)) {
        Some(own)
            if !given
                && Some(&own.tokens) != vocab.clone().padded(a.dims.vocab).map(|v| v.tokens).as_ref() =>
        {
            differ(format!("{} and {} have different vocabularies", name(a), name(b)))
        }
        _ => Ok(()),
    }
}

/// Compares every candidate with the limits.
fn check(limits: &Limits, report: &EvaluationReport) -> Result<()> {
    let mut failed = Vec::new();
    for (name, against) in report.candidates() {
        let mut fail = |what: &str, value: f64, limit: f64, good: bool| {
            if !good {
                failed.push(format!("{name}: {what} is {value:.6}, and the limit {limit}"));
            }
        };
        if let Some(limit) = limits.max_ppl_ratio {
            let ratio = against.ppl_ratio.value;
            fail("the perplexity ratio", ratio, limit, ratio <= limit);
        }
        if let Some(limit) = limits.max_kl {
            fail("the mean divergence", against.kl.value, limit, against.kl.value <= limit);
        }
        if let Some(limit) = limits.min_top1 {
            fail("the top-1 agreement", against.top1.value, limit, against.top1.value >= limit);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::Check { what: failed.join("; ") }) }
}

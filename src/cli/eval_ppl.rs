//! `rwkv-quant eval-ppl`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::runnable::RunArgs;
use super::{STOP, show, stop_on_ctrl_c};
use crate::error::{Error, Result};
use crate::eval::{Corpus, Gates, Load, Protocol, Sequence, Setting, Task, Work, measure, same_vocabulary};
use crate::metadata;
use crate::metadata::share_of;
use crate::model::Model;
use crate::report::{EvaluationReport, Steps, Style};
use crate::runner::{Arithmetic, Head, HeadChoice, Options, Runner};
use crate::storage::{Inputs, Outputs, Targets, folder_of};
use crate::vocab::{Coder, Vocab};

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
    /// Also measure how far other heads of the model are from its own, and what they read: full, certified[:K],
    /// clustered:K,P, or a file of cluster-head
    #[arg(long, value_name = "HEAD", num_args = 1.., conflicts_with_all = ["against", "max_memory"])]
    head: Vec<HeadChoice>,
    /// Which models --lora and --state are for; the results say which model was run with what
    #[arg(long, value_enum, value_name = "MODELS", default_value = "all", requires = "against")]
    adapt: Adapt,
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
    /// Take texts of any bytes, not only UTF-8
    #[arg(long)]
    allow_non_utf8: bool,
    /// Also write the results to a file: .json, .md or .csv; may be given several times
    #[arg(long, value_name = "FILE")]
    save: Vec<PathBuf>,
    /// Replace files for results that exist
    #[arg(long, short = 'f', requires = "save")]
    force: bool,
    #[command(flatten)]
    gates: Gates,
    #[command(flatten)]
    run: RunArgs,
}

/// Which of several models are run with the adapter and the tuned state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Adapt {
    /// The reference, the model and the candidates: what does quantization cost the adapted model?
    All,
    /// All but the reference: how far does the adapter take the model?
    Compared,
    /// The reference alone: how far are merged files from it?
    Reference,
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

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    args.gates.check().map_err(|what| Error::Usage { what, help: "correct the limit".to_owned() })?;
    for path in &args.save {
        EvaluationReport::format_of(path)?;
        check_folder(path)?;
    }
    stop_on_ctrl_c();
    let mut inputs = Inputs::new();
    let models = [&args.model].into_iter().chain(&args.against).chain(&args.candidate);
    inputs.add_all(models.chain(&args.texts));
    inputs.add_all(args.run.files()?);
    let targets = args
        .save
        .split_first()
        .map(|(first, rest)| Targets { beside: rest.to_vec(), ..Targets::file(first) });
    let outputs = targets.map(|targets| Outputs::claim(targets, &inputs, args.force)).transpose()?;
    let report = args.run.with_threads(|| evaluate(args, style))?;
    if let (Some(mut outputs), Some((first, rest))) = (outputs, args.save.split_first()) {
        outputs.fill(&report.file(first)?)?;
        rest.iter().try_for_each(|path| outputs.put(path, &report.file(path)?))?;
        outputs.commit(&inputs)?;
    }
    show(&report, style)?;
    check(&args.gates, &report)
}

/// Refuses a file for results whose folder is missing: before the work, not after it.
fn check_folder(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    if folder.is_dir() {
        return Ok(());
    }
    Err(Error::Usage {
        what: format!("the folder {} for the results does not exist", folder.display()),
        help: "make it, or give another --save".to_owned(),
    })
}

fn evaluate(args: &Args, style: Style) -> Result<EvaluationReport> {
    let start = Instant::now();
    // The reference comes first: the others are compared with it.
    let (reference, compared) = (args.adapt != Adapt::Compared, args.adapt != Adapt::Reference);
    let mut paths: Vec<(&Path, bool)> = args.against.iter().map(|p| (p.as_path(), reference)).collect();
    paths.push((&args.model, compared));
    paths.extend(args.candidate.iter().map(|p| (p.as_path(), compared)));
    let options = args.run.options();
    let runners: Vec<Runner> = paths
        .iter()
        .map(|(path, adapted)| args.run.runner(path, *adapted, options.clone()))
        .collect::<Result<_>>()?;
    let coder = coder(args, runners[0].model())?;
    for other in &runners[1..] {
        same_vocabulary(runners[0].model(), other.model(), coder.vocab(), args.run.vocab.is_some())?;
    }
    let protocol = match (args.protocol, args.document) {
        (_, true) | (ProtocolArg::Document, _) => Protocol::Document { ctx: args.ctx },
        (ProtocolArg::LlamaCpp, _) => Protocol::LlamaCpp { ctx: args.ctx },
        (ProtocolArg::Windows, _) => {
            Protocol::Windows { ctx: args.ctx, stride: args.stride.unwrap_or(args.ctx) }
        }
    };
    let task = Task::new(&args.texts, coder, protocol, args.windows, args.allow_non_utf8)?;
    let models: Vec<&Runner> = runners.iter().collect();
    let heads = args.head.iter().map(|head| head.make(&runners[0])).collect::<Result<Vec<_>>>()?;
    let heads: Vec<&dyn Head> = heads.iter().map(Box::as_ref).collect();
    let load = Load::within(&models, task.work(), args.run.max_memory)?;
    let arithmetic = &options.arithmetic;
    let arithmetic_kl = match arithmetic.is_exact() {
        true => None,
        false => {
            let exact = Options { arithmetic: Arithmetic::Exact, ..options.clone() };
            let adapted = paths.iter().map(|(_, adapted)| *adapted);
            Some(arithmetic_error(args, &runners, adapted, &exact, &task)?)
        }
    };
    let steps = Steps::new(task.tokens_run() as u64, "tokens", style);
    let evaluation = task.run(&models, &heads, load, |done| {
        steps.add(done as u64);
        STOP.check()
    });
    steps.clear();
    let evaluation = runners.iter().fold(evaluation, |done, runner| runner.model().unless_changed(done));
    let setting = Setting {
        arithmetic: arithmetic.to_string(),
        arithmetic_kl,
        group_norm_epsilon: args.run.group_norm_epsilon,
        dropped: args.run.drop.clone(),
        ..task.setting()
    };
    let models: Vec<&Model> = runners.iter().map(Runner::model).collect();
    let seconds = start.elapsed().as_secs_f64();
    let is_reference = args.against.is_some() || !heads.is_empty();
    let heads = (heads.as_slice(), runners[0].full_rows().bytes());
    let evaluation = evaluation?;
    let mut warnings = shared_text(&models, &task);
    warnings.extend(too_short(&task));
    warnings.extend(task.corpus.warnings.iter().cloned());
    warnings.extend(unlikely(models[0], evaluation.first.perplexity.value));
    Ok(EvaluationReport::new(&models, heads, is_reference, setting, evaluation, warnings, seconds))
}

/// The tokenizer of the models; one that knows no bytes if it only has to tell tokens and there is none.
fn coder(args: &Args, model: &Model) -> Result<Coder> {
    let is_needed = args.run.vocab.is_some() || !Corpus::are_tokens(&args.texts);
    if is_needed || Vocab::usual(model.dims.vocab).is_some() || metadata::stated_coder(model)?.is_some() {
        return args.run.coder(model);
    }
    Ok(Coder::greedy(Vocab::unknown(model.dims.vocab)))
}

/// How many documents nothing was scored of.
fn too_short(task: &Task) -> Option<String> {
    let (short, all) = (task.unscored_documents(), task.corpus.documents.len());
    (short > 0).then(|| {
        format!(
            "{short} of {all} documents are shorter than a window and were not scored; --document or a smaller --ctx \
             scores them"
        )
    })
}

/// That the text is none of the model's kind.
fn unlikely(model: &Model, perplexity: f64) -> Option<String> {
    (perplexity > model.dims.vocab as f64).then(|| {
        format!(
            "the text is less likely to {} than random tokens: see that it is of a language that the model knows, and \
             that the vocabulary is the model's",
            model.container.path().display()
        )
    })
}

/// Which models were calibrated on something that the text shares.
fn shared_text(models: &[&Model], task: &Task) -> Vec<String> {
    let warning = |model: &&Model| {
        let percent = 100.0 * share_of(model, &task.corpus.tokens)?;
        let name = model.container.path().display();
        Some(format!(
            "{name} was calibrated on {percent:.1} % of this text, and is better there than elsewhere"
        ))
    };
    models.iter().filter_map(warning).collect()
}

/// How far the predictions of `--fast` or of a device are from the `exact` ones: the worst model's mean divergence
/// over the first tokens.
fn arithmetic_error(
    args: &Args,
    runners: &[Runner],
    adapted: impl Iterator<Item = bool>,
    exact: &Options,
    task: &Task,
) -> Result<f64> {
    let first: Vec<Sequence> = task.sequences.iter().take(1).cloned().collect();
    let first: Vec<Sequence> = first
        .into_iter()
        .map(|s| {
            let end = s.tokens.end.min(s.tokens.start + COMPARED_TOKENS);
            Sequence { tokens: s.tokens.start..end, scored: s.tokens.start + 1..end, ..s }
        })
        .collect();
    let mut worst = 0.0;
    for (other, adapted) in runners.iter().zip(adapted) {
        let exact = args.run.runner(other.model().container.path(), adapted, exact.clone())?;
        // All models stay open meanwhile.
        let all: Vec<&Runner> = runners.iter().chain([&exact]).collect();
        let load = Load::within(&all, Work { scored: COMPARED_TOKENS, ..task.work() }, args.run.max_memory)?;
        let measured = measure(&[&exact, other], &[], &task.corpus.tokens, &first, load, |_| STOP.check())?;
        let kls = measured.comparisons.iter().flatten().map(|c| c.kl);
        let mean = kls.clone().sum::<f64>() / kls.count().max(1) as f64;
        worst = if mean > worst || mean.is_nan() { mean } else { worst };
    }
    Ok(worst)
}

/// Tokens on which other arithmetic is compared with the exact one.
const COMPARED_TOKENS: usize = 256;

/// Compares every candidate with the limits.
fn check(gates: &Gates, report: &EvaluationReport) -> Result<()> {
    let failed: Vec<String> = report
        .candidates()
        .flat_map(|(name, against)| gates.failures(against).into_iter().map(move |f| format!("{name}: {f}")))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(Error::Check { what: failed.join("; ") }) }
}

//! The command line: one file a verb.

mod batch;
mod calibrate;
mod certify_head;
mod clean;
mod cluster_head;
mod convert;
mod derived;
mod diff;
mod eval_ppl;
mod generate;
mod generated;
mod inspect;
mod merge;
mod recipe_args;
mod report;
mod runnable;
mod targets;
mod tokenize;
mod upload;
mod verify;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result, Status};
use crate::isa;
use crate::pipeline::Stop;
use crate::report::{Report, Style, show_error};

/// Set by Ctrl-C once [`stop_on_ctrl_c`] was called.
static STOP: Stop = Stop::new();

/// From here on Ctrl-C asks for a stop, so that what was begun is cleaned up, instead of ending the program.
fn stop_on_ctrl_c() {
    if let Err(error) = ctrlc::set_handler(|| STOP.ask()) {
        eprintln!("warning: Ctrl-C will not clean up: {error}");
    }
}

/// Converts and quantizes RWKV language models (versions 4 to 7).
#[derive(Debug, Parser)]
#[command(name = "rwkv-quant", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 bad input or data, 2 usage, 3 a check failed, 4 cells of a batch \
    failed, 5 out of disk or memory, 130 interrupted"
)]
pub struct Cli {
    /// How results are shown
    #[arg(long, global = true, value_enum, default_value_t, hide_possible_values = false)]
    format: Style,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Converts a checkpoint into a file that a runtime loads, quantized or not
    #[command(visible_alias = "quantize")]
    Convert(Box<convert::Args>),
    /// Measures on a text which weights matter: an importance matrix, as llama.cpp's tools read it too
    Calibrate(calibrate::Args),
    /// Puts the rows of the output layer into clusters, so that a token reads few of them (generate --head)
    ClusterHead(cluster_head::Args),
    /// Writes a 6-bit copy of the output layer with which the best tokens are exact by proof (generate --head)
    CertifyHead(certify_head::Args),
    /// Puts together a conversion that was spread over machines (convert --shard)
    Merge(merge::Args),
    /// Lists what broken off runs left, and removes it with -f
    Clean(clean::Args),
    /// Makes a release: many models in many types, measured, judged and described
    Batch(Box<batch::Args>),
    /// Uploads a finished release to the Hugging Face Hub
    Upload(upload::Args),
    /// Renders the results of a run as a page for browsers, from its JSON
    Report(report::Args),
    /// Shows what is in a file: version, sizes, tokenizer, metadata, tensors
    Inspect(inspect::Args),
    /// Reads all of a file and tells whether it is sound
    Verify(verify::Args),
    /// Compares the weights of two models, in whatever formats they are
    Diff(diff::Args),
    /// Measures how well a model predicts a text, and how far it is from another model
    EvalPpl(Box<eval_ppl::Args>),
    /// Continues a text
    Generate(Box<generate::Args>),
    /// Turns text into tokens, or tokens into text
    Tokenize(tokenize::Args),
    /// Lists what can be written: for which programs, of which versions, in which types
    Targets(targets::Args),
    /// Prints the completions of a shell
    Completions(generated::Completions),
    /// Prints the manual page, or writes those of all commands into a folder
    Man(generated::Man),
}

/// Runs the program and tells how it ended.
pub fn main() -> ExitCode {
    // clap ends the program itself for --help, --version and usage errors (with status 2).
    let cli = Cli::parse();
    let outcome = isa::limit_by_environment().and_then(|()| match cli.command {
        Command::Convert(args) => convert::run(&args, cli.format),
        Command::Calibrate(args) => calibrate::run(&args, cli.format),
        Command::ClusterHead(args) => cluster_head::run(&args, cli.format),
        Command::CertifyHead(args) => certify_head::run(&args, cli.format),
        Command::Merge(args) => merge::run(&args, cli.format),
        Command::Clean(args) => clean::run(&args, cli.format),
        Command::Batch(args) => batch::run(&args, cli.format),
        Command::Upload(args) => upload::run(&args, cli.format),
        Command::Report(args) => report::run(&args),
        Command::Inspect(args) => inspect::run(&args, cli.format),
        Command::Verify(args) => verify::run(&args, cli.format),
        Command::Diff(args) => diff::run(&args, cli.format),
        Command::EvalPpl(args) => eval_ppl::run(&args, cli.format),
        Command::Generate(args) => generate::run(&args, cli.format),
        Command::Tokenize(args) => tokenize::run(&args, cli.format),
        Command::Targets(args) => targets::run(&args, cli.format),
        Command::Completions(args) => generated::completions(&args),
        Command::Man(args) => generated::man(&args),
    });
    match outcome {
        Ok(()) => ExitCode::from(Status::Ok as u8),
        Err(error) => {
            show_error(&error, cli.format);
            ExitCode::from(error.status() as u8)
        }
    }
}

/// Shows a result; a reader that went away (`| head`) is no error.
fn show<R: Report>(report: &R, style: Style) -> Result<()> {
    match crate::report::show(report, style) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to", Path::new("standard output"))(e))
        }
        _ => Ok(()),
    }
}

/// The recipe that the arguments of `convert` ask for.
#[cfg(test)]
pub(crate) fn recipe_of<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<crate::recipe::Recipe> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: convert::Args,
    }
    Line::parse_from(args).args.recipe()
}

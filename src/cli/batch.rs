//! `rwkv-quant batch`.

use std::path::PathBuf;

use super::{STOP, show, stop_on_ctrl_c};
use crate::batch::{self, Job, Settings, cells};
use crate::error::{Error, Result};
use crate::report::{CellList, Style, outcome_line};
use crate::shard::Shard;
use crate::units::parse_bytes;

/// Makes a release: many models in many types, measured, judged and described.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The job file (TOML)
    #[arg(required = true)]
    job: Option<PathBuf>,
    /// The folder to write [default: what the job says, else its name beside it]
    #[arg(long, short = 'o', value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// List the cells and write nothing; with --format json as GitHub's strategy.matrix
    #[arg(long)]
    list: bool,
    /// Do one part of the cells only: 2/4 is the second of four [default: what Slurm or Kubernetes says, else all]
    #[arg(long, value_name = "I/N", conflicts_with_all = ["list", "shards"])]
    shard: Option<Shard>,
    /// Number of parts, where the array job says which one this is, or for --list
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    shards: Option<u16>,
    /// Most cells at work at once [default: as many as threads, as far as the memory goes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Threads of all cells together [default: as many as the machine runs at once, up to 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Most memory of all cells together [default: half of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_memory: Option<u64>,
    /// Replace files of the same names that no batch has made
    #[arg(long, short = 'f')]
    force: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Joins what the shards of a release left in its folder
    Merge {
        /// The folder of the release
        folder: PathBuf,
    },
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    if let Some(Command::Merge { folder }) = &args.command {
        stop_on_ctrl_c();
        let summary = batch::merge(folder, &STOP)?;
        show(&summary, style)?;
        return summary.verdict();
    }
    let Some(path) = &args.job else {
        return Err(Error::Usage {
            what: "no job was given".to_owned(),
            help: "rwkv-quant batch release.toml".to_owned(),
        });
    };
    let job = Job::read(path)?;
    if args.list {
        return show(&CellList::new(&cells(&job)?, args.shards.map(Into::into)), style);
    }
    let shard = match args.shard {
        Some(shard) => shard,
        None => Shard::from_environment(args.shards.map(Into::into), |name| std::env::var(name).ok())?,
    };
    let settings = Settings {
        out: args.out.clone(),
        shard: Some(shard),
        at_once: args.jobs.map(Into::into),
        threads: args.threads.map(Into::into),
        max_memory: args.max_memory,
        force: args.force,
    };
    stop_on_ctrl_c();
    let summary = batch::run(&job, &settings, &STOP, &|outcome, done, of| {
        if style == Style::Human {
            eprintln!("{}", outcome_line(outcome, done, of));
        }
    })?;
    show(&summary, style)?;
    summary.verdict()
}

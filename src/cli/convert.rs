//! `rwkv-quant convert`.

use std::path::PathBuf;
use std::time::Instant;

use super::recipe_args::RecipeArgs;
use super::{STOP, show, stop_on_ctrl_c};
use crate::convert::{Request, RunOptions};
use crate::error::Result;
use crate::hub;
use crate::recipe::Recipe;
use crate::report::{Conversion, Progress, Style};
use crate::shard::Shard;
use crate::units::parse_bytes;

/// Converts a checkpoint into a file that a runtime loads.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: a .pth, .safetensors, .st, .gguf or rwkv.cpp .bin file, any part of a sharded set, or a folder
    input: PathBuf,
    /// The file or folder to write; a file's extension tells the format
    output: PathBuf,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Also write NAME.sha256, which `sha256sum -c` and `rwkv-quant verify` read: for formats that hold no checksums
    #[arg(long, help_heading = "Options")]
    checksum_file: bool,
    /// Most memory that the conversion may take [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Options")]
    max_memory: Option<u64>,
    /// Threads [default: as many as the machine runs at once, up to 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Options")]
    threads: Option<u16>,
    /// Do one part of the tensors only, the second of four, into the file OUTPUT.shard-2of4; see `rwkv-quant merge`
    #[arg(long, value_name = "I/N", help_heading = "Options")]
    shard: Option<Shard>,
    /// The same, where Slurm or Kubernetes says which of so many parts this one is
    #[arg(long, value_name = "N", help_heading = "Options", conflicts_with = "shard", value_parser = clap::value_parser!(u16).range(1..))]
    shards: Option<u16>,
    /// Show what would be written, and write nothing
    #[arg(long, help_heading = "Options")]
    dry_run: bool,
    /// Without effect since 0.2: columns are rounded as they stand
    #[arg(long, hide = true)]
    calib_order: Option<String>,
    /// Replace the output if it exists
    #[arg(long, short = 'f', help_heading = "Options")]
    force: bool,
}

impl Args {
    /// The recipe that is asked for.
    ///
    /// # Errors
    /// As [`RecipeArgs::recipe`].
    pub(super) fn recipe(&self) -> Result<Recipe> {
        self.recipe.recipe()
    }
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let start = Instant::now();
    let shard = match (args.shard, args.shards) {
        (None, Some(count)) => {
            Some(Shard::from_environment(Some(count.into()), |name| std::env::var(name).ok())?)
        }
        (shard, _) => shard,
    };
    if args.calib_order.is_some() {
        eprintln!(
            "warning: --calib-order changes nothing any more, and will be refused by the next minor version"
        );
    }
    stop_on_ctrl_c();
    let progress = Progress::new(style);
    let request = Request {
        input: hub::local(&args.input)?.into_owned(),
        output: args.output.clone(),
        recipe: args.recipe()?,
        options: RunOptions {
            threads: args.threads.map(usize::from),
            max_memory: args.max_memory,
            checksum_file: args.checksum_file,
            save_recipe: args.recipe.save_recipe(),
            recipe_file: args.recipe.file().cloned(),
        },
    };
    let prepared = match shard {
        Some(shard) => request.prepare_shard(shard, &progress, &STOP),
        None => request.prepare(&progress, &STOP),
    };
    progress.clear();
    let mut prepared = prepared?;
    if args.dry_run {
        prepared.check(&STOP)?;
        return show(&Conversion::of(&prepared), style);
    }
    if shard.is_some()
        && prepared.is_done().or_else(|other| if args.force { Ok(false) } else { Err(other) })?
    {
        return show(&Conversion::of(&prepared).kept(), style);
    }
    let written = prepared.write(args.force, &progress, &STOP);
    progress.clear();
    written?;
    show(&Conversion::of(&prepared).done(start.elapsed().as_secs_f64()), style)?;
    prepared.check_goal()
}

//! `rwkv-quant upload`.

use std::path::PathBuf;

use super::show;
use crate::batch;
use crate::error::Result;
use crate::hub::Address;
use crate::report::Style;

/// Uploads a finished release, or one model of it, to the Hugging Face Hub.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder of the release, or that of one of its models
    folder: PathBuf,
    /// Where to: hf://OWNER/REPOSITORY, with /FOLDER or @BRANCH if need be
    to: PathBuf,
    /// Make the repository if there is none
    #[arg(long)]
    create: bool,
    /// Make it a private one
    #[arg(long, requires = "create")]
    private: bool,
}

pub(super) fn run(args: &Args, style: Style) -> Result<()> {
    let to = Address::parse(&args.to)?;
    show(&batch::upload(&args.folder, &to, args.create.then_some(args.private))?, style)
}

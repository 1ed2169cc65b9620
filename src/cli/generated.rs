//! `rwkv-quant completions` and `rwkv-quant man`: made from the command line's own description.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use crate::error::{Error, Result};

/// Prints the completions of a shell.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Prints the manual page.
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Write the pages of the program and of all its commands into this folder instead
    folder: Option<PathBuf>,
}

pub(super) fn completions(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rwkv-quant", &mut script);
    if args.shell == Shell::Bash {
        // clap_complete spells the hyphen of the program's name in two ways where the two must be the same.
        let text = String::from_utf8_lossy(&script).replace("rwkv__subcmd__quant", "rwkv__quant");
        script = text.into_bytes();
    }
    print(&script)
}

pub(super) fn man(args: &Man) -> Result<()> {
    match &args.folder {
        Some(folder) => {
            clap_mangen::generate_to(Cli::command(), folder).map_err(Error::io("write pages into", folder))
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(stdout_error)?;
            print(&page)
        }
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    match std::io::stdout().write_all(bytes) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(stdout_error(e)),
        _ => Ok(()),
    }
}

fn stdout_error(error: std::io::Error) -> Error {
    Error::io("write to", Path::new("standard output"))(error)
}

//! `rwkv-quant completions` and `rwkv-quant man`: made from the command line's own description.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, stop_on_ctrl_c};
use crate::error::{Error, Result};
use crate::storage::{Inputs, Outputs, Targets};

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
    /// Replace pages that exist
    #[arg(long, short = 'f', requires = "folder")]
    force: bool,
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
        Some(folder) => write_pages(folder, args.force),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(stdout_error)?;
            print(&page)
        }
    }
}

/// Writes the page of the program and those of its commands, all or none.
fn write_pages(folder: &Path, force: bool) -> Result<()> {
    stop_on_ctrl_c();
    let mut program = Cli::command();
    program.build();
    let commands = program.get_subcommands().cloned().collect::<Vec<_>>();
    let mut pages = Vec::new();
    for command in std::iter::once(program).chain(commands) {
        let man = clap_mangen::Man::new(command);
        let mut page = Vec::new();
        man.render(&mut page).map_err(Error::io("write pages into", folder))?;
        pages.push((folder.join(man.get_filename()), page));
    }
    let mut paths = pages.iter().map(|(path, _)| path.clone());
    let Some(first) = paths.next() else { return Ok(()) };
    let targets = Targets { beside: paths.collect(), ..Targets::file(&first) };
    let mut outputs = Outputs::claim(targets, &Inputs::new(), force)?;
    outputs.fill(&pages[0].1)?;
    pages[1..].iter().try_for_each(|(path, page)| outputs.put(path, page))?;
    outputs.commit(&Inputs::new())
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

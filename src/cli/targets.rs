//! `rwkv-quant targets`.

use super::show;
use crate::error::Result;
use crate::report::{Style, TargetList};

/// Lists what can be written: for which programs, of which versions, in which types.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: &Args, style: Style) -> Result<()> {
    show(&TargetList::all(), style)
}

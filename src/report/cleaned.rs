//! Leftovers of broken off runs.

use std::io::{self, Write};

use super::Report;
use crate::clean::{Cleaned, State};
use crate::units::bytes;

impl Report for Cleaned {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        for leftover in &self.leftovers {
            let state = match leftover.state {
                State::Found => "found",
                State::Removed => "removed",
                State::InUse => "in use, left alone:",
            };
            let (kind, size) = (leftover.kind, bytes(leftover.bytes));
            writeln!(out, "{state} {kind} {} ({size})", leftover.path.display())?;
            for file in leftover.files.iter().filter(|file| **file != leftover.path) {
                writeln!(out, "  with {}", file.display())?;
            }
        }
        let of = |state| self.leftovers.iter().filter(move |leftover| leftover.state == state);
        match self.leftovers.len() {
            0 => writeln!(out, "nothing is left over"),
            _ if of(State::Found).next().is_some() => {
                let size = of(State::Found).map(|leftover| leftover.bytes).sum();
                writeln!(out, "-f removes what was found: {}", bytes(size))
            }
            _ => Ok(()),
        }
    }
}

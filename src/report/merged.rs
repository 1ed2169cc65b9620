//! That a conversion was put together.

use std::io::{self, Write};

use super::Report;
use crate::spread::Merged;
use crate::units::bytes;

impl Report for Merged {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "merged and verified {}: {} tensors of {} shards, {} ({} bytes)",
            self.output.display(),
            self.tensors,
            self.shards,
            bytes(self.bytes),
            self.bytes
        )
    }
}

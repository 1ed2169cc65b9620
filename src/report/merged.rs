//! Report of a merge: shards of a conversion put together.

use std::io::{self, Write};

use super::Report;
use crate::shards::Merged;
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

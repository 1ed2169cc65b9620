//! Report of an upload: a release on the Hub.

use std::io::{self, Write};

use super::Report;
use crate::batch::Uploaded;

impl Report for Uploaded {
    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "uploaded {} files, with what describes them: {}", self.files, self.commit)
    }
}

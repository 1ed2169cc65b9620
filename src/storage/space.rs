//! Room on the disk.

use std::path::Path;

use crate::error::{Error, Result};

/// Refuses to start what the disk of `folder` cannot hold beside what is there.
///
/// # Errors
/// [`Error::Resources`] with both sizes.
pub fn check_space(folder: &Path, bytes: u64) -> Result<()> {
    let free = fs4::available_space(folder).map_err(Error::io("write to", folder))?;
    if free >= bytes {
        return Ok(());
    }
    Err(Error::Resources {
        what: format!(
            "the file takes {} MB, and the disk of {} has {} MB left",
            bytes.div_ceil(1_000_000),
            folder.display(),
            free / 1_000_000
        ),
        help: "free some space, or write to another disk".to_owned(),
    })
}

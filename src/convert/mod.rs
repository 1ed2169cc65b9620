//! One conversion from start to end: what the command `convert` does, and a cell of a batch.

mod draft;
mod identity;
mod keys;
mod planning;
mod prepared;

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::recipe::{CODED, FileType, Recipe};
use crate::targets::Target;
pub(crate) use keys::ChangedKeys;
pub(crate) use prepared::Companion;
pub use prepared::Prepared;

/// The file type beside goals, which choose the types themselves: what the file calls itself.
///
/// # Errors
/// [`Error::Usage`] if the target's types cannot be chosen one by one.
pub(crate) fn beside_goals(target: &dyn Target) -> Result<&'static FileType> {
    const USUAL: [&str; 2] = ["q4_k_m", "q5_1"];
    if target.codes() {
        return FileType::named(CODED);
    }
    let usual = USUAL.into_iter().map(FileType::named).find(|t| t.as_ref().is_ok_and(|t| target.holds(t)));
    match usual {
        Some(file_type) if !target.candidates().is_empty() => file_type,
        _ => Err(Error::Usage {
            what: format!("the types of {} files cannot be mixed freely", target.name()),
            help: "give --type, or write .gguf".to_owned(),
        }),
    }
}

/// A conversion that is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The model: a file, any part of a sharded set, or a folder.
    pub input: PathBuf,
    /// The file or folder to write.
    pub output: PathBuf,
    /// All that its bytes depend on.
    pub recipe: Recipe,
    /// All else.
    pub options: RunOptions,
}

/// Options that no byte of the output depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Threads; by default as many as the machine runs at once, up to 64.
    pub threads: Option<usize>,
    /// Most bytes of memory that the conversion may take; by default 256 MiB.
    pub max_memory: Option<u64>,
    /// True if checksums of the files are to stand beside them.
    pub checksum_file: bool,
    /// Path to write the recipe to, with the types that were chosen.
    pub save_recipe: Option<PathBuf>,
    /// The file that the recipe was read from: no output may replace it.
    pub recipe_file: Option<PathBuf>,
}

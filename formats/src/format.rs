//! The formats that are known, and how one is found.

use std::fmt;

use crate::budget::Budget;
use crate::container::Container;
use crate::error::Result;
use crate::limits::Limits;
use crate::mapped::Mapped;

/// Content by which a format is recognized.
#[derive(Clone, Copy, Debug)]
pub struct Sniff<'a> {
    /// All bytes of the file (mapped: only those that are looked at are read).
    pub bytes: &'a [u8],
}

/// A container format that can be read.
///
/// The order of calls is `sniff`, then `read` on a file that it accepted.
pub trait Format: Send + Sync {
    /// Its short name, as it is shown to people and used in `--format`-like choices: `gguf`.
    fn name(&self) -> &'static str;

    /// One line that says what it is.
    fn about(&self) -> &'static str;

    /// The usual extensions, without the dot; the first is the one to suggest.
    fn extensions(&self) -> &'static [&'static str];

    /// True if the content starts like this format.
    fn sniff(&self, file: Sniff<'_>) -> bool;

    /// Reads the description of the tensors of one file.
    ///
    /// # Errors
    /// If the file breaks the format's rules, uses something unsupported or exceeds the limits of `budget`.
    fn read(&self, file: Mapped, budget: &Budget<'_>) -> Result<Container>;

    /// Reads all data and compares it with the checksums in the files, where the format has any.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed) that names the damaged part.
    fn verify_checksums(&self, container: &Container, limits: &Limits) -> Result<Checksums> {
        let _ = limits;
        container.compare_checksums()
    }

    /// Bytes between tensors that belong to none and are no padding, as a sentence. (Most formats refuse such a file
    /// when it is opened.)
    fn gap(&self, container: &Container) -> Option<String> {
        let _ = container;
        None
    }

    /// Number of a file that goes on behind its end, and by how many bytes that nothing reads. (Most formats refuse
    /// such a file when it is opened.)
    fn stray_bytes(&self, container: &Container) -> Option<(usize, u64)> {
        let _ = container;
        None
    }
}

/// Result of comparing the checksums in a file with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// All agree with the data; how many there are.
    Match(usize),
    /// There are none: the format has none, or they were left out.
    Absent,
    /// The header of file number `0` is not the one that its checksums were written with, so they tell nothing of the
    /// data: another program changed it, or it is damaged.
    Outdated(usize),
}

impl fmt::Debug for dyn Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Every format, in the order they are tried.
pub static FORMATS: &[&dyn Format] = &[
    &crate::gguf::Gguf,
    &crate::compact::Compact,
    &crate::rwkv_cpp::RwkvCpp,
    &crate::pth::Pth,
    &crate::safetensors::Safetensors,
    &crate::prefab::Prefab,
];

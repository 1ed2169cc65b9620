//! Checks that a file is sound: every byte read, every weight finite, every checksum right, nothing that contradicts
//! anything else.
//!
//! A *contradiction* (keys, settings, shapes, bounds, checksums) makes a file wrong: an error. A *suspicion* (zeros
//! where weights should be, an odd epsilon) is reported, and an error only if the caller is strict.

pub mod against;
pub mod checksum_file;
mod config;
mod findings;
mod keys;
mod shapes;
mod values;

use std::path::PathBuf;

use formats::{Checksums, Container, Limits};
use rayon::prelude::*;

use crate::digest::file_sha256;
use crate::error::{Error, Result};
use crate::model::adapter;
use crate::model::{Model, ZeroRule};
use findings::Findings;
pub use values::{DAMAGED, finite};

/// Facts about a file found sound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Number of checksums in the container, all found right.
    pub checksums: usize,
    /// File of checksums beside it, if there is one, found right.
    pub checksum_file: Option<PathBuf>,
    /// Number of tensors whose every value was decoded and found finite.
    pub tensors: usize,
    /// Number of values.
    pub values: u64,
    /// SHA-256 of every file, in lower-case hex.
    pub sha256: Vec<String>,
    /// Suspicions: sentences that name a tensor, a key or a setting.
    pub warnings: Vec<String>,
    /// Rows of embedding and head that are zeros: tokens that were never trained.
    pub unused_rows: usize,
}

/// Reads all of a model: each tensor is decoded, and each file hashed meanwhile; keys and settings are compared with
/// the tensors.
///
/// # Errors
/// As [`container()`], and [`Error::Model`] if keys, settings and tensors contradict each other.
pub fn model(model: &Model) -> Result<Verified> {
    let mut findings = Findings::default();
    keys::compare(model, &mut findings);
    config::compare(model, &mut findings);
    shapes::compare(model, &mut findings);
    let kinds = ZeroRule::of_model(model);
    all(&model.container, findings, &|i| kinds.get(&i).copied().unwrap_or(ZeroRule::Exempt))
}

/// Reads all of a container, whatever is in it: each tensor is decoded, and each file hashed meanwhile.
///
/// # Errors
/// [`Error::Weight`] with the first value that is not finite; [`Error::Format`] if a checksum in the container
/// disagrees with its data; [`Error::Model`] if bytes belong to nothing, or a checksum of its files is another.
pub fn container(container: &Container) -> Result<Verified> {
    let kind = |i: usize| ZeroRule::of_tensor(&container.tensors()[i]);
    all(container, of_adapter(container), &kind)
}

/// Finding that a part of an adapter is missing, if the container is one.
fn of_adapter(container: &Container) -> Findings {
    let mut findings = Findings::default();
    if let Some((name, counterpart)) = adapter::lonely_factor(container) {
        findings.contradict(format!("the factor {name:?} of a LoRA has no counterpart {counterpart:?}"));
    }
    findings
}

/// Reads all of a file that goes beside a model, in which any tensor may be zeros.
///
/// # Errors
/// As [`container()`].
pub fn companion(container: &Container) -> Result<Verified> {
    all(container, of_adapter(container), &|_| ZeroRule::Exempt)
}

/// Compares the checksums in a container with its bytes, and nothing else: no weight is decoded.
///
/// # Errors
/// [`Error::Format`] with the first that disagrees; [`Error::Usage`] if there are none; [`Error::Model`] if they are
/// outdated.
pub fn checksums(container: &Container) -> Result<Verified> {
    let mut findings = Findings::default();
    let checksums = own_checksums(container, &mut findings);
    container.check_unchanged()?;
    let checksums = checksums?;
    findings.into_warnings(container.path())?;
    match checksums {
        0 => Err(Error::Usage {
            what: format!("{} holds no checksums", container.path().display()),
            help: "leave --checksums out, and give --sha256 HEX if you know what it must be".to_owned(),
        }),
        checksums => Ok(Verified { checksums, ..Verified::default() }),
    }
}

/// Number of checksums in a container, all of them right.
fn own_checksums(container: &Container, findings: &mut Findings) -> Result<usize> {
    Ok(match container.format().verify_checksums(container, &Limits::default())? {
        Checksums::Match(count) => count,
        Checksums::Absent => 0,
        Checksums::Outdated(file) => {
            findings.contradict(format!(
                "the header of {} is not the one that its checksums ({}) were written with: it is damaged, or another \
                 program changed it; then convert it once more, which keeps its keys and makes checksums anew",
                container.files()[file].path().display(),
                formats::CHECKSUMS_KEY
            ));
            0
        }
    })
}

/// All of it, with what was found before the data are read.
fn all(
    container: &Container,
    findings: Findings,
    kind: &(dyn Fn(usize) -> ZeroRule + Sync),
) -> Result<Verified> {
    let (sound, sha256) = rayon::join(
        || sound(container, findings, kind),
        || -> Vec<String> { container.files().par_iter().map(file_sha256).collect() },
    );
    // A file that changed meanwhile may look damaged.
    container.check_unchanged()?;
    let mut verified = sound?;
    verified.checksum_file = checksum_file::compare(container, &sha256)?;
    Ok(Verified { sha256, ..verified })
}

/// All but the SHA-256 of files.
fn sound(
    container: &Container,
    mut findings: Findings,
    kind: &(dyn Fn(usize) -> ZeroRule + Sync),
) -> Result<Verified> {
    let checksums = own_checksums(container, &mut findings)?;
    if let Some((file, bytes)) = container.format().stray_bytes(container) {
        let path = container.files()[file].path().display();
        findings.contradict(format!("{path} goes on for {bytes} bytes behind its last tensor"));
    }
    if let Some(gap) = container.format().gap(container) {
        findings.contradict(gap);
    }
    let scans = values::scan(container)?;
    let mut verified = Verified { checksums, ..Verified::default() };
    for (number, scan) in scans.iter().enumerate() {
        let Some(zeros) = scan else { continue };
        let tensor = &container.tensors()[number];
        verified.tensors += 1;
        verified.values += tensor.elements();
        verified.unused_rows += zeros.unused_rows(kind(number));
        findings.suspect(zeros.suspicion(&tensor.name, kind(number)));
    }
    verified.warnings = findings.into_warnings(container.path())?;
    Ok(verified)
}

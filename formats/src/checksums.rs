//! SHA-256 of the header and of the data of every tensor, in the metadata of formats that have any: GGUF, safetensors.
//!
//! ```text
//! rwkv-quant.sha256 = "HEADER TENSOR TENSOR ... MODEL"     64 hex digits each, one for every tensor in the order of their data
//! ```
//!
//! The header's is that of all bytes in front of the data, with these digits as zeros, so that it is known before the
//! data. The model's is that of the tensors' digests of all files of the set, one after the other: parts of a set belong
//! together if they state the same one. The key is no part of [`Container::metadata`]: it describes one file, and no conversion may carry it on.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use crate::container::Container;
use crate::error::{Blame, Error, Result};
use crate::format::Checksums;
use crate::mapped::Mapped;
use crate::placement::{Placement, Planned, Sum};
use crate::value::{Metadata, Value};

/// The metadata key of the checksums.
pub const CHECKSUMS_KEY: &str = "rwkv-quant.sha256";

/// Hex digits of a SHA-256.
const DIGITS: usize = 64;
/// Most bytes between the key and its text: the kind and the length of GGUF, or the punctuation of JSON.
const MAX_KEY_DISTANCE: usize = 12;
/// Bytes hashed before their pages are let go.
const STEP: usize = 4 << 20;

/// A SHA-256.
type Sha = [u8; 32];

/// Layout of a file that holds the checksums of its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksummed {
    /// The file; the digits of its tensors' checksums are still zeros.
    pub(crate) placement: Placement,
    /// Offset in the head where the digits start.
    text: usize,
}

impl Checksummed {
    /// Lays out a file of `tensors` with `place`, whose metadata also hold their checksums.
    ///
    /// # Errors
    /// As `place`.
    pub fn new(
        metadata: &Metadata,
        tensors: &[Planned],
        place: impl FnOnce(&Metadata, &[Planned]) -> Result<Placement>,
    ) -> Result<Checksummed> {
        let zeros = text(&vec![[0; 32]; tensors.len() + 2]);
        let mut keys = metadata.clone();
        keys.push((CHECKSUMS_KEY.to_owned(), Value::from(zeros.as_str())));
        let mut placement = place(&keys, tensors)?;
        let cannot = || Error::CannotHold {
            format: "such a file",
            what: "its header does not hold the checksums as they are".to_owned(),
            tensor: None,
        };
        let at = locate(&placement.head, &zeros).ok_or_else(cannot)?;
        let header: Sha = Sha256::digest(&placement.head).into();
        placement.head[at..at + DIGITS].copy_from_slice(hex(&header).as_bytes());
        Ok(Checksummed { placement, text: at })
    }

    /// Offset in the file of the digits of the first tensor's checksum; those of the next follow 65 bytes later.
    pub(crate) fn digests_at(&self) -> u64 {
        (self.text + DIGITS + 1) as u64
    }

    /// All bytes that are no data, of tensors with these checksums, in a model with that digest.
    pub(crate) fn finish(&self, sums: &[Sum], model: &Sha) -> Vec<(u64, Vec<u8>)> {
        let mut head = self.placement.head.clone();
        let digests = sums.iter().map(|sum| &sum.sha256).chain([model]);
        for (i, digest) in digests.enumerate() {
            put_digest(&mut head, self.digests_at() as usize, i, digest);
        }
        std::iter::once((0, head)).chain(self.placement.between.iter().cloned()).collect()
    }
}

/// The digest of a model: that of the digests of its tensors, in the order of files and data.
pub fn model_digest<'a>(tensors: impl IntoIterator<Item = &'a [u8; 32]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    tensors.into_iter().for_each(|digest| hash.update(digest));
    hash.finalize().into()
}

/// Writes the checksum of tensor number `i`, or behind the last one that of the model, into a head whose first one goes to
/// `first`; nothing if it is too short.
pub fn put_digest(head: &mut [u8], first: usize, i: usize, sha256: &[u8; 32]) {
    let at = first.saturating_add(i.saturating_mul(DIGITS + 1));
    if let Some(place) = at.checked_add(DIGITS).and_then(|end| head.get_mut(at..end)) {
        place.copy_from_slice(hex(sha256).as_bytes());
    }
}

/// The checksums that a file holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Number of the file in its container.
    file: usize,
    /// Bytes of the file that are no data.
    header_bytes: u64,
    /// Text of the key, as it was read.
    text: String,
    /// Name, offset and bytes of every tensor, in the order of their data.
    tensors: Vec<(String, u64, u64)>,
}

/// Moves the checksums of the container's one file from its metadata to a field of its own; the data start at byte
/// `header_bytes`. Checksums under another key are such of a damaged header.
pub(crate) fn taken(container: Container, header_bytes: u64) -> Container {
    let is_of_tensors = |text: &String| {
        let digests: Option<Vec<Sha>> = text.split(' ').map(parsed).collect();
        digests.is_some_and(|digests| digests.len() == container.tensors().len() + 2)
    };
    let under_another = || {
        let texts = container.metadata().iter().filter_map(|(_, value)| match value {
            Value::String(text) => Some(text),
            _ => None,
        });
        texts.into_iter().find(|text| is_of_tensors(text))
    };
    let text = match container.value(CHECKSUMS_KEY) {
        Some(Value::String(text)) => Some(text),
        _ => under_another(),
    };
    let Some(text) = text else { return container };
    let tensors = container.tensors().iter().map(|t| (t.name.clone(), t.offset, t.bytes)).collect();
    let held = Held { file: 0, header_bytes, text: text.clone(), tensors };
    container.with_checksums(held)
}

/// Compares the checksums that the files of a container hold with their data.
///
/// # Errors
/// [`Error::Malformed`] with the first tensor whose data differ.
pub(crate) fn compare(container: &Container, held: &[Held]) -> Result<Checksums> {
    let mut count = 0;
    for held in held {
        match held.compare(&container.files()[held.file], container.format().name())? {
            Checksums::Match(n) => count += n,
            other => return Ok(other),
        }
    }
    if let Some(first) = held.first().filter(|_| held.len() == container.files().len()) {
        let tensors = |held: &Held| held.text.split(' ').map(parsed).collect::<Option<Vec<Sha>>>();
        let all: Option<Vec<Vec<Sha>>> = held.iter().map(tensors).collect();
        let all: Vec<Sha> =
            all.unwrap_or_default().into_iter().flat_map(|d| d[1..d.len() - 1].to_vec()).collect();
        if hex(&model_digest(&all)) != first.model() {
            let blame = Blame { path: container.path(), format: container.format().name() };
            return Err(
                blame.malformed("its files are not those of one model, or their checksums were changed")
            );
        }
    }
    Ok(if count == 0 { Checksums::Absent } else { Checksums::Match(count) })
}

impl Held {
    /// True if the header of its file, one of `files`, is the one that was written with the checksums.
    pub(crate) fn is_of(&self, files: &[Mapped]) -> bool {
        files.get(self.file).is_some_and(|file| self.digests(file).is_some())
    }

    /// The digest of the model that the file is a part of, as text.
    pub(crate) fn model(&self) -> &str {
        self.text.rsplit(' ').next().unwrap_or_default()
    }

    /// Checksums of the file in a container in which `files` other files come first.
    pub(crate) fn behind(self, files: usize) -> Held {
        Held { file: self.file + files, ..self }
    }

    fn compare(&self, file: &Mapped, format: &'static str) -> Result<Checksums> {
        let Some(digests) = self.digests(file) else { return Ok(Checksums::Outdated(self.file)) };
        let blame = Blame { path: file.path(), format };
        match self.first_wrong(file, &digests) {
            None => Ok(Checksums::Match(digests.len() + 1)),
            Some((name, offset, _)) => {
                let what = "the data are not what was written: their SHA-256 is not the one in the file";
                Err(blame.malformed(what).in_tensor(name).at(*offset))
            }
        }
    }

    /// The first tensor whose data have another checksum, several looked at at a time.
    fn first_wrong(&self, file: &Mapped, digests: &[Sha]) -> Option<&(String, u64, u64)> {
        let next = AtomicUsize::new(0);
        let work = || loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let ((_, offset, bytes), digest) = self.tensors.get(n).zip(digests.get(n))?;
            if sha256(file, *offset, *bytes).as_ref() != Some(digest) {
                return Some(n); // all that is left lies behind it
            }
        };
        let found: Vec<Option<usize>> = thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from).min(digests.len());
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mine = work();
            let others = others.into_iter().map(|t| t.join().unwrap_or_else(|panic| resume_unwind(panic)));
            others.chain([mine]).collect()
        });
        self.tensors.get(found.into_iter().flatten().min()?)
    }

    /// The checksums of the tensors; `None` if the header is not the one that was written with them.
    fn digests(&self, file: &Mapped) -> Option<Vec<Sha>> {
        let all: Vec<Sha> = self.text.split(' ').map(parsed).collect::<Option<_>>()?;
        let [header, tensors @ .., _model] = all.as_slice() else { return None };
        let mut head = file.slice(0, self.header_bytes)?.to_vec();
        let at = locate(&head, &self.text)?;
        let zeros = text(&vec![[0; 32]; all.len()]);
        head.get_mut(at..at + zeros.len())?.copy_from_slice(zeros.as_bytes());
        let found: Sha = Sha256::digest(&head).into();
        (found == *header && tensors.len() == self.tensors.len()).then(|| tensors.to_vec())
    }
}

/// SHA-256 of a range of a file, whose pages are let go; `None` if the file is shorter.
fn sha256(file: &Mapped, offset: u64, bytes: u64) -> Option<Sha> {
    let mut hash = Sha256::new();
    for (n, piece) in file.slice(offset, bytes)?.chunks(STEP).enumerate() {
        hash.update(piece);
        let start = offset + (n * STEP) as u64;
        file.release(start..start + piece.len() as u64);
    }
    Some(hash.finalize().into())
}

/// Offset in a header where the text of the key starts.
fn locate(head: &[u8], text: &str) -> Option<usize> {
    let (key, text) = (CHECKSUMS_KEY.as_bytes(), text.as_bytes());
    let keys = (0..head.len().checked_sub(key.len())? + 1).filter(|at| head[*at..].starts_with(key));
    let mut texts = keys.filter_map(|at| {
        let after = at + key.len();
        (after..=after + MAX_KEY_DISTANCE).find(|at| head.get(*at..).is_some_and(|h| h.starts_with(text)))
    });
    texts.next()
}

fn text(digests: &[Sha]) -> String {
    digests.iter().map(hex).collect::<Vec<_>>().join(" ")
}

fn hex(digest: &Sha) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// The digest of 64 lower-case hex digits.
fn parsed(digits: &str) -> Option<Sha> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes: Vec<u8> =
        pairs.iter().map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?)).collect::<Option<_>>()?;
    bytes.try_into().ok().filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use quant::Encoding;

    use super::*;
    use crate::{Layout, Limits, gguf, open, safetensors};

    type Place = fn(&Metadata, &[Planned]) -> Result<Placement>;

    /// A file of two tensors, in GGUF or safetensors.
    fn file(place: Place, extension: &str) -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
        let metadata = vec![("a.key".to_owned(), Value::from(CHECKSUMS_KEY))];
        let tensor = |name: &str, n| Planned { name: name.into(), encoding: Encoding::F32, shape: vec![n] };
        let layout =
            Layout::from(Checksummed::new(&metadata, &[tensor("one", 3), tensor("two", 2)], place).unwrap());
        let mut bytes = vec![0u8; layout.total_bytes() as usize];
        let data: [&[u8]; 2] = [&[1; 12], &[2; 8]];
        let sums = data.map(|d| Sum { sha256: Sha256::digest(d).into(), ..Sum::default() });
        let mut put = |at: u64, piece: &[u8]| bytes[at as usize..][..piece.len()].copy_from_slice(piece);
        layout.finish(&sums).iter().for_each(|(at, piece)| put(*at, piece));
        layout.offsets().iter().zip(data).for_each(|(at, piece)| put(*at, piece));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("x.{extension}"));
        std::fs::write(&path, &bytes).unwrap();
        (dir, path, bytes)
    }

    fn compared(path: &std::path::Path) -> Result<Checksums> {
        let container = open(path, &Limits::default())?;
        container.format().verify_checksums(&container, &Limits::default())
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for (place, extension) in [(gguf::place as Place, "gguf"), (safetensors::place, "safetensors")] {
            let (_dir, path, bytes) = file(place, extension);
            assert_eq!(compared(&path).unwrap(), Checksums::Match(3));
            let container = open(&path, &Limits::default()).unwrap();
            assert_eq!(container.metadata().len(), 1, "the key itself is no metadata");
            let padding = |at: usize| {
                let inside = |t: &crate::Tensor| (t.offset..t.offset + t.bytes).contains(&(at as u64));
                let first = container.tensors().iter().map(|t| t.offset).min().unwrap();
                at as u64 >= first && !container.tensors().iter().any(inside)
            };
            for at in (0..bytes.len()).filter(|at| !padding(*at)) {
                for bit in [0, 5, 7] {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= 1 << bit;
                    std::fs::write(&path, &bytes).unwrap();
                    let found = compared(&path);
                    let is_found = matches!(found, Err(_) | Ok(Checksums::Outdated(0)));
                    assert!(is_found, "{extension}: bit {bit} of byte {at}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn files_without_checksums_are_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let placement = gguf::place(&Metadata::new(), &[]).unwrap();
        std::fs::write(&path, &placement.head).unwrap();
        assert_eq!(compared(&path).unwrap(), Checksums::Absent);
    }
}

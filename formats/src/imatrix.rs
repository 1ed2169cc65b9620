//! llama.cpp's importance matrices: how much each input channel of each matrix is used.
//!
//! Two layouts are read:
//!
//! ```text
//! GGUF (now)    general.type "imatrix", imatrix.datasets, imatrix.chunk_count; for every matrix the tensors
//!               NAME.in_sum2 (sums of the squares of the inputs, f32) and NAME.counts (over how many inputs)
//! .dat (before) i32 entries; each: i32 length, name, i32 calls, i32 values, f32[values] (mean squares times calls);
//!               then i32 calls, i32 length, name of the data set
//! ```
//! Source: llama.cpp, `tools/imatrix` and `common/imatrix-loader.cpp`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::budget::Budget;
use crate::container::Container;
use crate::cursor::Cursor;
use crate::error::{Blame, Result};
use crate::format::{Format, Sniff};
use crate::gguf::{Gguf, place};
use crate::limits::Limits;
use crate::mapped::Mapped;
use crate::placement::Planned;
use crate::value::{Metadata, Value};

/// The importance of the input channels of a model's matrices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// Mean square of every input channel, by the matrix' name in GGUF.
    pub entries: BTreeMap<String, Vec<f32>>,
    /// The texts that it was measured on.
    pub datasets: Vec<String>,
    /// Number of chunks of text that it was measured on.
    pub chunks: u64,
}

const NAME: &str = "importance matrix";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

impl Imatrix {
    /// Reads an importance matrix of either layout. The values are as they are in the file: whether they are
    /// finite, and fit a model, is for the caller to check.
    ///
    /// # Errors
    /// If the file cannot be read, breaks its layout, or exceeds `limits`.
    pub fn read(path: &Path, limits: &Limits) -> Result<Imatrix> {
        let file = Mapped::open(path)?;
        if Gguf.sniff(Sniff { bytes: file.bytes() }) {
            gguf(&Gguf.read(file, &Budget::new(limits))?)
        } else {
            dat(&file, limits)
        }
    }
}

impl Imatrix {
    /// The importance matrix as a GGUF file of llama.cpp's present layout: sums over `tokens` inputs each.
    ///
    /// # Errors
    /// [`Error::CannotHold`](crate::Error::CannotHold) if a name is too long for GGUF.
    pub fn to_gguf(&self, tokens: u64, chunk_size: u32) -> Result<Vec<u8>> {
        let number = |n: u64| Value::U32(n.try_into().unwrap_or(u32::MAX));
        let metadata: Metadata = [
            ("general.type", Value::from("imatrix")),
            ("imatrix.datasets", Value::strings(&self.datasets)),
            ("imatrix.chunk_count", number(self.chunks)),
            ("imatrix.chunk_size", Value::U32(chunk_size)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let mut planned = Vec::new();
        let mut data = Vec::new();
        for (name, means) in &self.entries {
            let sums: Vec<f32> = means.iter().map(|m| m * tokens as f32).collect();
            for (suffix, values) in [(COUNTS, vec![tokens as f32]), (SUMS, sums)] {
                let encoding = quant::Encoding::F32;
                let shape = vec![1, values.len()];
                planned.push(Planned { name: format!("{name}{suffix}"), encoding, shape });
                data.push(values);
            }
        }
        let placement = place(&metadata, &planned)?;
        let mut bytes = vec![0; placement.total_bytes as usize];
        bytes[..placement.head.len()].copy_from_slice(&placement.head);
        for (values, offset) in data.iter().zip(&placement.offsets) {
            let at = *offset as usize;
            let values = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
            bytes[at..at + values.len()].copy_from_slice(&values);
        }
        Ok(bytes)
    }

    /// The importance matrix in llama.cpp's older layout.
    pub fn to_dat(&self) -> Vec<u8> {
        let number = |n: u64| (n as i32).to_le_bytes();
        let mut bytes = number(self.entries.len() as u64).to_vec();
        for (name, means) in &self.entries {
            bytes.extend(number(name.len() as u64));
            bytes.extend(name.as_bytes());
            bytes.extend(number(1));
            bytes.extend(number(means.len() as u64));
            bytes.extend(means.iter().flat_map(|m| m.to_le_bytes()));
        }
        let dataset = self.datasets.join(" ");
        bytes.extend(number(self.chunks));
        bytes.extend(number(dataset.len() as u64));
        bytes.extend(dataset.as_bytes());
        bytes
    }
}

fn gguf(container: &Container) -> Result<Imatrix> {
    let blame = Blame { path: container.path(), format: NAME };
    if container.value("general.type").and_then(Value::as_str) != Some("imatrix") {
        return Err(blame.malformed("it is a GGUF file of another kind"));
    }
    let floats = |name: &str| -> Result<Option<Vec<f32>>> {
        let Some(t) = container.tensor(name) else { return Ok(None) };
        if t.encoding != quant::Encoding::F32 {
            return Err(blame.malformed(format!("{} is no type for it", t.encoding)).in_tensor(name));
        }
        let (numbers, _) = container.bytes(t).as_chunks::<4>();
        Ok(Some(numbers.iter().map(|n| f32::from_le_bytes(*n)).collect()))
    };
    let mut imatrix = Imatrix::default();
    for t in container.tensors() {
        let Some(name) = t.name.strip_suffix(SUMS) else { continue };
        let sums = floats(&t.name)?.unwrap_or_default();
        let count = match floats(&format!("{name}{COUNTS}"))?.as_deref() {
            Some([count]) => *count,
            Some(_) => {
                return Err(blame
                    .unsupported("importances of experts", "no RWKV model has experts")
                    .in_tensor(name));
            }
            None => return Err(blame.malformed("the counts are missing").in_tensor(name)),
        };
        // What was never used counts like anything else: llama.cpp's rule.
        let mean = |sum: &f32| if count > 0.0 { sum / count } else { 1.0 };
        imatrix.entries.insert(name.to_owned(), sums.iter().map(mean).collect());
    }
    if let Some(names) = container.value("imatrix.datasets").and_then(Value::as_array) {
        imatrix.datasets = names.texts().map(str::to_owned).collect();
    }
    imatrix.chunks = container.value("imatrix.chunk_count").and_then(Value::as_u64).unwrap_or(0);
    Ok(imatrix)
}

/// True if it starts with a number of entries and the name of a tensor.
fn looks_like_dat(bytes: &[u8], limits: &Limits) -> bool {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_le_bytes(bytes))).filter(|n| *n > 0)
    };
    let sane = |at, limit| number(at).is_some_and(|n| n <= limit);
    sane(0, limits.tensors)
        && sane(4, limits.name_bytes)
        && bytes[8..].iter().zip(0..number(4).unwrap_or(0)).all(|(b, _)| b.is_ascii_graphic())
}

fn dat(file: &Mapped, limits: &Limits) -> Result<Imatrix> {
    let blame = Blame { path: file.path(), format: NAME };
    if !looks_like_dat(file.bytes(), limits) {
        return Err(blame.malformed(
            "it is none: neither a GGUF file nor llama.cpp's older layout, which starts with numbers and a name",
        ));
    }
    let mut cursor = Cursor::new(file.bytes(), blame);
    let count = blame.within("entries", cursor.u32("the number of entries")?.into(), limits.tensors)?;
    let mut imatrix = Imatrix::default();
    for _ in 0..count {
        let at = cursor.pos();
        let len = u64::from(cursor.u32("a name")?);
        blame.within("bytes of name", len, limits.name_bytes)?;
        let name = cursor.text(len, "a name")?.to_owned();
        let calls = cursor.u32("the number of calls")?;
        let len = u64::from(cursor.u32("the number of values")?);
        let (numbers, _) = cursor.take(len * 4, "the values")?.as_chunks::<4>();
        let mean = |n: &[u8; 4]| f32::from_le_bytes(*n) / if calls > 0 { calls as f32 } else { 1.0 };
        if imatrix.entries.insert(name.clone(), numbers.iter().map(mean).collect()).is_some() {
            return Err(blame.malformed("the entry stands twice").in_tensor(&name).at(at));
        }
    }
    if cursor.left() > 0 {
        imatrix.chunks = cursor.u32("the number of calls")?.into();
        let len = u64::from(cursor.u32("the name of the data set")?);
        blame.within("bytes of name", len, limits.header_bytes)?;
        imatrix.datasets.push(cursor.text(len, "the name of the data set")?.to_owned());
    }
    if cursor.left() > 0 {
        return Err(blame.malformed("it goes on behind its end").at(cursor.pos()));
    }
    Ok(imatrix)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A .dat file of one entry of two values.
    fn sample(name: &[u8]) -> Vec<u8> {
        let int = |n: usize| (n as u32).to_le_bytes();
        let mut bytes = [&int(1)[..], &int(name.len()), name, &int(4), &int(2)].concat();
        bytes.extend([8.0f32, 2.0].iter().flat_map(|v| v.to_le_bytes()));
        bytes.extend([&int(7)[..], &int(3), b"txt"].concat());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Imatrix> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Imatrix::read(file.path(), &Limits::default())
    }

    #[test]
    fn the_old_layout_is_read() {
        let imatrix = read(&sample(b"blk.0.x.weight")).unwrap();
        assert_eq!(imatrix.entries["blk.0.x.weight"], [2.0, 0.5]);
        assert_eq!((imatrix.chunks, imatrix.datasets), (7, vec!["txt".to_owned()]));
    }

    #[test]
    fn both_layouts_are_read_back() {
        let imatrix = Imatrix {
            entries: [("a.weight".to_owned(), vec![0.5, 2.0]), ("b.weight".to_owned(), vec![1.0; 3])].into(),
            datasets: vec!["text".to_owned()],
            chunks: 5,
        };
        assert_eq!(read(&imatrix.to_gguf(64, 512).unwrap()).unwrap(), imatrix);
        assert_eq!(read(&imatrix.to_dat()).unwrap(), imatrix);
    }

    #[test]
    fn every_cut_is_an_error_or_lacks_the_end_only() {
        let whole = sample(b"blk.0.x.weight");
        for cut in 0..whole.len() {
            let read = read(&whole[..cut]);
            assert!(read.is_err() || cut == whole.len() - 11, "cut at {cut}");
        }
        assert!(read(&[whole, vec![0]].concat()).is_err());
    }
}

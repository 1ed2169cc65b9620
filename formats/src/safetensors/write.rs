//! Placing a safetensors file: its head and the offset of every tensor.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::placement::{Placement, Planned};
use crate::safetensors::{DTYPES, LENGTH_BYTES, METADATA};
use crate::value::{Metadata, Value};

/// Alignment of the data base and of the header's length, in bytes. Runtimes that cast instead of copying need it
/// (web-rwkv up to 0.10.19 stops at odd offsets).
const ALIGNMENT: usize = 8;
/// Longest header that the crate `safetensors` reads.
const HEADER_BYTES: usize = 100_000_000;

/// Lays out a safetensors file with these keys and tensors.
///
/// The data lies in the order given, without gaps, and so do the entries of the header; the keys are
/// sorted. The same input makes the same bytes. Since the format allows no padding between tensors, an
/// odd number of odd-sized tensors leaves those behind them on odd offsets: place bytes last.
///
/// transformers wants the key `format` with the text `pt`.
///
/// # Errors
/// [`Error::CannotHold`] if a name is used twice or is `__metadata__`, a value is no text, or an encoding
/// has no dtype.
///
/// # Examples
/// ```
/// use formats::{Planned, Value, safetensors};
/// let tensors = [Planned { name: "x".into(), encoding: quant::Encoding::F16, shape: vec![2, 3] }];
/// let placement = safetensors::place(&vec![("format".into(), Value::from("pt"))], &tensors)?;
/// assert_eq!(placement.offsets, [placement.head.len() as u64]);
/// assert_eq!(placement.total_bytes, placement.offsets[0] + 12);
/// # Ok::<(), formats::Error>(())
/// ```
pub fn place(metadata: &Metadata, tensors: &[Planned]) -> Result<Placement> {
    let mut entries = Vec::new();
    if !metadata.is_empty() {
        entries.push(format!("\"{METADATA}\":{}", keys(metadata)?));
    }
    let mut seen = BTreeSet::from([METADATA]);
    let mut offsets = Vec::new();
    let mut end = 0u64;
    for t in tensors {
        let cannot = |what: String| cannot(what, Some(t.name.clone()));
        if !seen.insert(t.name.as_str()) {
            return Err(cannot("the name is taken".to_owned()));
        }
        let (dtype, _) = DTYPES
            .iter()
            .find(|(_, encoding)| *encoding == t.encoding)
            .ok_or_else(|| cannot(format!("there is no dtype for {}", t.encoding)))?;
        let start = end;
        end = t.bytes().and_then(|bytes| start.checked_add(bytes)).ok_or_else(absurd)?;
        let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
        entries.push(format!(
            "{}:{{\"dtype\":\"{dtype}\",\"shape\":[{}],\"data_offsets\":[{start},{end}]}}",
            quoted(&t.name),
            shape.join(",")
        ));
        offsets.push(start);
    }
    let mut header = format!("{{{}}}", entries.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    if header.len() > HEADER_BYTES {
        return Err(cannot(format!("the header takes {} bytes", header.len()), None));
    }

    let mut head = (header.len() as u64).to_le_bytes().to_vec();
    head.append(&mut header);
    let base = head.len() as u64;
    debug_assert!(base.is_multiple_of(LENGTH_BYTES));
    let total_bytes = base.checked_add(end).ok_or_else(absurd)?;
    for offset in &mut offsets {
        *offset += base; // no more than the total
    }
    Ok(Placement { head, offsets, between: Vec::new(), splits: BTreeMap::new(), total_bytes })
}

/// The metadata as JSON, sorted.
fn keys(metadata: &Metadata) -> Result<String> {
    let mut sorted = BTreeMap::new();
    for (key, value) in metadata {
        let Value::String(text) = value else {
            return Err(cannot(format!("the value of {key:?} is no text"), None));
        };
        if sorted.insert(key, text).is_some() {
            return Err(cannot(format!("the key {key:?} stands twice"), None));
        }
    }
    let pairs: Vec<String> =
        sorted.iter().map(|(key, text)| format!("{}:{}", quoted(key), quoted(text))).collect();
    Ok(format!("{{{}}}", pairs.join(",")))
}

/// Text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn absurd() -> Error {
    cannot("the file would be absurdly large".to_owned(), None)
}

fn cannot(what: String, tensor: Option<String>) -> Error {
    Error::CannotHold { format: "safetensors", what, tensor }
}

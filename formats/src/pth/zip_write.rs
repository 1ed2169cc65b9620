//! Headers and directory of a zip archive with stored entries; see [`super::zip`] for the layout.
//!
//! Fields of 64 bits are used where 32 do not reach, and only there.

use crate::pth::zip::{CENTRAL, END, END64, EXTRA_ZIP64, LOCAL, LOCATOR64};

/// Data starts at multiples of this, as torch has it (`.storage_alignment`).
const ALIGNMENT: u64 = 64;
/// Names are UTF-8.
const FLAGS: u16 = 0x800;
/// "FB", the extra field that torch pads with.
const EXTRA_PADDING: u16 = 0x4246;
const LOCAL_BYTES: u64 = 30;
/// Bytes of the zip64 field in a local header: id, length, two sizes.
const LOCAL_ZIP64_BYTES: u64 = 4 + 16;
/// A field that is in the zip64 part.
const ONES: u32 = u32::MAX;

/// A file in the archive: where its header and data are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    name: String,
    header: u64,
    pub offset: u64,
    pub bytes: u64,
}

impl Entry {
    /// An entry whose header starts at `header`; `None` if it ends beyond 64 bits.
    pub fn place(name: String, header: u64, bytes: u64) -> Option<Entry> {
        let zip64 = if is_large(bytes) { LOCAL_ZIP64_BYTES } else { 0 };
        let fields = LOCAL_BYTES + name.len() as u64 + zip64 + 4; // and the id and length of the padding
        let offset = header.checked_add(fields)?.checked_next_multiple_of(ALIGNMENT)?;
        offset.checked_add(bytes)?;
        Some(Entry { name, header, offset, bytes })
    }

    /// The first byte behind it.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.bytes)
    }

    /// Appends the local header, which ends where the data starts.
    pub fn put_header(&self, out: &mut Vec<u8>, crc: u32) {
        let start = out.len() as u64;
        let large = is_large(self.bytes);
        let size = if large { ONES } else { self.bytes as u32 };
        put32(out, &[LOCAL]);
        put16(out, &[version(large), FLAGS, 0, 0, 0]);
        put32(out, &[crc, size, size]);
        let fixed = LOCAL_BYTES + self.name.len() as u64;
        put16(out, &[self.name.len() as u16, (self.offset - self.header - fixed) as u16]);
        out.extend_from_slice(self.name.as_bytes());
        if large {
            put16(out, &[EXTRA_ZIP64, 16]);
            put64(out, &[self.bytes, self.bytes]);
        }
        let left = self.offset - self.header - (out.len() as u64 - start) - 4;
        put16(out, &[EXTRA_PADDING, left as u16]);
        out.resize(out.len() + left as usize, b'Z');
    }

    /// Appends its line of the directory.
    fn put_line(&self, out: &mut Vec<u8>, crc: u32) {
        let mut large = Vec::new();
        let mut small = |value: u64| {
            if is_large(value) {
                large.push(value);
                ONES
            } else {
                value as u32
            }
        };
        let (size, stored, header) = (small(self.bytes), small(self.bytes), small(self.header));
        let extra_bytes = if large.is_empty() { 0 } else { 4 + 8 * large.len() as u16 };
        put32(out, &[CENTRAL]);
        put16(out, &[version(true), version(!large.is_empty()), FLAGS, 0, 0, 0]);
        put32(out, &[crc, stored, size]);
        put16(out, &[self.name.len() as u16, extra_bytes, 0, 0, 0]);
        put32(out, &[0, header]);
        out.extend_from_slice(self.name.as_bytes());
        if !large.is_empty() {
            put16(out, &[EXTRA_ZIP64, extra_bytes - 4]);
            put64(out, &large);
        }
    }
}

/// The directory of these entries with their CRCs, and the end records; it starts at byte `start`.
pub(super) fn directory<'a>(start: u64, entries: impl Iterator<Item = (&'a Entry, u32)>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut count = 0u64;
    for (entry, crc) in entries {
        entry.put_line(&mut out, crc);
        count += 1;
    }
    let bytes = out.len() as u64;
    let many = count >= u64::from(u16::MAX);
    if many || is_large(bytes) || is_large(start) {
        let end64 = start + bytes;
        put32(&mut out, &[END64]);
        put64(&mut out, &[44]);
        put16(&mut out, &[version(true); 2]);
        put32(&mut out, &[0, 0]);
        put64(&mut out, &[count, count, bytes, start]);
        out.extend_from_slice(LOCATOR64);
        put32(&mut out, &[0]);
        put64(&mut out, &[end64]);
        put32(&mut out, &[1]);
    }
    let count = if many { u16::MAX } else { count as u16 };
    let small = |value: u64| if is_large(value) { ONES } else { value as u32 };
    out.extend_from_slice(END);
    put16(&mut out, &[0, 0, count, count]);
    put32(&mut out, &[small(bytes), small(start)]);
    put16(&mut out, &[0]);
    out
}

/// The version of zip that is needed to read it.
fn version(zip64: bool) -> u16 {
    if zip64 { 45 } else { 20 }
}

fn is_large(value: u64) -> bool {
    value >= u64::from(ONES)
}

fn put16(out: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
}

fn put32(out: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
}

fn put64(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
}

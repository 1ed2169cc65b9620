//! The directory of a zip archive whose entries are stored, not compressed.
//!
//! ```text
//! for every entry:   local header (30 bytes, name, extra field), data, maybe a data descriptor
//! central directory: for every entry 46 bytes, name, extra field, comment
//! end:               zip64 end record and its locator (sizes above 32 bits), end record (22 bytes, comment)
//! ```
//!
//! The central directory is what counts; the local headers must agree with it. Nothing may overlap, stand
//! before the first entry unnoticed, or reach out of the file. Source: PKWARE's APPNOTE.TXT 6.3.

use crate::budget::Budget;
use crate::cursor::Cursor;
use crate::error::{Blame, Result};
use crate::mapped::Mapped;

pub(super) const LOCAL: u32 = 0x0403_4b50;
pub(super) const CENTRAL: u32 = 0x0201_4b50;
pub(super) const END: &[u8; 4] = b"PK\x05\x06";
pub(super) const END64: u32 = 0x0606_4b50;
pub(super) const LOCATOR64: &[u8; 4] = b"PK\x06\x07";
const END_BYTES: usize = 22;
/// Bytes of an entry of the directory, beside its name.
const CENTRAL_BYTES: u64 = 46;
const LOCATOR64_BYTES: usize = 20;
/// Extra field with sizes above 32 bits.
pub(super) const EXTRA_ZIP64: u16 = 1;
const FLAG_ENCRYPTED: u16 = 1;
/// Sizes and CRC follow the data instead of standing in the local header.
const FLAG_DESCRIPTOR: u16 = 8;
const STORED: u16 = 0;
/// Entries of a torch file that hold no storage, and some room.
const OTHER_ENTRIES: u64 = 1024;

/// A file in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub name: &'a str,
    pub crc: u32,
    /// Offset of its local header.
    header: u64,
    /// Offset of its data.
    pub offset: u64,
    /// Bytes of its data, as it is stored.
    pub bytes: u64,
    flags: u16,
    method: u16,
}

impl Entry<'_> {
    /// The range of the data, if it is neither compressed nor encrypted.
    pub fn stored(&self, blame: Blame<'_>) -> Result<(u64, u64)> {
        let how = if self.flags & FLAG_ENCRYPTED != 0 {
            "an encrypted zip entry"
        } else if self.method != STORED {
            "a compressed zip entry"
        } else {
            return Ok((self.offset, self.bytes));
        };
        let help = "torch never compresses: somebody packed the file again. Unpack it and pack it with \
                    `zip -0`, or get the original file";
        Err(blame.unsupported(format!("{how} ({})", self.name), help))
    }
}

/// The files of an archive, by name.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    entries: Vec<Entry<'a>>,
    /// Numbers of the entries in the order of their names.
    by_name: Vec<u32>,
}

impl<'a> Archive<'a> {
    /// Reads and checks the directory of the archive that fills `mapped`.
    pub fn read(mapped: &'a Mapped, budget: &Budget<'_>, blame: Blame<'a>) -> Result<Archive<'a>> {
        let file = mapped.bytes();
        let end = End::find(file, blame)?;
        blame.within(
            "files in the zip archive",
            end.entries,
            budget.tensors.saturating_add(OTHER_ENTRIES),
        )?;
        blame.within("bytes of zip directory", end.directory_bytes, budget.header_bytes)?;
        let mut cursor = Cursor::starting_at(file, end.directory, blame);
        // An entry takes more bytes in the directory than it has numbers, so no more than these are there.
        let count = end.entries.min(end.directory_bytes / CENTRAL_BYTES) as usize;
        let each = size_of::<Entry<'_>>() + size_of::<&Entry<'_>>() + size_of::<u32>();
        budget.read_more(end.directory_bytes);
        budget.reserve((count * each) as u64, blame)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..end.entries {
            let mut entry = central(&mut cursor, budget)?;
            entry.offset = local(file, &entry, blame)?;
            budget.read_more(entry.offset - entry.header);
            // The local headers are spread over the whole file, which must not become resident for them.
            mapped.release(entry.header..entry.offset);
            let data_end = entry.offset.checked_add(entry.bytes);
            if data_end.is_none_or(|e| e > end.directory) {
                let what = format!("{:?} reaches into the zip directory", entry.name);
                return Err(blame.malformed(what).at(entry.offset));
            }
            entries.push(entry);
        }
        if Some(cursor.pos()) != end.directory.checked_add(end.directory_bytes) {
            return Err(blame.malformed("the zip directory has not the size it claims").at(cursor.pos()));
        }
        let mut by_name: Vec<u32> = (0..).zip(&entries).map(|(number, _)| number).collect();
        let name = |number: &u32| entries.get(*number as usize).map_or("", |entry: &Entry<'a>| entry.name);
        by_name.sort_unstable_by_key(name);
        if let Some(pair) = by_name.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
            return Err(blame.malformed(format!("{:?} is in the archive twice", name(&pair[0]))));
        }
        let mut order: Vec<&Entry<'_>> = entries.iter().collect();
        order.sort_by_key(|e| e.header);
        for pair in order.windows(2) {
            if let [a, b] = pair
                && a.offset.saturating_add(a.bytes) > b.header
            {
                let what = format!("{:?} and {:?} overlap in the archive", a.name, b.name);
                return Err(blame.malformed(what).at(b.header));
            }
        }
        Ok(Archive { entries, by_name })
    }

    /// All files, in the order of the directory.
    pub fn entries(&self) -> &[Entry<'a>] {
        &self.entries
    }

    /// The file of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry<'a>> {
        let entry = |number: u32| self.entries.get(number as usize);
        let found = self.by_name.binary_search_by_key(&Some(name), |number| entry(*number).map(|e| e.name));
        entry(*self.by_name.get(found.ok()?)?)
    }
}

/// Content of the end record.
struct End {
    entries: u64,
    directory: u64,
    directory_bytes: u64,
}

impl End {
    fn find(file: &[u8], blame: Blame<'_>) -> Result<End> {
        let Some(at) = end_record(file) else {
            return Err(blame.malformed(
                "the end of the zip archive is missing: the file is cut short, or goes on behind it",
            ));
        };
        let mut cursor = Cursor::starting_at(file, at as u64 + 4, blame);
        let what = "the end of the zip archive";
        let (disk, first_disk) = (cursor.u16(what)?, cursor.u16(what)?);
        let (here, entries) = (cursor.u16(what)?, cursor.u16(what)?);
        let (bytes, offset) = (cursor.u32(what)?, cursor.u32(what)?);
        let mut end =
            End { entries: entries.into(), directory: offset.into(), directory_bytes: bytes.into() };
        let mut directory_end = at;
        if let Some(locator) = at.checked_sub(LOCATOR64_BYTES).filter(|l| starts(file, *l, LOCATOR64)) {
            let big = End::find64(file, locator, blame)?;
            let agree = |small: u64, ones: u64, big: u64| small == ones || small == big;
            if !agree(end.entries, u16::MAX.into(), big.end.entries)
                || !agree(end.directory, u32::MAX.into(), big.end.directory)
                || !agree(end.directory_bytes, u32::MAX.into(), big.end.directory_bytes)
            {
                return Err(blame.malformed("the two end records of the archive disagree").at(at as u64));
            }
            end = big.end;
            directory_end = big.at;
        }
        if disk != first_disk || (here != entries) {
            return Err(blame.malformed("the zip archive is one part of several").at(at as u64));
        }
        if end.directory.checked_add(end.directory_bytes) != Some(directory_end as u64) {
            return Err(blame.malformed("the zip directory does not lie where it should").at(at as u64));
        }
        Ok(end)
    }

    fn find64(file: &[u8], locator: usize, blame: Blame<'_>) -> Result<At> {
        let what = "the zip64 end record";
        let mut cursor = Cursor::starting_at(file, locator as u64 + 8, blame);
        let at = cursor.u64(what)?;
        let mut cursor = Cursor::starting_at(file, at, blame);
        if cursor.u32(what)? != END64 {
            return Err(blame.malformed("there is no zip64 end record where one should be").at(at));
        }
        let bytes = cursor.u64(what)?;
        if at.checked_add(12).and_then(|a| a.checked_add(bytes)) != Some(locator as u64) {
            return Err(blame.malformed("the zip64 end record has the wrong size").at(at));
        }
        cursor.take(12, what)?; // versions and disks
        let (here, entries) = (cursor.u64(what)?, cursor.u64(what)?);
        if here != entries {
            return Err(blame.malformed("the zip archive is one part of several").at(at));
        }
        let (directory_bytes, directory) = (cursor.u64(what)?, cursor.u64(what)?);
        // It was read from within the file, so it is an index.
        Ok(At { at: at as usize, end: End { entries, directory, directory_bytes } })
    }
}

struct At {
    at: usize,
    end: End,
}

/// Offset of the end record: the last one whose comment ends with the file.
fn end_record(file: &[u8]) -> Option<usize> {
    let last = file.len().checked_sub(END_BYTES)?;
    let first = last.saturating_sub(u16::MAX.into());
    (first..=last).rev().find(|at| {
        starts(file, *at, END)
            && matches!(file.get(at + 20..at + 22), Some([a, b])
                if at + END_BYTES + usize::from(u16::from_le_bytes([*a, *b])) == file.len())
    })
}

fn starts(file: &[u8], at: usize, magic: &[u8; 4]) -> bool {
    file.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// One entry of the central directory; where the data starts is still unknown.
fn central<'a>(cursor: &mut Cursor<'a>, budget: &Budget<'_>) -> Result<Entry<'a>> {
    let what = "the zip directory";
    let (at, blame) = (cursor.pos(), cursor.blame);
    if cursor.u32(what)? != CENTRAL {
        return Err(blame.malformed("the zip directory is damaged").at(at));
    }
    cursor.take(4, what)?; // versions
    let (flags, method) = (cursor.u16(what)?, cursor.u16(what)?);
    cursor.take(4, what)?; // time
    let crc = cursor.u32(what)?;
    let (mut bytes, mut plain_bytes) = (u64::from(cursor.u32(what)?), u64::from(cursor.u32(what)?));
    let (name_bytes, extra_bytes, comment_bytes) = (cursor.u16(what)?, cursor.u16(what)?, cursor.u16(what)?);
    cursor.take(8, what)?; // disk, attributes
    let mut header = u64::from(cursor.u32(what)?);
    // Room for the folder's name in front of the names that are bounded.
    blame.within("bytes of name", name_bytes.into(), budget.name_bytes.saturating_add(1 << 10))?;
    let name = cursor.text(name_bytes.into(), "a name in the zip directory")?;
    let extra_at = cursor.pos();
    let extra = cursor.take(extra_bytes.into(), what)?;
    cursor.take(comment_bytes.into(), what)?;

    let mut fields = Cursor::new(extra, blame);
    while fields.left() >= 4 {
        let (id, len) = (fields.u16(what)?, fields.u16(what)?);
        let Ok(field) = fields.take(len.into(), what) else {
            return Err(blame.malformed(format!("the extra field of {name:?} is damaged")).at(extra_at));
        };
        if id == EXTRA_ZIP64 {
            let mut field = Cursor::new(field, blame);
            for value in [&mut plain_bytes, &mut bytes, &mut header] {
                if *value == u64::from(u32::MAX) {
                    *value = field.u64("a zip64 size").map_err(|_| {
                        blame.malformed(format!("the zip64 sizes of {name:?} are missing")).at(extra_at)
                    })?;
                }
            }
        }
    }
    if method == STORED && bytes != plain_bytes {
        return Err(blame.malformed(format!("{name:?} is stored, yet has two sizes")).at(at));
    }
    Ok(Entry { name, crc, header, offset: 0, bytes, flags, method })
}

/// Offset of the data of an entry, from its local header, which must agree with the directory.
fn local(file: &[u8], entry: &Entry<'_>, blame: Blame<'_>) -> Result<u64> {
    let what = "a local header of the zip archive";
    let mut cursor = Cursor::starting_at(file, entry.header, blame);
    let differ = || {
        blame.malformed(format!("two headers of {:?} in the archive disagree", entry.name)).at(entry.header)
    };
    if cursor.u32(what)? != LOCAL {
        return Err(blame.malformed(format!("{:?} is not where it should be", entry.name)).at(entry.header));
    }
    cursor.take(2, what)?; // version
    let (flags, method) = (cursor.u16(what)?, cursor.u16(what)?);
    cursor.take(4, what)?; // time
    let crc = cursor.u32(what)?;
    let (bytes, plain_bytes) = (cursor.u32(what)?, cursor.u32(what)?);
    let (name_bytes, extra_bytes) = (cursor.u16(what)?, cursor.u16(what)?);
    let name = cursor.take(name_bytes.into(), what)?;
    cursor.take(extra_bytes.into(), what)?;
    let known = flags & FLAG_DESCRIPTOR == 0;
    let same_size = |small: u32| small == u32::MAX || u64::from(small) == entry.bytes;
    if name != entry.name.as_bytes()
        || method != entry.method
        || flags & FLAG_ENCRYPTED != entry.flags & FLAG_ENCRYPTED
        || (known && (crc != entry.crc || !same_size(bytes) || (method == STORED && !same_size(plain_bytes))))
    {
        return Err(differ());
    }
    Ok(cursor.pos())
}

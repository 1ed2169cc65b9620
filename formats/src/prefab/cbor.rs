//! The heads of CBOR items (RFC 8949): what an item is, and how long.

use crate::cursor::Cursor;
use crate::error::Result;

/// Major types.
pub(super) const UNSIGNED: u8 = 0;
pub(super) const NEGATIVE: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const TEXT: u8 = 3;
pub(super) const ARRAY: u8 = 4;
pub(super) const MAP: u8 = 5;
pub(super) const TAG: u8 = 6;
pub(super) const SIMPLE: u8 = 7;

/// The start of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The major type.
    pub major: u8,
    /// The number, length or count; of a simple value or float, its bits.
    pub argument: u64,
    /// Bytes that the argument takes (0: it stands in the first byte), which tells floats apart.
    pub width: u8,
}

impl Head {
    /// Reads a head. Items of unknown length and tags are refused: nothing that writes prefabs uses them.
    pub fn read(cursor: &mut Cursor<'_>) -> Result<Head> {
        let at = cursor.pos();
        let first = cursor.u8("an item")?;
        let (major, short) = (first >> 5, first & 0x1f);
        let width = match short {
            0..=23 => 0,
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => {
                let what = format!("an item of length code {short}, which no prefab has");
                return Err(cursor.blame.malformed(what).at(at));
            }
        };
        if major == TAG {
            return Err(cursor.blame.malformed("a tagged item, which no prefab has").at(at));
        }
        let argument = match width {
            0 => u64::from(short),
            width => {
                let bytes = cursor.take(u64::from(width), "the length of an item")?;
                bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
            }
        };
        Ok(Head { major, argument, width })
    }
}

/// Appends the shortest head of an item.
pub(super) fn head(major: u8, argument: u64, out: &mut Vec<u8>) {
    let first = major << 5;
    let bytes = argument.to_be_bytes();
    match argument {
        0..=23 => out.push(first | bytes[7]),
        24..=0xff => out.extend([first | 24, bytes[7]]),
        0x100..=0xffff => {
            out.push(first | 25);
            out.extend(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(first | 26);
            out.extend(&bytes[4..]);
        }
        _ => {
            out.push(first | 27);
            out.extend(&bytes);
        }
    }
}

/// Appends text.
pub(super) fn text(text: &str, out: &mut Vec<u8>) {
    head(TEXT, text.len() as u64, out);
    out.extend(text.as_bytes());
}

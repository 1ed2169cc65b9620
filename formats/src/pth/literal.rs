//! The instructions of a pickle that are a value: numbers, text, bytes.

use crate::cursor::Cursor;
use crate::error::Result;
use crate::pth::object::Item;

/// The value that `opcode` and what follows it are; `None` if the instruction is of another sort.
pub(super) fn read<'a>(cursor: &mut Cursor<'a>, opcode: u8) -> Result<Option<Item<'a>>> {
    let (int, text, bytes) = ("an integer", "a string", "a byte string");
    Ok(Some(match opcode {
        b'N' => Item::None,
        0x88 => Item::Bool(true),
        0x89 => Item::Bool(false),

        b'K' => Item::Int(cursor.u8(int)?.into()),
        b'M' => Item::Int(cursor.u16(int)?.into()),
        b'J' => Item::Int((cursor.u32(int)? as i32).into()),
        0x8a => {
            let len = cursor.u8(int)?;
            long(cursor.take(len.into(), int)?)
        }
        0x8b => {
            let len = cursor.u32(int)?;
            long(cursor.take(len.into(), int)?)
        }
        b'G' => Item::Float(f64::from_bits(cursor.u64("a number")?.swap_bytes())),
        b'I' | b'L' | b'F' => decimal(cursor, opcode)?,

        b'X' => {
            let len = cursor.u32(text)?;
            Item::Text(cursor.text(len.into(), text)?)
        }
        0x8c => {
            let len = cursor.u8(text)?;
            Item::Text(cursor.text(len.into(), text)?)
        }
        0x8d => {
            let len = cursor.u64(text)?;
            Item::Text(cursor.text(len, text)?)
        }
        b'S' | b'V' => escaped(cursor, opcode)?,

        b'T' => {
            let len = cursor.u32(bytes)?;
            python2(cursor.take(len.into(), bytes)?)
        }
        b'U' => {
            let len = cursor.u8(bytes)?;
            python2(cursor.take(len.into(), bytes)?)
        }
        b'B' => {
            let len = cursor.u32(bytes)?;
            Item::Bytes(cursor.take(len.into(), bytes)?)
        }
        b'C' => {
            let len = cursor.u8(bytes)?;
            Item::Bytes(cursor.take(len.into(), bytes)?)
        }
        0x8e | 0x96 => {
            let len = cursor.u64(bytes)?;
            Item::Bytes(cursor.take(len, bytes)?)
        }
        _ => return Ok(None),
    }))
}

/// A line of text.
pub(super) fn line<'a>(cursor: &mut Cursor<'a>, what: &str) -> Result<&'a str> {
    let line = cursor.line(what)?;
    std::str::from_utf8(line).map_err(|_| cursor.blame.malformed(format!("{what} is not valid UTF-8")))
}

/// A count as a line of text.
pub(super) fn number(cursor: &mut Cursor<'_>, what: &str) -> Result<u64> {
    let line = line(cursor, what)?;
    line.trim_end().parse().map_err(|_| cursor.blame.malformed(format!("{what} is no number")))
}

/// An integer in little-endian two's complement of any length.
fn long(bytes: &[u8]) -> Item<'_> {
    // More bytes than needed are fine, as long as they only repeat the sign.
    let sign = if bytes.last().is_some_and(|top| top & 0x80 != 0) { 0xff } else { 0 };
    let (low, high) = bytes.split_at(bytes.len().min(8));
    let mut all = [sign; 8];
    for (to, from) in all.iter_mut().zip(low) {
        *to = *from;
    }
    let number = i64::from_le_bytes(all);
    let fits = high.iter().all(|b| *b == sign) && (number < 0) == (sign != 0);
    if fits { Item::Int(number) } else { Item::Big(bytes) }
}

/// A number as a line of text: protocol 0.
fn decimal<'a>(cursor: &mut Cursor<'a>, opcode: u8) -> Result<Item<'a>> {
    let line = line(cursor, "a number")?.trim_end();
    let digits = line.strip_suffix('L').unwrap_or(line);
    let is_integer = digits.strip_prefix('-').unwrap_or(digits).bytes().all(|b| b.is_ascii_digit());
    let item = match (opcode, line) {
        (b'I', "00") => Some(Item::Bool(false)),
        (b'I', "01") => Some(Item::Bool(true)),
        (b'F', _) => line.parse().ok().map(Item::Float),
        _ => match digits.parse() {
            Ok(number) => Some(Item::Int(number)),
            // An integer beyond 64 bits.
            Err(_) => (is_integer && digits.len() > 18).then_some(Item::Big(line.as_bytes())),
        },
    };
    item.ok_or_else(|| cursor.blame.malformed("a number has other characters than digits, or too many"))
}

/// Text as a line, with quotes (`S`) or without (`V`): protocol 0. What is not plain text as it stands (escapes, Latin-1)
/// is kept as the bytes of the line: no name of a tensor needs that.
fn escaped<'a>(cursor: &mut Cursor<'a>, opcode: u8) -> Result<Item<'a>> {
    let mut line = cursor.line("a string")?;
    if opcode == b'S' {
        line = line.trim_ascii_end();
        let quoted = |q: &[u8]| line.strip_prefix(q).and_then(|l| l.strip_suffix(q));
        line = quoted(b"'")
            .or_else(|| quoted(b"\""))
            .ok_or_else(|| cursor.blame.malformed("a string has no quotes"))?;
    }
    Ok(match std::str::from_utf8(line) {
        Ok(text) if !text.contains('\\') => Item::Text(text),
        _ => Item::Bytes(line),
    })
}

/// Python 2 has one type for text and bytes: what can be text is taken for it.
fn python2(bytes: &[u8]) -> Item<'_> {
    std::str::from_utf8(bytes).map_or(Item::Bytes(bytes), Item::Text)
}

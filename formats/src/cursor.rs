//! A checked walk over little-endian bytes.

use crate::error::{Blame, Result};

/// Reads numbers and strings from bytes, front to back; running off the end is an error with its offset.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
    pub blame: Blame<'a>,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], blame: Blame<'a>) -> Self {
        Cursor { bytes, pos: 0, blame }
    }

    /// A walk that starts at byte `pos` of `bytes`, so that the offsets in errors are those of the whole file.
    pub fn starting_at(bytes: &'a [u8], pos: u64, blame: Blame<'a>) -> Self {
        let pos = usize::try_from(pos).map_or(bytes.len(), |pos| pos.min(bytes.len()));
        Cursor { bytes, pos, blame }
    }

    /// Offset of the next byte.
    pub fn pos(&self) -> u64 {
        self.pos as u64
    }

    /// Number of bytes left.
    pub fn left(&self) -> u64 {
        (self.bytes.len() - self.pos) as u64
    }

    /// The next `len` bytes; `what` names them in the error.
    pub fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8]> {
        let end = usize::try_from(len).ok().and_then(|len| self.pos.checked_add(len));
        match end.and_then(|end| self.bytes.get(self.pos..end)) {
            Some(bytes) => {
                self.pos += bytes.len();
                Ok(bytes)
            }
            None => Err(self
                .blame
                .malformed(format!("it ends within {what} ({len} bytes needed, {} left)", self.left()))
                .at(self.pos())),
        }
    }

    /// The bytes up to the next line feed, which is skipped.
    pub fn line(&mut self, what: &str) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.pos..).unwrap_or_default();
        // Without a line feed, asking for one byte more than is left makes the error.
        let len = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let line = self.take(len as u64 + 1, what)?;
        Ok(line.get(..len).unwrap_or_default())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub fn u8(&mut self, what: &str) -> Result<u8> {
        Ok(self.array::<1>(what)?[0])
    }

    pub fn u16(&mut self, what: &str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// `len` bytes of UTF-8.
    pub fn text(&mut self, len: u64, what: &str) -> Result<&'a str> {
        let at = self.pos();
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes)
            .map_err(|_| self.blame.malformed(format!("{what} is not valid UTF-8")).at(at))
    }
}

//! Sections of tiles: a head, and rows that decode on their own.

use std::io::{self, Cursor, Seek, SeekFrom, Write};

use quant::coding::Coding;

/// Compression of the values of a tensor, in tiles of so many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Coding of the tiles.
    pub coding: Coding,
    /// Rows of a tile, but for the last.
    pub rows: usize,
}

impl Tiles {
    /// The number of tiles of a matrix of so many rows.
    pub fn count(self, rows: usize) -> usize {
        rows.div_ceil(self.rows.max(1))
    }
}

/// The tiles of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Tiled<'a> {
    /// Coding of the tiles, and rows per tile.
    pub tiles: Tiles,
    /// Head that all tiles share.
    pub head: &'a [u8],
    /// The bytes of each, u32.
    lengths: &'a [[u8; 4]],
    data: &'a [u8],
}

impl<'a> Tiled<'a> {
    /// The parts of a section of `rows` rows; `None` if it does not end where its last tile does.
    pub fn new(section: &'a [u8], tiles: Tiles, rows: usize) -> Option<Tiled<'a>> {
        let (head, rest) = section.split_first_chunk::<4>()?;
        let (lengths, rest) = rest.split_at_checked(tiles.count(rows).checked_mul(4)?)?;
        let (head, data) = rest.split_at_checked(length(head))?;
        let (lengths, _) = lengths.as_chunks::<4>();
        let sum = lengths.iter().try_fold(0usize, |sum, n| sum.checked_add(length(n)));
        (sum == Some(data.len())).then_some(Tiled { tiles, head, lengths, data })
    }

    /// The number of tiles.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// The bytes of tiles from `first` on.
    pub fn from(&self, first: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (before, lengths) = self.lengths.split_at(first.min(self.lengths.len()));
        let start: usize = before.iter().map(length).sum();
        let mut rest = self.data.get(start..).unwrap_or_default();
        lengths.iter().map(move |n| {
            let (tile, after) = rest.split_at_checked(length(n)).unwrap_or_default();
            rest = after;
            tile
        })
    }
}

fn length(bytes: &[u8; 4]) -> usize {
    u32::from_le_bytes(*bytes) as usize
}

/// Writes a section tile by tile, so that none but the one at work need be in memory.
#[derive(Debug)]
pub struct SectionWriter<W> {
    out: W,
    /// Table of lengths in front of the head, as far as it is known.
    lengths: Vec<u8>,
    /// Bytes of the whole table.
    table_bytes: usize,
}

impl<W: Write + Seek> SectionWriter<W> {
    /// Begins a section of so many tiles at the start of `out`.
    ///
    /// # Errors
    /// Those of `out`; if the head has 4 GiB or more.
    pub fn new(mut out: W, head: &[u8], tiles: usize) -> io::Result<SectionWriter<W>> {
        let table_bytes = 4 * (1 + tiles);
        // The table comes last: no byte is written twice, so that whoever checks the writing sees each once.
        out.seek(SeekFrom::Start(table_bytes as u64))?;
        let mut writer = SectionWriter { out, lengths: Vec::with_capacity(table_bytes), table_bytes };
        writer.part(head)?;
        Ok(writer)
    }

    /// Writes the next tile.
    ///
    /// # Errors
    /// Those of `out`; if the tile has 4 GiB or more.
    pub fn tile(&mut self, tile: &[u8]) -> io::Result<()> {
        self.part(tile)
    }

    fn part(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a tile of 4 GiB or more"))?;
        self.lengths.extend(length.to_le_bytes());
        self.out.write_all(bytes)
    }

    /// Says how long the tiles are, and gives back what they were written to.
    ///
    /// # Errors
    /// Those of `out`.
    ///
    /// # Panics
    /// If there were not as many tiles as announced.
    pub fn finish(mut self) -> io::Result<W> {
        assert_eq!(self.lengths.len(), self.table_bytes, "as many tiles as announced");
        self.out.rewind()?;
        self.out.write_all(&self.lengths)?;
        self.out.seek(SeekFrom::End(0))?;
        Ok(self.out)
    }
}

/// The bytes of a section of these tiles.
///
/// # Errors
/// If the head or a tile has 4 GiB or more.
pub fn section(head: &[u8], tiles: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let mut writer = SectionWriter::new(Cursor::new(Vec::new()), head, tiles.len())?;
    tiles.iter().try_for_each(|tile| writer.tile(tile))?;
    Ok(writer.finish()?.into_inner())
}

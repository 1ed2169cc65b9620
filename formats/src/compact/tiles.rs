//! Sections of tiles: a head, and rows that decode on their own.

use quant::coding::Coding;

use crate::error::{Error, Result};

/// How the values of a tensor are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// How.
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
    /// How they are coded, and how many rows each has.
    pub tiles: Tiles,
    /// What they share.
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

/// The bytes of a section of these tiles.
///
/// # Errors
/// [`Error::CannotHold`] if the head or a tile has 4 GiB or more.
pub fn section(head: &[u8], tiles: &[Vec<u8>]) -> Result<Vec<u8>> {
    let parts = || std::iter::once(head).chain(tiles.iter().map(Vec::as_slice));
    let mut out = Vec::with_capacity(4 + 4 * tiles.len() + parts().map(<[u8]>::len).sum::<usize>());
    for part in parts() {
        let bytes = u32::try_from(part.len()).map_err(|_| Error::CannotHold {
            format: super::NAME,
            what: format!("a tile of {} bytes", part.len()),
            tensor: None,
        })?;
        out.extend(bytes.to_le_bytes());
    }
    parts().for_each(|part| out.extend(part));
    Ok(out)
}

#![doc = include_str!("README.md")]

mod index;
mod place;
mod read;
#[cfg(test)]
mod tests;
mod tiles;
mod verify;
mod whole;

pub use place::{CompactPlacement, Section, Storage, place};
pub use tiles::{SectionWriter, Tiled, Tiles, section};
pub use whole::whole;

use std::io::{self, Read};

use crate::budget::Budget;
use crate::container::Container;
use crate::error::{Blame, Result};
use crate::format::{Checksums, Format, Sniff};
use crate::limits::Limits;
use crate::mapped::Mapped;

/// The name of the format.
const NAME: &str = "compact";
/// First bytes of a file.
const MAGIC: &[u8; 8] = b"RWKVZ\0\r\n";
/// Last bytes of a file.
const END: &[u8; 8] = b"RWKVZEND";
/// The version that is written and read.
const VERSION: u32 = 1;
/// Bytes in front of the first section.
const HEAD_BYTES: u64 = 16;
/// Alignment of sections: their offsets are multiples of this.
const ALIGNMENT: u64 = 64;
/// Bytes of a checksum.
const SUM_BYTES: u64 = 32;
/// Bytes of the footer.
const FOOTER_BYTES: u64 = 80;
/// Most bytes of values in all zstd sections together.
const ZSTD_BYTES: u64 = 64 << 20;
/// Most values of a tile, and of one that is a single row: readers decode a tile at a time.
const TILE_VALUES: usize = 1 << 20;
const ROW_VALUES: usize = 1 << 24;
/// The logarithm of the window that zstd frames may ask for.
const WINDOW_LOG: u32 = 24;

/// The `bytes` bytes that a zstd frame holds; `None` if it holds another number, or is none.
///
/// # Errors
/// If the budget has not as many bytes left.
fn unpacked(frame: &[u8], bytes: u64, budget: &Budget<'_>, blame: Blame<'_>) -> Result<Option<Vec<u8>>> {
    budget.read_more(frame.len() as u64);
    budget.reserve(bytes.saturating_add(1), blame)?;
    let decoder = || {
        let mut decoder = zstd::Decoder::with_buffer(frame).ok()?;
        decoder.window_log_max(WINDOW_LOG).ok()?;
        Some(decoder)
    };
    // A frame may claim more than it holds: it is unpacked to nowhere before there is room for it.
    let decode = || {
        let held = io::copy(&mut decoder()?.take(bytes + 1), &mut io::sink()).ok()?;
        let mut out = vec![0; usize::try_from(bytes).ok().filter(|_| held == bytes)?];
        decoder()?.read_exact(&mut out).ok()?;
        Some(out)
    };
    Ok(decode())
}

/// The project's own format, for the smallest download.
pub struct Compact;

impl Format for Compact {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "rwkv-quant, which runs it and expands it to all other formats"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["rwkvz"]
    }

    fn sniff(&self, file: Sniff<'_>) -> bool {
        file.bytes.starts_with(MAGIC)
    }

    fn read(&self, file: Mapped, budget: &Budget<'_>) -> Result<Container> {
        read::read(file, budget)
    }

    fn verify_checksums(&self, container: &Container, limits: &Limits) -> Result<Checksums> {
        verify::sums(container, limits)
    }
}

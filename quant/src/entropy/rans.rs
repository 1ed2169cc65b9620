//! Asymmetric numeral systems in sixteen lanes.
//!
//! A state holds 16 to 32 bits. Decoding takes the symbol from the lowest 12 bits, shrinks the state by what the symbol
//! was worth, and if less than 16 bits are left reads 16 more. Encoding is the same backwards, from the last symbol
//! to the first. Symbol `i` of a group belongs to lane `i`, so that a processor works on many at a time; the lanes
//! take their words from one stream in the order in which they need them.
//!
//! ```text
//! 64      states after encoding, 16 x u32
//! 2 n     words, u16 each
//! ```

use super::frequencies::{BITS, Frequencies, TOTAL};
use super::{EntropyError, Fields};
use crate::arch::Lanes;

/// States that symbols go to in turn.
pub const LANES: usize = 16;

/// The least value of a state, and the one that encoding starts and decoding ends with.
pub const LOW: u32 = 1 << 16;

/// A table to encode with.
#[derive(Clone, Debug)]
pub struct Encode([Symbol; 256]);

#[derive(Clone, Copy, Debug, Default)]
struct Symbol {
    frequency: u32,
    start: u32,
}

impl Encode {
    /// The table of `frequencies`.
    pub fn new(frequencies: &Frequencies) -> Encode {
        let mut start = 0;
        Encode(frequencies.parts().map(|f| {
            let symbol = Symbol { frequency: f.into(), start };
            start += symbol.frequency;
            symbol
        }))
    }

    /// True if `symbol` has a frequency.
    pub fn knows(&self, symbol: u8) -> bool {
        self.0[usize::from(symbol)].frequency > 0
    }
}

/// Tables to decode with, one behind the other: for each value of the lowest bits of a state symbol (8 bits), frequency
/// less one (12) and distance from the symbol's start (12).
#[derive(Clone, Debug)]
pub struct Decode(Vec<u32>);

impl Decode {
    /// The tables of these frequencies.
    pub fn new<'a>(all: impl Iterator<Item = &'a Frequencies>) -> Decode {
        let mut out = Vec::new();
        for (n, frequencies) in all.enumerate() {
            for (symbol, f) in (0u32..).zip(frequencies.parts()) {
                let f = u32::from(*f);
                out.extend((0..f).map(|distance| symbol << 24 | (f - 1) << BITS | distance));
            }
            // Frequencies add up to the whole.
            out.resize((n + 1) * TOTAL as usize, 0);
        }
        Decode(out)
    }

    /// The entries of all tables, 4096 each.
    pub fn entries(&self) -> &[u32] {
        &self.0
    }
}

/// Takes symbols from the last to the first.
#[derive(Clone, Debug)]
pub struct Encoder {
    states: [u32; LANES],
    /// Last first.
    words: Vec<u16>,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder { states: [LOW; LANES], words: Vec::new() }
    }
}

impl Encoder {
    /// Puts a symbol of each of the first lanes, with the table that `which` has for it, before all that were given
    /// already.
    ///
    /// # Panics
    /// If there is no such table. Tables must [know](Encode::knows) their symbols.
    #[inline(always)]
    pub fn push(&mut self, tables: &[Encode], which: &[u8], symbols: &[u8]) {
        let (mut words, mut n) = ([0; LANES], 0);
        for ((state, which), symbol) in self.states.iter_mut().zip(which).zip(symbols).rev() {
            let Symbol { frequency, start } = tables[usize::from(*which)].0[usize::from(*symbol)];
            debug_assert!(frequency > 0);
            let frequency = frequency.max(1);
            // Whether a word is written is as good as random: no branch.
            words[n % LANES] = *state as u16;
            let full = u64::from(*state) >= u64::from(frequency) << (32 - BITS);
            n += usize::from(full);
            let x = *state >> (16 * u32::from(full));
            *state = ((x / frequency) << BITS) + x % frequency + start;
        }
        self.words.extend(&words[..n]);
    }

    /// Appends the stream.
    pub fn finish(&self, out: &mut Vec<u8>) {
        for state in self.states {
            out.extend(state.to_le_bytes());
        }
        out.extend(self.words.iter().rev().flat_map(|w| w.to_le_bytes()));
    }
}

/// Takes a symbol off each of the first states, as many as `out` has, with the table that `which` has for it; tells how
/// many bytes of `window` were read. The same on any processor.
///
/// # Panics
/// If there is no such table.
#[inline(always)]
pub fn take_symbols(
    tables: &Decode,
    which: &[u8],
    states: &mut [u32; LANES],
    window: &[u8; 2 * LANES],
    out: &mut [u8],
) -> usize {
    let mut at = 0;
    for ((state, which), out) in states.iter_mut().zip(which).zip(out) {
        let x = *state;
        let entry = tables.0[usize::from(*which) << BITS | (x & (TOTAL - 1)) as usize];
        *out = (entry >> 24) as u8;
        let frequency = (entry >> BITS & (TOTAL - 1)) + 1;
        let x = frequency * (x >> BITS) + (entry & (TOTAL - 1));
        let i = at & (2 * LANES - 2);
        let word = u32::from(u16::from_le_bytes([window[i], window[i + 1]]));
        // Whether is as good as random: no branch.
        let refill = u32::from(x < LOW);
        *state = (x << (16 * refill)) | (word * refill);
        at += 2 * refill as usize;
    }
    at
}

/// Gives symbols back from the first to the last.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    states: [u32; LANES],
    words: &'a [u8],
    /// Bytes read, perhaps beyond the end.
    read: usize,
}

impl<'a> Decoder<'a> {
    /// Starts at the front of a stream.
    ///
    /// # Errors
    /// If there are no states, or one is less than it can be.
    pub fn new(stream: &'a [u8]) -> Result<Decoder<'a>, EntropyError> {
        let mut fields = Fields(stream);
        let mut states = [0; LANES];
        for state in &mut states {
            *state = u32::from_le_bytes(fields.array("the states of the coder")?);
            if *state < LOW {
                return Err(EntropyError::Field { what: "a state of the coder", value: (*state).into() });
            }
        }
        Ok(Decoder { states, words: fields.0, read: 0 })
    }

    /// Decodes a symbol of each lane with the table that `which` has for it.
    #[inline(always)]
    pub(crate) fn group<S: Lanes>(
        &mut self,
        lanes: S,
        tables: &Decode,
        which: &[u8; LANES],
        out: &mut [u8; LANES],
    ) {
        let rest = self.words.get(self.read..).unwrap_or_default();
        self.read += match rest.first_chunk() {
            Some(window) => lanes.take_symbols(tables, which, &mut self.states, window, out),
            None => take_symbols(tables, which, &mut self.states, &padded(rest), out),
        };
    }

    /// Decodes with one table.
    #[inline(always)]
    pub(crate) fn bytes<S: Lanes>(&mut self, lanes: S, table: &Decode, out: &mut [u8]) {
        let (groups, rest) = out.as_chunks_mut::<LANES>();
        for out in groups {
            self.group(lanes, table, &[0; LANES], out);
        }
        self.rest(table, &[0; LANES][..rest.len()], rest);
    }

    /// Decodes a symbol of each of the first lanes: less than a whole group.
    pub(crate) fn rest(&mut self, tables: &Decode, which: &[u8], out: &mut [u8]) {
        let rest = self.words.get(self.read..).unwrap_or_default();
        self.read += take_symbols(tables, which, &mut self.states, &padded(rest), out);
    }

    /// True if all was read and each lane is back where encoding started.
    ///
    /// # Errors
    /// If not: the stream was damaged.
    pub fn finish(self) -> Result<(), EntropyError> {
        const WHAT: &str = "the coded symbols";
        match self.words.get(self.read..) {
            None => Err(EntropyError::Truncated(WHAT)),
            Some(rest) => Fields(rest).end(WHAT),
        }?;
        if self.states == [LOW; LANES] { Ok(()) } else { Err(EntropyError::State) }
    }
}

/// The words that come next, zeros behind the end.
fn padded(rest: &[u8]) -> [u8; 2 * LANES] {
    let mut window = [0; 2 * LANES];
    let n = rest.len().min(window.len());
    window[..n].copy_from_slice(&rest[..n]);
    window
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arch::{self, Kernel};

    fn encode(symbols: &[u8], table: &Encode) -> Vec<u8> {
        let mut encoder = Encoder::default();
        for symbols in symbols.chunks(LANES).rev() {
            encoder.push(std::slice::from_ref(table), &[0; LANES], symbols);
        }
        let mut out = Vec::new();
        encoder.finish(&mut out);
        out
    }

    fn decode(stream: &[u8], table: &Decode, n: usize) -> Result<Vec<u8>, EntropyError> {
        struct All<'a>(Decoder<'a>, &'a Decode, usize);
        impl Kernel for All<'_> {
            type Output = Result<Vec<u8>, EntropyError>;

            fn run<S: Lanes>(mut self, lanes: S) -> Self::Output {
                let mut out = vec![0; self.2];
                self.0.bytes(lanes, self.1, &mut out);
                self.0.finish()?;
                Ok(out)
            }
        }
        let at = |level| arch::with_limit(level, || arch::dispatch(All(Decoder::new(stream)?, table, n)));
        let found: Vec<_> = arch::Level::available().map(at).collect();
        assert!(found.iter().all(|f| *f == found[0]), "the same at every level");
        found.into_iter().next().unwrap()
    }

    proptest! {
        #[test]
        fn symbols_come_back_in_the_bits_of_their_entropy(
            symbols in proptest::collection::vec(prop_oneof![Just(7u8), 0..4u8, any::<u8>()], 0..3000),
        ) {
            let mut counts = [0; 256];
            for s in &symbols {
                counts[usize::from(*s)] += 1;
            }
            let frequencies = Frequencies::new(&counts);
            let stream = encode(&symbols, &Encode::new(&frequencies));
            let bits = frequencies.bits(&counts) + 64.0 * 8.0;
            prop_assert!(8.0 * stream.len() as f64 <= bits * 1.001 + 16.0);
            let table = Decode::new([&frequencies].into_iter());
            prop_assert_eq!(decode(&stream, &table, symbols.len()), Ok(symbols.clone()));
            if !symbols.is_empty() && stream.len() > 64 {
                let short = decode(&stream[..stream.len() - 2], &table, symbols.len());
                prop_assert!(short.is_err());
            }
        }

        #[test]
        fn any_bytes_are_symbols_or_an_error(
            stream in proptest::collection::vec(any::<u8>(), 0..400), n in 0usize..500,
        ) {
            let table = Decode::new([&Frequencies::new(&std::array::from_fn(|i| i as u32))].into_iter());
            let _ = decode(&stream, &table, n);
        }
    }
}

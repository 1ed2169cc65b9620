//! Whole rows of codes as bytes that decode on their own, given their [`Model`].
//!
//! ```text
//! [4 ...] if rows have classes: bytes that follow, plane of a byte a row
//! 4 ...   bytes that follow, stream of `rans`: the symbols row by row, the symbol of column j in lane j mod 16
//! 4 ...   bytes that follow, the lowest bits of codes whose table has a shift, in the order of the codes, lowest first
//! ...     codes without a symbol: zigzag in LEB128, in their order
//! ```

use std::collections::BTreeMap;

use super::low_bits::{Pack, Unpack};
use super::model::{ESCAPE, symbol};
use super::rans::{Decode, Decoder, Encode, LANES};
use super::{Codes, EntropyError, Fields, Model, planes, push_counted, push_varint, rans};
use crate::arch::{self, Kernel, Lanes};

/// Bytes of a tile beside what its codes take: states of the lanes, whose higher half comes to no use, and lengths.
pub(crate) const FIXED_BYTES: usize = 2 * LANES + 12;

/// Encodes tiles.
#[derive(Clone, Debug)]
pub struct Writer {
    model: Model,
    tables: Vec<Encode>,
}

impl Writer {
    /// For a model that was [fitted](Model::fit).
    pub fn new(model: Model) -> Writer {
        let tables = model.tables.iter().map(|t| Encode::new(&t.frequencies)).collect();
        Writer { model, tables }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Appends a tile.
    ///
    /// # Panics
    /// If the codes are not of the model's columns.
    pub fn encode(&self, codes: Codes<'_>, out: &mut Vec<u8>) {
        let Codes { values, cols } = codes;
        assert!(cols == self.model.cols() && values.len().is_multiple_of(cols.max(1)));
        let mut low = Pack::default();
        let mut listed = Vec::new();
        let mut classes = Vec::with_capacity(values.len() / cols.max(1));
        let mut symbols = vec![ESCAPE; values.len()];
        let mut of_class = BTreeMap::new();
        for (row, symbols) in values.chunks_exact(cols.max(1)).zip(symbols.chunks_exact_mut(cols.max(1))) {
            let class = self.model.row_class(row);
            classes.push(class);
            let columns: &Columns = of_class.entry(class).or_insert_with(|| Columns::new(&self.model, class));
            for (((code, out), table), shift) in
                row.iter().zip(symbols).zip(&columns.which).zip(&columns.shifts)
            {
                let found = symbol(*code, *shift);
                if found != ESCAPE && self.tables[usize::from(*table)].knows(found) {
                    *out = found;
                    low.push(*code, *shift);
                } else {
                    push_varint((code << 1 ^ code >> 31) as u32, &mut listed);
                }
            }
        }
        let mut encoder = rans::Encoder::default();
        for (row, class) in symbols.chunks_exact(cols.max(1)).zip(&classes).rev() {
            let which = &of_class[class].which;
            for (symbols, which) in row.chunks(LANES).zip(which.chunks(LANES)).rev() {
                encoder.push(&self.tables, which, symbols);
            }
        }
        let mut part = Vec::new();
        if self.model.rows.is_some() {
            planes::encode(&classes, &mut part);
            push_counted(&part, out);
            part.clear();
        }
        encoder.finish(&mut part);
        push_counted(&part, out);
        push_counted(&low.finish(), out);
        out.extend(listed);
    }
}

/// Decodes tiles.
#[derive(Clone, Debug)]
pub struct Reader {
    model: Model,
    tables: Decode,
    shifted: bool,
}

impl Reader {
    /// For the tiles of a model.
    pub fn new(model: Model) -> Reader {
        let tables = Decode::new(model.tables.iter().map(|t| &t.frequencies));
        let shifted = model.tables.iter().any(|t| t.shift > 0);
        Reader { model, tables, shifted }
    }

    /// Fills `out` with the codes of a tile. `finish` gets every row as soon as it is there: its number and its codes.
    ///
    /// # Errors
    /// [`EntropyError`] unless `bytes` are a tile of as many rows; `out` is then unspecified.
    ///
    /// # Panics
    /// If `out` is no whole number of rows.
    pub fn decode(
        &self,
        bytes: &[u8],
        out: &mut [f32],
        finish: impl FnMut(usize, &mut [f32]),
    ) -> Result<(), EntropyError> {
        let cols = self.model.cols();
        assert!(out.len().is_multiple_of(cols.max(1)));
        let mut fields = Fields(bytes);
        let mut classes = vec![0; out.len() / cols.max(1)];
        if let Some(greatest) = self.model.rows {
            planes::decode(fields.counted("the classes of rows")?, &mut classes)?;
            if let Some(class) = classes.iter().find(|c| **c > greatest) {
                return Err(EntropyError::Field { what: "the class of a row", value: (*class).into() });
            }
        }
        let decoder = Decoder::new(fields.counted("the coded symbols")?)?;
        let low = Unpack::new(fields.counted("the lowest bits")?);
        let codes = ReadCodes { low, listed: fields, shifted: self.shifted };
        arch::dispatch(DecodeTile { reader: self, classes: &classes, decoder, codes, out, finish })
    }
}

struct DecodeTile<'a, F> {
    reader: &'a Reader,
    classes: &'a [u8],
    decoder: Decoder<'a>,
    codes: ReadCodes<'a>,
    out: &'a mut [f32],
    finish: F,
}

impl<F: FnMut(usize, &mut [f32])> Kernel for DecodeTile<'_, F> {
    type Output = Result<(), EntropyError>;

    #[inline(always)]
    fn run<S: Lanes>(mut self, lanes: S) -> Self::Output {
        let Reader { model, tables, .. } = self.reader;
        let cols = model.cols();
        let mut of_class = BTreeMap::new();
        for (n, (row, class)) in self.out.chunks_exact_mut(cols.max(1)).zip(self.classes).enumerate() {
            let columns: &Columns = of_class.entry(*class).or_insert_with(|| Columns::new(model, *class));
            let (which, which_rest) = columns.which.as_chunks::<LANES>();
            let (shifts, shifts_rest) = columns.shifts.as_chunks::<LANES>();
            let (groups, rest) = row.as_chunks_mut::<LANES>();
            let mut symbols = [0; LANES];
            for ((out, which), shifts) in groups.iter_mut().zip(which).zip(shifts) {
                self.decoder.group(lanes, tables, which, &mut symbols);
                self.codes.group(lanes, &symbols, shifts, out)?;
            }
            let symbols = &mut symbols[..rest.len()];
            self.decoder.rest(tables, which_rest, symbols);
            self.codes.each(symbols, shifts_rest, rest)?;
            (self.finish)(n, row);
        }
        self.decoder.finish()?;
        self.codes.low.finish()?;
        self.codes.listed.end("a tile")
    }
}

/// Table and shift of each column, for rows of a class.
struct Columns {
    which: Vec<u8>,
    shifts: Vec<u8>,
}

impl Columns {
    fn new(model: &Model, class: u8) -> Columns {
        let which: Vec<u8> = model.columns.iter().map(|column| model.table(class, *column)).collect();
        let shifts = which.iter().map(|table| model.tables[usize::from(*table)].shift).collect();
        Columns { which, shifts }
    }
}

/// Parts of codes beside their symbols.
struct ReadCodes<'a> {
    low: Unpack<'a>,
    listed: Fields<'a>,
    /// True if any have lowest bits.
    shifted: bool,
}

impl ReadCodes<'_> {
    /// The codes of sixteen symbols.
    #[inline(always)]
    fn group<S: Lanes>(
        &mut self,
        lanes: S,
        symbols: &[u8; LANES],
        shifts: &[u8; LANES],
        out: &mut [f32; LANES],
    ) -> Result<(), EntropyError> {
        // All are looked at: that takes fewer instructions.
        let escaped = symbols.iter().fold(false, |escaped, symbol| escaped | (*symbol == ESCAPE));
        if !escaped && !self.shifted {
            for (out, symbol) in out.iter_mut().zip(symbols) {
                *out = f32::from(i16::from(*symbol) - 128);
            }
            return Ok(());
        }
        if !escaped && self.low.codes(lanes, symbols, shifts, out) {
            return Ok(());
        }
        self.each(symbols, shifts, out)
    }

    /// The codes of any symbols, one after the other.
    #[inline(never)]
    fn each(&mut self, symbols: &[u8], shifts: &[u8], out: &mut [f32]) -> Result<(), EntropyError> {
        for ((out, symbol), shift) in out.iter_mut().zip(symbols).zip(shifts) {
            let code = if *symbol == ESCAPE {
                let v = self.listed.varint("a code by itself")?;
                (v >> 1) as i32 ^ -((v & 1) as i32)
            } else {
                ((i32::from(*symbol) - 128) << shift) + self.low.next(*shift)?
            };
            *out = code as f32;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    /// Codes whose size depends on row and column.
    fn codes(rows: usize, cols: usize, size: f64, seed: u64) -> Vec<i32> {
        let mut random = Random::new(seed);
        let mut factors = |n: usize| (0..n).map(|_| random.normal().abs() + 0.02).collect::<Vec<f64>>();
        let (of_rows, of_columns) = (factors(rows), factors(cols));
        (0..rows * cols)
            .map(|i| (random.normal() * size * of_rows[i / cols] * of_columns[i % cols]) as i32)
            .collect()
    }

    /// Bytes of model and tile.
    fn round_trip(sample: &[i32], all: &[i32], cols: usize) -> usize {
        let (model, _) = Model::fit(Codes { values: sample, cols }, all.len() / cols);
        let mut head = Vec::new();
        model.write(&mut head);
        let mut bytes = Vec::new();
        Writer::new(model).encode(Codes { values: all, cols }, &mut bytes);
        let reader = Reader::new(Model::read(&head, cols).unwrap());
        let mut out = vec![0.0; all.len()];
        reader.decode(&bytes, &mut out, |_, _| ()).unwrap();
        assert!(out.iter().zip(all).all(|(out, code)| *out == *code as f32));
        for end in (0..bytes.len()).step_by(97) {
            assert!(reader.decode(&bytes[..end], &mut out, |_, _| ()).is_err(), "{end} of {}", bytes.len());
        }
        head.len() + bytes.len()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn codes_come_back(rows in 0usize..20, cols in 1usize..90, octaves in 0..20i32, seed in any::<u64>()) {
            let all = codes(rows, cols, f64::from(octaves).exp2(), seed);
            round_trip(&all, &all, cols);
            round_trip(&all[..rows / 2 * cols], &all, cols);
        }

        #[test]
        fn damage_is_an_error_or_other_codes(
            at in any::<proptest::sample::Index>(), flip in 1..=255u8, size in 0.5..200.0, seed in any::<u64>(),
        ) {
            let cols = 50;
            let all = codes(40, cols, size, seed);
            let (model, _) = Model::fit(Codes { values: &all, cols }, 40);
            let mut head = Vec::new();
            model.write(&mut head);
            let mut bytes = Vec::new();
            Writer::new(model).encode(Codes { values: &all, cols }, &mut bytes);
            let reader = Reader::new(Model::read(&head, cols).unwrap());
            let mut out = vec![0.0; all.len()];
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] ^= flip;
            let _ = reader.decode(&damaged, &mut out, |_, _| ());
            let i = at.index(head.len());
            head[i] ^= flip;
            if let Ok(model) = Model::read(&head, cols) {
                let _ = Reader::new(model).decode(&bytes, &mut out, |_, _| ());
            }
            prop_assert!(Model::read(&head[..i], cols).is_err());
        }

        #[test]
        fn any_bytes_are_a_model_or_an_error(bytes in proptest::collection::vec(0..5u8, 0..200)) {
            if let Ok(model) = Model::read(&bytes, 7) {
                let _ = Reader::new(model).decode(&bytes, &mut [0.0; 21], |_, _| ());
            }
        }
    }

    #[test]
    fn classes_save_bits() {
        let (rows, cols) = (256, 256);
        let all = codes(rows, cols, 5.0, 3);
        let mut counts = std::collections::BTreeMap::new();
        for v in &all {
            *counts.entry(*v).or_insert(0.0) += 1.0;
        }
        let n = all.len() as f64;
        let one_table: f64 = counts.values().map(|c: &f64| c * (n / c).log2()).sum::<f64>() / n;
        let bits = 8.0 * round_trip(&all, &all, cols) as f64 / n;
        assert!(bits < one_table - 0.2, "{bits} {one_table}");
        let (_, expected) = Model::fit(Codes { values: &all, cols }, rows);
        assert!((bits - expected).abs() < 0.03, "{bits} {expected}");
    }
}

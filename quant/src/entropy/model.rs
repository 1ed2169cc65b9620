//! Choice of the table that a code is coded with.
//!
//! Codes differ in size from column to column and from row to row, and a table fits codes of one size: a single one for
//! a matrix costs 0.1 to 0.5 bits a weight. The mean square of the codes at `(row, column)` is about a product of two
//! factors, so its logarithm is a sum: rows and columns have small integers as classes, whose sum is a *level*, half an
//! octave of the mean square wide. Neighbouring levels share a table wherever that makes the file shorter.
//!
//! ```text
//! 1       flags: 1 columns have classes, 2 rows have
//! 1       number of tables
//! each    1 levels that share the table, 1 shift, frequencies
//! [4 ...] if columns have classes: bytes that follow, plane of a byte a column
//! [1]     if rows have classes: the greatest
//! ```
//!
//! A table of shift `s` is over the codes without their lowest `s` bits, which are stored as they are: large codes are
//! spread evenly over so few values. Symbol `128 + v` stands for a code `v` (shifted) of -127 to 127, symbol 0 for any
//! code without a symbol, which is listed by itself.

use std::collections::BTreeMap;

use super::frequencies::BITS;
use super::{EntropyError, Fields, Frequencies, low_bits, planes, push_counted};

/// The symbol of codes without one.
pub(super) const ESCAPE: u8 = 0;

/// The greatest class of a row or a column.
const GREATEST: u8 = 100;

/// The greatest shift: codes have 23 bits.
const SHIFT: u8 = low_bits::MOST;

/// Codes of this mean magnitude lose nothing that counts when their lowest bit is not coded.
const LARGE: u64 = 10;

const COLUMNS: u8 = 1;
const ROWS: u8 = 2;

/// Rows of codes.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    /// Row-major, a whole number of rows; of magnitude below 2^22.
    pub values: &'a [i32],
    /// Length of a row.
    pub cols: usize,
}

/// The tables that the codes of a matrix are coded with, and the classes of its columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The class of each column.
    pub(super) columns: Vec<u8>,
    /// The greatest class of a row; `None` if rows have none.
    pub(super) rows: Option<u8>,
    /// The table of each level; those beyond have the last.
    pub(super) levels: Vec<u8>,
    pub(super) tables: Vec<Table>,
    classifier: Classifier,
}

/// Frequencies of codes without their lowest bits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub shift: u8,
    pub frequencies: Frequencies,
}

/// Rule that gives rows their class; not in the bytes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Classifier {
    /// One over the mean square of each column.
    weights: Vec<f64>,
    /// The level of class 0.
    origin: i32,
}

/// The symbol of a code, if it has one in any table of that shift.
#[inline(always)]
pub(super) fn symbol(code: i32, shift: u8) -> u8 {
    let v = code >> shift;
    if (-127..=127).contains(&v) { (v + 128) as u8 } else { ESCAPE }
}

/// Halves of an octave, linear in between: a logarithm of integers alone.
fn half_octaves(v: f64) -> i32 {
    (v.to_bits() >> 51) as i32
}

impl Model {
    /// The model that a sample of the rows takes the fewest bits with, and the bits that each code then takes on
    /// average, everything but the sixteen states of each tile counted. The whole matrix has `rows` rows.
    ///
    /// # Panics
    /// If the codes are no whole number of rows.
    pub fn fit(sample: Codes<'_>, rows: usize) -> (Model, f64) {
        let Codes { values, cols } = sample;
        assert!(values.len().is_multiple_of(cols.max(1)));
        let n = values.len() / cols.max(1);
        let mut squares = vec![0.0; cols];
        for row in values.chunks_exact(cols.max(1)) {
            for (sum, v) in squares.iter_mut().zip(row) {
                *sum += f64::from(*v).powi(2);
            }
        }
        // Codes that are all 0 are of some size too.
        let squares: Vec<f64> = squares.iter().map(|s| s / n.max(1) as f64 + 1.0 / 16.0).collect();
        let least = squares.iter().map(|s| half_octaves(*s)).min().unwrap_or(0);
        let class = |s: &f64| (half_octaves(*s) - least).clamp(0, GREATEST.into()) as u8;
        let columns: Vec<u8> = squares.iter().map(class).collect();
        let mut best: Option<(Model, f64)> = None;
        for flags in 0..=COLUMNS | ROWS {
            let by_column = flags & COLUMNS != 0;
            let whole = squares.iter().sum::<f64>() / cols.max(1) as f64;
            let weights = squares.iter().map(|s| if by_column { 1.0 / s } else { 1.0 / whole }).collect();
            let mut model = Model {
                columns: if by_column { columns.clone() } else { vec![0; cols] },
                rows: None,
                levels: Vec::new(),
                tables: Vec::new(),
                classifier: Classifier { weights, origin: 0 },
            };
            let mut classes = vec![0; n];
            if flags & ROWS != 0 {
                let of = |row| model.classifier.level(row);
                let found: Vec<i32> = values.chunks_exact(cols.max(1)).map(of).collect();
                model.classifier.origin = found.iter().copied().min().unwrap_or(0);
                let greatest = found.iter().map(|l| l - model.classifier.origin).max().unwrap_or(0);
                let greatest = greatest.clamp(0, GREATEST.into());
                model.rows = Some(greatest as u8);
                for (class, level) in classes.iter_mut().zip(found) {
                    *class = (level - model.classifier.origin).clamp(0, greatest) as u8;
                }
            }
            let coded = model.fit_tables(sample, &classes);
            let mut head = Vec::new();
            model.write(&mut head);
            let mut of_rows = Vec::new();
            if model.rows.is_some() {
                planes::encode(&classes, &mut of_rows);
            }
            let per_code = |bits: f64, rows: usize| bits / (rows * cols).max(1) as f64;
            let bits =
                per_code(coded + 8.0 * of_rows.len() as f64, n) + per_code(8.0 * head.len() as f64, rows);
            if best.as_ref().is_none_or(|(_, least)| bits < *least) {
                best = Some((model, bits));
            }
        }
        best.unwrap_or_else(|| unreachable!("there are four ways"))
    }

    /// Makes the tables for rows of these classes; the bits that their codes then take.
    fn fit_tables(&mut self, sample: Codes<'_>, rows: &[u8]) -> f64 {
        let levels = 1
            + usize::from(self.rows.unwrap_or(0))
            + usize::from(self.columns.iter().copied().max().unwrap_or(0));
        let level = |row: u8, column: u8| usize::from(row) + usize::from(column);
        let by_row = || sample.values.chunks_exact(sample.cols.max(1)).zip(rows);
        // For each class of rows their number, and the sums of their columns.
        let mut of_class = BTreeMap::new();
        for (row, class) in by_row() {
            let (count, sums) = of_class.entry(*class).or_insert_with(|| (0, vec![0u64; sample.cols]));
            *count += 1;
            for (sum, v) in sums.iter_mut().zip(row) {
                *sum += u64::from(v.unsigned_abs());
            }
        }
        let mut sums = vec![(0u64, 0u64); levels];
        for (class, (rows, of_columns)) in of_class {
            for (of_column, column) in of_columns.iter().zip(&self.columns) {
                let (count, sum) = &mut sums[level(class, *column)];
                *count += rows;
                *sum += of_column;
            }
        }
        let shifts: Vec<u8> = sums
            .iter()
            .map(|(count, sum)| (0..SHIFT).find(|s| sum >> s <= LARGE * count).unwrap_or(SHIFT))
            .collect();
        let mut counts = vec![[0u32; 256]; levels];
        for (row, class) in by_row() {
            // Every level that a column of the row can have.
            let (counts, shifts) = (&mut counts[usize::from(*class)..], &shifts[usize::from(*class)..]);
            for (v, column) in row.iter().zip(&self.columns) {
                let column = usize::from(*column);
                counts[column][usize::from(symbol(*v, shifts[column]))] += 1;
            }
        }
        let mut groups: Vec<Group> = shifts.iter().zip(counts).map(|(s, c)| Group::new(1, *s, c)).collect();
        let mut merged: Vec<Option<Group>> = groups.windows(2).map(|pair| pair[0].merged(&pair[1])).collect();
        loop {
            let gain = |i: usize| {
                let both = groups[i].bits + groups[i + 1].bits;
                merged[i].as_ref().map(|m| both - m.bits).filter(|gain| *gain >= 0.0)
            };
            let best = (0..merged.len()).filter_map(|i| Some((i, gain(i)?)));
            let Some((i, _)) = best.reduce(|a, b| if b.1 > a.1 { b } else { a }) else { break };
            if let Some(group) = merged.remove(i) {
                groups.remove(i + 1);
                groups[i] = group;
            }
            if i > 0 {
                merged[i - 1] = groups[i - 1].merged(&groups[i]);
            }
            if i < merged.len() {
                merged[i] = groups[i].merged(&groups[i + 1]);
            }
        }
        self.levels.clear();
        for (at, group) in (0u8..).zip(&groups) {
            self.levels.extend(std::iter::repeat_n(at, group.levels));
        }
        let bits = groups.iter().map(|g| g.bits - g.table_bits).sum();
        let table = |g: Group| Table { shift: g.shift, frequencies: g.frequencies };
        self.tables = groups.into_iter().map(table).collect();
        bits
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.columns.len()
    }

    /// The class of a row.
    pub(super) fn row_class(&self, row: &[i32]) -> u8 {
        let Some(greatest) = self.rows else { return 0 };
        (self.classifier.level(row) - self.classifier.origin).clamp(0, greatest.into()) as u8
    }

    /// The table of a level.
    #[inline(always)]
    pub(super) fn table(&self, row: u8, column: u8) -> u8 {
        let level = usize::from(row) + usize::from(column);
        self.levels.get(level).or(self.levels.last()).copied().unwrap_or(0)
    }

    /// Appends the bytes of the model.
    pub fn write(&self, out: &mut Vec<u8>) {
        let by_column = self.columns.iter().any(|c| *c > 0);
        let rows = if self.rows.is_some() { ROWS } else { 0 };
        out.push(rows | if by_column { COLUMNS } else { 0 });
        out.push(self.tables.len() as u8);
        for (at, table) in (0u8..).zip(&self.tables) {
            out.push(self.levels.iter().filter(|l| **l == at).count() as u8);
            out.push(table.shift);
            table.frequencies.write(out);
        }
        if by_column {
            let mut plane = Vec::new();
            planes::encode(&self.columns, &mut plane);
            push_counted(&plane, out);
        }
        out.extend(self.rows);
    }

    /// The model that [`write`](Model::write) wrote, of `cols` columns; good for decoding.
    ///
    /// # Errors
    /// [`EntropyError`] if the bytes are no model.
    pub fn read(bytes: &[u8], cols: usize) -> Result<Model, EntropyError> {
        let mut fields = Fields(bytes);
        let [flags, count] = fields.array("the model")?;
        if flags > COLUMNS | ROWS {
            return Err(EntropyError::Field { what: "the flags of the model", value: flags.into() });
        }
        let (mut levels, mut tables) = (Vec::new(), Vec::new());
        for at in 0..count {
            let [n, shift] = fields.array("a table of the model")?;
            if shift > SHIFT {
                return Err(EntropyError::Field { what: "the shift of a table", value: shift.into() });
            }
            levels.extend(std::iter::repeat_n(at, n.into()));
            tables.push(Table { shift, frequencies: Frequencies::read(&mut fields)? });
        }
        if levels.is_empty() {
            return Err(EntropyError::Field { what: "the number of levels", value: 0 });
        }
        let mut columns = vec![0; cols];
        if flags & COLUMNS != 0 {
            planes::decode(fields.counted("the classes of columns")?, &mut columns)?;
        }
        let rows = if flags & ROWS != 0 { Some(fields.u8("the classes of rows")?) } else { None };
        fields.end("the model")?;
        Ok(Model { columns, rows, levels, tables, classifier: Classifier::default() })
    }
}

impl Classifier {
    /// Level of a row: size of its codes beside those of its columns.
    fn level(&self, row: &[i32]) -> i32 {
        let mut sums = [0.0; 8];
        let (rows, rest) = row.as_chunks::<8>();
        let (weights, weights_rest) = self.weights.as_chunks::<8>();
        for (row, weights) in rows.iter().zip(weights) {
            for k in 0..8 {
                sums[k] += f64::from(row[k]) * f64::from(row[k]) * weights[k];
            }
        }
        let rest: f64 = rest.iter().zip(weights_rest).map(|(v, w)| f64::from(*v).powi(2) * w).sum();
        half_octaves((sums.iter().sum::<f64>() + rest) / row.len().max(1) as f64 + 1.0 / 4096.0)
    }
}

/// Levels that share a table.
struct Group {
    levels: usize,
    shift: u8,
    /// Counts of all symbols, before rare ones become escapes.
    counts: [u32; 256],
    frequencies: Frequencies,
    table_bits: f64,
    /// Bits of all codes, and of the table.
    bits: f64,
}

impl Group {
    fn new(levels: usize, shift: u8, counts: [u32; 256]) -> Group {
        let total: u32 = counts.iter().sum();
        // A symbol takes a byte of the table and one part of 4096 from all others; an escape takes a byte each time.
        let price = 8.0 + f64::from(total) * std::f64::consts::LOG2_E / f64::from(1 << BITS);
        let mut kept = counts;
        let mut escapes = counts[usize::from(ESCAPE)];
        for (i, count) in kept.iter_mut().enumerate() {
            if i != usize::from(ESCAPE) && 8.0 * f64::from(*count) < price {
                escapes += std::mem::take(count);
            }
        }
        kept[usize::from(ESCAPE)] = escapes.max(1);
        let frequencies = Frequencies::new(&kept);
        let mut table = Vec::new();
        frequencies.write(&mut table);
        let table_bits = 8.0 * (2 + table.len()) as f64;
        let codes = frequencies.bits(&kept) + 12.0 * f64::from(escapes) + f64::from(shift) * f64::from(total);
        Group { levels, shift, counts, frequencies, table_bits, bits: table_bits + codes }
    }

    /// Both with one table; `None` if it cannot be.
    fn merged(&self, other: &Group) -> Option<Group> {
        let (a, b) = (self.counts.iter().any(|c| *c > 0), other.counts.iter().any(|c| *c > 0));
        let shift = match (a, b) {
            (true, true) if self.shift != other.shift => return None,
            (false, _) => other.shift,
            (true, _) => self.shift,
        };
        let levels = self.levels + other.levels;
        let sum = |i| self.counts[i] + other.counts[i];
        Some(Group::new(levels, shift, std::array::from_fn(sum)))
    }
}

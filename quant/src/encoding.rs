//! The registry of encodings: ids, names and exact sizes.

use std::fmt;
use std::str::FromStr;

/// Storage type of the elements of a tensor.
///
/// Elements are stored in blocks of [`block_len`](Encoding::block_len) values that take
/// [`block_bytes`](Encoding::block_bytes) bytes; plain types are blocks of one. The names are those of the projects
/// that define the types (ggml's for the block formats, web-rwkv's for `int8` and `fp4`, bitsandbytes' for `nf4`), in
/// lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs)] // the names speak; sizes are in the table below
pub enum Encoding {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    Bool,
    U8,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    IQ4NL,
    IQ4XS,
    IQ3S,
    IQ3XXS,
    IQ2S,
    IQ2XS,
    IQ2XXS,
    Int8,
    Fp4,
    Nf4,
}

/// One row of the table: encoding, name, values in a block, bytes in a block.
type Row = (Encoding, &'static str, usize, usize);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    (Encoding::F64,     "f64",       1,   8),
    (Encoding::F32,     "f32",       1,   4),
    (Encoding::F16,     "f16",       1,   2),
    (Encoding::BF16,    "bf16",      1,   2),
    (Encoding::F8E4M3,  "f8_e4m3",   1,   1),
    (Encoding::Bool,    "bool",      1,   1),
    (Encoding::U8,      "u8",        1,   1),
    (Encoding::I8,      "i8",        1,   1),
    (Encoding::I16,     "i16",       1,   2),
    (Encoding::I32,     "i32",       1,   4),
    (Encoding::I64,     "i64",       1,   8),
    (Encoding::Q4_0,    "q4_0",     32,  18),
    (Encoding::Q4_1,    "q4_1",     32,  20),
    (Encoding::Q5_0,    "q5_0",     32,  22),
    (Encoding::Q5_1,    "q5_1",     32,  24),
    (Encoding::Q8_0,    "q8_0",     32,  34),
    (Encoding::Q2K,     "q2_k",    256,  84),
    (Encoding::Q3K,     "q3_k",    256, 110),
    (Encoding::Q4K,     "q4_k",    256, 144),
    (Encoding::Q5K,     "q5_k",    256, 176),
    (Encoding::Q6K,     "q6_k",    256, 210),
    (Encoding::Q8K,     "q8_k",    256, 292),
    (Encoding::IQ4NL,   "iq4_nl",   32,  18),
    (Encoding::IQ4XS,   "iq4_xs",  256, 136),
    (Encoding::IQ3S,    "iq3_s",   256, 110),
    (Encoding::IQ3XXS,  "iq3_xxs", 256,  98),
    (Encoding::IQ2S,    "iq2_s",   256,  82),
    (Encoding::IQ2XS,   "iq2_xs",  256,  74),
    (Encoding::IQ2XXS,  "iq2_xxs", 256,  66),
    (Encoding::Int8,    "int8",    128, 132),
    (Encoding::Fp4,     "fp4",      64,  34),
    (Encoding::Nf4,     "nf4",      64,  36),
];

// The table stands in the order of the enum, so that an encoding is its own index.
const _: () = {
    let mut i = 0;
    while i < TABLE.len() {
        assert!(TABLE[i].0 as usize == i);
        i += 1;
    }
};

impl Encoding {
    /// Every encoding, in the order of the table.
    pub fn all() -> impl Iterator<Item = Encoding> {
        TABLE.iter().map(|row| row.0)
    }

    /// The encoding's name, in lower case: `f16`, `q8_0`, `q4_k`.
    pub const fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// Number of values per block (1 for plain types).
    pub const fn block_len(self) -> usize {
        TABLE[self as usize].2
    }

    /// Number of bytes per block.
    pub const fn block_bytes(self) -> usize {
        TABLE[self as usize].3
    }

    /// Bits a weight, including the scales of the block.
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// True if blocks run on across the ends of rows, so that only the number of all values counts.
    pub const fn crosses_rows(self) -> bool {
        matches!(self, Encoding::Int8 | Encoding::Fp4 | Encoding::Nf4)
    }

    /// Number of code bytes at the start of a block, if files hold planar blocks (the codes of all blocks in one place
    /// and the scales in another); else the bytes of the whole block.
    pub const fn code_bytes(self) -> usize {
        match self {
            Encoding::Int8 => 128,
            Encoding::Fp4 | Encoding::Nf4 => 32,
            _ => self.block_bytes(),
        }
    }

    /// Exact bytes of a matrix of so many rows and columns; `None` as for [`row_bytes`](Encoding::row_bytes).
    pub fn matrix_bytes(self, rows: u64, cols: u64) -> Option<u64> {
        if self.crosses_rows() {
            self.row_bytes(rows.checked_mul(cols)?)
        } else {
            self.row_bytes(cols)?.checked_mul(rows)
        }
    }

    /// Exact bytes of a row of `cols` values; `None` if the row is no whole number of blocks or the size
    /// does not fit in 64 bits.
    pub fn row_bytes(self, cols: u64) -> Option<u64> {
        let len = self.block_len() as u64;
        if !cols.is_multiple_of(len) {
            return None;
        }
        (cols / len).checked_mul(self.block_bytes() as u64)
    }

    /// True if a block is a single value (no scales shared between neighbours).
    pub const fn is_plain(self) -> bool {
        self.block_len() == 1
    }

    /// True if it holds weights: any encoding but booleans and integers.
    pub const fn is_real(self) -> bool {
        use Encoding::*;
        !matches!(self, Bool | U8 | I8 | I16 | I32 | I64)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Encoding {
    type Err = ();

    /// Finds an encoding by its [name](Encoding::name), in any case.
    fn from_str(name: &str) -> Result<Self, ()> {
        Self::all().find(|e| e.name().eq_ignore_ascii_case(name)).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_parse_back() {
        for e in Encoding::all() {
            assert_eq!(e.name().to_uppercase().parse(), Ok(e));
        }
        assert!("q4_9".parse::<Encoding>().is_err());
    }

    #[test]
    fn row_bytes_counts_whole_blocks_only() {
        assert_eq!(Encoding::Q8_0.row_bytes(64), Some(68));
        assert_eq!(Encoding::Q4K.row_bytes(320), None);
        assert_eq!(Encoding::F32.row_bytes(u64::MAX), None);
        assert_eq!(Encoding::BF16.row_bytes(0), Some(0));
        assert_eq!(Encoding::Q8_0.matrix_bytes(4, 16), None);
        assert_eq!(Encoding::Fp4.matrix_bytes(4, 16), Some(34));
    }
}

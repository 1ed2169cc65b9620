//! File types: the names that people ask for, and the encoding of each role of tensors under them.

use quant::Encoding;

use crate::error::{Error, Result};
use crate::model::Role;

/// A file type: the name people ask for, and the encoding that each role gets under it.
#[derive(Debug, PartialEq, Eq)]
pub struct FileType {
    /// The name, as llama.cpp's users know it.
    pub name: &'static str,
    /// Number of the type in GGUF's `general.file_type`, if llama.cpp knows it.
    pub gguf_number: Option<u32>,
    /// Large matrices.
    pub matrix: Encoding,
    /// The embedding.
    pub embedding: Encoding,
    /// The output layer.
    pub head: Encoding,
    /// Small low-rank matrices, where the target does not fix their type.
    pub low_rank: Encoding,
    /// The levels of codes that stand for any.
    pub levels: Levels,
    /// True if all matrices are coded at any number of bits per weight.
    pub coded: bool,
}

/// The 16 levels that the codes of [`Encoding::Fp4`] stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Levels {
    /// NormalFloat4.
    #[default]
    Nf4,
    /// Quantiles of Student's t distribution.
    Sf4,
}

/// A file of one plain encoding, or of q8_0.
const fn plain(name: &'static str, gguf_number: u32, e: Encoding) -> FileType {
    FileType { gguf_number: Some(gguf_number), ..of_one(name, e) }
}

/// A file type of one encoding that llama.cpp does not know.
const fn of_one(name: &'static str, e: Encoding) -> FileType {
    FileType {
        name,
        gguf_number: None,
        matrix: e,
        embedding: e,
        head: e,
        low_rank: e,
        levels: Levels::Nf4,
        coded: false,
    }
}

/// A file of web-rwkv of fewer than 8 bits. Its embedding is always f16; the low-rank matrices, small and used in every
/// step, keep 8.
const fn levels(name: &'static str, levels: Levels) -> FileType {
    FileType { low_rank: Encoding::Int8, levels, ..of_one(name, Encoding::Fp4) }
}

/// A file of fewer than 8 bits: as in llama.cpp's files the head keeps 6 bits, and the low-rank matrices, small
/// and used in every step, 8.
const fn blocks(name: &'static str, gguf_number: u32, e: Encoding) -> FileType {
    FileType { head: Encoding::Q6K, low_rank: Encoding::Q8_0, ..plain(name, gguf_number, e) }
}

/// The file type under which every tensor keeps the type that it has.
const SOURCE: &str = "source";
/// The file type of any number of bits per weight.
pub const CODED: &str = "coded";

/// Every file type: `source`, web-rwkv's, bitsandbytes' (`nf4_dq`: with double quantization), and llama-quantize's, as
/// far as their encodings can be made here. Its mixtures of types know the tensor names of other architectures only, so for RWKV-6 and 7 q4_k_s, q4_k_m and the like are one and the same
/// there, and here. (For the hybrids with Qwen2 it gives some `ffn_down` more bits; that mixture is not made here.)
#[rustfmt::skip]
pub static FILE_TYPES: &[FileType] = &[
    of_one(SOURCE,      Encoding::F32),
    plain("f32",     0, Encoding::F32),
    plain("f16",     1, Encoding::F16),
    plain("bf16",   32, Encoding::BF16),
    plain("q8_0",    7, Encoding::Q8_0),
    blocks("q6_k",  18, Encoding::Q6K),
    blocks("q5_k_m", 17, Encoding::Q5K),
    blocks("q5_k_s", 16, Encoding::Q5K),
    blocks("q5_1",   9, Encoding::Q5_1),
    blocks("q5_0",   8, Encoding::Q5_0),
    blocks("q4_k_m", 15, Encoding::Q4K),
    blocks("q4_k_s", 14, Encoding::Q4K),
    blocks("q4_1",   3, Encoding::Q4_1),
    blocks("q4_0",   2, Encoding::Q4_0),
    blocks("iq4_nl", 25, Encoding::IQ4NL),
    blocks("iq4_xs", 30, Encoding::IQ4XS),
    blocks("q3_k_l", 13, Encoding::Q3K),
    blocks("q3_k_m", 12, Encoding::Q3K),
    blocks("q3_k_s", 11, Encoding::Q3K),
    blocks("q2_k",  10, Encoding::Q2K),
    of_one("int8",      Encoding::Int8),
    FileType { head: Encoding::Int8, ..levels("nf4_l", Levels::Nf4) },
    levels("nf4",       Levels::Nf4),
    levels("sf4",       Levels::Sf4),
    FileType { low_rank: Encoding::Int8, ..of_one("nf4_dq", Encoding::Nf4) },
    FileType { coded: true, ..of_one(CODED, Encoding::F32) },
];

impl FileType {
    /// The file type of that name, in any case.
    ///
    /// # Errors
    /// [`Error::Usage`] that lists the types.
    pub fn named(name: &str) -> Result<&'static FileType> {
        FILE_TYPES.iter().find(|t| t.name.eq_ignore_ascii_case(name)).ok_or_else(|| Error::Usage {
            what: format!("there is no file type {name:?}"),
            help: format!("the types are {}", FileType::names().collect::<Vec<_>>().join(", ")),
        })
    }

    /// The names of all file types.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FILE_TYPES.iter().map(|t| t.name)
    }

    /// True if every tensor keeps the type that it has.
    pub fn is_source(&self) -> bool {
        self.name == SOURCE
    }

    /// True if every weight has a number of its own: no quantization.
    pub fn is_plain(&self) -> bool {
        self.matrix.is_plain() && !self.coded
    }

    /// The type that a file of chosen types is called, by the encodings of its tensors and their numbers of weights:
    /// this one if most weights have its encoding, else the one that they have.
    pub fn called(&'static self, weights: impl IntoIterator<Item = (Encoding, u64)>) -> &'static FileType {
        let mut sums: Vec<(Encoding, u64)> = Vec::new();
        for (encoding, n) in weights {
            match sums.iter_mut().find(|(e, _)| *e == encoding) {
                Some((_, sum)) => *sum = sum.saturating_add(n),
                None => sums.push((encoding, n)),
            }
        }
        let Some((most, _)) = sums.into_iter().max_by_key(|(_, n)| *n) else { return self };
        let is_of = |t: &&FileType| t.matrix == most && t.gguf_number.is_some();
        if self.matrix == most { self } else { FILE_TYPES.iter().find(is_of).unwrap_or(self) }
    }

    /// The one encoding of all tensors of a file of a plain type; `stored` is how the source holds one. `None` if the
    /// type is another, or if such a tensor cannot be kept as it is.
    pub fn plain(&self, stored: Option<Encoding>) -> Option<Encoding> {
        match stored {
            _ if !self.is_plain() => None,
            _ if !self.is_source() => Some(self.matrix),
            Some(Encoding::F64) => Some(Encoding::F32),
            Some(e @ (Encoding::F32 | Encoding::F16 | Encoding::BF16)) => Some(e),
            _ => None,
        }
    }

    /// The encoding that a tensor of this role gets, if its rows allow it.
    pub fn wanted(&self, role: Role) -> Encoding {
        match role {
            Role::Vector => Encoding::F32,
            Role::Matrix => self.matrix,
            Role::Embedding => self.embedding,
            Role::Head => self.head,
            Role::LowRank => self.low_rank,
        }
    }
}

/// True if a matrix can be stored so. Rows are whole blocks, or where blocks run on across rows, what web-rwkv's
/// kernels for many tokens take with one scale: it does not look, and computes wrong values with other rows.
fn fits(encoding: Encoding, rows: usize, cols: usize) -> bool {
    let (row, matrix) = match encoding {
        Encoding::Int8 => (32, 128),
        Encoding::Fp4 => (64, 256),
        Encoding::Nf4 => (1, 64),
        other => (other.block_len(), 1),
    };
    cols.is_multiple_of(row) && (rows * cols).is_multiple_of(matrix)
}

/// The encoding that stands in for `wanted` where a matrix of that shape cannot be stored so: the smallest one of at
/// least its quality that fits (the same choice as llama-quantize's).
pub fn fitting(wanted: Encoding, rows: usize, cols: usize) -> Encoding {
    let mut encoding = wanted;
    while !fits(encoding, rows, cols) {
        encoding = match encoding {
            Encoding::Fp4 => Encoding::Int8,
            Encoding::Q2K | Encoding::Q3K => Encoding::Q4_0,
            Encoding::IQ4XS => Encoding::IQ4NL,
            Encoding::Q4K => Encoding::Q5_0,
            Encoding::Q5K => Encoding::Q5_1,
            Encoding::Q6K => Encoding::Q8_0,
            _ => Encoding::F16,
        };
    }
    encoding
}

/// A file type by its name, for serde.
pub(super) mod by_name {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::FileType;

    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // as serde wants it
    pub fn serialize<S: Serializer>(file_type: &Option<&FileType>, to: S) -> Result<S::Ok, S::Error> {
        file_type.map(|file_type| file_type.name).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'static FileType>, D::Error> {
        let Some(name) = Option::<String>::deserialize(from)? else { return Ok(None) };
        FileType::named(&name).map(Some).map_err(|_| crate::choice::unknown(&name, FileType::names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_in_any_case() {
        assert_eq!(FileType::named("Q8_0").unwrap().name, "q8_0");
        let error = FileType::named("q8").unwrap_err();
        assert!(error.help().unwrap().contains("q8_0"), "{:?}", error.help());
    }

    #[test]
    fn files_of_chosen_types_are_called_by_their_content() {
        let asked = FileType::named("q4_k_m").unwrap();
        for (weights, name) in [
            (&[(Encoding::Q4K, 10), (Encoding::Q6K, 4), (Encoding::F32, 1)][..], "q4_k_m"),
            (&[(Encoding::F16, 10), (Encoding::Q4K, 4)], "f16"),
            (&[(Encoding::Q8_0, 10), (Encoding::Q4K, 4)], "q8_0"),
            (&[(Encoding::Q5K, 6), (Encoding::Q4K, 5), (Encoding::Q5K, 1)], "q5_k_m"),
            (&[], "q4_k_m"),
        ] {
            assert_eq!(asked.called(weights.iter().copied()).name, name);
        }
    }

    #[test]
    fn rows_that_fit_no_block_fall_back() {
        assert_eq!(fitting(Encoding::Q6K, 1, 512), Encoding::Q6K);
        assert_eq!(fitting(Encoding::Q6K, 1, 320), Encoding::Q8_0);
        assert_eq!(fitting(Encoding::Q6K, 1, 30), Encoding::F16);
        assert_eq!(fitting(Encoding::Q4_0, 1, 48), Encoding::F16);
        assert_eq!(fitting(Encoding::Fp4, 4, 64), Encoding::Fp4);
        assert_eq!(fitting(Encoding::Fp4, 4, 32), Encoding::Int8);
        assert_eq!(fitting(Encoding::Fp4, 2, 64), Encoding::Int8);
        assert_eq!(fitting(Encoding::Fp4, 64, 48), Encoding::F16);
        assert_eq!(fitting(Encoding::Nf4, 64, 48), Encoding::Nf4);
        assert_eq!(fitting(Encoding::Nf4, 3, 48), Encoding::F16);
    }
}

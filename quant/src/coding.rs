//! Codings: matrices in tiles of whole rows that decode on their own, in as few bytes as their values allow.
//!
//! An [`Encoding`] has a size that the shape tells; a coding has not. So a coded matrix is more than its rows one behind
//! the other: a *head* that all tiles share, and for each tile its bytes. Where these lie is for files to say.
//!
//! | coding | a value is | head | tile |
//! | --- | --- | --- | --- |
//! | `lossless` | the bf16 that it was | none | [`lossless`] |
//! | `codes` | a code times a step, f32 | [`cancellation::Design::head`] | [`cancellation::Design::encode`] |
//! | `nf4_dq` | one of the block of nf4 that it stands in | none | [`nested::encode`] |

use crate::entropy::EntropyError;
use crate::nf4::{NF4, nested};
use crate::{Codec, Encoding, cancellation, float, lossless};

/// Values of a tile, about: a tile has as many whole rows as fit, and one at least.
const TILE: usize = 1 << 17;

/// The rows of a tile of a matrix of `cols` columns, but for the last of the matrix.
pub fn tile_rows(cols: usize) -> usize {
    (TILE / cols.max(1)).max(1)
}

/// Compression of the values of a matrix in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Coding {
    /// bf16, every bit of it.
    Lossless,
    /// Codes of uniform steps, at any number of bits.
    Codes,
    /// Blocks of nf4, their scales quantized in turn. Rows are whole blocks.
    Nf4Dq,
}

impl Coding {
    /// Every coding.
    pub const ALL: [Coding; 3] = [Coding::Lossless, Coding::Codes, Coding::Nf4Dq];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Coding::Lossless => "lossless",
            Coding::Codes => "codes",
            Coding::Nf4Dq => "nf4_dq",
        }
    }

    /// The coding of that name.
    pub fn named(name: &str) -> Option<Coding> {
        Coding::ALL.into_iter().find(|c| c.name() == name)
    }

    /// The encoding that holds what is decoded, and no more.
    pub const fn decoded(self) -> Encoding {
        match self {
            Coding::Lossless => Encoding::BF16,
            Coding::Codes => Encoding::F32,
            Coding::Nf4Dq => Encoding::Nf4,
        }
    }
}

/// Decodes the tiles of a matrix.
#[derive(Clone, Debug)]
pub struct Decoder(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Lossless,
    Codes(Box<cancellation::Reader>),
    Nf4Dq,
}

impl Decoder {
    /// For the tiles of a matrix of `cols` columns with this head.
    ///
    /// # Errors
    /// [`EntropyError`] if it is no such head.
    pub fn new(coding: Coding, head: &[u8], cols: usize) -> Result<Decoder, EntropyError> {
        let kind = match coding {
            Coding::Codes => return Ok(Decoder(Kind::Codes(cancellation::Reader::new(head, cols)?.into()))),
            Coding::Lossless => Kind::Lossless,
            Coding::Nf4Dq => Kind::Nf4Dq,
        };
        match head.len() {
            0 => Ok(Decoder(kind)),
            bytes => Err(EntropyError::LeftOver { what: "the head of tiles that need none", bytes }),
        }
    }

    /// Fills `out` with the values of a tile.
    ///
    /// # Errors
    /// [`EntropyError`] unless `tile` holds as many values; `out` is then unspecified.
    ///
    /// # Panics
    /// If `out` is no whole number of rows.
    pub fn decode(&self, tile: &[u8], out: &mut [f32]) -> Result<(), EntropyError> {
        match &self.0 {
            Kind::Codes(reader) => reader.decode(tile, out),
            Kind::Lossless => {
                let mut bytes = vec![0; 2 * out.len()];
                lossless::decode(tile, &mut bytes)?;
                float::BF16.decode(&bytes, out);
                Ok(())
            }
            Kind::Nf4Dq => {
                let mut blocks = vec![0; out.len() / Encoding::Nf4.block_len() * Encoding::Nf4.block_bytes()];
                nested::decode(tile, &mut blocks)?;
                NF4.decode(&blocks, out);
                Ok(())
            }
        }
    }

    /// Fills `out` with the values of a tile in their [encoding](Coding::decoded).
    ///
    /// # Errors
    /// As [`decode`](Decoder::decode).
    ///
    /// # Panics
    /// If `out` is no whole number of rows.
    pub fn decode_bytes(&self, tile: &[u8], out: &mut [u8]) -> Result<(), EntropyError> {
        match &self.0 {
            Kind::Lossless => lossless::decode(tile, out),
            Kind::Nf4Dq => nested::decode(tile, out),
            Kind::Codes(reader) => {
                let (out, rest) = out.as_chunks_mut::<4>();
                assert!(rest.is_empty());
                let mut values = vec![0.0; out.len()];
                reader.decode(tile, &mut values)?;
                for (out, v) in out.iter_mut().zip(values) {
                    *out = v.to_le_bytes();
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rows;
    use crate::cancellation::Design;
    use crate::random::Random;

    #[test]
    fn names_are_read_back() {
        for coding in Coding::ALL {
            assert_eq!(Coding::named(coding.name()), Some(coding));
            assert!(coding.decoded().is_real());
        }
        assert_eq!(Coding::named("zip"), None);
    }

    #[test]
    fn tiles_are_whole_rows() {
        assert_eq!(tile_rows(2048), 64);
        assert_eq!(tile_rows(1 << 20), 1);
        assert_eq!(tile_rows(0), TILE);
    }

    #[test]
    fn both_ways_of_decoding_give_the_same_values() {
        let (cols, mut random) = (64, Random::new(1));
        let values: Vec<f32> =
            (0..64 * cols).map(|_| half::bf16::from_f64(random.normal()).to_f32()).collect();
        let bf16: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        for coding in Coding::ALL {
            let (mut head, mut tile) = (Vec::new(), Vec::new());
            match coding {
                Coding::Lossless => lossless::encode(&bf16, &mut tile),
                Coding::Codes => {
                    let design = Design::fit(Rows::new(&values, cols), 64, None, 5.0).unwrap();
                    design.encode(&values, None, &mut tile).unwrap();
                    head = design.head().to_vec();
                }
                Coding::Nf4Dq => {
                    let mut blocks = vec![0; 64 * Encoding::Nf4.block_bytes()];
                    NF4.encode(Rows::new(&values, cols), &mut blocks).unwrap();
                    tile = nested::encode(&blocks);
                }
            }
            let decoder = Decoder::new(coding, &head, cols).unwrap();
            let mut decoded = vec![0.0; values.len()];
            decoder.decode(&tile, &mut decoded).unwrap();
            let row_bytes = coding.decoded().row_bytes(cols as u64).unwrap() as usize;
            let mut bytes = vec![0; 64 * row_bytes];
            decoder.decode_bytes(&tile, &mut bytes).unwrap();
            let mut again = vec![0.0; values.len()];
            crate::codec(coding.decoded()).unwrap().decode(&bytes, &mut again);
            assert_eq!(decoded, again);
            assert_eq!(decoded == values, coding == Coding::Lossless);
            assert!(decoder.decode(&tile[1..], &mut decoded).is_err());
        }
        assert!(Decoder::new(Coding::Lossless, &[0], cols).is_err());
        assert!(Decoder::new(Coding::Codes, &[0], cols).is_err());
        assert!(Decoder::new(Coding::Nf4Dq, &[0], cols).is_err());
    }
}

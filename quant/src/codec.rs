//! The trait that every encoding of weights implements, and the list of them.

use crate::codebook::Codebook;
use crate::feedback::Feedback;
use crate::hessian::Hessian;
use crate::{Encoding, float, fp8, ggml, nf4, web_rwkv};

/// Rows of weights to encode.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The weights, row-major; a whole number of rows.
    pub values: &'a [f32],
    /// Length of a row, a multiple of the encoding's block length unless blocks cross rows.
    pub cols: usize,
    /// Importance of each column (`cols` values, e.g. the mean square of the activation that meets it);
    /// without it all columns count alike. Columns that it says nothing about are [filled in](crate::importance::filled).
    pub importance: Option<&'a [f32]>,
}

impl<'a> Rows<'a> {
    /// Rows of `cols` weights without importance.
    pub fn new(values: &'a [f32], cols: usize) -> Self {
        Rows { values, cols, importance: None }
    }
}

/// Encodes and decodes the weights of one [`Encoding`].
///
/// A codec keeps nothing between calls and works on whole rows: the bytes of a row depend on that row (and the
/// importance) alone, so rows may be cut into chunks anywhere and encoded in any order by any number of threads.
/// (If blocks [cross rows](Encoding::crosses_rows), chunks are cut where a row and a block start.)
pub trait Codec: Send + Sync {
    /// The encoding that this codec writes and reads.
    fn encoding(&self) -> Encoding;

    /// True if [`encode`](Codec::encode) is implemented; some types are read only.
    fn can_encode(&self) -> bool {
        true
    }

    /// Number of columns that share a scale, for types whose encoders weigh errors by an importance.
    fn importance_group(&self) -> Option<usize> {
        None
    }

    /// Encodes `rows` into `out`, which is exactly as long as the rows take
    /// ([`Encoding::matrix_bytes`]).
    ///
    /// # Errors
    /// [`EncodeError`] with the index of the first weight that is not finite or does not fit the encoding;
    /// `out` is then unspecified.
    ///
    /// # Panics
    /// If the lengths of `rows.values`, `rows.cols` and `out` do not fit together.
    fn encode(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError>;

    /// Encodes with a longer search for scales and codes: never a larger error than [`encode`](Codec::encode), where
    /// the error is the sum of `importance * (weight - decoded)^2` over each block. The bytes are as deterministic.
    ///
    /// # Errors
    /// As [`encode`](Codec::encode), which types without a search fall back to.
    ///
    /// # Panics
    /// As [`encode`](Codec::encode).
    fn encode_best(&self, rows: Rows<'_>, out: &mut [u8]) -> Result<(), EncodeError> {
        self.encode(rows, out)
    }

    /// Encodes so that the outputs of the matrix are near, not its weights: see [`feedback`]. `rows.importance` is
    /// not used. The bytes are as deterministic, and those of a row do not depend on the other rows.
    ///
    /// Types whose blocks are not rounded with feedback (or whose blocks cross the ends of these rows) fall back to
    /// [`encode_best`](Codec::encode_best) with the [diagonal](Feedback::diagonal) as importance.
    ///
    /// # Errors
    /// As [`encode`](Codec::encode).
    ///
    /// # Panics
    /// As [`encode`](Codec::encode), and if `feedback` is not of `rows.cols` inputs.
    ///
    /// [`feedback`]: crate::feedback
    fn encode_feedback(
        &self,
        rows: Rows<'_>,
        feedback: &Feedback,
        out: &mut [u8],
    ) -> Result<(), EncodeError> {
        assert_eq!(rows.cols, feedback.n());
        self.encode_best(Rows { importance: Some(feedback.diagonal()), ..rows }, out)
    }

    /// Moves codes and scales of encoded `rows` one by one, wherever that makes the
    /// [output error](Hessian::output_error) of their row less; rows that gain nothing keep their bytes. To be called
    /// after any of the encoders, with the moments to trust (perhaps [shrunk](Hessian::shrunk)). Types that
    /// [`encode_feedback`](Codec::encode_feedback) falls back for stay as they are.
    ///
    /// # Panics
    /// As [`encode`](Codec::encode), and if `hessian` is not of `rows.cols` inputs.
    fn polish(&self, rows: Rows<'_>, hessian: &Hessian, bytes: &mut [u8]) {
        let _ = bytes;
        assert_eq!(rows.cols, hessian.n());
    }

    /// Decodes whole blocks of `bytes` into `out`.
    ///
    /// # Panics
    /// If `bytes` does not hold exactly `out.len()` values.
    fn decode(&self, bytes: &[u8], out: &mut [f32]);
}

/// Reason why rows could not be encoded.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A weight is NaN or infinite.
    #[error("the weight at index {index} is {value}")]
    NonFinite {
        /// Index in `rows.values`.
        index: usize,
        /// The weight.
        value: f32,
    },
    /// A weight is finite but larger than the encoding can hold.
    #[error("the weight {value} at index {index} does not fit in {encoding} (largest: {limit})")]
    Overflow {
        /// Index in `rows.values`.
        index: usize,
        /// The weight.
        value: f32,
        /// The encoding that cannot hold it.
        encoding: Encoding,
        /// The largest magnitude it can hold.
        limit: f32,
    },
    /// An importance is negative, NaN or infinite.
    #[error("the importance of column {column} is {value}")]
    Importance {
        /// Index in `rows.importance`.
        column: usize,
        /// The importance.
        value: f32,
    },
    /// The encoding can be decoded but not made.
    #[error("{0} can be read but not written")]
    ReadOnly(Encoding),
}

/// Every codec, in the order of [`Encoding`].
pub static CODECS: &[&dyn Codec] = &[
    &float::F64,
    &float::F32,
    &float::F16,
    &float::BF16,
    &fp8::F8E4M3,
    &ggml::Q4_0,
    &ggml::Q4_1,
    &ggml::Q5_0,
    &ggml::Q5_1,
    &ggml::Q8_0,
    &ggml::Q2K,
    &ggml::Q3K,
    &ggml::Q4K,
    &ggml::Q5K,
    &ggml::Q6K,
    &ggml::Q8K,
    &ggml::IQ4NL,
    &ggml::IQ4XS,
    &ggml::IQ3S,
    &ggml::IQ3XXS,
    &ggml::IQ2S,
    &ggml::IQ2XS,
    &ggml::IQ2XXS,
    &web_rwkv::Int8,
    &web_rwkv::NF4,
    &nf4::NF4,
];

/// The codec of `encoding`, if it is one of [`CODECS`].
pub fn codec(encoding: Encoding) -> Option<&'static dyn Codec> {
    CODECS.iter().copied().find(|c| c.encoding() == encoding)
}

/// The codec of an encoding of 4-bit codes that stand for `levels`; `None` if it is no such encoding.
pub fn codec_of_levels(encoding: Encoding, levels: Codebook) -> Option<Box<dyn Codec>> {
    match encoding {
        Encoding::Fp4 => Some(Box::new(web_rwkv::Fp4 { codebook: levels })),
        Encoding::Nf4 => Some(Box::new(nf4::Blocks { codebook: levels })),
        _ => None,
    }
}

/// Checks that every value is finite.
///
/// # Errors
/// [`EncodeError::NonFinite`] with the first value that is NaN or infinite.
pub fn check_finite(values: &[f32]) -> Result<(), EncodeError> {
    // The index is looked up only when something is wrong.
    for (n, chunk) in values.chunks(4096).enumerate() {
        if !all_finite(chunk)
            && let Some(i) = chunk.iter().position(|v| !v.is_finite())
        {
            return Err(EncodeError::NonFinite { index: n * 4096 + i, value: chunk[i] });
        }
    }
    Ok(())
}

/// True if no value is NaN or infinite.
fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    !values.iter().fold(false, |bad, v| bad | (v.to_bits() & EXPONENT == EXPONENT))
}

/// The first importance that is negative, NaN or infinite, as an error.
///
/// # Panics
/// If there is not one for each column.
pub(crate) fn check_importance(rows: Rows<'_>) -> Result<(), EncodeError> {
    let Some(importance) = rows.importance else { return Ok(()) };
    assert_eq!(importance.len(), rows.cols);
    match importance.iter().position(|q| !(*q >= 0.0 && q.is_finite())) {
        None => Ok(()),
        Some(column) => Err(EncodeError::Importance { column, value: importance[column] }),
    }
}

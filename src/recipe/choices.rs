//! Choices that a recipe makes for all tensors alike.

use quant::{Codec, EncodeError, Rows};

/// Whose choice of types for the tensors of a quantized file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mix {
    /// The project's: low-rank matrices at 8 bits.
    #[default]
    Own,
    /// llama-quantize's: low-rank matrices stay as the source holds them, a tenth of the file.
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// web-rwkv's: the head and the low-rank matrices stay f16.
    WebRwkv,
}

impl Mix {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mix::Own => "own",
            Mix::LlamaCpp => "llama.cpp",
            Mix::WebRwkv => "web-rwkv",
        }
    }
}

/// What to do where rows are no whole blocks of the type wanted, so that another type stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Fallback {
    /// Refuse.
    Error,
    /// Go on, and say so.
    #[default]
    Warn,
    /// Go on.
    Allow,
}

/// How long encoders look for good codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Search {
    /// As the type's home project does: the same bytes.
    #[default]
    Standard,
    /// Longer, for a smaller error in the same format.
    Best,
}

impl Search {
    /// Encodes `rows` into `out`, looking so long.
    ///
    /// # Errors
    /// As [`Codec::encode`].
    ///
    /// # Panics
    /// As [`Codec::encode`].
    pub fn encode(
        self,
        codec: &dyn Codec,
        rows: Rows<'_>,
        out: &mut [u8],
    ) -> std::result::Result<(), EncodeError> {
        match self {
            Search::Standard => codec.encode(rows, out),
            Search::Best => codec.encode_best(rows, out),
        }
    }
}

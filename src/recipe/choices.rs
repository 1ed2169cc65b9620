//! Choices that a recipe makes for all tensors alike.

use quant::{Codec, EncodeError, Rows};

use crate::choice::choice;

choice! {
    /// Whose choice of types for the tensors of a quantized file.
    #[derive(Default)]
    pub enum Mix {
        /// The project's: low-rank matrices at 8 bits
        #[default]
        Own = "own",
        /// llama-quantize's: low-rank matrices stay as the source holds them, a tenth of the file
        LlamaCpp = "llama.cpp",
        /// web-rwkv's: the head and the low-rank matrices stay f16
        WebRwkv = "web-rwkv",
    }
}

choice! {
    /// What to do where rows are no whole blocks of the type wanted, so that another type stands in.
    #[derive(Default)]
    pub enum Fallback {
        /// Refuse
        Error = "error",
        /// Go on, and say so
        #[default]
        Warn = "warn",
        /// Go on
        Allow = "allow",
    }
}

choice! {
    /// How long encoders look for good codes.
    #[derive(Default)]
    pub enum Search {
        /// As the type's home project does: the same bytes
        #[default]
        Standard = "standard",
        /// Longer, for a smaller error in the same format
        Best = "best",
    }
}

choice! {
    /// How a model was trained to chat: the chat that a Modelfile describes.
    pub enum Chat {
        /// RWKV World models: a turn ends with an empty line
        World = "world",
        /// RWKV-7 G0 and G1 models, which may think before they answer
        G1 = "g1",
    }
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

//! The block types of ggml (the tensors of a GGUF file), byte for byte.
//!
//! Each file holds one type: the picture of its block, its error bound, encoder and decoder. The encoders give the
//! bytes of ggml's reference quantizer as it is built for generic x86-64: IEEE f32 operations in source order,
//! none fused. Decoders give the same floats.
//!
//! A weight so large that a scale does not fit in f16 is [`EncodeError::Overflow`](crate::EncodeError): ggml
//! writes an infinite scale there, and then refuses the file.

// Loops run over the values of several groups in step.
#![allow(clippy::needless_range_loop)]

mod affine_k;
mod best;
mod blocks;
mod corrected;
mod grids;
mod iq2;
mod iq3;
mod iq4_nl;
mod iq4_xs;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod q8_k;
mod scales;
mod search;
mod super_blocks;
mod weighted;

pub use iq2::{IQ2S, IQ2XS, IQ2XXS};
pub use iq3::{IQ3S, IQ3XXS};
pub use iq4_nl::IQ4NL;
pub use iq4_xs::IQ4XS;
pub use q2_k::Q2K;
pub use q3_k::Q3K;
pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q4_k::Q4K;
pub use q5_0::Q5_0;
pub use q5_1::Q5_1;
pub use q5_k::Q5K;
pub use q6_k::Q6K;
pub use q8_0::Q8_0;
pub use q8_k::Q8K;

//! The numbers of rwkv-quant: how rows of `f32` become bytes and back.
//!
//! This crate knows no files, no model, no threads and prints nothing. Its parts:
//!
//! - [`Encoding`]: the id of every way an element (or a block of elements) can be stored, with its exact size;
//! - [`Codec`]: encode and decode for one encoding; [`CODECS`] lists them all, [`codec`] finds one;
//! - [`float`]: the plain floating point encodings; [`ggml`]: the block types of ggml;
//! - [`fp8`]: FP8 E4M3; [`web_rwkv`]: web-rwkv's blocks; [`int8`], [`nf4`]: encodings of several parts;
//! - [`codebook`]: levels of 4-bit codes;
//! - [`importance`]: columns that an importance matrix says nothing about;
//! - [`hessian`]: which errors of weights count; [`feedback`]: rounding that makes errors good in later columns;
//! - [`low_rank`]: what few dimensions of a matrix hold; [`clusters`]: rows that are alike; [`certified`]: output
//!   layers scanned by proof;
//! - [`entropy`]: symbols in as few bits as they are probable; [`lossless`]: bf16 so; [`cancellation`]: weights at any
//!   number of bits; [`coding`]: matrices so coded, tile by tile;
//! - [`arch`]: run-time choice of the instruction set.

#![deny(unsafe_code)]

pub mod arch;
pub mod cancellation;
pub mod certified;
pub mod clusters;
pub mod codebook;
mod codec;
pub mod coding;
#[cfg(test)]
mod conformance;
mod encoding;
pub mod entropy;
pub mod feedback;
pub mod float;
pub mod fp8;
pub mod ggml;
pub mod hessian;
pub mod importance;
pub mod int8;
pub mod lossless;
pub mod low_rank;
mod matrix;
pub mod nf4;
mod random;
pub mod web_rwkv;

pub use codec::{CODECS, Codec, EncodeError, Rows, check_finite, codec, codec_of_levels};
pub use encoding::Encoding;

//! 4-bit matrices as bitsandbytes serializes them: several tensors of a file that are one of the model.
//!
//! ```text
//! X                                    u8  [n / 2, 1]   codes of n weights, the first of two in the high half
//! X.absmax                             f32 [n / 64]     the scale of each 64 weights
//! X.quant_map                          f32 [16]         what the codes stand for
//! X.quant_state.bitsandbytes__nf4      u8  [length]     JSON: {"quant_type": "nf4", "blocksize": 64,
//!                                                       "dtype": "bfloat16", "shape": [rows, columns]}
//! ```
//!
//! Such matrices are read as one [split](crate::Split) tensor `X` of [`Encoding::Nf4`](quant::Encoding) in the shape
//! that the JSON tells; its `dtype` is what bitsandbytes decodes to. Other quantizations of bitsandbytes (scales
//! quantized once more, FP4, LLM.int8, other block sizes) are refused by name.
//! Source: `QuantState.as_dict` and `Linear4bit._save_to_state_dict` of bitsandbytes 0.50.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use read::joined;
pub use write::{place, stored};

const ABSMAX: &str = ".absmax";
const QUANT_MAP: &str = ".quant_map";
/// Text between the name of a matrix and that of its quantization.
const QUANT_STATE: &str = ".quant_state.bitsandbytes__";
/// The quantization that is read and written.
const NF4: &str = "nf4";
/// Weights that share a scale.
const BLOCK: usize = quant::Encoding::Nf4.block_len();

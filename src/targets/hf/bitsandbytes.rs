//! Tensors stored in 4 bits for bitsandbytes, and their description in `config.json`.
//!
//! `from_pretrained` puts a `Linear4bit` in the place of every `nn.Linear` that is not skipped, and looks for its
//! parts in the file. In the architectures here those are the matrices of the blocks, the head and the low-rank
//! matrices of version 7; as bitsandbytes itself would have it, the head is not quantized, and low-rank matrices, small
//! and used in every step, are not either. What is no `nn.Linear` (embedding, vectors, low-rank matrices of version 6)
//! cannot be.
//!
//! The code of versions 4 to 6 halves the outputs of blocks for f16 by making their matrices anew, in FP4 whatever they
//! were; so `rescale_every` is 0 and the type to compute in is never f16.

use formats::Planned;
use quant::Encoding;
use serde_json::{Value, json};

use super::config;
use crate::error::{Error, Result};
use crate::model::{Model, ModelTensor, Role};
use crate::recipe::FileType;

/// The file type of such folders.
const NAME: &str = "nf4";

/// Modules that stay as they are. transformers 4 skips what lies in a module of such a name, transformers 5 what ends
/// with it.
const SKIPPED: &[&str] = &["head"];
/// Skipped modules of flash-linear-attention.
const SKIPPED_7: &[&str] = &["lm_head", "w_lora", "a_lora", "v_lora", "g_lora", "lora.0", "lora.2"];

/// True if folders of this type are for bitsandbytes.
pub(super) fn is_wanted(file_type: &FileType) -> bool {
    file_type.name == NAME
}

/// Encoding of a stored tensor: the matrices of blocks in 4 bits, all others as the source has them if that are 16 bits
/// (of vectors: or 32), else in bf16.
///
/// # Errors
/// [`Error::Tensor`] if a matrix is no whole number of blocks.
pub(super) fn encoding(model: &Model, held: &ModelTensor) -> Result<Encoding> {
    let stored = held.values.encoding();
    let role = held.spec.role;
    if role != Role::Matrix {
        return Ok(match stored {
            Some(e @ (Encoding::F16 | Encoding::BF16)) => e,
            _ if role == Role::Vector => Encoding::F32,
            _ => Encoding::BF16,
        });
    }
    if held.values.elements().is_multiple_of(Encoding::Nf4.block_len()) {
        return Ok(Encoding::Nf4);
    }
    Err(Error::Tensor {
        path: model.container.path().to_owned(),
        tensor: held.name(),
        what: format!(
            "has {} weights, which are no whole blocks of {}",
            held.values.elements(),
            Encoding::Nf4.block_len()
        ),
        help: "write the folder with --type f16 or bf16, and let bitsandbytes quantize it".to_owned(),
    })
}

/// torch's name of the type that the model is to compute in, and that matrices are decoded to.
pub(super) fn dtype(model: &Model, groups: &[&[Planned]]) -> &'static str {
    match config::dtype(groups) {
        "float16" if model.version.major() < 7 => "bfloat16",
        dtype => dtype,
    }
}

/// The member `quantization_config`, as transformers writes it.
pub(super) fn quantization(model: &Model, dtype: &str) -> Value {
    json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_quant_type": NAME,
        "bnb_4bit_use_double_quant": false,
        "bnb_4bit_compute_dtype": dtype,
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": if model.version.major() == 7 { SKIPPED_7 } else { SKIPPED },
    })
}

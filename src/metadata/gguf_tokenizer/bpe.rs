//! The tokenizer keys of a GGUF file for byte-pair tokenizers: llama.cpp's tokenizer `gpt2`.

use formats::{Metadata, Value};

use crate::vocab::{Bpe, Piece};

/// llama.cpp's kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The keys of the ids of special tokens. llama.cpp has none for `cls`.
const ID_KEYS: [(&str, &str); 6] = [
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
    ("unk", "unknown_token_id"),
    ("sep", "seperator_token_id"), // sic
    ("pad", "padding_token_id"),
    ("mask", "mask_token_id"),
];

/// All keys but the chat template, in the order of llama.cpp's converter.
pub(super) fn keys(bpe: &Bpe) -> Metadata {
    let mut keys = Metadata::new();
    let mut put = |key: &str, value: Value| keys.push((format!("tokenizer.ggml.{key}"), value));
    put("model", Value::from("gpt2"));
    put("pre", Value::from(bpe.pre));
    put("tokens", Value::strings(bpe.tokens.iter().enumerate().map(|(id, piece)| text(piece, id))));
    put("token_type", Value::from(bpe.tokens.iter().map(kind).collect::<Vec<i32>>()));
    put("merges", Value::strings(bpe.merges.iter().cloned()));
    for (special, id) in &bpe.special {
        if let Some((_, key)) = ID_KEYS.iter().find(|(name, _)| name == special) {
            put(key, Value::U32(*id));
        }
    }
    for (special, added) in &bpe.added {
        put(&format!("add_{special}_token"), Value::Bool(*added));
    }
    keys
}

fn text(piece: &Piece, id: usize) -> String {
    match piece {
        Piece::Merged(text) | Piece::Control(text) | Piece::Added(text) => text.clone(),
        Piece::Unused => format!("[PAD{id}]"),
    }
}

fn kind(piece: &Piece) -> i32 {
    match piece {
        Piece::Merged(_) => NORMAL,
        Piece::Control(_) => CONTROL,
        Piece::Added(_) => USER_DEFINED,
        Piece::Unused => UNUSED,
    }
}

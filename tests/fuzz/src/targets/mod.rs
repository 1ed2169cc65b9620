//! The targets, one file a format.

pub mod blocks;
pub mod compact;
pub mod gguf;
pub mod prefab;
pub mod pth;
pub mod rwkv_cpp;
pub mod safetensors;
pub mod side;

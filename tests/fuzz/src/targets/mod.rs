//! The targets, one file a format.

pub mod gguf;
pub mod pth;

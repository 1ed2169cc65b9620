//! rwkv-quant: converts and quantizes RWKV checkpoints into files that runtimes load, and proves it.
//!
//! The library behind the program of the same name. Containers are read and placed by the crate `formats`,
//! numbers encoded by `quant`; here is what RWKV is ([`model`]), and how a model becomes a file. Every module uses
//! those before it in the list of `tests/it/layers.rs`, and none behind it.

#![deny(unsafe_code)]

pub mod batch;
pub mod calibrate;
pub mod checkpoint;
pub mod choice;
pub mod clean;
pub mod cli;
pub mod compact;
pub mod convert;
pub mod diff;
pub mod digest;
pub mod equalize;
pub mod error;
pub mod escape;
pub mod eval;
pub mod files;
pub mod html;
pub mod hub;
pub mod identity;
pub mod isa;
pub mod links;
pub mod low_rank;
pub mod metadata;
pub mod model;
pub mod pipeline;
pub mod plan;
pub mod random;
pub mod recipe;
pub mod report;
pub mod runner;
pub mod scheme;
pub mod shard;
pub mod shards;
pub mod storage;
pub mod targets;
pub mod templates;
pub mod units;
pub mod verify;
pub mod vocab;

pub use error::{Error, Result, Status};

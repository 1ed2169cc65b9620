//! Tests of the whole program: each runs the binary as a user would.

#![allow(clippy::unwrap_used)] // a test that cannot run should panic

mod adapters;
mod agreement;
mod batch;
mod bitsandbytes;
mod calibrate;
mod compact;
mod convert;
mod determinism;
mod evaluate;
mod heads;
mod hostile;
mod hub;
mod identity;
mod importance;
mod interrupt;
mod keys;
mod layers;
mod low_rank;
mod memory;
mod messages;
mod metadata;
mod parity;
mod run;
mod rwkv_cpp;
mod shards;
mod sources;
#[path = "../../benches/synthetic.rs"]
mod synthetic;
mod targets;
mod texts;
mod unsafe_code;
mod verify;
mod web_rwkv;

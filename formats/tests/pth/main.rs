//! Torch checkpoints: real files, every feature, every attack.

#![allow(clippy::unwrap_used, missing_docs)]

mod attacks;
mod build;
mod features;
mod legacy;
mod random;
mod real;
mod write;

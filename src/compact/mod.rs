//! Compact files (`.rwkvz`): the sections that tensors are coded as. How a tensor is coded is the scheme's to say
//! ([`Coded`](crate::scheme::Coded)), at which rate, calibration's ([`calibrate::rates`](crate::calibrate::rates())).
//!
//! ```text
//! encode.rs    values -> sections, tile by tile
//! sections.rs  every section of a planned file, before it is laid out
//! ```
//!
//! Sizes of sections are known when they are coded, not before. So they are coded first, into a folder beside the output
//! ([`Checkpoint`](crate::checkpoint::Checkpoint)) that a killed run finds again; then the file is laid out and written like
//! any other.

mod encode;
mod sections;

pub use encode::{Matrix, off_by};
pub use sections::{TILES, encode, peak_bytes, shrink, working_bytes};

//! Calibration: what a model does with a text tells how its weights are best rounded.
//!
//! ```text
//! text.rs      which tokens the model is run over, and which of them only judge
//! stage.rs     which matrices are encoded together, in the order of the computation
//! encode.rs    the way through the model: observe, encode, go on with what was encoded
//! measure.rs   what meets the matrices, without encoding anything
//! stats.rs     the same in a file, for many conversions
//! observe.rs    what meets the matrices, from the model on its way or from such a file
//! matrix.rs    one matrix: its second moments, candidates, and the choice among them
//! coded.rs     one matrix of a compact file, at any rate
//! branch.rs    one matrix in two parts: a branch of low rank, and the quantized rest
//! probe.rs     what rounding each tensor costs
//! goals.rs     how large or good the file is to be
//! rates.rs     how many bits which tensor of a compact file gets
//! allocate.rs  which tensor gets how many bits
//! judge.rs     how near the finished file is to its source
//! ```
//! Source: GPTQ (arXiv 2210.17323) for the feedback of errors; the rest is said where it is done.

mod activations;
mod allocate;
mod branch;
mod coded;
mod cross_check;
mod encode;
mod goals;
mod judge;
mod matrix;
mod measure;
mod probe;
mod rates;
mod stage;
mod stats;
mod surprise;
mod text;

pub use activations::Source;
pub use allocate::{Allocation, Candidate, Objective, Unit, allocate};
pub use cross_check::CrossCheck;
pub use encode::{Calibration, Done, divide, encode, peak_bytes, running_bytes};
pub use goals::{Chosen, choose, most_bytes, rates};
pub use judge::Judge;
pub use measure::{importance, mean_squares};
pub use probe::{Sensitivities, probe, probing_bytes};
pub use rates::{MOST_BITS, Rates, Weighed, least_bytes, nominal, types, weigh, weighed};
pub use stats::{Stats, measure_all};
pub use text::Text;

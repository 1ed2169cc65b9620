//! Evaluation: perplexity, and how far a model's predictions are from another's.
//!
//! A [`Corpus`] is cut into sequences and windows by a [`Protocol`], all models run over it side by side
//! ([`measure`](fn@measure)), and an [`Evaluation`] sums up, with the bootstrap over windows ([`statistics`]).

mod corpus;
mod measure;
pub mod statistics;
mod summary;
mod window;

pub use corpus::{Corpus, sha256, vocabulary_sha256};
pub use measure::{Comparison, Load, Measured, Score, measure};
pub use statistics::{Bootstrap, Estimate, Random};
pub use summary::{Against, Bucket, Evaluation, ModelScore, Quantiles, Scored, summarise};
pub use window::{Protocol, Sequence, cut};

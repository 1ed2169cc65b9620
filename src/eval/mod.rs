//! Evaluation: perplexity, and how far a model's predictions are from another's.
//!
//! A [`Corpus`] is cut into sequences and windows by a [`Protocol`], all models run over it side by side
//! ([`measure`](fn@measure)), and an [`Evaluation`] sums up, with the bootstrap over windows ([`statistics`]). A [`Task`]
//! is all of that for one text; [`Gates`] judge the result.

mod corpus;
mod encoding;
mod gates;
mod measure;
pub mod statistics;
mod summary;
mod task;
mod unfit;
mod window;

pub use corpus::{Corpus, vocabulary_sha256};
pub use gates::Gates;
pub use measure::{Comparison, Load, Measured, Scan, Score, Work, measure};
pub use statistics::{Bootstrap, Estimate};
pub use summary::{Against, Bucket, Evaluation, ModelScore, Quantiles, Read, Scored, summarise};
pub use task::{Setting, Task, same_vocabulary};
pub use unfit::oddity;
pub use window::{Protocol, Sequence, cut};

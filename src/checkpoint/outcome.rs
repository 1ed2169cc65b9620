//! Outcome of encoding a matrix, and the method.

use std::io;

use quant::EncodeError;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Outcome of encoding a matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name in the file.
    pub name: String,
    /// Its encoding.
    pub encoding: String,
    /// Chosen method.
    pub choice: Rounding,
    /// Error of the outputs on held-out tokens relative to their mean square, of the default encoder; without a text,
    /// that of the weights.
    pub default_error: f64,
    /// Relative error of the chosen method.
    pub error: f64,
    /// The branch of low rank, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<Gain>,
    /// Inputs that were always 0 in the text, so that it says nothing about their weights.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unmeasured: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Gain of a low-rank branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// Its dimensions.
    pub rank: usize,
    /// Number of rounds in which the branch and the rest were fitted to each other.
    pub rounds: usize,
    /// The error without it, as [`Outcome::error`] with it.
    pub error_without: f64,
}

/// Method by which a matrix was encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// GPTQ error feedback, with the moments shrunk so far.
    Feedback {
        /// The share of the diagonal.
        shrinkage: f32,
        /// True if codes and scales were moved one by one afterwards.
        polished: bool,
    },
    /// Default encoder, since feedback was worse on held-out tokens.
    Default,
    /// Default encoder for the weights themselves, since no text was given.
    Weights,
    /// Default encoder, since there was no other way.
    Forced {
        /// Reason.
        why: String,
    },
}

/// An encoded matrix.
pub struct Encoded {
    /// Blocks of all rows; of the rest, if there is a branch.
    pub bytes: Vec<u8>,
    /// The factors of the branch, `up` and `down`, in F16.
    pub factors: Option<Vec<u8>>,
    /// Outcome of encoding it, for reports.
    pub outcome: Outcome,
}

/// Reason that a matrix could not be coded.
#[derive(Debug)]
pub enum Unencodable {
    /// A weight cannot be; the index counts from the start of the matrix.
    Weight(EncodeError),
    /// The section cannot be written.
    Io(io::Error),
    /// The work was stopped.
    Other(Error),
}

impl From<EncodeError> for Unencodable {
    fn from(e: EncodeError) -> Self {
        Unencodable::Weight(e)
    }
}

impl From<io::Error> for Unencodable {
    fn from(e: io::Error) -> Self {
        Unencodable::Io(e)
    }
}

impl From<Error> for Unencodable {
    fn from(e: Error) -> Self {
        Unencodable::Other(e)
    }
}

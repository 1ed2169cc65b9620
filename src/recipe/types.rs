//! Types of single tensors: the table `[tensors]` of a recipe.
//!
//! ```text
//! type = "q4_k_m"                      what all other tensors get
//! [tensors]
//! "blk.0.time_mix_output.weight" = "q6_k"
//! "head.weight" = 4.25                 bits per weight, in files that are coded
//! ```

use std::collections::BTreeMap;
use std::fmt;

use quant::{Codec, Encoding, codec};
use serde::{Deserialize, Serialize};

/// Most bits per weight.
const MOST_BITS: f64 = 16.0;

/// Type that a tensor is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub enum TensorType {
    /// Values of this encoding.
    Encoding(Encoding),
    /// Codes, at so many bits per weight.
    Bits(f64),
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorType::Encoding(encoding) => write!(f, "{encoding}"),
            TensorType::Bits(bits) => write!(f, "{bits} bits"),
        }
    }
}

/// Types of single tensors, by their names in the file to be written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Types(pub BTreeMap<String, TensorType>);

/// The type of a tensor in a file.
#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "a type, such as \"q6_k\", or a number of bits a weight")]
enum Stored {
    Name(String),
    Bits(f64),
}

impl TryFrom<Stored> for TensorType {
    type Error = String;

    fn try_from(stored: Stored) -> Result<TensorType, String> {
        match stored {
            Stored::Bits(bits) if bits > 0.0 && bits <= MOST_BITS => Ok(TensorType::Bits(bits)),
            Stored::Bits(bits) => Err(format!(
                "{bits} is no number of bits a weight, which are above 0 and at most {MOST_BITS}"
            )),
            Stored::Name(name) => {
                let encoding = name.parse().ok().filter(|e| codec(*e).is_some_and(Codec::can_encode));
                let unknown = || format!("{name:?} is no type that a tensor can be stored as");
                encoding.map(TensorType::Encoding).ok_or_else(unknown)
            }
        }
    }
}

impl From<TensorType> for Stored {
    fn from(stored: TensorType) -> Stored {
        match stored {
            TensorType::Encoding(encoding) => Stored::Name(encoding.to_string()),
            TensorType::Bits(bits) => Stored::Bits(bits),
        }
    }
}

impl Types {
    /// The encoding of a tensor's values, if it has a type of its own: what codes stand for is f32.
    pub fn encoding(&self, tensor: &str) -> Option<Encoding> {
        self.0.get(tensor).map(|stored| match stored {
            TensorType::Encoding(encoding) => *encoding,
            TensorType::Bits(_) => Encoding::F32,
        })
    }

    /// The bits per weight of a tensor that is to be coded.
    pub fn bits(&self, tensor: &str) -> Option<f64> {
        match self.0.get(tensor) {
            Some(TensorType::Bits(bits)) => Some(*bits),
            _ => None,
        }
    }
}

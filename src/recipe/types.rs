//! Types of single tensors, and the small file that they are kept in.
//!
//! ```text
//! type = "q4_k_m"                      what all other tensors get
//! [tensors]
//! "blk.0.time_mix_output.weight" = "q6_k"
//! "head.weight" = 4.25                 bits a weight, in files that are coded
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use quant::{Codec, Encoding, codec};
use serde::Deserialize;

use super::FileType;
use crate::error::{Error, Result};
use crate::files;

/// Most bytes of such a file.
const FILE_BYTES: u64 = 16 << 20;
/// Most bits a weight.
const MOST_BITS: f64 = 16.0;

/// What a tensor is stored as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TensorType {
    /// Values of this encoding.
    Encoding(Encoding),
    /// Codes, at so many bits a weight.
    Bits(f64),
}

impl TensorType {
    /// What a file says; `None` if that cannot be written.
    fn parse(said: &Said) -> Option<TensorType> {
        match said {
            Said::Name(name) => {
                let encoding = name.parse().ok().filter(|e| codec(*e).is_some_and(Codec::can_encode));
                encoding.map(TensorType::Encoding)
            }
            Said::Bits(bits) => (*bits > 0.0 && *bits <= MOST_BITS).then_some(TensorType::Bits(*bits)),
        }
    }
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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Types(pub BTreeMap<String, TensorType>);

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    r#type: String,
    tensors: BTreeMap<String, Said>,
}

/// The type of a tensor there.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Said {
    Name(String),
    Bits(f64),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Said::Name(name) => write!(f, "{name:?}"),
            Said::Bits(bits) => write!(f, "{bits:?}"),
        }
    }
}

impl Types {
    /// Reads a file: the types, and that of all other tensors.
    ///
    /// # Errors
    /// If it cannot be read or understood, or names a type that there is not or that cannot be written.
    pub fn load(path: &Path) -> Result<(&'static FileType, Types)> {
        let wrong = |what: String| {
            Error::Model {
            path: path.to_owned(),
            what,
            help: "write it with `rwkv-quant convert --target-size ... --save-recipe FILE`, or as the README says"
                .to_owned(),
        }
        };
        let text = files::text(path, "recipe", FILE_BYTES)?;
        let stored: Stored =
            toml::from_str(&text).map_err(|e| wrong(format!("is no recipe: {}", e.message())))?;
        let types = stored.tensors.into_iter().map(|(tensor, said)| match TensorType::parse(&said) {
            Some(found) => Ok((tensor, found)),
            None => Err(wrong(format!("gives {tensor:?} the type {said}, which cannot be written"))),
        });
        Ok((FileType::named(&stored.r#type)?, Types(types.collect::<Result<_>>()?)))
    }

    /// The text of such a file; every line of `remarks` stands at its top.
    pub fn text(&self, file_type: &FileType, remarks: &[String]) -> String {
        let mut text: String = remarks.iter().map(|r| format!("# {r}\n")).collect();
        text += &format!("type = \"{}\"\n\n[tensors]\n", file_type.name);
        for (tensor, stored) in &self.0 {
            let stored = match stored {
                TensorType::Encoding(encoding) => format!("\"{encoding}\""),
                TensorType::Bits(bits) => format!("{bits:?}"),
            };
            text += &format!("{} = {stored}\n", serde_json::Value::from(tensor.as_str()));
        }
        text
    }

    /// The encoding of a tensor's values, if it has a type of its own: what codes stand for is f32.
    pub fn encoding(&self, tensor: &str) -> Option<Encoding> {
        self.0.get(tensor).map(|stored| match stored {
            TensorType::Encoding(encoding) => *encoding,
            TensorType::Bits(_) => Encoding::F32,
        })
    }

    /// The bits a weight of a tensor that is to be coded.
    pub fn bits(&self, tensor: &str) -> Option<f64> {
        match self.0.get(tensor) {
            Some(TensorType::Bits(bits)) => Some(*bits),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_back() {
        let encoding = TensorType::Encoding;
        let stored = [
            ("a.\"b", encoding(Encoding::Q4K)),
            ("c", encoding(Encoding::F16)),
            ("d", TensorType::Bits(3.25)),
        ];
        let types = Types(stored.map(|(name, stored)| (name.to_owned(), stored)).into());
        let file_type = FileType::named("q4_k_m").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        std::fs::write(&path, types.text(file_type, &["made by hand".to_owned()])).unwrap();
        assert_eq!(Types::load(&path).unwrap(), (file_type, types));
        for (text, what) in [
            ("type = \"q9\"\n[tensors]", "there is no file type \"q9\""),
            ("type = \"q8_0\"\n[tensors]\na = \"iq2_xs\"", "gives \"a\" the type \"iq2_xs\""),
            ("type = \"coded\"\n[tensors]\na = -1.0", "gives \"a\" the type -1.0"),
            ("typ = 1", "is no recipe: unknown field"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Types::load(&path).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

//! Types of single tensors, and the small file that they are kept in.
//!
//! ```text
//! type = "q4_k_m"                      what all other tensors get
//! [tensors]
//! "blk.0.time_mix_output.weight" = "q6_k"
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use quant::{Codec, Encoding, codec};
use serde::Deserialize;

use super::FileType;
use crate::error::{Error, Result};
use crate::files;

/// Most bytes of such a file.
const FILE_BYTES: u64 = 16 << 20;

/// Types of single tensors, by their names in the file to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Types(pub BTreeMap<String, Encoding>);

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    r#type: String,
    tensors: BTreeMap<String, String>,
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
        let types = stored.tensors.into_iter().map(|(tensor, name)| match name.parse::<Encoding>() {
            Ok(e) if codec(e).is_some_and(Codec::can_encode) => Ok((tensor, e)),
            _ => Err(wrong(format!("gives {tensor:?} the type {name:?}, which cannot be written"))),
        });
        Ok((FileType::named(&stored.r#type)?, Types(types.collect::<Result<_>>()?)))
    }

    /// The text of such a file; every line of `remarks` stands at its top.
    pub fn text(&self, file_type: &FileType, remarks: &[String]) -> String {
        let mut text: String = remarks.iter().map(|r| format!("# {r}\n")).collect();
        text += &format!("type = \"{}\"\n\n[tensors]\n", file_type.name);
        for (tensor, encoding) in &self.0 {
            text += &format!("{} = \"{encoding}\"\n", serde_json::Value::from(tensor.as_str()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_back() {
        let types = Types([("a.\"b".to_owned(), Encoding::Q4K), ("c".to_owned(), Encoding::F16)].into());
        let file_type = FileType::named("q4_k_m").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        std::fs::write(&path, types.text(file_type, &["made by hand".to_owned()])).unwrap();
        assert_eq!(Types::load(&path).unwrap(), (file_type, types));
        for (text, what) in [
            ("type = \"q9\"\n[tensors]", "there is no file type \"q9\""),
            ("type = \"q8_0\"\n[tensors]\na = \"iq2_xs\"", "gives \"a\" the type \"iq2_xs\""),
            ("typ = 1", "is no recipe: unknown field"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Types::load(&path).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

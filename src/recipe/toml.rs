//! Recipes as files for people: TOML, with comments.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::Recipe;
use crate::error::{Error, Result};
use crate::files;

/// Most bytes of a recipe: the parser takes up to 75 times as many.
const FILE_BYTES: u64 = 1 << 20;

impl Recipe {
    /// Reads one; paths in it are relative to it.
    ///
    /// # Errors
    /// [`Error::Job`] with the line, and for a key or value that does not exist the nearest that does.
    pub fn load(path: &Path) -> Result<Recipe> {
        let text = files::text(path, "recipe", FILE_BYTES)?;
        let mut recipe: Recipe = toml::from_str(&text).map_err(|e| {
            let (what, help) = explained(e.message());
            let line = 1 + text.bytes().take(e.span().map_or(0, |s| s.start)).filter(|b| *b == b'\n').count();
            Error::Job { path: path.to_owned(), line, what, help }
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        recipe.files_mut().into_iter().for_each(|file| file.0 = folder.join(&file.0));
        Ok(recipe)
    }

    /// The text of such a file; every line of `remarks` stands at its top.
    ///
    /// # Errors
    /// [`Error::Usage`] if a value has no form in TOML, whose integers have 63 bits.
    pub fn text(&self, remarks: &[String]) -> Result<String> {
        let mut recipe = self.clone();
        for file in recipe.files_mut() {
            file.0 = std::path::absolute(&file.0).unwrap_or_else(|_| file.0.clone());
        }
        let remarks: String = remarks.iter().map(|r| format!("# {r}\n")).collect();
        let no_toml = |what: String| Error::Usage {
            what: format!("no recipe can hold this: {what}"),
            help: "give a seed below 2^63".to_owned(),
        };
        // Tables come after plain values in it.
        let table =
            toml::Table::deserialize(Value::Object(recipe.stated())).map_err(|e| no_toml(e.to_string()))?;
        Ok(remarks + &toml::to_string(&table).map_err(|e| no_toml(e.to_string()))?)
    }
}

/// Message of serde about a key or value, and advice: the nearest of those that it knows. It quotes the wrong one
/// first, then the known ones.
pub fn explained(message: &str) -> (String, String) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let kind = message.strip_prefix("unknown ").and_then(|m| m.split_once(' ')).map(|(kind, _)| kind);
    let (Some(kind @ ("field" | "variant")), Some(wrong)) = (kind, quoted.next()) else {
        return (message.trim_end().to_owned(), "correct it, then run the command again".to_owned());
    };
    let known: Vec<&str> = quoted.collect();
    let kind = if kind == "field" { "key" } else { "value" };
    let all = format!("the {kind}s here are {}", known.join(", "));
    let help = match nearest(wrong, &known) {
        Some(near) => format!("did you mean {near}? ({all})"),
        None => all,
    };
    (format!("there is no {kind} {wrong:?}"), help)
}

/// The known word that looks most like `wrong`, if any does.
fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let likeness = |word: &str| strsim::jaro_winkler(&wrong.to_lowercase(), word);
    let scored = known.iter().map(|word| (likeness(word), *word)).filter(|(score, _)| *score > 0.75);
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{FileType, TensorType};

    #[test]
    fn files_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        let mut recipe = Recipe { file_type: Some(FileType::named("q4_k_m").unwrap()), ..Recipe::default() };
        let encoding = TensorType::Encoding;
        for (name, stored) in [
            ("a.\"b", encoding(quant::Encoding::Q4K)),
            ("c", encoding(quant::Encoding::F16)),
            ("d", TensorType::Bits(3.25)),
        ] {
            recipe.tensors.0.insert(name.to_owned(), stored);
        }
        recipe.calibration.texts = vec![path.as_os_str().to_owned().into()];
        recipe.calibration.tokens = 1024;
        recipe.metadata.license = Some("mit".to_owned());
        std::fs::write(&path, recipe.text(&["made by hand".to_owned()]).unwrap()).unwrap();
        assert_eq!(Recipe::load(&path).unwrap(), recipe);
        recipe.calibration.seed = u64::MAX;
        assert!(recipe.text(&[]).unwrap_err().to_string().contains("no recipe can hold this"));
        // As version 0.1.0 wrote them.
        std::fs::write(&path, "# made by hand\ntype = \"q8_0\"\n\n[tensors]\n\"a\" = \"q6_k\"\nb = 4.25\n")
            .unwrap();
        assert_eq!(Recipe::load(&path).unwrap().tensors.0.len(), 2);
        for (text, what) in [
            ("type = \"q9\"\n[tensors]", "line 1: there is no value \"q9\""),
            ("type = \"q8_0\"\n[tensors]\na = \"iq2_xs\"", "line 3: \"iq2_xs\""),
            ("type = \"coded\"\n[tensors]\na = -1.0", "line 3: -1"),
            ("typ = 1", "line 1: there is no key \"typ\""),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Recipe::load(&path).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

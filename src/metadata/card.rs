//! Model cards: the YAML between two lines `---` at the top of a README.md.
//!
//! Every field is written as llama.cpp's converter writes it, but ids keep their own text: that converter makes
//! titles of them.

use std::path::Path;

use formats::{Metadata, Value};
use serde_json::Value as Yaml;

use super::general;
use crate::error::{Error, Result};
use crate::{files, links};

/// Largest card that is looked at.
const CARD_BYTES: usize = 64 << 10;
/// Largest README.md that is read.
const FILE_BYTES: u64 = 16 << 20;

/// Texts: the field of `general.*`, and the names that cards have for it.
const TEXTS: [(&str, &[&str]); 6] = [
    ("name", &["name", "model_name"]),
    ("author", &["author", "model_author", "model_creator"]),
    ("organization", &["organization", "model_organization"]),
    ("description", &["description", "model_description"]),
    ("license.name", &["license_name"]),
    ("license.link", &["license_link"]),
];

/// Metadata of the model card of a folder; empty if it has none.
///
/// # Errors
/// If the README.md cannot be read, or its YAML not be understood.
pub(super) fn read(folder: &Path) -> Result<Metadata> {
    let path = folder.join("README.md");
    let Some(file) = links::own(folder, &path) else { return Ok(Metadata::new()) };
    let text = files::text(&file, "model card", FILE_BYTES)?;
    parse(&text).map_err(|what| Error::Model {
        path,
        what: format!("has a model card that cannot be understood: {what}"),
        help: "correct the YAML at its top, or leave it aside: --no-card".to_owned(),
    })
}

/// The keys that the card of a README.md stands for.
fn parse(text: &str) -> std::result::Result<Metadata, String> {
    let Some(yaml) = front_matter(text) else { return Ok(Metadata::new()) };
    if yaml.len() > CARD_BYTES {
        return Err(format!("it has {} bytes, and {CARD_BYTES} are read", yaml.len()));
    }
    let options = serde_saphyr::options! {
        // `no` is Norwegian, not false; of a field that stands twice the last holds, as in PyYAML.
        strict_booleans: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    };
    // Real cards are indented with tabs. The line feed stands for the first `---`, so that line numbers are right.
    let yaml = format!("\n{}", yaml.replace('\t', "  "));
    let card: Yaml = serde_saphyr::from_str_with_options(&yaml, options).map_err(|e| e.to_string())?;
    let Yaml::Object(card) = card else { return Ok(Metadata::new()) };
    let field = |names: &[&str]| names.iter().find_map(|name| card.get(*name).filter(|v| !v.is_null()));

    let mut keys = Metadata::new();
    for (key, names) in TEXTS {
        if let Some(text) = field(names).and_then(text_of) {
            keys.push((format!("general.{key}"), Value::from(text)));
        }
    }
    let licenses = texts(field(&["license"]));
    if !licenses.is_empty() {
        keys.push(("general.license".to_owned(), Value::from(licenses.join(","))));
    }
    for (group, names) in [
        ("base_model", ["base_model", "base_models", "base_model_sources"]),
        ("dataset", ["datasets", "dataset", "dataset_sources"]),
    ] {
        let list: Vec<general::Entry> = items(field(&names)).iter().filter_map(entry).collect();
        keys.extend(general::entries(group, &list));
    }
    for (key, names) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        let list: Vec<String> = names.iter().flat_map(|name| texts(field(&[name]))).collect();
        if !list.is_empty() {
            keys.push((format!("general.{key}"), Value::strings(list)));
        }
    }
    Ok(keys)
}

/// Text between the first line `---` and the next; `None` if the text does not start so.
fn front_matter(text: &str) -> Option<&str> {
    let mut lines = text.split_inclusive('\n');
    let first = lines.next().filter(|line| line.trim_end() == "---")?;
    let mut end = first.len();
    for line in lines {
        if line.trim_end() == "---" {
            return text.get(first.len()..end);
        }
        end += line.len();
    }
    None
}

/// One value, or those of a list.
fn items(value: Option<&Yaml>) -> &[Yaml] {
    match value {
        None => &[],
        Some(Yaml::Array(list)) => list,
        Some(one) => std::slice::from_ref(one),
    }
}

fn texts(value: Option<&Yaml>) -> Vec<String> {
    items(value).iter().filter_map(text_of).collect()
}

/// A text, or what YAML takes for a number or truth value though a text is meant.
fn text_of(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) => Some(text.clone()).filter(|t| !t.is_empty()),
        Yaml::Number(number) => Some(number.to_string()),
        Yaml::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn entry(value: &Yaml) -> Option<general::Entry> {
    let entry = match value {
        Yaml::Object(fields) => general::entry_of(fields),
        other => general::entry(&text_of(other)?),
    };
    Some(entry).filter(|entry| !entry.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_card_says_nothing() {
        for text in ["", "# Title", "---\nno end", "---\n---\n", "---\n- a list\n---\n", "---\n# only\n---"] {
            assert_eq!(parse(text), Ok(Metadata::new()), "{text:?}");
        }
    }

    #[test]
    fn norwegian_is_a_language_and_line_ends_do_not_matter() {
        let card =
            "---\r\nlanguage:\r\n- en\r\n- no\r\nlicense: [mit, apache-2.0]\r\ntags: 2024\r\n---\r\ntext";
        let keys = parse(card).unwrap();
        let strings = |items: &[&str]| Value::strings(items.iter().map(|i| (*i).to_owned()));
        let expected = [
            ("general.license", Value::from("mit,apache-2.0")),
            ("general.tags", strings(&["2024"])),
            ("general.languages", strings(&["en", "no"])),
        ];
        assert_eq!(keys, expected.map(|(k, v)| (k.to_owned(), v)));
    }

    #[test]
    fn broken_yaml_is_an_error_with_its_line() {
        let error = parse("---\nlicense: mit\ntags: [a, b\nx: y\n---\n").unwrap_err();
        assert!(error.contains("line 4"), "{error}");
        let bomb = format!("---\na: &a [x]\n{}---\n", "b: [*a, *a, *a, *a, *a, *a]\n".repeat(3000));
        assert!(parse(&bomb).is_err(), "too large");
        let mut bomb = "---\na0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            bomb += &format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1).repeat(8));
        }
        assert!(parse(&(bomb + "---\n")).is_err(), "aliases of aliases");
    }
}

//! Texts that carry their own SHA-256, so that a flipped bit, or a figure changed by hand, is found.

use crate::digest::sha256;
use serde_json::Value;

/// Hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;

/// `text` behind its SHA-256 and a space.
pub fn seal(text: &str) -> String {
    format!("{} {text}", sha256([text.as_bytes()]))
}

/// The text that was sealed; `None` if it does not match its SHA-256.
pub fn unseal(sealed: &str) -> Option<&str> {
    let (digest, text) = sealed.split_at_checked(DIGITS)?;
    let text = text.strip_prefix(' ')?;
    (sha256([text.as_bytes()]) == digest).then_some(text)
}

/// SHA-256 of a JSON value, whatever the order of its keys and the space between them; `field` of the outermost object,
/// which holds the digest itself, is left out.
pub fn digest_of(value: &Value, field: &str) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| *name != field);
            write_object(fields.collect(), &mut text);
        }
        other => write(other, &mut text),
    }
    sha256([text.as_bytes()])
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => write_object(fields.iter().collect(), text),
        Value::Array(values) => {
            text.push('[');
            for value in values {
                write(value, text);
                text.push(',');
            }
            text.push(']');
        }
        plain => *text += &plain.to_string(),
    }
}

fn write_object(mut fields: Vec<(&String, &Value)>, text: &mut String) {
    fields.sort_unstable_by_key(|(name, _)| *name);
    text.push('{');
    for (name, value) in fields {
        *text += &Value::from(name.as_str()).to_string();
        text.push(':');
        write(value, text);
        text.push(',');
    }
    text.push('}');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_flipped_bit_is_found() {
        let sealed = seal("{\"a\": 1}");
        assert_eq!(unseal(&sealed), Some("{\"a\": 1}"));
        for bit in 0..8 * sealed.len() {
            let mut flipped = sealed.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = std::str::from_utf8(&flipped).ok().and_then(unseal);
            assert_eq!(found, None, "bit {bit}");
        }
        assert_eq!(unseal(""), None);
    }

    #[test]
    fn a_digest_is_that_of_the_content() {
        let sealed = json!({"a": [1.5, {"b": "x", "c": null}], "seal": "old"});
        let same: Value =
            serde_json::from_str("{\"seal\": 7,\n \"a\": [1.50, {\"c\": null, \"b\": \"x\"}]}").unwrap();
        assert_eq!(digest_of(&sealed, "seal"), digest_of(&same, "seal"));
        for other in
            [json!({"a": [1.5000001, {"b": "x", "c": null}]}), json!({"a": [1.5, {"b": "x"}]}), json!({})]
        {
            assert_ne!(digest_of(&sealed, "seal"), digest_of(&other, "seal"), "{other}");
        }
    }
}

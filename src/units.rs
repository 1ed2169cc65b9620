//! Sizes and numbers as people read and write them: `400MiB`, `2GB`, `1.53 B`.

use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// A number of bytes: a number and a unit, `B`, `kB`, `MB`, `GB`, `TB` (powers of 1000) or `KiB`, `MiB`, `GiB`,
/// `TiB` (powers of 1024; `K`, `M`, `G`, `T` mean the same).
///
/// # Errors
/// A sentence on what is wrong with it.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} does not start with a number"))?;
    let unit = unit.trim();
    let factor: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("{unit:?} is no unit: use MB, GB, MiB or GiB")),
    };
    match (number * factor) as u64 {
        0 => Err(format!("{text:?} is not even a byte")),
        bytes => Ok(bytes),
    }
}

/// A number of bytes, or a text as [`parse_bytes`] takes it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a size is a number of bytes, or a text such as \"500MB\"")]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    fn bytes<E: Error>(self) -> Result<u64, E> {
        match self {
            Size::Bytes(bytes) => Ok(bytes),
            Size::Text(text) => parse_bytes(&text).map_err(E::custom),
        }
    }
}

/// Reads an optional size, for serde.
///
/// # Errors
/// If it is neither a number of bytes nor a text as [`parse_bytes`] takes it.
pub fn bytes_or_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Option::<Size>::deserialize(from)?.map(Size::bytes).transpose()
}

/// Reads a size or a list of sizes, for serde.
///
/// # Errors
/// As [`bytes_or_text`].
pub fn sizes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a size is a number of bytes, or a text such as \"500MB\"")]
    enum Sizes {
        One(Size),
        Many(Vec<Size>),
    }
    match Sizes::deserialize(from)? {
        Sizes::One(one) => Ok(vec![one.bytes()?]),
        Sizes::Many(many) => many.into_iter().map(Size::bytes).collect(),
    }
}

/// A number of bytes for people: `3.1 GB`, with three digits at most; `812 B` below a kilobyte.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    scaled(n, &UNITS)
}

/// A count for people: `1.5 B` weights, `191 M`.
pub fn count(n: u64) -> String {
    if n < 1000 {
        return n.to_string();
    }
    scaled(n, &["k", "M", "B", "T", "P"])
}

/// A divergence for people: six decimals, or where they would hide it, three digits and a power of ten.
pub fn nats(v: f64) -> String {
    match v.abs() {
        0.0 => "0".to_owned(),
        size if size < 1e-4 => format!("{v:.2e}"),
        _ => format!("{v:.6}"),
    }
}

fn scaled(n: u64, units: &[&str]) -> String {
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_bytes("400MiB"), Ok(400 << 20));
        assert_eq!(parse_bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(parse_bytes("1.5G"), Ok(3 << 29));
        assert_eq!(parse_bytes("123"), Ok(123));
        assert!(parse_bytes("0MB").is_err());
        assert!(parse_bytes("big").is_err());
        assert!(parse_bytes("5 apples").is_err());
        assert!(parse_bytes("").is_err());
    }

    #[test]
    fn numbers_keep_three_digits() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_999, "10.0 kB"),
            (123_456, "123 kB"),
            (999_600, "1.00 MB"),
            (3_054_123_456, "3.05 GB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(count(1_527_404_544), "1.53 B");
        assert_eq!([0.0, 1.234e-7, 0.0001234, 0.5].map(nats), ["0", "1.23e-7", "0.000123", "0.500000"]);
    }
}

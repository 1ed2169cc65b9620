//! Numbers and tables as text.

use std::io::{self, Write};

use crate::escape::line;

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

/// A table whose columns are as wide as their widest cell; `right` says which are aligned to the right.
pub(super) struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles; a title that starts with `>` makes its column right-aligned.
    pub fn new(titles: &[&str]) -> Table {
        let right = titles.iter().map(|t| t.starts_with('>')).collect();
        Table { right, rows: vec![titles.iter().map(|t| t.trim_start_matches('>').to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| line(&cell).into_owned()).collect());
    }

    /// Writes it, indented by two spaces.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = |i: usize| self.rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, right), width) in row.iter().zip(&self.right).zip(&widths) {
                line += "  ";
                line += &if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

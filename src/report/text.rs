//! Tables as text.

use std::io::{self, Write};

use crate::escape::line;

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

//! The head as it is.

use super::{FullRows, Head, Reading, Rows};
use crate::runner::Logits;
use crate::runner::weight::Inputs;

/// Reads every row of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Full;

impl Head for Full {
    fn name(&self) -> String {
        "full".to_owned()
    }

    fn exact(&self) -> usize {
        usize::MAX
    }

    fn logits(&self, full: &FullRows<'_>, inputs: &Inputs<'_>) -> (Logits, Vec<Reading>) {
        let logits = full.weight.multiply(inputs.0);
        let rows = full.rows();
        let reading = Reading { rows: Rows::All(rows), bytes: rows as u64 * full.row_bytes() };
        (Logits(logits), vec![reading; inputs.0.rows])
    }
}

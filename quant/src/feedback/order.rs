//! In which order columns are rounded.
//!
//! Errors are made good by the columns that come later, so the first ones are rounded nearly as they are and the last
//! ones carry what all others left. With the columns of the largest inputs first, their errors are made good, and those
//! that stay are of columns that count little (`act-order` of GPTQ). A block is rounded as a whole, and a group within it
//! has one scale, so blocks change places, and columns within their group.

use crate::hessian::Hessian;

/// Columns that change places with each other only: no group of any type is shorter, nor ends between.
const GROUP: usize = 16;

/// An order of columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they stand.
    #[default]
    Natural,
    /// Blocks of so many columns, and the columns of their groups, by their mean squares: largest first.
    Importance {
        /// Values in a block of the type that is encoded.
        block: usize,
    },
}

impl Order {
    /// Which column comes at each place; `None` if they stay where they are.
    ///
    /// # Panics
    /// If the columns are no whole number of blocks, or blocks none of 16 columns.
    pub(super) fn places(self, hessian: &Hessian) -> Option<Vec<u32>> {
        let Order::Importance { block } = self else { return None };
        let diagonal = hessian.diagonal();
        assert!(block.is_multiple_of(GROUP) && diagonal.len().is_multiple_of(block));
        let sum = |at: usize| diagonal[at..at + block].iter().map(|v| f64::from(*v)).sum::<f64>();
        let mut blocks: Vec<(usize, f64)> =
            (0..diagonal.len()).step_by(block).map(|at| (at, sum(at))).collect();
        blocks.sort_by(|a, b| b.1.total_cmp(&a.1)); // stable, so that equal ones stay in order
        let mut places = Vec::with_capacity(diagonal.len());
        for (at, _) in blocks {
            for group in (at..at + block).step_by(GROUP) {
                let mut columns: Vec<usize> = (group..group + GROUP).collect();
                columns.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
                places.extend(columns.into_iter().map(|c| c as u32));
            }
        }
        Some(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stay_in_their_groups_and_groups_in_their_blocks() {
        let n = 64;
        let square = |i: usize| if i >= 32 { 100.0 + (i % 7) as f32 } else { (i % 5) as f32 };
        let moments = (0..n * n).map(|k| if k / n == k % n { square(k % n) } else { 0.0 }).collect();
        let hessian = Hessian::new(n, moments).unwrap();
        assert_eq!(Order::Natural.places(&hessian), None);
        let places = Order::Importance { block: 32 }.places(&hessian).unwrap();
        for (at, group) in places.chunks(GROUP).enumerate() {
            let first = [32, 48, 0, 16][at];
            assert!(group.iter().all(|c| (first..first + 16).contains(c)), "{group:?}");
            assert!(group.windows(2).all(|w| square(w[0] as usize) >= square(w[1] as usize)), "{group:?}");
        }
    }
}

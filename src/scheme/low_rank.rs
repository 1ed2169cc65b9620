//! Choice of the matrices that get low-rank branches.

use formats::Value;

use crate::model::adapter::RANK_KEY;
use crate::model::{Role, TensorView, wildcard};
use crate::recipe::Recipe;

/// Options of low-rank branches: the matrices that get them, and their rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowRankOptions {
    /// Dimensions of each.
    pub rank: usize,
    /// Names of the matrices; all but the head if there are none.
    pub patterns: Vec<String>,
}

impl LowRankOptions {
    /// Options that a recipe asks for.
    pub fn of(recipe: &Recipe) -> Option<LowRankOptions> {
        let rank = usize::from(recipe.low_rank?);
        Some(LowRankOptions { rank, patterns: recipe.low_rank_for.clone() })
    }

    /// The key of a file whose matrices lack their branches, and of the adapter.
    pub fn key(&self) -> (String, Value) {
        (RANK_KEY.to_owned(), Value::U32(self.rank.try_into().unwrap_or(u32::MAX)))
    }

    /// True if a tensor is meant: a matrix that llama.cpp applies adapters to, with more dimensions than the branch.
    pub fn wants(&self, name: &str, role: Role, values: &TensorView) -> bool {
        let named = |pattern: &String| wildcard(pattern, name);
        let wanted = match role {
            Role::Matrix => self.patterns.is_empty() || self.patterns.iter().any(named),
            Role::Head => self.patterns.iter().any(named),
            _ => false,
        };
        wanted && values.rows().min(values.cols()) > self.rank
    }
}

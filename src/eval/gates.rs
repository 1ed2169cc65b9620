//! Limits on quality, and the figures that fail them.

use super::Against;

/// Limits of how far a model may be from its reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Checks (exit code 3 if one fails)")]
pub struct Gates {
    /// Largest perplexity, as a multiple of the reference's
    #[arg(long, value_name = "RATIO", requires = "against")]
    pub max_ppl_ratio: Option<f64>,
    /// Largest mean divergence from the reference, in nats
    #[arg(long, value_name = "NATS", requires = "against")]
    pub max_kl: Option<f64>,
    /// Least share of tokens with the same first choice as the reference
    #[arg(long, value_name = "SHARE", requires = "against")]
    pub min_top1: Option<f64>,
}

impl Gates {
    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        *self == Gates::default()
    }

    /// The limits, unless one of them is none.
    ///
    /// # Errors
    /// Which one, and what it must be.
    pub fn check(&self) -> Result<(), String> {
        let limits = [
            ("perplexity ratio", self.max_ppl_ratio, f64::MIN_POSITIVE..=f64::MAX, "above 0"),
            ("mean divergence", self.max_kl, 0.0..=f64::MAX, "0 or more"),
            ("top-1 agreement", self.min_top1, 0.0..=1.0, "a share between 0 and 1"),
        ];
        let wrong = limits.into_iter().find_map(|(name, limit, range, help)| {
            let limit = limit.filter(|limit| !range.contains(limit))?;
            let meant = if name.starts_with("top-1") && (1.0..=100.0).contains(&limit) {
                format!(" ({limit} % is {})", limit / 100.0)
            } else {
                String::new()
            };
            Some(format!("{limit} is no limit of the {name}, which is {help}{meant}"))
        });
        wrong.map_or(Ok(()), Err)
    }

    /// Gates that `against` fails, a clause each. A figure that is NaN fails.
    pub fn failures(&self, against: &Against) -> Vec<String> {
        let (ratio, kl, top1) = (against.ppl_ratio.value, against.kl.value, against.top1.value);
        let mut failed = Vec::new();
        let mut check = |what: &str, value: f64, limit: Option<f64>, good: fn(f64, f64) -> bool| {
            if let Some(limit) = limit.filter(|limit| !good(value, *limit)) {
                failed.push(format!("{what} is {value:.6}, and the limit {limit}"));
            }
        };
        check("the perplexity ratio", ratio, self.max_ppl_ratio, |v, limit| v <= limit);
        check("the mean divergence", kl, self.max_kl, |v, limit| v <= limit);
        check("the top-1 agreement", top1, self.min_top1, |v, limit| v >= limit);
        failed
    }
}

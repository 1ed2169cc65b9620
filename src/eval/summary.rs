//! Figures from what was measured.

use serde::{Deserialize, Serialize};

use super::measure::{Comparison, Measured, Scan, Score};
use super::statistics::{Bootstrap, Estimate, quantiles};

/// What was scored.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Scored {
    /// Windows that the bootstrap draws from.
    pub windows: usize,
    /// Tokens that were run.
    pub tokens_run: usize,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Bytes that the scored tokens stand for.
    pub bytes: usize,
}

/// How well a model predicts the text.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ModelScore {
    /// e to the mean negative log-likelihood of a token.
    pub perplexity: Estimate,
    /// Mean negative log-likelihood of a token, in nats.
    pub nats_per_token: Estimate,
    /// Nats a byte of text; absent if no byte was scored.
    pub nats_per_byte: Option<Estimate>,
    /// Bits a byte of text.
    pub bits_per_byte: Option<Estimate>,
}

/// Values below which some share of the tokens lies.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(missing_docs)] // the names speak
pub struct Quantiles {
    pub median: Estimate,
    pub p90: Estimate,
    pub p99: Estimate,
    pub p999: Estimate,
    pub max: Estimate,
}

/// How far a model is from the reference.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Against {
    /// Mean Kullback-Leibler divergence of its predictions from the reference's, in nats.
    pub kl: Estimate,
    /// The divergence of single tokens.
    pub kl_quantiles: Quantiles,
    /// Share of tokens for which both have the same first choice.
    pub top1: Estimate,
    /// Its perplexity over the reference's.
    pub ppl_ratio: Estimate,
    /// Root mean square of the change of the probability of the text's tokens.
    pub rms_delta_p: Estimate,
    /// Mean of that change.
    pub mean_delta_p: Estimate,
    /// The divergence by the number of tokens read before.
    pub by_position: Vec<Bucket>,
    /// Mean divergence of every window, for comparisons of models window by window.
    pub kl_by_window: Vec<f64>,
}

/// Tokens with about as many tokens before them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Bucket {
    /// Least number of tokens before.
    pub from: usize,
    /// One more than the largest.
    pub to: usize,
    /// Number of scored tokens.
    pub tokens: usize,
    /// Mean divergence, in nats.
    pub kl: Estimate,
    /// Mean negative log-likelihood of the model.
    pub nats_per_token: Estimate,
}

/// What another head of the same model read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Read {
    /// Mean number of rows of the full head for a token.
    pub rows: Estimate,
    /// Mean bytes for a token: of these rows, and of whatever else.
    pub bytes: Estimate,
    /// Share of tokens for which the full head's first choice was not among the rows.
    pub missed: Estimate,
    /// Share of tokens for which the choices that are said to be exact are those of the full head.
    pub kept: Estimate,
}

/// The first model's score, and every further model's, with its distance from the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// What was scored.
    pub scored: Scored,
    /// The first model.
    pub first: ModelScore,
    /// The further models, then the other heads of the first.
    pub others: Vec<(ModelScore, Against)>,
    /// Rows and bytes that each of these heads read.
    pub read: Vec<Read>,
}

/// Sums up. `bytes_of` tells how many bytes the token at a place of the text stands for.
pub fn summarise(
    measured: &Measured,
    windows: usize,
    tokens_run: usize,
    bytes_of: impl Fn(usize) -> usize,
) -> Evaluation {
    let scores = &measured.scores;
    let bootstrap = Bootstrap::new(windows);
    let bytes: Vec<f64> = scores.iter().map(|s| bytes_of(s.place) as f64).collect();
    let scored =
        Scored { windows, tokens_run, tokens: scores.len(), bytes: bytes.iter().sum::<f64>() as usize };
    let first: Vec<f64> = scores.iter().map(|s| s.nll).collect();
    let others = measured.comparisons.iter().map(|c| {
        let nlls: Vec<f64> = c.iter().map(|c| c.nll).collect();
        (model(scores, &nlls, &bytes, windows, &bootstrap), against(scores, c, windows, &bootstrap))
    });
    let others = others.collect();
    let read = measured.scans.iter().map(|scans| read(scores, scans, windows, &bootstrap)).collect();
    Evaluation { scored, first: model(scores, &first, &bytes, windows, &bootstrap), others, read }
}

/// Sums by window of what `row` says about every token.
fn by_window<const N: usize>(
    scores: &[Score],
    windows: usize,
    row: impl Fn(usize, &Score) -> [f64; N],
) -> Vec<[f64; N]> {
    let mut parts = vec![[0.0; N]; windows];
    for (i, score) in scores.iter().enumerate() {
        for (sum, v) in parts[score.window].iter_mut().zip(row(i, score)) {
            *sum += v;
        }
    }
    parts
}

fn model(scores: &[Score], nlls: &[f64], bytes: &[f64], windows: usize, bootstrap: &Bootstrap) -> ModelScore {
    let parts = by_window(scores, windows, |i, _| [nlls[i], 1.0, bytes[i]]);
    let per_byte = |unit: f64| {
        let some = bytes.iter().any(|b| *b > 0.0);
        some.then(|| bootstrap.estimate(&parts, |[nll, _, bytes]| nll / bytes / unit))
    };
    ModelScore {
        perplexity: bootstrap.estimate(&parts, |[nll, n, _]| (nll / n).exp()),
        nats_per_token: bootstrap.estimate(&parts, |[nll, n, _]| nll / n),
        nats_per_byte: per_byte(1.0),
        bits_per_byte: per_byte(std::f64::consts::LN_2),
    }
}

fn against(scores: &[Score], comparisons: &[Comparison], windows: usize, bootstrap: &Bootstrap) -> Against {
    let parts = by_window(scores, windows, |i, s| {
        let c = &comparisons[i];
        let change = (-c.nll).exp() - (-s.nll).exp();
        [c.kl, f64::from(u8::from(c.same_top)), c.nll - s.nll, change, change * change, 1.0]
    });
    let mut kls: Vec<(f64, usize)> = comparisons.iter().zip(scores).map(|(c, s)| (c.kl, s.window)).collect();
    kls.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (kls, window_of): (Vec<f64>, Vec<usize>) = kls.into_iter().unzip();
    let shares = [0.5, 0.9, 0.99, 0.999, 1.0];
    let [median, p90, p99, p999, max] =
        bootstrap.estimates(|counts| quantiles(&kls, |i| counts[window_of[i]], shares));
    Against {
        kl: bootstrap.estimate(&parts, |p| p[0] / p[5]),
        kl_quantiles: Quantiles { median, p90, p99, p999, max },
        top1: bootstrap.estimate(&parts, |p| p[1] / p[5]),
        ppl_ratio: bootstrap.estimate(&parts, |p| (p[2] / p[5]).exp()),
        rms_delta_p: bootstrap.estimate(&parts, |p| (p[4] / p[5]).sqrt()),
        mean_delta_p: bootstrap.estimate(&parts, |p| p[3] / p[5]),
        by_position: by_position(scores, comparisons, windows, bootstrap),
        kl_by_window: parts.iter().map(|p| p[0] / p[5]).collect(),
    }
}

fn read(scores: &[Score], scans: &[Scan], windows: usize, bootstrap: &Bootstrap) -> Read {
    let share = |b: bool| f64::from(u8::from(b));
    let parts = by_window(scores, windows, |i, _| {
        let s = &scans[i];
        [s.rows as f64, s.bytes as f64, share(s.missed), share(s.kept), 1.0]
    });
    Read {
        rows: bootstrap.estimate(&parts, |p| p[0] / p[4]),
        bytes: bootstrap.estimate(&parts, |p| p[1] / p[4]),
        missed: bootstrap.estimate(&parts, |p| p[2] / p[4]),
        kept: bootstrap.estimate(&parts, |p| p[3] / p[4]),
    }
}

/// Tokens with 1, 2 to 3, 4 to 7, ... tokens before them; those without are in none (they are not scored).
fn by_position(
    scores: &[Score],
    comparisons: &[Comparison],
    windows: usize,
    bootstrap: &Bootstrap,
) -> Vec<Bucket> {
    let bucket_of = |score: &Score| score.position.max(1).ilog2();
    let last = scores.iter().map(bucket_of).max();
    let bucket = |n: u32| {
        let parts = by_window(scores, windows, |i, score| match bucket_of(score) == n {
            true => [comparisons[i].kl, comparisons[i].nll, 1.0],
            false => [0.0; 3],
        });
        Bucket {
            from: 1 << n,
            to: 2 << n,
            tokens: parts.iter().map(|p| p[2]).sum::<f64>() as usize,
            kl: bootstrap.estimate(&parts, |[kl, _, n]| kl / n),
            nats_per_token: bootstrap.estimate(&parts, |[_, nll, n]| nll / n),
        }
    };
    let buckets = (0..=last.unwrap_or(0)).map(bucket);
    buckets.filter(|b| b.tokens > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_what_their_names_say() {
        let score = |place, nll: f64| Score { place, window: place / 2, position: place % 2 + 1, nll };
        let scores: Vec<Score> =
            [0.5f64, 0.25, 0.125, 0.5].iter().enumerate().map(|(i, p)| score(i, -p.ln())).collect();
        let other = |p: f64, kl, same_top| Comparison { nll: -p.ln(), kl, same_top };
        let comparisons = vec![
            other(0.5, 0.0, true),
            other(0.5, 0.1, true),
            other(0.125, 0.2, false),
            other(0.25, 0.3, true),
        ];
        let measured = Measured { scores, comparisons: vec![comparisons], scans: Vec::new() };
        let evaluation = summarise(&measured, 2, 6, |_| 3);
        assert_eq!(evaluation.scored, Scored { windows: 2, tokens_run: 6, tokens: 4, bytes: 12 });
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        near(evaluation.first.perplexity.value, 2f64.powf(7.0 / 4.0));
        near(evaluation.first.bits_per_byte.unwrap().value, 7.0 / 12.0);
        let (model, against) = &evaluation.others[0];
        near(model.perplexity.value, 2f64.powf(7.0 / 4.0));
        near(against.ppl_ratio.value, 1.0);
        near(against.kl.value, 0.15);
        near(against.top1.value, 0.75);
        near(against.rms_delta_p.value, (0.0625f64 * 2.0 / 4.0).sqrt());
        near(against.mean_delta_p.value, 0.0);
        near(against.kl_quantiles.max.value, 0.3);
        near(against.kl_quantiles.median.value, 0.15);
        near(against.kl_by_window[0], 0.05);
        near(against.kl_by_window[1], 0.25);
        assert_eq!(
            against.by_position.iter().map(|b| (b.from, b.to, b.tokens)).collect::<Vec<_>>(),
            [(1, 2, 2), (2, 4, 2)]
        );
    }
}

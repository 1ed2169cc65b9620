//! Check that the model finds the text likely that it is calibrated on.
//!
//! A model that knows a kind of text is about as often wrong as it expects: its cross-entropy on the text is near the
//! entropy of its own predictions. On a text that was decoded wrongly, or is none, it is wrong far more often.

use super::text::Text;
use crate::error::Result;
use crate::pipeline::Stop;
use crate::runner::ForwardPass;
use crate::runner::math::log_sum_exp;

/// Most tokens that are looked at.
const TOKENS: usize = 256;
/// Fewest that tell anything.
const MIN_TOKENS: usize = 64;
/// Tokens whose logits are computed at once.
const AT_ONCE: usize = 64;
/// Most nats a token by which a text may be less likely than the model expects: chosen by hand, between the ordinary text and
/// the bytes of another encoding that tests/it/texts.rs tells apart. It was not measured on other models.
const MOST_NATS: f64 = 2.0;

impl Text {
    /// Notes among the text's warnings, once, if the model of `walk`, which has taken both parts of it behind the last block,
    /// finds the held-out part far less likely than it expects.
    ///
    /// # Errors
    /// If the logits are not finite, or the work is stopped.
    pub(super) fn check_likely(&mut self, walk: &ForwardPass, stop: &Stop) -> Result<()> {
        if std::mem::replace(&mut self.is_judged, true) {
            return Ok(());
        }
        let Some([found, expected]) = nats(walk, stop)? else { return Ok(()) };
        if found - expected > MOST_NATS {
            self.warnings.push(format!(
                "the model finds the text to calibrate on unlikely: {found:.1} nats a token, where it expects \
                 {expected:.1}; is it a text of the kind that the model knows, in the right encoding?"
            ));
        }
        Ok(())
    }
}

/// Mean cross-entropy of the tokens that judge, and mean entropy of the predictions, in nats.
fn nats(walk: &ForwardPass, stop: &Stop) -> Result<Option<[f64; 2]>> {
    const JUDGES: usize = 1;
    let (mut sums, mut seen) = ([0.0; 2], 0);
    for (group, tokens) in walk.sequences(JUDGES) {
        // The last token of a sequence predicts nothing that is known.
        let mut first = 0;
        let mut pairs: Vec<(usize, u32)> = Vec::new();
        for sequence in tokens {
            pairs.extend(sequence.iter().skip(1).zip(first..).map(|(next, row)| (row, *next)));
            first += sequence.len();
        }
        pairs.truncate(TOKENS - seen);
        for pairs in pairs.chunks(AT_ONCE) {
            stop.check()?;
            let rows: Vec<usize> = pairs.iter().map(|(row, _)| *row).collect();
            let logits = walk.logits(group, &rows)?;
            for (n, (_, next)) in pairs.iter().enumerate() {
                let of_token = surprise(logits.row(n), *next as usize);
                sums.iter_mut().zip(of_token).for_each(|(sum, nats)| *sum += nats);
            }
        }
        seen += pairs.len();
        if seen == TOKENS {
            break;
        }
    }
    Ok((seen >= MIN_TOKENS).then(|| sums.map(|sum| sum / seen as f64)))
}

/// Cross-entropy of token `next`, and entropy, of a prediction: nats.
fn surprise(logits: &[f32], next: usize) -> [f64; 2] {
    let sum = log_sum_exp(logits).0;
    let surprisal = |logit: f32| sum - f64::from(logit);
    let entropy = logits.iter().map(|&logit| (-surprisal(logit)).exp() * surprisal(logit)).sum();
    [surprisal(logits[next]), entropy]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_and_entropy_are_those_of_the_definition() {
        let probabilities = [0.5f64, 0.25, 0.125, 0.125];
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln() as f32 + 3.0).collect();
        let entropy: f64 = probabilities.iter().map(|p| -p * p.ln()).sum();
        for (next, p) in probabilities.iter().enumerate() {
            let [found, expected] = surprise(&logits, next);
            assert!((found + p.ln()).abs() < 1e-6 && (expected - entropy).abs() < 1e-6);
        }
    }
}

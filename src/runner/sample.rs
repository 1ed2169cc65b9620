//! Choosing the next token.

use crate::error::{Error, Result};
use crate::random::Random;

/// Chooses tokens by their probability.
#[derive(Clone, Debug)]
pub struct Sampler {
    temperature: f32,
    top_p: f32,
    /// Number of the likeliest tokens to choose among; all if there is no number.
    top_k: Option<usize>,
    random: Random,
}

impl Sampler {
    /// Sampler that at temperature 0 always takes the likeliest token; else one of the likeliest that together have the
    /// probability `top_p`, each as often as its probability to the power 1 / temperature says.
    ///
    /// # Errors
    /// [`Error::Usage`] for a negative temperature or a share outside 0 to 1.
    pub fn new(temperature: f32, top_p: f32, seed: u64) -> Result<Sampler> {
        if !(temperature >= 0.0 && temperature.is_finite() && (0.0..=1.0).contains(&top_p)) {
            return Err(Error::Usage {
                what: format!("a temperature of {temperature} and a top-p of {top_p} make no sense"),
                help: "temperatures are 0 or more, top-p is between 0 and 1".to_owned(),
            });
        }
        Ok(Sampler { temperature, top_p, top_k: None, random: Random::new(seed) })
    }

    /// Chooses among the `k` likeliest tokens, as if there were no others.
    pub fn among(mut self, k: Option<usize>) -> Sampler {
        self.top_k = k;
        self
    }

    /// Number of the likeliest tokens that a choice depends on; `None` if on all.
    pub fn depends_on(&self) -> Option<usize> {
        if self.temperature == 0.0 { Some(1) } else { self.top_k }
    }

    /// A token, from the logits of all.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        let (sum, top) = super::math::log_sum_exp(logits);
        if self.temperature == 0.0 {
            return top as u32;
        }
        let mut likely: Vec<(f64, u32)> =
            logits.iter().enumerate().map(|(i, v)| ((f64::from(*v) - sum).exp(), i as u32)).collect();
        // Logits that differ can have probabilities that do not: the logits decide which tokens are the likeliest.
        let logit = |id: u32| logits[id as usize];
        likely.sort_by(|a, b| logit(b.1).total_cmp(&logit(a.1)).then(a.1.cmp(&b.1)));
        if let Some(k) = self.top_k {
            likely.truncate(k);
            let best: Vec<f32> = likely.iter().map(|l| logit(l.1)).collect();
            let (sum, _) = super::math::log_sum_exp(&best);
            likely.iter_mut().for_each(|(p, id)| *p = (f64::from(logit(*id)) - sum).exp());
        }
        let mut share = 0.0;
        let enough = likely.iter().position(|(p, _)| {
            share += p;
            share >= f64::from(self.top_p)
        });
        likely.truncate(enough.map_or(likely.len(), |n| n + 1));
        // As parts of the likeliest one's: of however low a temperature, that one is left.
        let most = likely.first().map_or(0.0, |l| f64::from(logit(l.1)));
        for (p, id) in &mut likely {
            *p = ((f64::from(logit(*id)) - most) / f64::from(self.temperature)).exp();
        }
        let mut left = self.random.unit() * likely.iter().map(|l| l.0).sum::<f64>();
        for (p, id) in &likely {
            left -= p;
            if left < 0.0 {
                return *id;
            }
        }
        top as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_follow_the_probabilities() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.2].iter().map(|p| p.ln()).collect();
        let share = |mut sampler: Sampler, id| {
            (0..4000).filter(|_| sampler.choose(&logits) == id).count() as f64 / 4000.0
        };
        assert_eq!(share(Sampler::new(0.0, 1.0, 1).unwrap(), 0), 1.0);
        assert!((share(Sampler::new(1.0, 1.0, 1).unwrap(), 1) - 0.3).abs() < 0.03);
        // The two likeliest make 0.8.
        assert_eq!(share(Sampler::new(1.0, 0.7, 1).unwrap(), 2), 0.0);
        assert!((share(Sampler::new(1.0, 0.7, 2).unwrap(), 0) - 0.625).abs() < 0.03);
        // So cold that all others have no probability at all.
        assert_eq!(share(Sampler::new(1e-30, 1.0, 1).unwrap(), 0), 1.0);
        assert!(Sampler::new(-1.0, 1.0, 1).is_err() && Sampler::new(1.0, 1.5, 1).is_err());
    }
}

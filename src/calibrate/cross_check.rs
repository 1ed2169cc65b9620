//! Cross-check of a calibrated file against the default encoder's on a text of another kind: the model's own samples.
//!
//! Weights that are fitted to a text which is not of the model's kind (capital letters only, say) reproduce the model
//! well there and worse everywhere else. No figure on the text itself tells.

use quant::{Rows, codec, codec_of_levels};
use rayon::prelude::*;

use super::encode::slices;
use super::stage::{Target, stages};
use super::text::sampled;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pipeline::{self, Stop};
use crate::plan::Plan;
use crate::runner::math::{divergence, log_sum_exp};
use crate::runner::{ForwardPass, Options, Runner};

/// Samples of the model, and tokens of each: 256 tokens in all.
const SAMPLES: usize = 8;
const SAMPLE_TOKENS: usize = 32;
/// Tokens whose logits are computed at once.
const AT_ONCE: usize = 32;
/// Tokens that are computed together.
const TOGETHER: usize = SAMPLES * SAMPLE_TOKENS;
/// Values that are encoded at once.
const CHUNK_VALUES: usize = 1 << 20;
/// Divergence at which the file is called worse, as a multiple of the default encoder's. Samples of a small model are no
/// text of anybody's: calibrated on ordinary text, q4_0 and q4_k_m of the test model have 1.2 to 2.2 times the default's
/// divergence on them; on capital letters 2.7 to 3, on random letters and on digits 8 to 56.
const HARMFUL: f64 = 2.5;
/// Standard errors by which it must be worse.
const CERTAIN: f64 = 3.0;

/// The source of a calibrated file, opened twice.
#[derive(Debug)]
pub struct CrossCheck(pub [Model; 2]);

impl CrossCheck {
    /// A sentence if `written`, the finished file of `plan`, is further from its source on the source's own samples than
    /// what the default encoder makes of it.
    ///
    /// # Errors
    /// If one of the models cannot be run, or the work is stopped.
    pub fn harm(self, plan: &Plan, written: Model, stop: &Stop) -> Result<Option<String>> {
        let runner = |model| Runner::new(model, Options { stream: true, ..Options::default() });
        let [source, again] = self.0;
        let source = runner(source)?;
        let samples = sampled(&source, SAMPLE_TOKENS, SAMPLES, 0, stop)?;
        let at_start = |runner| ForwardPass::new(runner, &[&slices(&samples)], TOGETHER);
        let mut source = at_start(source)?;
        let mut written = at_start(runner(written)?)?;
        for walk in [&mut source, &mut written] {
            walk.finish(|| stop.check())?;
        }
        let plain = plain(at_start(runner(again)?)?, plan, stop)?;
        let mut differences = Vec::new();
        let mut sums = [0.0; 2];
        for group in 0..source.groups() {
            let rows: Vec<usize> = (0..source.tokens(group)).collect();
            for rows in rows.chunks(AT_ONCE) {
                stop.check()?;
                let [p, calibrated, default] =
                    [&source, &written, &plain].map(|walk| walk.logits(group, rows));
                let (p, calibrated, default) = (p?, calibrated?, default?);
                for i in 0..rows.len() {
                    let p_sum = log_sum_exp(p.row(i)).0;
                    let from_source = |q: &[f32]| divergence(p.row(i), p_sum, q, log_sum_exp(q).0);
                    let kl = [&calibrated, &default].map(|q| from_source(q.row(i)));
                    sums.iter_mut().zip(kl).for_each(|(sum, kl)| *sum += kl);
                    differences.push(kl[0] - kl[1]);
                }
            }
        }
        let [calibrated, default] = sums.map(|sum| sum / differences.len() as f64);
        let is_harmful = calibrated > HARMFUL * default && is_certain(&differences);
        Ok(is_harmful.then(|| {
            format!(
                "the text to calibrate on makes the file worse elsewhere: its divergence on samples of the model is \
                 {calibrated:.2e} nats a token, and that of the default encoder {default:.2e}; calibrate on other text, or \
                 on the model's own samples (--calib self)"
            )
        }))
    }
}

/// The walk behind the last block, and with its head, as the default encoder makes the matrices of a plan.
fn plain(mut walk: ForwardPass, plan: &Plan, stop: &Stop) -> Result<ForwardPass> {
    let codebooks = pipeline::codebooks(plan, walk.runner().model(), stop)?;
    for stage in stages(plan, walk.runner().model()) {
        while walk.next().is_some() && walk.next() != stage.place {
            walk.step(None, || stop.check())?;
        }
        for target in stage.targets {
            stop.check()?;
            if let Some(values) = rounded(plan, walk.runner().model(), target, codebooks[target.write])? {
                walk.replace(target.key, values, plan.tensors[target.write].values.cols());
            }
        }
    }
    walk.finish(|| stop.check())?;
    Ok(walk)
}

/// The values of a matrix behind the default encoder; `None` of a type that it has no codec for.
fn rounded(
    plan: &Plan,
    model: &Model,
    target: Target,
    levels: Option<quant::codebook::Codebook>,
) -> Result<Option<Vec<f32>>> {
    let write = &plan.tensors[target.write];
    let of_levels = levels.and_then(|levels| codec_of_levels(write.encoding, levels));
    let Some(codec) = of_levels.as_deref().or_else(|| codec(write.encoding)) else { return Ok(None) };
    let (cols, whole) = (write.values.cols(), write.rows_of_whole_blocks());
    let mut values = vec![0.0; write.values.elements()];
    write.values.read(&model.container, 0..write.values.rows(), &mut values);
    write.values.release(&model.container, 0..write.values.rows());
    let rows_at_once = (CHUNK_VALUES / cols.max(1) / whole * whole).max(whole);
    values.par_chunks_mut(rows_at_once * cols).try_for_each(|values| {
        let mut bytes = vec![0; values.len() / cols * write.row_bytes()];
        let rows = Rows { importance: write.importance.as_deref(), ..Rows::new(values, cols) };
        let encoded = plan.scheme.search.encode(codec, rows, &mut bytes);
        encoded.map_err(|e| pipeline::unencodable(&write.values, &write.name, plan.target, model, e))?;
        codec.decode(&bytes, values);
        Ok::<(), Error>(())
    })?;
    Ok(Some(values))
}

/// True if the mean is above 0 beyond chance.
fn is_certain(differences: &[f64]) -> bool {
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
    mean > CERTAIN * (variance / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_no_certainty() {
        let noise = |mean: f64| -> Vec<f64> {
            (0..100).map(|i| mean + if i % 2 == 0 { 1.0 } else { -1.0 }).collect()
        };
        assert!(!is_certain(&noise(0.0)) && !is_certain(&noise(0.2)));
        assert!(is_certain(&noise(0.4)) && !is_certain(&noise(-0.4)));
    }
}

//! Steps and tables for a rate.

use half::f16;

use super::{Design, SCALES, STEPS, sweep};
use crate::Rows;
use crate::entropy::{Codes, Model, exp2, log2, tile};
use crate::feedback::Feedback;

/// Tolerance of the rate, in bits per weight.
const NEAR: f64 = 1e-3;

/// Most trials of steps.
const TRIALS: usize = 12;

/// Weights of a sample of which a part is tried first.
const LARGE: usize = 1 << 17;

/// Every which row that is.
const PART: usize = 4;

/// Bits of a step or a scale.
const F16_BITS: f64 = 16.0;

/// The multiple of `scale` nearest to `step` that a file holds.
pub(super) fn as_step(step: f64, scale: f32) -> f32 {
    // Normal numbers of f16.
    f16::from_f64((step / f64::from(scale)).clamp(6.2e-5, 65504.0)).to_f32() * scale
}

/// The factor by which the decoded row comes nearest to `values`.
pub(super) fn row_scale(values: &[f32], codes: &[i32], steps: &[f32]) -> f16 {
    let (mut dot, mut squares) = (0.0, 0.0);
    for ((v, code), step) in values.iter().zip(codes).zip(steps) {
        let decoded = f64::from(*code as f32 * step);
        dot += f64::from(*v) * decoded;
        squares += decoded * decoded;
    }
    let scale = f16::from_f64(if squares > 0.0 { dot / squares } else { 1.0 });
    if scale.is_finite() { scale } else { f16::ONE }
}

pub(super) fn fit(sample: Rows<'_>, rows: usize, feedback: Option<&Feedback>, bits: f64) -> Design {
    let cols = sample.cols;
    let fit = Fit { sample, rows, feedback, sizes: sizes(sample, feedback) };
    // A part of the sample tells nearly which steps it will be.
    let part: Vec<f32> = sample.values.chunks_exact(cols.max(1)).step_by(PART).flatten().copied().collect();
    let part = Fit { sample: Rows::new(&part, cols), rows, feedback, sizes: fit.sizes.clone() };
    let near =
        |flags| if sample.values.len() < LARGE { None } else { Some(part.at_rate(flags, bits, None).at) };
    if feedback.is_some() {
        return fit.at_rate(STEPS, bits, near(STEPS)).design(STEPS);
    }
    let plain = fit.at_rate(0, bits, near(0));
    // What steps or scales gain in error, as bits, against what they take.
    let gain = |flags| {
        let with = fit.error(&plain, flags);
        0.5 * log2((fit.error(&plain, 0) / with.max(f64::MIN_POSITIVE)).clamp(1.0, 1e30))
    };
    let steps = gain(STEPS) - F16_BITS / rows.max(1) as f64;
    let scales = gain(SCALES) - F16_BITS / cols.max(1) as f64;
    let flags = if steps > 0.0 { STEPS } else { 0 } | if scales > 0.0 { SCALES } else { 0 };
    if flags == 0 { plain.design(0) } else { fit.at_rate(flags, bits, Some(plain.at)).design(flags) }
}

/// The step of each column for `c = 1`.
fn sizes(sample: Rows<'_>, feedback: Option<&Feedback>) -> Vec<f64> {
    match feedback {
        None => vec![1.0; sample.cols],
        Some(feedback) => {
            let n = feedback.n();
            (0..n).map(|j| f64::from(feedback.upper()[j * n + j])).collect()
        }
    }
}

struct Fit<'a> {
    sample: Rows<'a>,
    rows: usize,
    feedback: Option<&'a Feedback>,
    sizes: Vec<f64>,
}

/// Steps, and the codes that they give.
struct Trial {
    /// The logarithm of the step.
    at: f64,
    scale: f32,
    inverse: Vec<f32>,
    steps: Vec<f32>,
    codes: Vec<i32>,
    model: Model,
    bits: f64,
}

impl Fit<'_> {
    /// Finds the steps for the rate, by regula falsi on the logarithm of the step.
    fn at_rate(&self, flags: u8, bits: f64, start: Option<f64>) -> Trial {
        let n = self.sample.values.len().max(1) as f64;
        let power = self.sample.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
        let size =
            self.sizes.iter().map(|s| log2(s.max(1e-30))).sum::<f64>() / self.sizes.len().max(1) as f64;
        // The entropy of a normal density of variance 1 is 2.05 bits.
        let mut at = start.unwrap_or(0.5 * log2(power.max(1e-60)) + 2.05 - bits - size);
        let mut best = self.trial(flags, at);
        let (mut above, mut below) = (None, None);
        let mut last = best.bits;
        for _ in 1..TRIALS {
            let off = last - bits;
            if off.abs() < NEAR || power == 0.0 {
                break;
            }
            if off > 0.0 {
                above = Some((at, off));
            } else {
                below = Some((at, off));
            }
            at = match (above, below) {
                (Some((a, x)), Some((b, y))) => a + (b - a) * (x / (x - y)).clamp(0.1, 0.9),
                // One more bit halves the step.
                _ => at + off.clamp(-4.0, 4.0),
            };
            let trial = self.trial(flags, at);
            last = trial.bits;
            if (last - bits).abs() < (best.bits - bits).abs() {
                best = trial;
            }
        }
        best
    }

    /// Steps of `2^at` times the size of each column.
    fn trial(&self, flags: u8, at: f64) -> Trial {
        let (values, cols) = (self.sample.values, self.sample.cols);
        let c = exp2(at).clamp(1e-36, 1e36);
        let mut ordered = self.sizes.clone();
        ordered.sort_by(f64::total_cmp);
        let middle = ordered.get(cols / 2).copied().unwrap_or(1.0);
        let mut scale = (c * middle).clamp(1e-36, 1e36) as f32;
        let mut steps: Vec<f32> = self.sizes.iter().map(|s| as_step(s * c, scale)).collect();
        let inverse: Vec<f32> = steps.iter().map(|s| 1.0 / s).collect();
        let mut codes = vec![0; values.len()];
        match self.feedback {
            Some(feedback) => {
                let mut work = values.to_vec();
                sweep::cancel(feedback, &mut work, &inverse, &mut steps, Some(scale), &mut codes);
            }
            None => {
                sweep::round(values, &inverse, &mut codes);
                scale = self.common_step(&codes, scale);
                steps.fill(scale);
                if flags & STEPS != 0 {
                    steps = self.column_steps(&codes, &steps, scale, flags & SCALES != 0);
                }
            }
        }
        let (model, coded) = Model::fit(Codes { values: &codes, cols }, self.rows);
        let beside = |flag, n: usize| if flags & flag != 0 { F16_BITS / n.max(1) as f64 } else { 0.0 };
        let states = (super::tile_bytes(self.rows, cols) * 8) as f64 / (self.rows * cols).max(1) as f64;
        let bits = coded + beside(STEPS, self.rows) + beside(SCALES, cols) + states;
        Trial { at, scale, inverse, steps, codes, model, bits }
    }

    /// The one step that fits all codes best, near the one they were rounded with.
    fn common_step(&self, codes: &[i32], step: f32) -> f32 {
        let (mut dot, mut squares) = (f64::from(step), 1.0);
        for (v, code) in self.sample.values.iter().zip(codes) {
            dot += f64::from(*v) * f64::from(*code);
            squares += f64::from(*code).powi(2);
        }
        (dot / squares) as f32
    }

    /// The step of each column that fits best, given the scales that rows would have.
    fn column_steps(&self, codes: &[i32], steps: &[f32], scale: f32, scales: bool) -> Vec<f32> {
        let cols = self.sample.cols;
        let mut dots = vec![f64::from(scale); cols];
        let mut squares = vec![1.0; cols];
        for (row, codes) in self.sample.values.chunks_exact(cols.max(1)).zip(codes.chunks_exact(cols.max(1)))
        {
            let scale = if scales { row_scale(row, codes, steps).to_f64() } else { 1.0 };
            for (((dot, square), v), code) in dots.iter_mut().zip(&mut squares).zip(row).zip(codes) {
                let code = scale * f64::from(*code);
                *dot += f64::from(*v) * code;
                *square += code * code;
            }
        }
        dots.iter().zip(squares).map(|(dot, square)| as_step(dot / square, scale)).collect()
    }

    /// The squared error with steps or scales.
    fn error(&self, trial: &Trial, flags: u8) -> f64 {
        let cols = self.sample.cols.max(1);
        let scales = flags & SCALES != 0;
        let steps = match flags & STEPS {
            0 => trial.steps.clone(),
            _ => self.column_steps(&trial.codes, &trial.steps, trial.scale, scales),
        };
        let mut sum = 0.0;
        for (row, codes) in self.sample.values.chunks_exact(cols).zip(trial.codes.chunks_exact(cols)) {
            let scale = if scales { row_scale(row, codes, &steps).to_f32() } else { 1.0 };
            for ((v, code), step) in row.iter().zip(codes).zip(&steps) {
                sum += f64::from(v - *code as f32 * (scale * step)).powi(2);
            }
        }
        sum
    }
}

impl Trial {
    fn design(self, flags: u8) -> Design {
        let mut head = vec![flags];
        head.extend(self.scale.to_le_bytes());
        if flags & STEPS != 0 {
            head.extend(self.steps.iter().flat_map(|s| f16::from_f32(s / self.scale).to_le_bytes()));
        }
        self.model.write(&mut head);
        Design {
            inverse: self.inverse,
            steps: self.steps,
            head,
            scales: flags & SCALES != 0,
            writer: tile::Writer::new(self.model),
            branch: None,
            bits: self.bits,
        }
    }
}

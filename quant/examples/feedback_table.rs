//! Prints how far the outputs of encoded matrices are from those of the weights, for each type: the table in
//! `quant/benches/record/feedback.md`.
//!
//! ```text
//! feedback_table [TYPE...]
//! feedback_table --any-rate      weights at any rate alone
//! feedback_table --factor        seconds that the factor takes for 1024, 2048 and 4096 inputs
//! ```
//!
//! Columns: `tr(E H E^T) / tr(W H W^T)` for the default encoder, the longer search with the mean squares of the inputs
//! as importance, with feedback, and that polished; the last over the search; millions of weights a second (the fastest of three,
//! polish once). Then weights at any rate, with cancellation and without. `H` is known
//! exactly: with moments from real text expect less.

use std::error::Error;
use std::time::Instant;

use quant::cancellation::{Design, Reader, sample};
use quant::coding::tile_rows;
use quant::feedback::Feedback;
use quant::hessian::Hessian;
use quant::{CODECS, Codec, Rows};

const COLS: usize = 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    if chosen == ["--factor"] {
        return time_factor();
    }
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let gauss = (0..256 * COLS).map(|_| random.normal() as f32).collect();
    let student: Vec<f32> = (0..768 * COLS).map(|_| random.student() as f32).collect();
    let hessian = Hessian::new(COLS, power_law(COLS, &mut random))?;
    let massive = with_massive_channel(&hessian)?;
    let sets: [(&str, Vec<f32>, &Hessian); 3] = [
        ("Gaussian, 256 rows", gauss, &hessian),
        ("Student-t(5), 768 rows", student.clone(), &hessian),
        ("Student-t(5), 768 rows, a massive input channel", student, &massive),
    ];
    for (name, values, hessian) in &sets {
        println!("\n{name}\n");
        println!(
            "| type | bits | default | importance | feedback | polished | ratio | search, M/s | feedback, M/s | polish, M/s |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
        let feedback = Feedback::new(hessian, 0.01)?;
        let whole = hessian.output_error(values, &vec![0.0; values.len()]);
        for codec in CODECS.iter().filter(|c| c.can_encode() && !c.encoding().is_plain()) {
            let e = codec.encoding();
            if !chosen.is_empty() && !chosen.iter().any(|c| c == e.name()) {
                continue;
            }
            let rows = Rows::new(values, COLS);
            let weighted = Rows { importance: Some(feedback.diagonal()), ..rows };
            let mut bytes = vec![0; values.len() / e.block_len() * e.block_bytes()];
            let mut measure = |encode: &mut dyn FnMut(&mut [u8]) -> Result<(), quant::EncodeError>| {
                let mut speed = 0.0f64;
                for _ in 0..3 {
                    let start = Instant::now();
                    encode(&mut bytes)?;
                    speed = speed.max(values.len() as f64 / start.elapsed().as_secs_f64() / 1e6);
                }
                Ok::<_, quant::EncodeError>((error(*codec, &bytes, values, hessian) / whole, speed))
            };
            let (default, _) = measure(&mut |out| codec.encode(rows, out))?;
            let (best, best_speed) = measure(&mut |out| codec.encode_best(weighted, out))?;
            let (fed, fed_speed) = measure(&mut |out| codec.encode_feedback(rows, &feedback, out))?;
            let start = Instant::now();
            codec.polish(rows, hessian, &mut bytes);
            let polish_speed = values.len() as f64 / start.elapsed().as_secs_f64() / 1e6;
            let polished = error(*codec, &bytes, values, hessian) / whole;
            println!(
                "| {e} | {:.4} | {default:.3e} | {best:.3e} | {fed:.3e} | {polished:.3e} | {:.2} | {best_speed:.1} | {fed_speed:.1} | {polish_speed:.1} |",
                e.bits_per_weight(),
                polished / best,
            );
        }
        if chosen.is_empty() || chosen == ["--any-rate"] {
            println!(
                "\n| bits | its bits | any rate, plain | its bits | any rate, cancelled | encode, M/s |"
            );
            println!("| --- | --- | --- | --- | --- | --- |");
            for bits in [2.5, 3.0, 3.5, 4.0, 4.5, 5.5, 6.5625] {
                let (plain, plain_bits) = any_rate(values, None, bits)?;
                let start = Instant::now();
                let (near, near_bits) = any_rate(values, Some(&feedback), bits)?;
                let speed = values.len() as f64 / start.elapsed().as_secs_f64() / 1e6;
                println!(
                    "| {bits} | {plain_bits:.4} | {:.3e} | {near_bits:.4} | {:.3e} | {speed:.1} |",
                    hessian.output_error(values, &plain) / whole,
                    hessian.output_error(values, &near) / whole,
                );
            }
        }
    }
    Ok(())
}

/// Decoded weights at a rate, and the bits per weight of all their bytes.
fn any_rate(
    values: &[f32],
    feedback: Option<&Feedback>,
    bits: f64,
) -> Result<(Vec<f32>, f64), Box<dyn Error>> {
    let rows = values.len() / COLS;
    let row = |r: usize| &values[r * COLS..(r + 1) * COLS];
    let picked: Vec<f32> = sample(rows, COLS).flat_map(row).copied().collect();
    let design = Design::fit(Rows::new(&picked, COLS), rows, feedback, bits)?;
    let reader = Reader::new(design.head(), COLS)?;
    let mut bytes = design.head().len();
    let mut decoded = vec![0.0; values.len()];
    for (values, out) in values.chunks(tile_rows(COLS) * COLS).zip(decoded.chunks_mut(tile_rows(COLS) * COLS))
    {
        let mut tile = Vec::new();
        design.encode(values, feedback, &mut tile)?;
        reader.decode(&tile, out)?;
        bytes += tile.len();
    }
    Ok((decoded, 8.0 * bytes as f64 / values.len() as f64))
}

fn time_factor() -> Result<(), Box<dyn Error>> {
    println!("| inputs | factor, s |\n| --- | --- |");
    for n in [1024, 2048, 4096] {
        let moment = |i: usize| 1.0 / (1.0 + (i / n).abs_diff(i % n) as f32 / 20.0);
        let hessian = Hessian::new(n, (0..n * n).map(moment).collect())?;
        let mut least = f64::INFINITY;
        for _ in 0..3 {
            let start = Instant::now();
            Feedback::new(&hessian, 0.01)?;
            least = least.min(start.elapsed().as_secs_f64());
        }
        println!("| {n} | {least:.2} |");
    }
    Ok(())
}

fn error(codec: &dyn Codec, bytes: &[u8], values: &[f32], hessian: &Hessian) -> f64 {
    let mut decoded = vec![0.0; values.len()];
    codec.decode(bytes, &mut decoded);
    hessian.output_error(values, &decoded)
}

/// The moments of inputs `x = A z`, where the standard deviation of `z_k` is `1 / sqrt(k)` and `A` is Gaussian.
fn power_law(n: usize, random: &mut Random) -> Vec<f32> {
    let mut mixed: Vec<f32> = (0..n * n).map(|_| random.normal() as f32).collect();
    for row in mixed.chunks_exact_mut(n) {
        for (k, v) in row.iter_mut().enumerate() {
            *v /= ((k + 1) as f32).sqrt();
        }
    }
    let mut out = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..n).map(|k| f64::from(mixed[i * n + k]) * f64::from(mixed[j * n + k])).sum();
            out[i * n + j] = sum as f32;
            out[j * n + i] = sum as f32;
        }
    }
    out
}

/// Input 100 a thousand times as large.
fn with_massive_channel(hessian: &Hessian) -> Result<Hessian, Box<dyn Error>> {
    let n = hessian.n();
    let mut values = hessian.data().to_vec();
    for i in 0..n {
        values[100 * n + i] *= 1000.0;
        values[i * n + 100] *= 1000.0;
    }
    Ok(Hessian::new(n, values)?)
}

/// A fixed sequence.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn student(&mut self) -> f64 {
        let chi2: f64 = (0..5).map(|_| self.normal().powi(2)).sum();
        self.normal() / (chi2 / 5.0).sqrt()
    }
}

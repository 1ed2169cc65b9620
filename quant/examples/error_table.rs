//! Prints how far decoded weights are from the weights, for each type, with the default encoder and with the longer
//! search: the table in `quant/benches/record/errors.md`.
//!
//! ```text
//! error_table [NAME=FILE.f32 ...]      raw little-endian f32 in rows of 256, besides Gaussian and Student-t(5)
//! ```
//!
//! Columns: relative rms error in percent (root of the squared error over the squared weights), without an importance
//! and weighted by one (chi-squared: what the mean square of a Gaussian activation looks like).

use std::error::Error;

use quant::{CODECS, Codec, Rows};

const COLS: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let n = 256 * COLS;
    let gauss = (0..n).map(|_| random.normal() as f32).collect();
    let student = (0..n)
        .map(|_| {
            let z = random.normal();
            let chi2: f64 = (0..5).map(|_| random.normal().powi(2)).sum();
            (z / (chi2 / 5.0).sqrt()) as f32
        })
        .collect();
    let mut sets: Vec<(String, Vec<f32>)> =
        vec![("Gaussian".into(), gauss), ("Student-t(5)".into(), student)];
    for arg in std::env::args().skip(1) {
        let (name, path) = arg.split_once('=').ok_or("arguments are NAME=FILE")?;
        let bytes = std::fs::read(path)?;
        let mut values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        values.truncate(values.len() / COLS * COLS);
        sets.push((name.into(), values));
    }
    let importance: Vec<f32> = (0..COLS).map(|_| random.normal().powi(2) as f32).collect();
    for (name, values) in &sets {
        println!("\n{name}, {} weights\n", values.len());
        println!("| type | bits | default | best | gain | weighted: default | best | gain |");
        println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
        for codec in CODECS.iter().filter(|c| c.can_encode() && !c.encoding().is_plain()) {
            let e = codec.encoding();
            let mut cells = format!("| {e} | {:.4} |", e.bits_per_weight());
            for importance in [None, Some(&*importance)] {
                let rows = Rows { values, cols: COLS, importance };
                let (default, best) = (error(*codec, rows, false)?, error(*codec, rows, true)?);
                let gain = 100.0 * (1.0 - best / default);
                cells += &format!(" {default:.3} | {best:.3} | {gain:.1} % |");
            }
            println!("{cells}");
        }
    }
    Ok(())
}

/// The relative rms error in percent.
fn error(codec: &dyn Codec, rows: Rows<'_>, best: bool) -> Result<f64, Box<dyn Error>> {
    let e = codec.encoding();
    let mut bytes = vec![0; rows.values.len() / e.block_len() * e.block_bytes()];
    if best {
        codec.encode_best(rows, &mut bytes)?
    } else {
        codec.encode(rows, &mut bytes)?
    }
    let mut decoded = vec![0.0; rows.values.len()];
    codec.decode(&bytes, &mut decoded);
    let (mut off, mut all) = (0.0, 0.0);
    for (i, (x, y)) in rows.values.iter().zip(&decoded).enumerate() {
        let w = rows.importance.map_or(1.0, |q| f64::from(q[i % rows.cols]));
        off += w * (f64::from(*x) - f64::from(*y)).powi(2);
        all += w * f64::from(*x).powi(2);
    }
    Ok(100.0 * (off / all).sqrt())
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
}

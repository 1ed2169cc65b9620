//! Prints the error of weights of any rate beside that of blocks of the same size, how small bf16 gets without loss, and
//! how fast: the tables in `quant/benches/record/rate_distortion.md`.
//!
//! ```text
//! rate_distortion [NAME:COLS=FILE ...]      raw little-endian f32 in rows of COLS, besides Gaussian and Student-t(5)
//! ```
//!
//! Errors are squared errors over squared weights; `blocks` by the longer search of the type. Bits are those of
//! all bytes: head, tables and tiles. Speeds are the best of five, of one thread, MB of bf16 a second for encoders.

use std::error::Error;
use std::time::Instant;

use quant::cancellation::{Design, Reader, sample};
use quant::coding::{Coding, Decoder, tile_rows};
use quant::entropy::EntropyError;
use quant::{CODECS, Codec, EncodeError, Encoding, Rows, ggml, lossless, nf4};

/// Bytes of bf16 that are coded together.
const LOSSLESS_BYTES: usize = 1 << 18;

fn main() -> Result<(), Box<dyn Error>> {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let n = 1024 * 1024;
    let gauss: Vec<f32> = (0..n).map(|_| random.normal() as f32).collect();
    let student = (0..n).map(|_| random.student() as f32).collect();
    let mut sets = vec![("Gaussian".to_owned(), 1024, gauss), ("Student-t(5)".to_owned(), 1024, student)];
    for arg in std::env::args().skip(1) {
        let parts = arg.split_once('=').and_then(|(name, path)| Some((name.split_once(':')?, path)));
        let ((name, cols), path) = parts.ok_or("arguments are NAME:COLS=FILE")?;
        let bytes = std::fs::read(path)?;
        let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        sets.push((name.to_owned(), cols.parse()?, values));
    }
    for (name, cols, values) in &sets {
        println!("\n{name}, {} x {cols}\n", values.len() / cols);
        println!(
            "| type | bits | blocks | any rate | its bits | ratio |\n| --- | --- | --- | --- | --- | --- |"
        );
        let row = |name: &str, bits: f64, decoded: &[f32]| -> Result<(), Box<dyn Error>> {
            let blocks = error(values, decoded);
            let coded = Coded::new(values, *cols, bits)?;
            let ours = error(values, &coded.decode()?);
            let (its_bits, ratio) = (coded.bits_per_weight(values.len()), ours / blocks);
            println!("| {name} | {bits:.4} | {blocks:.3e} | {ours:.3e} | {its_bits:.4} | {ratio:.2} |");
            Ok(())
        };
        for codec in CODECS.iter().filter(|c| c.can_encode() && !c.encoding().is_plain()) {
            let e = codec.encoding();
            if cols.is_multiple_of(e.block_len()) {
                row(e.name(), e.bits_per_weight(), &through(*codec, values, *cols)?)?;
            }
        }
        let (decoded, bits) = through_nf4_dq(values, *cols)?;
        row("nf4_dq", bits, &decoded)?;
        let (part, _, _) = time_lossless(values)?;
        println!("\nbf16 without loss: {part:.4} of its bytes");
    }
    println!("\n| Gaussian, bits | encode, MB/s | decode, M weights/s |\n| --- | --- | --- |");
    let (_, cols, values) = &sets[0];
    for bits in [3.0, 4.5, 6.0, 8.5] {
        let coded = Coded::new(values, *cols, bits)?;
        let encode = fastest(|| Coded::new(values, *cols, bits))?;
        let decode = fastest(|| coded.decode())?;
        let n = values.len() as f64 / 1e6;
        println!("| {bits} | {:.0} | {:.0} |", 2.0 * n / encode, n / decode);
    }
    let (_, encode, decode) = time_lossless(values)?;
    println!("| bf16 without loss | {encode:.0} | {decode:.0} |");
    let q4_k = fastest(|| through(&ggml::Q4K, values, *cols))?;
    println!("\nQ4_K both ways with the longer search: {:.0} MB/s", 2.0 * values.len() as f64 / 1e6 / q4_k);
    Ok(())
}

/// A matrix at any rate.
struct Coded {
    cols: usize,
    rows: usize,
    head: Vec<u8>,
    tiles: Vec<Vec<u8>>,
}

impl Coded {
    fn new(values: &[f32], cols: usize, bits: f64) -> Result<Coded, EncodeError> {
        let rows = values.len() / cols;
        let row = |r: usize| &values[r * cols..(r + 1) * cols];
        let picked: Vec<f32> = sample(rows, cols).flat_map(row).copied().collect();
        let design = Design::fit(Rows::new(&picked, cols), rows, None, bits)?;
        let tile = |values: &[f32]| {
            let mut out = Vec::new();
            design.encode(values, None, &mut out)?;
            Ok(out)
        };
        let tiles = values.chunks(tile_rows(cols) * cols).map(tile).collect::<Result<_, EncodeError>>()?;
        Ok(Coded { cols, rows, head: design.head().to_vec(), tiles })
    }

    fn decode(&self) -> Result<Vec<f32>, Box<dyn Error>> {
        let reader = Reader::new(&self.head, self.cols)?;
        let mut out = vec![0.0; self.rows * self.cols];
        for (tile, out) in self.tiles.iter().zip(out.chunks_mut(tile_rows(self.cols) * self.cols)) {
            reader.decode(tile, out)?;
        }
        Ok(out)
    }

    fn bits_per_weight(&self, weights: usize) -> f64 {
        let bytes = self.head.len() + self.tiles.iter().map(Vec::len).sum::<usize>();
        8.0 * bytes as f64 / weights as f64
    }
}

/// Weights decoded from tiles of nf4 with double quantization, and the bits that each takes.
fn through_nf4_dq(values: &[f32], cols: usize) -> Result<(Vec<f32>, f64), Box<dyn Error>> {
    let decoder = Decoder::new(Coding::Nf4Dq, &[], cols)?;
    let (mut decoded, mut bytes) = (vec![0.0; values.len()], 0);
    let of_tile = tile_rows(cols) * cols;
    for (values, out) in values.chunks(of_tile).zip(decoded.chunks_mut(of_tile)) {
        let mut blocks = vec![0; values.len() / nf4::BLOCK * Encoding::Nf4.block_bytes()];
        nf4::NF4.encode_best(Rows::new(values, cols), &mut blocks)?;
        let tile = nf4::nested::encode(&blocks);
        decoder.decode(&tile, out)?;
        bytes += tile.len();
    }
    Ok((decoded, 8.0 * bytes as f64 / values.len() as f64))
}

/// Weights decoded from blocks.
fn through(codec: &dyn Codec, values: &[f32], cols: usize) -> Result<Vec<f32>, EncodeError> {
    let e = codec.encoding();
    let mut bytes = vec![0; values.len() / e.block_len() * e.block_bytes()];
    codec.encode_best(Rows::new(values, cols), &mut bytes)?;
    let mut decoded = vec![0.0; values.len()];
    codec.decode(&bytes, &mut decoded);
    Ok(decoded)
}

fn error(values: &[f32], decoded: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v).powi(2);
    let off: f64 = values.iter().zip(decoded).map(|(x, y)| square(x - y)).sum();
    off / values.iter().map(|v| square(*v)).sum::<f64>()
}

/// The part of the bytes that is left, MB/s of encoding, millions of weights a second of decoding.
fn time_lossless(values: &[f32]) -> Result<(f64, f64, f64), Box<dyn Error>> {
    let bf16: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let encode = || -> Vec<Vec<u8>> {
        let chunk = |values: &[u8]| {
            let mut out = Vec::new();
            lossless::encode(values, &mut out);
            out
        };
        bf16.chunks(LOSSLESS_BYTES).map(chunk).collect()
    };
    let chunks = encode();
    let encoding = fastest(|| Ok::<_, EntropyError>(encode()))?;
    let mut back = vec![0; bf16.len()];
    let decoding = fastest(|| {
        for (chunk, back) in chunks.iter().zip(back.chunks_mut(LOSSLESS_BYTES)) {
            lossless::decode(chunk, back)?;
        }
        Ok::<_, EntropyError>(())
    })?;
    if back != bf16 {
        return Err("not without loss".into());
    }
    let part = chunks.iter().map(Vec::len).sum::<usize>() as f64 / bf16.len() as f64;
    Ok((part, bf16.len() as f64 / 1e6 / encoding, values.len() as f64 / 1e6 / decoding))
}

/// Seconds of the fastest of five runs.
fn fastest<T, E>(mut run: impl FnMut() -> Result<T, E>) -> Result<f64, E> {
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        run()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
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

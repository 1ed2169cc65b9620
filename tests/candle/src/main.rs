//! candle's quantized types as a second opinion on ours: the same bytes of the types it encodes as ggml does, the same
//! values of every type it decodes, and no smaller errors of the types whose codes it searches in its own way.
//!
//!     cargo run --release --manifest-path tests/candle/Cargo.toml

use std::process::ExitCode;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Result, Tensor};
use quant::{Encoding, Rows, codec};

const COLS: usize = 1024;
const ROWS: usize = 64;

/// The types that both know, and whether candle's bytes are ggml's (of the others it searches fewer scales).
const TYPES: [(Encoding, GgmlDType, bool); 10] = [
    (Encoding::Q4_0, GgmlDType::Q4_0, true),
    (Encoding::Q4_1, GgmlDType::Q4_1, true),
    (Encoding::Q5_0, GgmlDType::Q5_0, true),
    (Encoding::Q5_1, GgmlDType::Q5_1, true),
    (Encoding::Q8_0, GgmlDType::Q8_0, true),
    (Encoding::Q2K, GgmlDType::Q2K, false),
    (Encoding::Q3K, GgmlDType::Q3K, false),
    (Encoding::Q4K, GgmlDType::Q4K, false),
    (Encoding::Q5K, GgmlDType::Q5K, false),
    (Encoding::Q6K, GgmlDType::Q6K, false),
];

fn main() -> ExitCode {
    let weights = weights();
    let mut failed = 0;
    for (encoding, dtype, same_bytes) in TYPES {
        match check(encoding, dtype, same_bytes, &weights) {
            Ok(text) => println!("ok    {encoding}: {text}"),
            Err(why) => {
                failed += 1;
                println!("FAIL  {encoding}: {why}");
            }
        }
    }
    println!("{} passed, {failed} failed", TYPES.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(
    encoding: Encoding,
    dtype: GgmlDType,
    same_bytes: bool,
    weights: &[f32],
) -> std::result::Result<String, String> {
    let codec = codec(encoding).ok_or("no codec")?;
    let mut bytes = vec![0; weights.len() / encoding.block_len() * encoding.block_bytes()];
    codec.encode(Rows::new(weights, COLS), &mut bytes).map_err(|e| e.to_string())?;
    let theirs = candle_bytes(dtype, weights).map_err(|e| e.to_string())?;
    if same_bytes && bytes != theirs {
        return Err("the bytes differ".to_owned());
    }
    for bytes in [&bytes, &theirs] {
        let mut values = vec![0.0; weights.len()];
        codec.decode(bytes, &mut values);
        let decoded = candle_values(dtype, bytes).map_err(|e| e.to_string())?;
        if values.iter().zip(&decoded).any(|(a, b)| a.to_bits() != b.to_bits()) {
            return Err("decoded values differ".to_owned());
        }
    }
    let error = |bytes: &[u8]| {
        let mut values = vec![0.0; weights.len()];
        codec.decode(bytes, &mut values);
        let square: f64 = values.iter().zip(weights).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (square / weights.len() as f64).sqrt()
    };
    let (ours, theirs) = (error(&bytes), error(&theirs));
    // ggml's Q2_K minimises the sum of absolute errors, so its rms error may be a little larger.
    if ours > theirs * if encoding == Encoding::Q2K { 1.05 } else { 1.001 } {
        return Err(format!("rms error {ours:.6}, candle's {theirs:.6}"));
    }
    Ok(format!("same values; rms error {ours:.6}, candle's {theirs:.6}"))
}

fn candle_bytes(dtype: GgmlDType, weights: &[f32]) -> Result<Vec<u8>> {
    let tensor = Tensor::from_slice(weights, (ROWS, COLS), &Device::Cpu)?;
    Ok(QTensor::quantize(&tensor, dtype)?.data()?.into_owned())
}

fn candle_values(dtype: GgmlDType, bytes: &[u8]) -> Result<Vec<f32>> {
    let storage = QStorage::from_data(bytes.into(), &Device::Cpu, dtype)?;
    QTensor::new(storage, (ROWS, COLS))?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
}

/// Roughly normal weights, from a fixed seed.
fn weights() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..ROWS * COLS).map(|_| (0..6).map(|_| uniform()).sum()).collect()
}

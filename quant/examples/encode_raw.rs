//! Encodes or decodes a file of raw little-endian f32, for checks against other programs.
//!
//! ```text
//! encode_raw encode TYPE COLS IN.f32 OUT [IMPORTANCE.f32]
//! encode_raw decode TYPE IN OUT.f32
//! encode_raw count TYPE COLS ROWS LEVEL                 encodes fixed rows once, to count instructions
//! encode_raw time TYPE COLS IN.f32 [IMPORTANCE.f32]     GB of f32 a second at each level of instructions
//! ```

use std::process::ExitCode;
use std::{env, fs};

use quant::arch::{self, Level};
use quant::{Encoding, Rows};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("encode_raw: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<(), String> {
    match args {
        ["encode", encoding, cols, input, output, importance @ ..] => {
            let (encoding, cols, values) = (parse(encoding)?, number(cols)?, read_f32(input)?);
            let importance = importance.first().map(|path| read_f32(path)).transpose()?;
            let bytes = encode(encoding, Rows { values: &values, cols, importance: importance.as_deref() })?;
            fs::write(output, bytes).map_err(|e| format!("{output}: {e}"))
        }
        ["decode", encoding, input, output] => {
            let encoding: Encoding = parse(encoding)?;
            let bytes = fs::read(input).map_err(|e| format!("{input}: {e}"))?;
            let mut values = vec![0.0; bytes.len() / encoding.block_bytes() * encoding.block_len()];
            quant::codec(encoding).ok_or("no codec")?.decode(&bytes, &mut values);
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            fs::write(output, bytes).map_err(|e| format!("{output}: {e}"))
        }
        ["count", encoding, cols, rows, level] => {
            let (encoding, cols) = (parse(encoding)?, number(cols)?);
            let level =
                Level::available().find(|l| format!("{l:?}") == *level).ok_or("no such level here")?;
            // Bell-shaped enough: the sum of two uniform values.
            let value = |i: usize| {
                let bits = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
                ((bits & 0xffff) + (bits >> 24 & 0xffff)) as f32 / 65536.0 - 1.0
            };
            let values: Vec<f32> = (0..cols * number(rows)?).map(value).collect();
            arch::with_limit(level, || encode(encoding, Rows::new(&values, cols)))?;
            Ok(())
        }
        ["time", encoding, cols, input, importance @ ..] => {
            let (encoding, cols, values) = (parse(encoding)?, number(cols)?, read_f32(input)?);
            let importance = importance.first().map(|path| read_f32(path)).transpose()?;
            let rows = Rows { values: &values, cols, importance: importance.as_deref() };
            let mut out = encode(encoding, rows)?;
            let codec = quant::codec(encoding).ok_or("no codec")?;
            for level in Level::available() {
                // The clock of the system may tick as slowly as every 4 ms.
                let (start, mut runs) = (cpu_seconds(), 0);
                while runs < 3 || cpu_seconds() - start < 0.3 {
                    arch::with_limit(level, || codec.encode(rows, &mut out)).map_err(|e| e.to_string())?;
                    runs += 1;
                }
                let best = (cpu_seconds() - start) / f64::from(runs);
                println!("{encoding} {level:?} {:.4}", values.len() as f64 * 4e-9 / best);
            }
            Ok(())
        }
        _ => {
            Err("usage: encode_raw encode TYPE COLS IN OUT [IMPORTANCE] | decode TYPE IN OUT | time ..."
                .into())
        }
    }
}

/// Time that this thread ran (the machine may be busy with something else), where the system tells.
fn cpu_seconds() -> f64 {
    let ran = fs::read_to_string("/proc/thread-self/schedstat");
    if let Some(ns) = ran.ok().and_then(|text| text.split(' ').next()?.parse::<u64>().ok()) {
        return ns as f64 * 1e-9;
    }
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed().as_secs_f64()
}

fn encode(encoding: Encoding, rows: Rows<'_>) -> Result<Vec<u8>, String> {
    let row_bytes = encoding.row_bytes(rows.cols as u64).ok_or("cols is no multiple of the block")?;
    let mut out = vec![0; rows.values.len() / rows.cols * row_bytes as usize];
    let codec = quant::codec(encoding).ok_or("no codec")?;
    codec.encode(rows, &mut out).map_err(|e| e.to_string())?;
    Ok(out)
}

fn parse(name: &str) -> Result<Encoding, String> {
    name.parse().map_err(|()| format!("no encoding is called {name}"))
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn read_f32(path: &str) -> Result<Vec<f32>, String> {
    let bytes = fs::read(path).map_err(|e| format!("{path}: {e}"))?;
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(format!("{path}: not a whole number of f32"));
    }
    Ok(words.iter().map(|w| f32::from_le_bytes(*w)).collect())
}

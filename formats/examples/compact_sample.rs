//! Writes a small compact file with everything that version 1 has: every encoding and coding, every kind of metadata.
//!
//! ```text
//! cargo run -p rwkv-quant-formats --example compact_sample FILE.rwkvz
//! ```

use std::error::Error;

use formats::compact::{Section, Storage, Tiles, section, whole};
use formats::{Array, Metadata, Planned, Value};
use quant::cancellation::Design;
use quant::coding::Coding;
use quant::feedback::Feedback;
use quant::hessian::Hessian;
use quant::nf4::{NF4, nested};
use quant::{CODECS, Codec, Encoding, Rows, codec, lossless};

const ROWS: usize = 24;
const COLS: usize = 256;
/// Small, so that there are several tiles.
const TILE_ROWS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args().nth(1).ok_or("name the file to write")?;
    let mut all: Vec<(Section, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, encoding, shape: &[usize], storage, data: Vec<u8>| {
        let planned = Planned { name: name.to_owned(), encoding, shape: shape.to_vec() };
        all.push((Section { planned, storage }, data));
    };
    let values = values(|_, _| 1.0);
    for codec in CODECS.iter().filter(|c| c.can_encode()) {
        let encoding = codec.encoding();
        let bytes = encode(*codec, &values[..2 * COLS])?;
        add(&format!("plain.{encoding}"), encoding, &[2, COLS], Storage::Plain, bytes);
    }
    for encoding in [Encoding::F32, Encoding::F16] {
        let codec = codec(encoding).ok_or("no codec")?;
        let packed = zstd::bulk::compress(&encode(codec, &values[..COLS])?, 19)?;
        add(&format!("zstd.{encoding}"), encoding, &[COLS], Storage::Zstd(packed.len() as u64), packed);
    }
    let tiled = |coding, bytes: &[u8]| Storage::Tiled(Tiles { coding, rows: TILE_ROWS }, bytes.len() as u64);
    let bf16 = encode(codec(Encoding::BF16).ok_or("no codec")?, &values)?;
    let tiles = bf16.chunks(2 * TILE_ROWS * COLS).map(|values| {
        let mut tile = Vec::new();
        lossless::encode(values, &mut tile);
        tile
    });
    let exact = section(&[], &tiles.collect::<Vec<_>>())?;
    add("lossless", Encoding::BF16, &[2, ROWS / 2, COLS], tiled(Coding::Lossless, &exact), exact);
    let blocks = encode(&NF4, &values)?;
    let tiles = blocks.chunks(TILE_ROWS * COLS / Encoding::Nf4.block_len() * Encoding::Nf4.block_bytes());
    let nested = section(&[], &tiles.map(nested::encode).collect::<Vec<_>>())?;
    add("nf4_dq", Encoding::Nf4, &[ROWS, COLS], tiled(Coding::Nf4Dq, &nested), nested);

    let moments: Vec<f32> = (0..COLS * COLS)
        .map(|i| (i / COLS, i % COLS))
        .map(|(i, k)| ((1 + i % 7) * (1 + k % 7)) as f32 / (1 + i.abs_diff(k)) as f32)
        .collect();
    let feedback = Feedback::new(&Hessian::new(COLS, moments)?, 0.1)?;
    for (name, bits, rank, feedback, values) in [
        ("codes.one_step", 3.0, 0, None, values.clone()),
        ("codes.columns", 5.0, 0, None, self::values(|_, j| (1 + j % 32) as f32)),
        ("codes.rows", 4.0, 0, None, self::values(|i, _| (1 + i * i) as f32)),
        ("codes.feedback", 3.5, 0, Some(&feedback), values.clone()),
        ("codes.large", 14.0, 0, None, values.clone()),
        ("codes.branch", 4.0, 2, None, values.clone()),
    ] {
        let rows = Rows::new(&values, COLS);
        let design = match rank {
            0 => Design::fit(rows, ROWS, feedback, bits)?,
            _ => Design::with_branch(rows, ROWS, feedback, bits, rank)?.ok_or("no room for a branch")?,
        };
        let mut tiles = Vec::new();
        for values in values.chunks(TILE_ROWS * COLS) {
            let mut tile = Vec::new();
            design.encode(values, feedback, &mut tile)?;
            tiles.push(tile);
        }
        let data = section(design.head(), &tiles)?;
        add(name, Encoding::F32, &[ROWS, COLS], tiled(Coding::Codes, &data), data);
    }

    std::fs::write(out, whole(&metadata(), &all)?)?;
    Ok(())
}

/// Values like weights, times a factor of row and column.
fn values(factor: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..ROWS * COLS).map(|i| (next() + next() + next()) * factor(i / COLS, i % COLS) / 16.0).collect()
}

fn encode(codec: &dyn Codec, values: &[f32]) -> Result<Vec<u8>, Box<dyn Error>> {
    let encoding = codec.encoding();
    let mut bytes = vec![0; values.len() / encoding.block_len() * encoding.block_bytes()];
    codec.encode(Rows::new(values, COLS), &mut bytes)?;
    Ok(bytes)
}

fn metadata() -> Metadata {
    let scalars = [
        Value::U8(u8::MAX),
        Value::I8(i8::MIN),
        Value::U16(u16::MAX),
        Value::I16(i16::MIN),
        Value::U32(u32::MAX),
        Value::I32(i32::MIN),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F32(0.1),
        Value::F64(1e-300),
        Value::Bool(true),
        Value::from("\u{1f600} \"text\"\n"),
    ];
    let array = |v: Value| Array::of(v.kind(), [v.clone(), v]).map(Value::Array);
    let arrays = scalars.clone().into_iter().filter_map(array);
    let all = scalars.into_iter().chain(arrays).chain([Value::strings([""; 0])]);
    all.enumerate().map(|(n, value)| (format!("key.{n}"), value)).collect()
}

//! Speed of every codec in bytes of f32 weights a second, at each level of instructions.
//!
//! ```text
//! cargo bench -p rwkv-quant-numbers -- 'encode/q4_k'
//! ```
//!
//! Figures are in `record/speed.md`; `tests/clients/check_ggml_quant.py --time` measures libggml beside them.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quant::arch::{Level, with_limit};
use quant::{CODECS, Rows};

const COLS: usize = 1024;
const ROWS: usize = 64;

fn codecs(c: &mut Criterion) {
    // Sums of uniform values: bell-shaped.
    let mut seed = 1u32;
    let mut uniform = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1 << 24) as f32
    };
    let values: Vec<f32> =
        (0..ROWS * COLS).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.02 - 0.06).collect();
    let importance: Vec<f32> = (0..COLS).map(|_| uniform() * 4.0).collect();
    let weighted = Rows { values: &values, cols: COLS, importance: Some(&importance) };
    let plain = Rows { importance: None, ..weighted };

    for codec in CODECS.iter().filter(|c| c.can_encode()) {
        let e = codec.encoding();
        let mut bytes = vec![0; values.len() / e.block_len() * e.block_bytes()];
        let mut decoded = vec![0.0; values.len()];
        let mut group = c.benchmark_group("codecs");
        group.throughput(Throughput::Bytes(4 * values.len() as u64)).sample_size(10);
        for level in Level::available() {
            let id = |what: &str| BenchmarkId::new(format!("{what}/{e}"), format!("{level:?}"));
            group.bench_function(id("encode"), |b| {
                b.iter(|| with_limit(level, || codec.encode(plain, &mut bytes)).is_ok())
            });
            group.bench_function(id("encode with importance"), |b| {
                b.iter(|| with_limit(level, || codec.encode(weighted, &mut bytes)).is_ok())
            });
            group.bench_function(id("encode best"), |b| {
                b.iter(|| with_limit(level, || codec.encode_best(weighted, &mut bytes)).is_ok())
            });
            group.bench_function(id("decode"), |b| {
                b.iter(|| with_limit(level, || codec.decode(&bytes, &mut decoded)))
            });
        }
        group.finish();
    }
}

criterion_group!(benches, codecs);
criterion_main!(benches);

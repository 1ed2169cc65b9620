//! Speed of the runner's matrix products against the most that the processor's vector units can do, both on every
//! core at once: `cargo run --release --example products [THREADS]`.

/// What the kernels ask the program: they may use all that the processor has.
mod isa {
    pub fn is_portable() -> bool {
        false
    }
}

#[path = "."]
mod runner {
    #[path = "../src/runner/arch/mod.rs"]
    #[allow(dead_code, unused_imports)]
    pub mod arch;

    use std::time::Instant;

    use arch::{Level, interleave, kernel, product, split_columns, strips_len};

    /// Tokens, and rows and columns of the matrices of the 0.4B shape.
    const TOKENS: usize = 2048;
    const SHAPES: [(&str, usize, usize); 3] =
        [("attention", 1024, 1024), ("ffn.key", 4096, 1024), ("ffn.value", 1024, 4096)];
    /// Rows of weights that are interleaved and multiplied together.
    const PANEL: usize = 256;
    const ROUNDS: usize = 7;

    pub fn run(threads: usize) {
        let peak = on(threads, || (0..ROUNDS).map(|_| peak()).fold(0.0, f64::max));
        println!("{threads} threads, {:?}: {peak:.0} GFLOP/s of multiply-adds in registers", Level::best());
        for (name, outs, depth) in SHAPES {
            let speed = on(threads, || matrix(outs, depth));
            println!(
                "{name:10} {TOKENS} x {outs} x {depth}: {speed:.0} GFLOP/s, {:.0} %",
                100.0 * speed / peak
            );
            #[cfg(target_arch = "x86_64")]
            if arch::amx::available() {
                println!("{:10} in bf16 (AMX): {:.0} GFLOP/s", "", on(threads, || unit(outs, depth)));
            }
        }
    }

    /// What all threads achieve together, running at the same time.
    fn on(threads: usize, work: impl Fn() -> f64 + Sync) -> f64 {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
            all.into_iter().map(|t| t.join().unwrap_or(0.0)).sum()
        })
    }

    /// Independent chains of multiply-adds: 24 registers of AVX-512.
    const CHAINS: usize = 24 * 16;

    kernel! {
        /// Multiplies and adds `steps` times.
        fn multiply_add(sums: &'w mut [f32; CHAINS], steps: usize) as A {
            let mut all = *sums;
            for _ in 0..steps {
                for sum in &mut all {
                    *sum = A::fma(*sum, 0.999, 0.001);
                }
            }
            *sums = all;
        }
    }

    /// Chains of multiply-adds that need nothing from memory, in GFLOP/s.
    fn peak() -> f64 {
        const STEPS: usize = 2_000_000;
        let mut sums = [0.5; CHAINS];
        let start = Instant::now();
        multiply_add(&mut sums, STEPS);
        let seconds = start.elapsed().as_secs_f64();
        std::hint::black_box(sums);
        (2 * STEPS * sums.len()) as f64 / seconds / 1e9
    }

    /// The median of some products with matrices that come from memory, the weights' interleaving included.
    fn matrix(outs: usize, depth: usize) -> f64 {
        let (level, shape) = (Level::best(), Level::best().shape());
        let aligned = |n: usize| aligned_vec::AVec::<f32>::from_iter(64, (0..n).map(|i| i as f32 / n as f32));
        let x = aligned(strips_len(TOKENS, depth, shape.rows));
        let (w, mut panel) = (aligned(outs * depth), aligned(strips_len(PANEL, depth, shape.cols)));
        let mut out = aligned(TOKENS * outs);
        median(outs, depth, || {
            for (n, mut columns) in split_columns(&mut out, outs, PANEL).into_iter().enumerate() {
                let rows = &w[n * PANEL * depth..(n + 1) * PANEL * depth];
                interleave(level, rows, depth, shape.cols, &mut panel);
                product(level, &x, &panel, depth, &mut columns);
            }
        })
    }

    /// The same on the matrix unit, with weights that are stored in bf16.
    #[cfg(target_arch = "x86_64")]
    fn unit(outs: usize, depth: usize) -> f64 {
        use arch::amx::{Pairs, Rows, Tiles, panel, product};
        let x: Vec<f32> = (0..TOKENS * depth).map(|i| (i % 251) as f32).collect();
        let w: Vec<u8> = (0..2 * outs * depth).map(|i| (i % 63) as u8).collect();
        let (mut pairs, mut tiles, mut out) = (Pairs::default(), Tiles::default(), vec![0.0; TOKENS * outs]);
        pairs.take(&x, depth);
        median(outs, depth, || {
            for (n, mut columns) in split_columns(&mut out, outs, panel(depth)).into_iter().enumerate() {
                let (first, rows) = (n * panel(depth), columns.cols());
                tiles.take(Rows::Half(&w[2 * first * depth..2 * (first + rows) * depth]), rows, depth);
                product(&pairs, &tiles, &mut columns);
            }
        })
    }

    /// The median speed of some products in GFLOP/s.
    fn median(outs: usize, depth: usize, mut product: impl FnMut()) -> f64 {
        let mut rounds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                product();
                (2 * TOKENS * outs * depth) as f64 / start.elapsed().as_secs_f64() / 1e9
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        rounds[ROUNDS / 2]
    }
}

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    runner::run(std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(cores));
}

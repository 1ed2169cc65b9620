//! `fuzz [TARGET|all] [SECONDS] [SEED]`, or `fuzz TARGET --file PATH` for one input.
//!
//! Runs every target on its seeds and its corpus, and for so many seconds (default 10) on damaged ones. The inputs depend on SEED alone
//! (default 1). An input that panics, takes more than two seconds, or makes the program allocate out of
//! proportion is written to `crashes/`, and the program ends with 1.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use rwkv_quant_fuzz::mutate::{Random, damaged};
use rwkv_quant_fuzz::{Scratch, Target, targets};

#[global_allocator]
static ALLOC: PeakAlloc = PeakAlloc;

/// Bytes that may be allocated for each byte of input.
const EACH: usize = 256;
const TOO_LONG: Duration = Duration::from_secs(2);
/// Most inputs that are kept for ending in a new way.
const KEPT: usize = 1000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = args.first().map_or("all", String::as_str);
    let chosen: Vec<&Target> = targets().into_iter().filter(|t| name == "all" || t.name == name).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = targets().iter().map(|t| t.name).collect();
        eprintln!("no target {name}; there are: all {}", names.join(" "));
        return ExitCode::from(2);
    }
    let number = |i: usize, default: u64| args.get(i).map_or(Some(default), |a| a.parse().ok());
    if let (Some("--file"), Some(path), [target]) =
        (args.get(1).map(String::as_str), args.get(2), &chosen[..])
    {
        return one_file(target, Path::new(path));
    }
    let (Some(seconds), Some(seed)) = (number(1, 10), number(2, 1)) else {
        eprintln!("usage: fuzz [TARGET|all] [SECONDS] [SEED]; fuzz TARGET --file PATH");
        return ExitCode::from(2);
    };
    let mut failed = false;
    for target in chosen {
        failed |= !fuzz(target, Duration::from_secs(seconds), seed);
    }
    ExitCode::from(u8::from(failed))
}

fn one_file(target: &Target, path: &Path) -> ExitCode {
    let (Ok(bytes), Ok(scratch)) = (std::fs::read(path), Scratch::new()) else {
        eprintln!("cannot read {}", path.display());
        return ExitCode::from(2);
    };
    match check(target, &scratch, &bytes) {
        Ok(outcome) => {
            println!("{outcome}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a target; whether nothing was found.
fn fuzz(target: &Target, time: Duration, seed: u64) -> bool {
    let scratch = Scratch::new().expect("a scratch folder can be made");
    let mut inputs = target.inputs();
    let mut outcomes = BTreeSet::new();
    let mut random = Random(seed);
    let (start, mut runs) = (Instant::now(), 0u64);
    for input in &inputs {
        match check(target, &scratch, input) {
            Ok(outcome) => drop(outcomes.insert(outcome)),
            Err(why) => return found(target, &why, input, "kept"),
        }
    }
    while start.elapsed() < time {
        let input = damaged(&mut random, &inputs);
        runs += 1;
        match check(target, &scratch, &input) {
            Ok(outcome) => {
                if inputs.len() < KEPT && outcomes.insert(outcome) {
                    inputs.push(input);
                }
            }
            Err(why) => {
                return found(target, &why, &input, &format!("{seed}-{runs}"));
            }
        }
    }
    println!("{}: {runs} inputs, {} ways to end, nothing found", target.name, outcomes.len());
    true
}

/// Says what is wrong, and where the input is; false.
fn found(target: &Target, why: &str, input: &[u8], name: &str) -> bool {
    let path = format!("crashes/{}-{name}", target.name);
    let saved = std::fs::create_dir_all("crashes").and_then(|()| std::fs::write(&path, input));
    println!("{}: FAILED: {why}; the input is in {path} ({saved:?})", target.name);
    false
}

/// How the input ended, or what is wrong with how it ended.
fn check(target: &Target, scratch: &Scratch, input: &[u8]) -> Result<String, String> {
    ALLOC.reset_peak_usage();
    let before = ALLOC.current_usage();
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(scratch, input)));
    let peak = ALLOC.peak_usage().saturating_sub(before);
    let outcome = outcome.map_err(|_| "it panics".to_owned())?;
    if start.elapsed() > TOO_LONG {
        return Err(format!("it takes {:?}", start.elapsed()));
    }
    if peak > input.len() * EACH + target.base_bytes {
        return Err(format!("it allocates {peak} bytes for {} bytes of input", input.len()));
    }
    Ok(outcome)
}

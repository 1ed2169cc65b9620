//! Our RWKV-7 files in candle-transformers' `rwkv_v7`: its logits against those of the official runner.
//!
//!     cargo run --release --manifest-path tests/candle/Cargo.toml --bin rwkv7 -- FILE...
//!
//! The files (safetensors, or torch's) hold `testdata/rwkv7-bytes.pth`, in f32.

use std::path::Path;
use std::process::ExitCode;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::rwkv_v7::{Config, Model, ModelVersion, State};

/// Largest difference of a logit; candle's own rounding is a few millionths.
const LIMIT: f32 = 1e-4;

fn main() -> ExitCode {
    let mut failed = 0;
    let files: Vec<String> = std::env::args().skip(1).collect();
    for file in &files {
        match difference(Path::new(file)) {
            Ok(worst) if worst <= LIMIT => println!("ok    {file}: logits differ by {worst:.1e} at most"),
            Ok(worst) => {
                failed += 1;
                println!("FAIL  {file}: logits differ by {worst:.1e}, more than {LIMIT:.1e}");
            }
            Err(error) => {
                failed += 1;
                println!("FAIL  {file}: {error}");
            }
        }
    }
    println!("{} passed, {failed} failed", files.len() - failed);
    if failed == 0 && !files.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The largest difference from the recorded logits, over all positions of the recorded text.
fn difference(file: &Path) -> Result<f32> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let golden = Tensor::read_npy(testdata.join("golden/rwkv7-bytes/text64.logits.npy"))?.to_vec2::<f32>()?;
    let text = std::fs::read(testdata.join("heldout.txt"))?;

    let device = Device::Cpu;
    let weights = if file.extension().is_some_and(|e| e == "pth") {
        VarBuilder::from_pth(file, DType::F32, &device)?
    } else {
        // SAFETY: nobody changes the file meanwhile.
        unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &device)? }
    };
    let config = Config {
        version: ModelVersion::V7,
        vocab_size: 256,
        hidden_size: 256,
        num_hidden_layers: 2,
        head_size: 64,
        intermediate_size: Some(1024),
        rescale_every: 0,
    };
    let model = Model::new(&config, weights)?;
    let mut state = State::new(&config, &device)?;
    let mut worst = 0f32;
    for (byte, golden) in text.iter().zip(&golden) {
        let token = u32::from(*byte);
        let input = Tensor::new(&[[token]], &device)?;
        let logits = model.forward(&input, &mut state, &[token])?.flatten_all()?.to_vec1::<f32>()?;
        if logits.len() != golden.len() {
            candle_core::bail!("{} logits, not {}", logits.len(), golden.len());
        }
        worst = logits.iter().zip(golden).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    Ok(worst)
}

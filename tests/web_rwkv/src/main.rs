//! web-rwkv as it is published, on whatever Vulkan device there is (Mesa's lavapipe on a machine without one):
//! loads a `.st` or `.prefab` file, says what the model says, and saves the prefab that web-rwkv makes of an `.st`.
//!
//!     web-rwkv-client model.st --tokens 1,2,3 --logits logits.f32
//!     web-rwkv-client model.st --quant nf4 --save model.prefab
//!     web-rwkv-client model.st --lora lora.st --lora-alpha 32 --state state.st --tokens 1,2,3 --logits logits.f32

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use cbor4ii::core::utils::SliceReader;
use clap::{Parser, ValueEnum};
use half::f16;
use safetensors::SafeTensors;
use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize};
use web_rwkv::context::{Context, ContextBuilder, InstanceExt};
use web_rwkv::runtime::infer::{Rnn, RnnInput, RnnInputBatch, RnnOption};
use web_rwkv::runtime::loader::{Loader, Lora, LoraBlend};
use web_rwkv::runtime::model::{
    Bundle as _, ContextAutoLimits, ModelBuilder, ModelInfo, ModelVersion, Quant, State as _,
};
use web_rwkv::runtime::{Runtime, TokioRuntime, v4, v5, v6, v7};
use web_rwkv::tensor::TensorCpu;
use web_rwkv::tensor::serialization::Seed;
use web_rwkv::wgpu;

#[derive(Parser)]
struct Args {
    /// A `.st` (safetensors) or `.prefab` (CBOR) file of web-rwkv.
    model: PathBuf,
    /// What web-rwkv quantizes the matrices of all layers to when it loads an `.st` file.
    #[arg(long, value_enum)]
    quant: Option<Quantization>,
    /// Halve the activations every so many layers (0: never); otherwise as web-rwkv does for the version.
    #[arg(long)]
    rescale: Option<usize>,
    /// Where web-rwkv writes the model it has built.
    #[arg(long)]
    save: Option<PathBuf>,
    /// A LoRA that is added when an `.st` file is loaded, to all matrices.
    #[arg(long)]
    lora: Option<PathBuf>,
    /// Its alpha; web-rwkv divides it by the rank.
    #[arg(long, default_value_t = 1.0)]
    lora_alpha: f32,
    /// The state to start from.
    #[arg(long)]
    state: Option<PathBuf>,
    /// The tokens to run, from a zero state unless there is another.
    #[arg(long, value_delimiter = ',')]
    tokens: Vec<u32>,
    /// Run with 16-bit activations, not 32-bit ones.
    #[arg(long)]
    fp16: bool,
    /// Where to write the logits of every token, little-endian f32.
    #[arg(long, requires = "tokens")]
    logits: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Quantization {
    Int8,
    Nf4,
    Sf4,
}

impl From<Quantization> for Quant {
    fn from(quantization: Quantization) -> Self {
        match quantization {
            Quantization::Int8 => Self::Int8,
            Quantization::Nf4 => Self::NF4,
            Quantization::Sf4 => Self::SF4,
        }
    }
}

/// The part of a prefab that tells what it holds.
#[derive(Deserialize)]
struct Preamble {
    info: ModelInfo,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let result = runtime.context("no runtime").and_then(|runtime| runtime.block_on(run(&Args::parse())));
    if let Err(error) = &result {
        eprintln!("error: {error:#}");
    }
    // lavapipe may crash in its exit handlers when all is done.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

async fn run(args: &Args) -> Result<()> {
    let bytes = fs::read(&args.model).with_context(|| args.model.display().to_string())?;
    // web-rwkv's users tell the two apart in this way.
    let tensors = SafeTensors::deserialize(&bytes).ok();
    let info = match &tensors {
        Some(tensors) => Loader::info(tensors)?,
        None => cbor4ii::serde::from_slice::<Preamble>(&bytes).context("neither safetensors nor a prefab")?.info,
    };
    if tensors.is_none() && args.quant.is_some() {
        bail!("--quant is for .st files");
    }
    let context = context(&info).await?;
    let read = |path: &Option<PathBuf>| path.as_ref().map(|p| fs::read(p).with_context(|| p.display().to_string()));
    let lora = read(&args.lora).transpose()?;
    let state = read(&args.state).transpose()?;

    /// Builds or reads the model of one version, saves it if wanted, and runs it.
    macro_rules! version {
        ($version:ident, $build:ident, $read_state:path) => {{
            let model: $version::Model = match tensors {
                Some(tensors) => {
                    let mut builder = ModelBuilder::new(&context, tensors);
                    if let Some(quant) = args.quant {
                        builder = builder.quant((0..info.num_layer).map(|layer| (layer, quant.into())).collect());
                    }
                    if let Some(rescale) = args.rescale {
                        builder = builder.rescale(rescale);
                    }
                    if let Some(bytes) = &lora {
                        // `full` would take vectors too, and its matrices are not all that there are.
                        let blend = LoraBlend::default().add_nominal(args.lora_alpha);
                        builder = builder.lora(Lora { data: SafeTensors::deserialize(bytes)?, blend });
                    }
                    builder.$build().await?
                }
                None => {
                    let mut deserializer = cbor4ii::serde::Deserializer::new(SliceReader::new(&bytes));
                    Seed::<Context, $version::Model>::new(&context).deserialize(&mut deserializer)?
                }
            };
            if let Some(path) = &args.save {
                save(&model, path)?;
            }
            let start = match &state {
                Some(bytes) => Some($read_state(&context, &info, SafeTensors::deserialize(bytes)?).await?),
                None => None,
            };
            if args.fp16 {
                let bundle = $version::Bundle::<f16>::new(model, 1);
                start.map(|start| bundle.state().load(start, 0)).transpose()?;
                infer(TokioRuntime::new(bundle).await, args).await
            } else {
                let bundle = $version::Bundle::<f32>::new(model, 1);
                start.map(|start| bundle.state().load(start, 0)).transpose()?;
                infer(TokioRuntime::new(bundle).await, args).await
            }
        }};
    }
    match info.version {
        ModelVersion::V4 => version!(v4, build_v4, no_state),
        ModelVersion::V5 => version!(v5, build_v5, v5::read_state),
        ModelVersion::V6 => version!(v6, build_v6, v6::read_state),
        ModelVersion::V7 => version!(v7, build_v7, v7::read_state),
    }
}

/// web-rwkv reads no state of version 4.
async fn no_state(_: &Context, _: &ModelInfo, _: SafeTensors<'_>) -> Result<TensorCpu<f32>> {
    bail!("--state is for versions 5 to 7")
}

async fn context(info: &ModelInfo) -> Result<Context> {
    let adapter = wgpu::Instance::default().adapter(wgpu::PowerPreference::HighPerformance).await?;
    Ok(ContextBuilder::new(adapter).auto_limits(info).build().await?)
}

fn save(model: &impl Serialize, path: &Path) -> Result<()> {
    fs::write(path, cbor4ii::serde::to_vec(Vec::new(), model)?).with_context(|| path.display().to_string())
}

/// Runs the tokens, and writes the logits of each.
async fn infer(runtime: impl Runtime<Rnn>, args: &Args) -> Result<()> {
    let Some(path) = &args.logits else { return Ok(()) };
    let batch = RnnInputBatch::new(args.tokens.clone(), RnnOption::Full);
    let mut input = RnnInput::new(vec![batch], 128);
    let mut logits: Vec<f32> = Vec::new();
    while !input.batches[0].tokens.is_empty() {
        let (rest, output) = runtime.infer(input).await?;
        input = rest;
        logits.extend(output[0].0.clone().to_vec());
    }
    fs::write(path, bytemuck::cast_slice(&logits)).with_context(|| path.display().to_string())
}
